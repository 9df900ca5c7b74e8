// The CPU kernels of the operators behind sparse connections (xHC): reading and writing a few of many streams, and a branch's recent outputs.

#include <algorithm>
#include <tuple>

#include "torch/tensors.h"

namespace streammix {
namespace {

constexpr int64_t elements_a_thread = 32768;                 // of the state: below this, waking another thread costs more than it saves
constexpr int64_t beyond_last_cache = int64_t(32) << 20;     // bytes; a thread's share of a last-level cache is less

DType computing(DType dtype) { return dtype == DType::float64 ? DType::float64 : DType::float32; }
int64_t grain_of(int64_t numbers) { return 1 + elements_a_thread / std::max<int64_t>(1, numbers); }

// The state and what is active of it
struct Tokens {
    Sparse s;
    int64_t count, lead;  // lead: dimensions before the streams'
    Tensor x, index;

    Tokens(const Tensor& x_, const Tensor& index_, int64_t basis)
        : s{dtype_of(x_), 0, 0, basis, 0}, count(1), lead(x_.dim() - 2), x(as_contiguous(x_)), index(as_contiguous(index_)) {
        static const int32_t int64 = aoti_torch_dtype_int64();
        SM_CHECK(lead >= 0, "streammix: streams are (..., n, C)");
        const int64_t n = x.size(lead), k = index.dim() ? index.size(index.dim() - 1) : 0;
        SM_CHECK(1 <= n && n <= largest_n, "streammix: the CPU backend takes 1 to ", largest_n, " streams");
        for (int64_t i = 0; i < lead; ++i) count *= x.size(i);
        SM_CHECK(index.dtype() == int64 && index.dim() == lead + 1 && 1 <= k && k <= n && index.numel() == count * k,
                 "streammix: indices are int64, (..., k) with 1 <= k <= n");
        s.n = static_cast<int>(n), s.k = static_cast<int>(k), s.C = x.size(lead + 1);
        for (int64_t t = 0; t < count; ++t) {
            bool seen[largest_n] = {};
            for (int64_t i = 0; i < k; ++i) {
                const int64_t at = indices()[t * k + i];
                SM_CHECK(0 <= at && at < n && !seen[at], "streammix: indices of a token are distinct and in 0 ... n - 1");
                seen[at] = true;
            }
        }
    }

    const int64_t* indices() const { return static_cast<const int64_t*>(index.const_data_ptr()); }
    bool large() const { return x.numel() * element_size(x) >= beyond_last_cache; }
    int64_t grain() const { return grain_of(s.n * s.C); }

    // Contiguous, of the leading shape and then `last`; coefficients are of the computing type.
    Tensor state(const Tensor& t, const char* name, std::initializer_list<int64_t> last) const { return checked(t, name, last, s.dtype); }
    Tensor coefficient(const Tensor& t, const char* name, std::initializer_list<int64_t> last) const { return checked(t, name, last, computing(s.dtype)); }

private:
    Tensor checked(const Tensor& t, const char* name, std::initializer_list<int64_t> last, DType dtype) const {
        int64_t elements = count;
        for (int64_t size : last) elements *= size;
        SM_CHECK(t.numel() == elements && dtype_of(t) == dtype, "streammix: ", name, " does not match the streams in shape or dtype");
        return as_contiguous(t);
    }
};

std::tuple<Tensor, Tensor> sparse_read(const Tensor& x, const Tensor& pre, const Tensor& index) {
    const Tokens tokens(x, index, 0);
    const Sparse s = tokens.s;
    const Tensor P = tokens.coefficient(pre, "pre", {s.n});
    Tensor u = new_tensor(x, x, tokens.lead, {s.C}), active = new_tensor(x, x, tokens.lead, {s.k, s.C});
    const SparseRead r{tokens.x.const_data_ptr(), P.const_data_ptr(), tokens.indices(), u.mutable_data_ptr(), active.mutable_data_ptr()};
    const Kernels& k = kernels();
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.sparse_read(s, r, begin, end); });
    return {std::move(u), std::move(active)};
}

std::tuple<Tensor, Tensor> sparse_read_backward(const Tensor& du, const Tensor& dactive, const Tensor& x, const Tensor& pre, const Tensor& index) {
    const Tokens tokens(x, index, 0);
    const Sparse s = tokens.s;
    const Tensor P = tokens.coefficient(pre, "pre", {s.n}), G = tokens.state(du, "du", {s.C}), A = tokens.state(dactive, "dactive", {s.k, s.C});
    Tensor dx = new_like(x), dpre = new_like(P);
    const SparseReadBackward r{G.const_data_ptr(), A.const_data_ptr(),    tokens.x.const_data_ptr(), P.const_data_ptr(),
                               tokens.indices(),   dx.mutable_data_ptr(), dpre.mutable_data_ptr(),   tokens.large()};
    const Kernels& k = kernels();
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.sparse_read_backward(s, r, begin, end); });
    return {std::move(dx), std::move(dpre)};
}

// What is written to the active streams, contiguous and checked
struct Written {
    Tensor basis, post, res;

    Written(const Tokens& tokens, const Tensor& basis_, const Tensor& post_, const Tensor& res_)
        : basis(tokens.coefficient(basis_, "basis", {tokens.s.basis, tokens.s.C})),
          post(tokens.coefficient(post_, "post", {tokens.s.k, tokens.s.basis})),
          res(tokens.coefficient(res_, "res", {tokens.s.k, tokens.s.k})) {}
};
int64_t directions(const Tensor& basis) { return basis.dim() >= 2 ? basis.size(basis.dim() - 2) : 0; }

Tensor sparse_write(const Tensor& x, const Tensor& basis, const Tensor& post, const Tensor& res, const Tensor& index) {
    const Tokens tokens(x, index, directions(basis));
    const Written in(tokens, basis, post, res);
    Tensor out = new_like(x);
    const SparseWrite w{tokens.x.const_data_ptr(),
                        in.basis.const_data_ptr(),
                        in.post.const_data_ptr(),
                        in.res.const_data_ptr(),
                        tokens.indices(),
                        out.mutable_data_ptr(),
                        tokens.large()};
    const Kernels& k = kernels();
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.sparse_write(tokens.s, w, begin, end); });
    return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sparse_write_backward(const Tensor& grad, const Tensor& x, const Tensor& basis, const Tensor& post,
                                                                 const Tensor& res, const Tensor& index) {
    const Tokens tokens(x, index, directions(basis));
    const Written in(tokens, basis, post, res);
    const Tensor G = tokens.state(grad, "grad", {tokens.s.n, tokens.s.C});
    Tensor dx = new_like(x), dbasis = new_like(in.basis), dpost = new_like(in.post), dres = new_like(in.res);
    const SparseWriteBackward w{G.const_data_ptr(), tokens.x.const_data_ptr(), in.basis.const_data_ptr(), in.post.const_data_ptr(), in.res.const_data_ptr(),
                                tokens.indices(),   dx.mutable_data_ptr(),     dbasis.mutable_data_ptr(), dpost.mutable_data_ptr(), dres.mutable_data_ptr(),
                                tokens.large()};
    const Kernels& k = kernels();
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.sparse_write_backward(tokens.s, w, begin, end); });
    return {std::move(dx), std::move(dbasis), std::move(dpost), std::move(dres)};
}

// ---------------------------------------------------------------------------------------------------------------- over time
// known: (..., known, C), filters: (filters, length, C)
Temporal temporal_of(const Tensor& known, const Tensor& filters, int64_t tokens) {
    const DType dtype = dtype_of(known);
    const int64_t dim = known.dim();
    SM_CHECK(dtype == DType::float32 || dtype == DType::float64, "streammix: temporal_basis takes float32 and float64");
    SM_CHECK(dim >= 2 && filters.dim() == 3 && dtype_of(filters) == dtype && filters.size(2) == known.size(dim - 1) && filters.size(1) >= 1 && 0 <= tokens &&
                 tokens <= known.size(dim - 2),
             "streammix: temporal_basis takes (..., time, C), filters (filters, length, C) of its dtype, and at most as many tokens as time");
    Temporal t{dtype, 1, known.size(dim - 2), tokens, known.size(dim - 1), static_cast<int>(filters.size(0)), filters.size(1)};
    for (int64_t i = 0; i < dim - 2; ++i) t.sequences *= known.size(i);
    return t;
}

Tensor new_basis(const Tensor& like, const Temporal& t) {
    SM_CHECK(like.dim() <= 60, "streammix: more than 60 dimensions");
    int64_t sizes[64], dim = like.dim() - 2;
    std::copy(like.sizes(), like.sizes() + dim, sizes);
    for (int64_t size : {t.tokens, int64_t(1 + t.filters), t.C}) sizes[dim++] = size;
    return new_tensor(like, sizes, dim);
}

Tensor temporal_basis(const Tensor& known, const Tensor& filters, int64_t tokens) {
    const Temporal t = temporal_of(known, filters, tokens);
    const Tensor Y = as_contiguous(known), F = as_contiguous(filters);
    Tensor out = new_basis(Y, t);
    const void *y = Y.const_data_ptr(), *f = F.const_data_ptr();
    void* v = out.mutable_data_ptr();
    const Kernels& k = kernels();
    for_batch(t.sequences * t.tokens, grain_of(t.C * (1 + t.filters * t.length)),
              [&](int64_t begin, int64_t end) { k.temporal_basis(t, y, f, v, begin, end); });
    return out;
}

std::tuple<Tensor, Tensor> temporal_basis_backward(const Tensor& grad, const Tensor& known, const Tensor& filters, int64_t tokens) {
    const Temporal t = temporal_of(known, filters, tokens);
    const int64_t count = t.sequences * t.tokens;
    SM_CHECK(grad.dtype() == known.dtype() && grad.numel() == count * (1 + t.filters) * t.C, "streammix: the gradient's shape or dtype is not the basis'");
    const Tensor G = as_contiguous(grad), Y = as_contiguous(known), F = as_contiguous(filters);
    Tensor between = new_like(G), dknown = new_like(Y), dfilters = new_like(F);
    const void *g = G.const_data_ptr(), *y = Y.const_data_ptr(), *f = F.const_data_ptr();
    void *d = between.mutable_data_ptr(), *dy = dknown.mutable_data_ptr(), *df = dfilters.mutable_data_ptr();
    const Kernels& k = kernels();
    const int64_t work = t.filters * t.length;
    for_batch(count, grain_of(t.C * (1 + work)), [&](int64_t begin, int64_t end) { k.temporal_orthogonal_backward(t, g, y, f, d, begin, end); });
    for_batch(t.C, grain_of(count * (1 + work)), [&](int64_t begin, int64_t end) { k.temporal_filters_backward(t, d, y, f, dy, df, begin, end); });
    return {std::move(dknown), std::move(dfilters)};
}

}  // namespace

SM_LIBRARY(sparse, "CPU") {
    m.impl("sparse_read", boxed<&sparse_read>);
    m.impl("sparse_read_backward", boxed<&sparse_read_backward>);
    m.impl("sparse_write", boxed<&sparse_write>);
    m.impl("sparse_write_backward", boxed<&sparse_write_backward>);
    m.impl("temporal_basis", boxed<&temporal_basis>);
    m.impl("temporal_basis_backward", boxed<&temporal_basis_backward>);
}

}  // namespace streammix
