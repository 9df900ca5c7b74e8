// Sites that read all n streams of a token and update k of them (xHC), s_0 < s_1 < ... being the active ones:
//
//     read    u = sum_j pre_j x_j,  a_i = x_{s_i}     dx_j = pre_j du, and da_i more where j = s_i      dpre_j = <du, x_j>
//     write   out_j = x_j, but out_{s_i} = sum_j res_ij x_{s_j} + sum_b post_ib v_b
//             dx_j = g_j,  but  dx_{s_j} = sum_i res_ij g_{s_i}                                 dv_b = sum_i post_ib g_{s_i}
//             dres_ij = <g_{s_i}, x_{s_j}>                                                      dpost_ib = <g_{s_i}, v_b>
//
// One pass over the state each. x, u, a and out are of type M in memory, v and the coefficients of the computing type.
#pragma once

#include "kernels.h"
#include "streams/streams.h"

namespace streammix::SM_ISA {

template <bool past_caches, class V, class M>
SM_FN void put(M* p, V x, All) {
    if constexpr (past_caches) store_past_caches(p, x);
    else store(p, x, All());
}
template <bool past_caches, class V, class M>
SM_FN void put(M* p, V x, int count) {
    store(p, x, count);
}

// out_j = x_j for the streams that are not active
template <bool past_caches, class V, class M>
SM_FN void copy_others(Sparse s, const M* x, const int64_t* index, M* out) {
    bool active[largest_n] = {};
    for (int i = 0; i < s.k; ++i) active[index[i]] = true;
    for (int j = 0; j < s.n; ++j) {
        if (active[j]) continue;
        for_channels<V>(
            0, s.C, [&](int64_t c, auto count) __attribute__((always_inline)) { put<past_caches>(out + j * s.C + c, load<V>(x + j * s.C + c, count), count); });
    }
}

template <class V, class M>
[[gnu::noinline]] void sparse_read_token(Sparse s, const M* x, const Scalar<V>* pre, const int64_t* index, M* u, M* active) {
    read_token<0, V>(x, pre, u, s.n, s.C, s.C);
    for (int i = 0; i < s.k; ++i) memcpy(active + i * s.C, x + index[i] * s.C, s.C * sizeof(M));
}

template <bool past_caches, class V, class M>
[[gnu::noinline]] void sparse_read_backward_token(Sparse s, const M* du, const M* dactive, const M* x, const Scalar<V>* pre, const int64_t* index, M* dx,
                                                  Scalar<V>* dpre) {
    const M* more[largest_n] = {};
    for (int i = 0; i < s.k; ++i) more[index[i]] = dactive + i * s.C;
    for (int j = 0; j < s.n; ++j) {
        const V p(pre[j]);
        V dots(0);
        for_channels<V>(0, s.C, [&](int64_t c, auto count) __attribute__((always_inline)) {
            const V g = load<V>(du + c, count);
            dots += g * load<V>(x + j * s.C + c, count);
            V d = p * g;
            if (more[j]) d += load<V>(more[j] + c, count);
            put<past_caches>(dx + j * s.C + c, d, count);
        });
        dpre[j] = sum(dots);
    }
}

// room: for k k + k basis numbers
template <bool past_caches, class V, class M>
[[gnu::noinline]] void sparse_write_token(Sparse s, const M* x, const Scalar<V>* basis, const Scalar<V>* post, const Scalar<V>* res, const int64_t* index,
                                          M* out, V* room) {
    V *h = room, *p = room + s.k * s.k;
    spread<0>(res, h, s.k * s.k);
    spread<0>(post, p, s.k * s.basis);
    copy_others<past_caches, V>(s, x, index, out);
    for_channels<V>(0, s.C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        V a[largest_n];
        for (int j = 0; j < s.k; ++j) a[j] = load<V>(x + index[j] * s.C + c, count);
        for (int i = 0; i < s.k; ++i) {
            V y(0);
            for (int j = 0; j < s.k; ++j) y += h[i * s.k + j] * a[j];
            for (int b = 0; b < s.basis; ++b) y += p[i * s.basis + b] * load<V>(basis + b * s.C + c, count);
            put<past_caches>(out + index[i] * s.C + c, y, count);
        }
    });
}

// room: for 2 (k k + k basis) numbers
template <bool past_caches, class V, class M>
[[gnu::noinline]] void sparse_write_backward_token(Sparse s, const M* grad, const M* x, const Scalar<V>* basis, const Scalar<V>* post, const Scalar<V>* res,
                                                   const int64_t* index, M* dx, Scalar<V>* dbasis, Scalar<V>* dpost, Scalar<V>* dres, V* room) {
    const int kk = s.k * s.k, kb = s.k * s.basis;
    V *h = room, *p = h + kk, *dh = p + kb, *dp = dh + kk;
    spread<0>(res, h, kk);
    spread<0>(post, p, kb);
    for (int e = 0; e < kk + kb; ++e) dh[e] = V(0);
    copy_others<past_caches, V>(s, grad, index, dx);
    for_channels<V>(0, s.C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        V g[largest_n];
        for (int i = 0; i < s.k; ++i) g[i] = load<V>(grad + index[i] * s.C + c, count);
        for (int j = 0; j < s.k; ++j) {
            const V a = load<V>(x + index[j] * s.C + c, count);
            V d(0);
            for (int i = 0; i < s.k; ++i) {
                d += h[i * s.k + j] * g[i];
                dh[i * s.k + j] += g[i] * a;
            }
            put<past_caches>(dx + index[j] * s.C + c, d, count);
        }
        for (int b = 0; b < s.basis; ++b) {
            const V v = load<V>(basis + b * s.C + c, count);
            V d(0);
            for (int i = 0; i < s.k; ++i) {
                d += p[i * s.basis + b] * g[i];
                dp[i * s.basis + b] += g[i] * v;
            }
            store(dbasis + b * s.C + c, d, count);
        }
    });
    for (int e = 0; e < kk; ++e) dres[e] = sum(dh[e]);
    for (int e = 0; e < kb; ++e) dpost[e] = sum(dp[e]);
}

// ------------------------------------------------------------------------------------------------------------ ranges of tokens
// f.operator()<V, M>() for the streams' dtype
template <class Function>
SM_FN void for_state(DType dtype, Function f) {
    specialise(Sizes<>(), dtype, 0, [&]<int N, class M>() {
        using F = Computing<M>;
        f.template operator()<Simd<F, vector_bytes / sizeof(F)>, M>();
    });
}
// f.operator()<past_caches>(): where the output is large, and its rows are aligned
template <class V, class M, class Function>
SM_FN void for_traffic(bool large, const void* out, int64_t C, Function f) {
    if (!large || sizeof(M) == 2 || !rows_are_aligned<V, M>(out, C)) return f.template operator()<false>();
    f.template operator()<true>();
    finish_stores();
}

inline void sparse_read_any(Sparse s, SparseRead r, int64_t begin, int64_t end) {
    for_state(s.dtype, [&]<class V, class M>() {
        for (int64_t t = begin; t < end; ++t)
            sparse_read_token<V>(s, (const M*)r.x + t * s.n * s.C, (const Scalar<V>*)r.pre + t * s.n, r.index + t * s.k, (M*)r.u + t * s.C,
                                 (M*)r.active + t * s.k * s.C);
    });
}
inline void sparse_read_backward_any(Sparse s, SparseReadBackward r, int64_t begin, int64_t end) {
    for_state(s.dtype, [&]<class V, class M>() {
        using F = Scalar<V>;
        for_traffic<V, M>(r.large, r.dx, s.C, [&]<bool past_caches>() {
            for (int64_t t = begin; t < end; ++t) {
                const int64_t at = t * s.n * s.C;
                sparse_read_backward_token<past_caches, V>(s, (const M*)r.du + t * s.C, (const M*)r.dactive + t * s.k * s.C, (const M*)r.x + at,
                                                           (const F*)r.pre + t * s.n, r.index + t * s.k, (M*)r.dx + at, (F*)r.dpre + t * s.n);
            }
        });
    });
}
inline void sparse_write_any(Sparse s, SparseWrite w, int64_t begin, int64_t end) {
    for_state(s.dtype, [&]<class V, class M>() {
        using F = Scalar<V>;
        const Scratch<V> room(s.k * (s.k + s.basis));
        for_traffic<V, M>(w.large, w.out, s.C, [&]<bool past_caches>() {
            for (int64_t t = begin; t < end; ++t) {
                const int64_t at = t * s.n * s.C;
                sparse_write_token<past_caches, V>(s, (const M*)w.x + at, (const F*)w.basis + t * s.basis * s.C, (const F*)w.post + t * s.k * s.basis,
                                                   (const F*)w.res + t * s.k * s.k, w.index + t * s.k, (M*)w.out + at, room.p);
            }
        });
    });
}
inline void sparse_write_backward_any(Sparse s, SparseWriteBackward w, int64_t begin, int64_t end) {
    for_state(s.dtype, [&]<class V, class M>() {
        using F = Scalar<V>;
        const Scratch<V> room(2 * s.k * (s.k + s.basis));
        for_traffic<V, M>(w.large, w.dx, s.C, [&]<bool past_caches>() {
            for (int64_t t = begin; t < end; ++t) {
                const int64_t at = t * s.n * s.C, along = t * s.basis * s.C, weights = t * s.k * s.basis, square = t * s.k * s.k;
                sparse_write_backward_token<past_caches, V>(s, (const M*)w.grad + at, (const M*)w.x + at, (const F*)w.basis + along, (const F*)w.post + weights,
                                                            (const F*)w.res + square, w.index + t * s.k, (M*)w.dx + at, (F*)w.dbasis + along,
                                                            (F*)w.dpost + weights, (F*)w.dres + square, room.p);
            }
        });
    });
}

}  // namespace streammix::SM_ISA
