// The CPU kernels of the operators on matrices that Python defines (streammix::birkhoff and so on), through LibTorch's stable ABI:
// one binary for every torch since 2.10.

#include <optional>
#include <string>
#include <tuple>

#include "charts.h"
#include "torch/tensors.h"

namespace streammix {
namespace {

constexpr int64_t beyond_own_caches = int64_t(4) << 20;  // bytes of results; they and what they are made of take two or three times that

Matrices matrices_of(const Tensor& t) {
    const int64_t dim = t.dim(), n = dim < 2 ? 0 : t.size(dim - 1);
    SM_CHECK(n >= 1 && n <= largest_n && t.size(dim - 2) == n, "streammix: the CPU backend takes matrices (..., n, n) with 1 <= n <= ", largest_n);
    return {dtype_of(t), static_cast<int>(n), t.numel() * element_size(t) >= beyond_own_caches};
}

// f(begin, end) over the batch. A thread takes cheap / n^3 matrices at least: below this, waking another costs more than it saves.
template <class F>
void for_matrices(const Tensor& t, int n, int cheap, const F& f) {
    for_batch(t.numel() / (n * n), 1 + cheap / (n * n * n), f);
}

void check_same(const Tensor& a, const Tensor& b) {
    bool same = a.dtype() == b.dtype() && a.dim() == b.dim();
    for (int64_t k = 0; same && k < a.dim(); ++k) same = a.size(k) == b.size(k);
    SM_CHECK(same, "streammix: the gradient's shape or dtype is not the matrices'");
}

Tensor birkhoff(const Tensor& logits, std::optional<double> tol) {
    const Matrices m = matrices_of(logits);
    const Tensor in = as_contiguous(logits);
    Tensor out = new_like(in);
    const void* from = in.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    for_matrices(in, m.n, 32768, [&](int64_t begin, int64_t end) { k.birkhoff(m, from, to, begin, end, tol.value_or(0)); });
    return out;
}

Tensor birkhoff_backward(const Tensor& grad, const Tensor& matrix) {
    check_same(grad, matrix);
    const Matrices m = matrices_of(matrix);
    const Tensor G = as_contiguous(grad), T = as_contiguous(matrix);
    Tensor out = new_like(T);
    const void *g = G.const_data_ptr(), *t = T.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    for_matrices(T, m.n, 65536, [&](int64_t begin, int64_t end) { k.birkhoff_backward(m, g, t, to, begin, end); });
    return out;
}

SinkhornRule rule_of(int64_t start, bool columns_last, double eps) {
    const SinkhornRule rule{columns_last, static_cast<Start>(start), eps};
    SM_CHECK(is_valid(rule), "streammix: no Sinkhorn rule has start ", start, " and eps ", eps);
    return rule;
}

Plans plans_of(const Tensor& t) {
    const DType dtype = dtype_of(t);
    const int64_t dim = t.dim(), m = dim < 2 ? 0 : t.size(dim - 2), n = dim < 2 ? 0 : t.size(dim - 1);
    SM_CHECK(dtype == DType::float32 || dtype == DType::float64, "streammix: transport takes float32 and float64");
    SM_CHECK(1 <= m && m <= largest_n && 1 <= n && n <= largest_n, "streammix: transport takes (..., m, n) with 1 <= m, n <= ", largest_n);
    return {dtype, static_cast<int>(m), static_cast<int>(n)};
}
// A thread takes so many matrices at least
int64_t grain_of(Plans p) {
    const int64_t least = p.m < p.n ? p.m : p.n;
    return 1 + 16384 / (p.m * p.n * least);
}

Tensor transport(const Tensor& logits, const Tensor& rows, const Tensor& columns) {
    const Plans p = plans_of(logits);
    const int64_t count = logits.numel() / (p.m * p.n);
    SM_CHECK(rows.dtype() == logits.dtype() && columns.dtype() == logits.dtype() && rows.numel() == count * p.m && columns.numel() == count * p.n,
             "streammix: the marginals' shapes or dtypes are not the logits'");
    const Tensor R = as_contiguous(logits), r = as_contiguous(rows), c = as_contiguous(columns);
    Tensor out = new_like(R);
    const void *from = R.const_data_ptr(), *a = r.const_data_ptr(), *b = c.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    for_batch(count, grain_of(p), [&](int64_t begin, int64_t end) { k.transport(p, from, a, b, to, begin, end); });
    return out;
}

std::tuple<Tensor, Tensor, Tensor> transport_backward(const Tensor& grad, const Tensor& matrix) {
    check_same(grad, matrix);
    const Plans p = plans_of(matrix);
    const Tensor G = as_contiguous(grad), T = as_contiguous(matrix);
    Tensor out = new_like(T), rows = new_tensor(T, T, T.dim() - 2, {p.m}), columns = new_tensor(T, T, T.dim() - 2, {p.n});
    const void *g = G.const_data_ptr(), *t = T.const_data_ptr();
    void *to = out.mutable_data_ptr(), *a = rows.mutable_data_ptr(), *b = columns.mutable_data_ptr();
    const Kernels& k = kernels();
    for_batch(T.numel() / (p.m * p.n), grain_of(p), [&](int64_t begin, int64_t end) { k.transport_backward(p, g, t, to, a, b, begin, end); });
    return {std::move(out), std::move(rows), std::move(columns)};
}

// entries: (..., n (n - 1) / 2)
Tensor cayley(const Tensor& entries, int64_t n) {
    const DType dtype = dtype_of(entries);
    const int64_t dim = entries.dim(), count = n * (n - 1) / 2;
    SM_CHECK(dtype == DType::float32 || dtype == DType::float64, "streammix: cayley takes float32 and float64");
    SM_CHECK(2 <= n && n <= largest_n && dim >= 1 && entries.size(dim - 1) == count, "streammix: cayley takes n (n - 1) / 2 entries and 2 <= n <= ", largest_n);
    const Tensor in = as_contiguous(entries);
    Tensor out = new_tensor(in, in, dim - 1, {n, n});
    const void* from = in.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    const Matrices m{dtype, static_cast<int>(n), false};
    for_batch(in.numel() / count, 1 + 8192 / (n * n * n), [&](int64_t begin, int64_t end) { k.cayley(m, from, to, begin, end); });
    return out;
}

Tensor cayley_backward(const Tensor& grad, const Tensor& matrix) {
    check_same(grad, matrix);
    const Matrices m = matrices_of(matrix);
    SM_CHECK(m.n >= 2 && (m.dtype == DType::float32 || m.dtype == DType::float64), "streammix: cayley_backward takes float32 and float64, n >= 2");
    const Tensor G = as_contiguous(grad), Q = as_contiguous(matrix);
    Tensor out = new_tensor(Q, Q, Q.dim() - 2, {m.n * (m.n - 1) / 2});
    const void *g = G.const_data_ptr(), *q = Q.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    for_matrices(Q, m.n, 8192, [&](int64_t begin, int64_t end) { k.cayley_backward(m, g, q, to, begin, end); });
    return out;
}

// logits: (..., (n - 1)^2)
void check_chart(const Tensor& logits, int64_t n) {
    const DType dtype = dtype_of(logits);
    const int64_t dim = logits.dim();
    SM_CHECK(dtype == DType::float32 || dtype == DType::float64, "streammix: chart takes float32 and float64");
    SM_CHECK(2 <= n && n <= largest_n && dim >= 1 && logits.size(dim - 1) == (n - 1) * (n - 1),
             "streammix: chart takes (n - 1)^2 logits and 2 <= n <= ", largest_n);
}

Tensor chart(const Tensor& logits, int64_t n, bool recursive, bool scaled) {
    check_chart(logits, n);
    const Chart chart(static_cast<int>(n), recursive, scaled);
    const Tensor in = as_contiguous(logits);
    Tensor out = new_tensor(in, in, in.dim() - 1, {n, n});
    const void* from = in.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    const DType dtype = dtype_of(in);
    for_batch(in.numel() / ((n - 1) * (n - 1)), 1 + 8192 / (n * n * n),
              [&](int64_t begin, int64_t end) { k.chart(dtype, chart.view(), from, to, begin, end); });
    return out;
}

Tensor chart_backward(const Tensor& grad, const Tensor& logits, int64_t n, bool recursive, bool scaled) {
    check_chart(logits, n);
    const int64_t count = logits.numel() / ((n - 1) * (n - 1));
    SM_CHECK(grad.dtype() == logits.dtype() && grad.numel() == count * n * n, "streammix: the gradient's shape or dtype is not the matrices'");
    const Chart chart(static_cast<int>(n), recursive, scaled);
    const Tensor G = as_contiguous(grad), in = as_contiguous(logits);
    Tensor out = new_like(in);
    const void *g = G.const_data_ptr(), *from = in.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    const DType dtype = dtype_of(in);
    for_batch(count, 1 + 4096 / (n * n * n), [&](int64_t begin, int64_t end) { k.chart_backward(dtype, chart.view(), g, from, to, begin, end); });
    return out;
}

int rounds_of(int64_t rounds) {
    SM_CHECK(rounds >= 1 && rounds <= INT32_MAX, "streammix: rounds are at least 1");
    return static_cast<int>(rounds);
}

Tensor sinkhorn(const Tensor& logits, int64_t rounds, int64_t start, bool columns_last, double eps) {
    const Matrices m = matrices_of(logits);
    const SinkhornRule rule = rule_of(start, columns_last, eps);
    const int r = rounds_of(rounds);
    const Tensor in = as_contiguous(logits);
    Tensor out = new_like(in);
    const void* from = in.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    for_matrices(in, m.n, 32768, [&](int64_t begin, int64_t end) { k.sinkhorn(m, from, to, begin, end, r, rule); });
    return out;
}

Tensor sinkhorn_backward(const Tensor& grad, const Tensor& logits, int64_t rounds, int64_t start, bool columns_last, double eps) {
    check_same(grad, logits);
    const Matrices m = matrices_of(logits);
    const SinkhornRule rule = rule_of(start, columns_last, eps);
    const int r = rounds_of(rounds);
    const Tensor G = as_contiguous(grad), R = as_contiguous(logits);
    Tensor out = new_like(R);
    const void *g = G.const_data_ptr(), *from = R.const_data_ptr();
    void* to = out.mutable_data_ptr();
    const Kernels& k = kernels();
    for_matrices(R, m.n, 16384, [&](int64_t begin, int64_t end) { k.sinkhorn_backward(m, g, from, to, begin, end, r, rule); });
    return out;
}

// Its gradient is the projection's.
Tensor implicit_sinkhorn(const Tensor& logits, int64_t rounds) { return sinkhorn(logits, rounds, 0, true, 0); }

}  // namespace

SM_LIBRARY(matrices, "CPU") {
    m.impl("birkhoff", boxed<&birkhoff>);
    m.impl("birkhoff_backward", boxed<&birkhoff_backward>);
    m.impl("cayley", boxed<&cayley>);
    m.impl("cayley_backward", boxed<&cayley_backward>);
    m.impl("chart", boxed<&chart>);
    m.impl("chart_backward", boxed<&chart_backward>);
    m.impl("implicit_sinkhorn", boxed<&implicit_sinkhorn>);
    m.impl("sinkhorn", boxed<&sinkhorn>);
    m.impl("sinkhorn_backward", boxed<&sinkhorn_backward>);
    m.impl("transport", boxed<&transport>);
    m.impl("transport_backward", boxed<&transport_backward>);
}

}  // namespace streammix

// For ctypes: the name of the instruction set in use, or nullptr with the reason why none is in *why (static storage).
extern "C" __attribute__((visibility("default"))) const char* streammix_isa(const char** why) {
    static std::string reason;
    try {
        return streammix::kernels().isa;
    } catch (const std::exception& e) {
        reason = e.what();
        *why = reason.c_str();
        return nullptr;
    }
}
