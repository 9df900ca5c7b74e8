// The operators' schemas. Here and not in Python, so that an exported program or an AOTInductor package needs nothing but this library;
// streammix/ops/registry.py compares them with its own when it is imported.

#include "torch/stable.h"

SM_LIBRARY(schemas, nullptr) {
    m.def("birkhoff(Tensor logits, float? tol=None) -> Tensor");
    m.def("birkhoff_backward(Tensor grad, Tensor matrix) -> Tensor");
    m.def("cayley(Tensor entries, int n) -> Tensor");
    m.def("cayley_backward(Tensor grad, Tensor matrix) -> Tensor");
    m.def("chart(Tensor logits, int n, bool recursive, bool scaled) -> Tensor");
    m.def("chart_backward(Tensor grad, Tensor logits, int n, bool recursive, bool scaled) -> Tensor");
    m.def("implicit_sinkhorn(Tensor logits, int rounds) -> Tensor");
    m.def("sinkhorn(Tensor logits, int rounds, int start, bool columns_last, float eps) -> Tensor");
    m.def("sinkhorn_backward(Tensor grad, Tensor logits, int rounds, int start, bool columns_last, float eps) -> Tensor");
    m.def("transport(Tensor logits, Tensor rows, Tensor columns) -> Tensor");
    m.def("transport_backward(Tensor grad, Tensor matrix) -> (Tensor, Tensor, Tensor)");
    m.def("coefficients(Tensor x, Tensor weight, float norm_eps) -> (Tensor, Tensor)");
    m.def("coefficients_backward(Tensor grad, Tensor x, Tensor weight, Tensor projected, Tensor inverse_rms) -> (Tensor, Tensor)");
    m.def(
        "site_read(Tensor x, Tensor weight, Tensor gate, Tensor bias, float mix_gate, float norm_eps, int read, int "
        "write, float read_eps, float write_multiplier, float write_eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "site_read_backward(Tensor du, Tensor dpost, Tensor dmix, Tensor x, Tensor weight, Tensor gate, Tensor bias, "
        "Tensor projected, Tensor inverse_rms, float mix_gate, int read, int write, float read_eps, float "
        "write_multiplier, float write_eps) -> (Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "write_site_read(Tensor x, Tensor y, Tensor post, Tensor res, Tensor weight, Tensor gate, Tensor bias, float "
        "mix_gate, float norm_eps, int read, int write, float read_eps, float write_multiplier, float write_eps) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "write_site_read_backward(Tensor? dstate, Tensor du, Tensor dnext_post, Tensor dmix, Tensor x, Tensor y, Tensor"
        " post, Tensor res, Tensor state, Tensor weight, Tensor gate, Tensor bias, Tensor projected, Tensor "
        "inverse_rms, float mix_gate, int read, int write, float read_eps, float write_multiplier, float write_eps) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "next_site(Tensor x, Tensor y, Tensor post, Tensor res, Tensor weight, Tensor gate, Tensor bias, float "
        "mix_gate, float norm_eps, int read, int write, float read_eps, float write_multiplier, float write_eps, float?"
        " tol) -> (Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "mixed_site_read(Tensor x, Tensor weight, Tensor gate, Tensor bias, float mix_gate, float norm_eps, int read,"
        " int write, float read_eps, float write_multiplier, float write_eps, int rounds, int start, bool "
        "columns_last, bool transposed, float mixing) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "mixed_site_read_backward(Tensor du, Tensor dpost, Tensor dres, Tensor x, Tensor weight, Tensor gate, Tensor "
        "bias, Tensor matrix, Tensor projected, Tensor inverse_rms, float mix_gate, int read, int write, float "
        "read_eps, float write_multiplier, float write_eps, int rounds, int start, bool columns_last, bool "
        "transposed, float mixing) -> (Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "write_mixed_site_read(Tensor x, Tensor y, Tensor post, Tensor res, Tensor weight, Tensor gate, Tensor bias, "
        "float mix_gate, float norm_eps, int read, int write, float read_eps, float write_multiplier, float "
        "write_eps, int rounds, int start, bool columns_last, bool transposed, float mixing) -> (Tensor, Tensor, "
        "Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "write_mixed_site_read_backward(Tensor? dstate, Tensor du, Tensor dnext_post, Tensor dnext_res, Tensor x, "
        "Tensor y, Tensor post, Tensor res, Tensor state, Tensor weight, Tensor gate, Tensor bias, Tensor matrix, "
        "Tensor projected, Tensor inverse_rms, float mix_gate, int read, int write, float read_eps, float "
        "write_multiplier, float write_eps, int rounds, int start, bool columns_last, bool transposed, float mixing) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "write_carried_site(Tensor x, Tensor y, Tensor post, Tensor res, Tensor pre, Tensor weight, Tensor gate, "
        "Tensor bias, float mix_gate, float norm_eps, int read, int write, float read_eps, float write_multiplier, "
        "float write_eps, int rounds, int start, bool columns_last, bool transposed, float mixing) -> (Tensor, "
        "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "write_carried_site_backward(Tensor? dstate, Tensor du, Tensor dnext_pre, Tensor dnext_post, Tensor "
        "dnext_res, Tensor x, Tensor y, Tensor post, Tensor res, Tensor pre, Tensor state, Tensor weight, Tensor "
        "gate, Tensor bias, Tensor matrix, Tensor projected, Tensor inverse_rms, float mix_gate, int read, int write,"
        " float read_eps, float write_multiplier, float write_eps, int rounds, int start, bool columns_last, bool "
        "transposed, float mixing) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "rows_site_read(Tensor x, Tensor weight, Tensor scale, Tensor bias, float norm_eps, bool tanh, int read, int write, "
        "float read_eps, float write_multiplier, float write_eps, int dim) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "rows_site_read_backward(Tensor du, Tensor dpost, Tensor dmix, Tensor x, Tensor weight, Tensor scale, Tensor bias, "
        "Tensor projected, Tensor inverse_rms, bool tanh, int read, int write, float read_eps, float write_multiplier, "
        "float write_eps, int dim) -> (Tensor, Tensor, Tensor, Tensor)");
    m.def("read(Tensor x, Tensor pre, int dim) -> Tensor");
    m.def("read_backward(Tensor grad, Tensor x, Tensor pre, int dim) -> (Tensor, Tensor)");
    m.def("write(Tensor x, Tensor y, Tensor post, Tensor res, int dim) -> Tensor");
    m.def("write_backward(Tensor grad, Tensor x, Tensor y, Tensor post, Tensor res, int dim) -> (Tensor, Tensor, Tensor, Tensor)");
    m.def("sparse_read(Tensor x, Tensor pre, Tensor index) -> (Tensor, Tensor)");
    m.def("sparse_read_backward(Tensor du, Tensor dactive, Tensor x, Tensor pre, Tensor index) -> (Tensor, Tensor)");
    m.def("sparse_write(Tensor x, Tensor basis, Tensor post, Tensor res, Tensor index) -> Tensor");
    m.def(
        "sparse_write_backward(Tensor grad, Tensor x, Tensor basis, Tensor post, Tensor res, Tensor index) -> (Tensor, "
        "Tensor, Tensor, Tensor)");
    m.def("temporal_basis(Tensor known, Tensor filters, int tokens) -> Tensor");
    m.def("temporal_basis_backward(Tensor grad, Tensor known, Tensor filters, int tokens) -> (Tensor, Tensor)");
}
