// The CPU kernels of sites whose streams make their weights of themselves.

#include <tuple>

#include "torch/tokens.h"

namespace streammix {
namespace {

// phi (n + 2, C), its scale (n + 2) and bias (n, n + 2)
struct RowParameters {
    Tensor weight, scale, bias;
    Buffer packed;
    Generator g;

    RowParameters(const Tokens& tokens, const Tensor& weight_, const Tensor& scale_, const Tensor& bias_, double norm_eps, bool tanh, int64_t read,
                  int64_t write, double read_eps, double write_multiplier, double write_eps)
        : weight(as_contiguous(weight_)), scale(as_contiguous(scale_)), bias(as_contiguous(bias_)), g{} {
        const int64_t n = tokens.streams.n, rows = n + 2;
        SM_CHECK(weight.dim() == 2 && weight.size(0) == rows && weight.size(1) == tokens.streams.C && scale.numel() == rows && bias.numel() == n * rows,
                 "streammix: weight is (n + 2, C), scale (n + 2), bias (n, n + 2)");
        for (const Tensor& t : {weight, scale, bias})
            SM_CHECK(dtype_of(t) == tokens.computing(), "streammix: parameters are float32, for float64 streams float64");
        g.weight = weight.const_data_ptr();
        g.scale = scale.const_data_ptr();
        g.bias = bias.const_data_ptr();
        g.rows = static_cast<int>(rows);
        g.norm_eps = norm_eps;
        g.read = activation(read);
        g.write = activation(write);
        g.read_eps = read_eps;
        g.write_multiplier = write_multiplier;
        g.write_eps = write_eps;
        g.tanh = tanh;
    }
};

// A stream by itself, as which phi is packed
Streams one_stream(const Tokens& tokens) { return {tokens.streams.dtype, 1, tokens.streams.C}; }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rows_site_read(const Tensor& x, const Tensor& weight, const Tensor& scale, const Tensor& bias,
                                                                  double norm_eps, bool tanh, int64_t read, int64_t write, double read_eps,
                                                                  double write_multiplier, double write_eps, int64_t dim) {
    const Tokens tokens(x, dim);
    const int64_t n = tokens.streams.n;
    const Tensor X = as_contiguous(x);
    const Kernels& k = kernels();
    RowParameters p(tokens, weight, scale, bias, norm_eps, tanh, read, write, read_eps, write_multiplier, write_eps);
    if (const int64_t numbers = k.packed(one_stream(tokens), p.g.rows, tokens.count).panel) {
        p.packed = Buffer(numbers * size_of_number(tokens));
        k.pack_panel(one_stream(tokens), p.g.weight, p.g.rows, p.packed.get());
        p.g.panel = p.packed.get();
    }
    Tensor u = without_streams(x, dim);
    Tensor post = new_tensor(p.weight, u, tokens.lead, {n}), mix = new_tensor(p.weight, u, tokens.lead, {n, n});
    Tensor projected = new_tensor(p.weight, u, tokens.lead, {n, p.g.rows}), inverse_rms = new_tensor(p.weight, u, tokens.lead, {n});
    const Read r{X.const_data_ptr(),     u.mutable_data_ptr(),         post.mutable_data_ptr(),
                 mix.mutable_data_ptr(), projected.mutable_data_ptr(), inverse_rms.mutable_data_ptr()};
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.rows_site_read(tokens.streams, p.g, r, begin, end); });
    return {u, post, mix, projected, inverse_rms};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rows_site_read_backward(const Tensor& du, const Tensor& dpost, const Tensor& dmix, const Tensor& x,
                                                                   const Tensor& weight, const Tensor& scale, const Tensor& bias, const Tensor& projected,
                                                                   const Tensor& inverse_rms, bool tanh, int64_t read, int64_t write, double read_eps,
                                                                   double write_multiplier, double write_eps, int64_t dim) {
    const Tokens tokens(x, dim);
    const int64_t n = tokens.streams.n;
    const Tensor X = as_contiguous(x);
    const Kernels& k = kernels();
    RowParameters p(tokens, weight, scale, bias, 0, tanh, read, write, read_eps, write_multiplier, write_eps);
    const int64_t rows = p.g.rows, weights = k.packed(one_stream(tokens), p.g.rows, tokens.count).blocks, numbers = weights + 2 * n * rows;
    const int64_t size = size_of_number(tokens);
    p.packed = Buffer(weights * size);
    k.pack_blocks(one_stream(tokens), p.g.weight, p.g.rows, p.packed.get());
    p.g.blocks = p.packed.get();
    const Tensor U = tokens.state(du, "du", {tokens.streams.C}), Post = tokens.coefficient(dpost, "dpost", {n});
    const Tensor Mix = tokens.coefficient(dmix, "dmix", {n, n}), P = tokens.coefficient(projected, "projected", {n, rows});
    const Tensor R = tokens.coefficient(inverse_rms, "inverse_rms", {n});
    Tensor dx = new_like(x), dweight = new_like(p.weight), dscale = new_like(p.scale), dbias = new_like(p.bias);
    const Buffer total(numbers * size);
    summed_over_ranges(tokens, size == sizeof(double), numbers, total.get(), [&](int64_t begin, int64_t end, void* own) {
        char* const sums = static_cast<char*>(own);
        const ReadBackward r{U.const_data_ptr(),
                             Post.const_data_ptr(),
                             Mix.const_data_ptr(),
                             nullptr,
                             X.const_data_ptr(),
                             P.const_data_ptr(),
                             R.const_data_ptr(),
                             dx.mutable_data_ptr(),
                             sums,
                             sums + weights * size,
                             sums + (weights + n * rows) * size};
        k.rows_site_read_backward(tokens.streams, p.g, r, begin, end);
    });
    k.unpack_blocks(one_stream(tokens), total.get(), p.g.rows, dweight.mutable_data_ptr());
    const auto typed = [&]<class F>(F) {
        const F* from = reinterpret_cast<const F*>(total.get()) + weights;
        F* to = static_cast<F*>(dscale.mutable_data_ptr());
        std::fill(to, to + rows, F(0));
        for (int64_t i = 0; i < n * rows; ++i) to[i % rows] += from[i];
        std::copy(from + n * rows, from + 2 * n * rows, static_cast<F*>(dbias.mutable_data_ptr()));
    };
    size == sizeof(double) ? typed(double()) : typed(float());
    return {dx, dweight, dscale, dbias};
}

}  // namespace

SM_LIBRARY(rows, "CPU") {
    m.impl("rows_site_read", boxed<&rows_site_read>);
    m.impl("rows_site_read_backward", boxed<&rows_site_read_backward>);
}

}  // namespace streammix
