// Reading and writing the streams: one pass over the state each, forward and backward.
//
//     read    u = sum_j pre_j x_j                     dx_j = pre_j du            dpre_j = <du, x_j>
//     write   out_i = sum_j res_ij x_j + post_i y     dx_j = sum_i res_ij g_i    dres_ij = <g_i, x_j>
//                                                     dy = sum_i post_i g_i      dpost_i = <g_i, y>
//
// A token's state is n rows of C channels, `row` apart; channels lie in lanes. The state, u and y are of type M in memory, coefficients of
// the computing type F. All of it is bound by memory: the loops over streams need no tuning, n = 4 is unrolled all the same.
#pragma once

#include <type_traits>

#include "simd/machine.h"
#include "simd/size.h"
#include "simd/traffic.h"
#include "simd/transpose.h"
#include "kernels.h"

namespace streammix::SM_ISA {

// Where the state of token t begins, and how far apart its rows are
SM_FN int64_t place(Streams s, int64_t t) { return s.run == 1 ? t * s.n * s.C : (t / s.run * s.n * s.run + t % s.run) * s.C; }
SM_FN int64_t row_of(Streams s) { return s.run * s.C; }

// ----------------------------------------------------------------------------------------------- channels in memory <-> lanes
// The first `count` lanes
template <class V, class M>
SM_FN V load(const M* p, int count) {
    M padded[lanes<V>] = {};
    for (int i = 0; i < count; ++i) padded[i] = p[i];
    return load<V>(padded, All());
}
template <class M, class V>
SM_FN void store(M* p, V x, int count) {
    M padded[lanes<V>];
    store(padded, x, All());
    for (int i = 0; i < count; ++i) p[i] = padded[i];
}

// body(first channel, how many) for every vector of [begin, end)
template <class V, class Body>
SM_FN void for_channels(int64_t begin, int64_t end, Body body) {
    int64_t c = begin;
    for (; c + lanes<V> <= end; c += lanes<V>) body(c, All());
    if (c < end) body(c, int(end - c));
}

// The sum of all lanes, halves first
template <class F, int W>
SM_FN F sum(Simd<F, W> x) {
    F parts[W];
    memcpy(parts, &x.v, sizeof parts);
    SM_UNROLL16 for (int h = W / 2; h; h /= 2)
        SM_UNROLL16 for (int i = 0; i < h; ++i) parts[i] += parts[i + h];
    return parts[0];
}

template <class V>
SM_FN Scalar<V> sum(Pair<V> x) {
    return sum(x.a + x.b);
}

// What a pass over a token's channels takes at once: of 16-bit floats two vectors, since stores past the caches are of whole lines
template <class V, class M>
using Columns = std::conditional_t<sizeof(M) == 2, Pair<V>, V>;

// Coefficients of one token, each in all lanes
template <int N, class V, class F>
SM_FN void spread(const F* from, V* to, int count) {
    SM_UNROLL16 for (int i = 0; i < count; ++i) to[i] = V(from[i]);
}

// The next token's state from channel c on is asked for where it follows this one: the processor itself sees short rows only. Rows of a run
// follow each other, which it does see.
template <class V, class M>
SM_FN void prefetch_next(const M* x, int64_t c, int n, int64_t row, int64_t C) {
    if (row == C) prefetch<2>(x + n * (C + c), n * lanes<V>);
}

// ------------------------------------------------------------------------------------------------------------ read
template <int N, class V, class M>
[[gnu::noinline]] void read_token(const M* x, const Scalar<V>* pre, M* u, int n_, int64_t row, int64_t C) {
    const int n = size<N>(n_);
    V p[room<N>];
    spread<N>(pre, p, n);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        V s = p[0] * load<V>(x + c, count);
        SM_UNROLL for (int j = 1; j < n; ++j) s += p[j] * load<V>(x + j * row + c, count);
        store(u + c, s, count);
    });
}

// dpre_j = <du, x_j>
template <int N, class V, class M>
[[gnu::noinline]] void read_token_dots(const M* du, const M* x, Scalar<V>* dpre, int n_, int64_t row, int64_t C) {
    const int n = size<N>(n_);
    V dots[room<N>];
    SM_UNROLL for (int j = 0; j < n; ++j) dots[j] = V(0);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        const V g = load<V>(du + c, count);
        SM_UNROLL for (int j = 0; j < n; ++j) dots[j] += g * load<V>(x + j * row + c, count);
    });
    SM_UNROLL for (int j = 0; j < n; ++j) dpre[j] = sum(dots[j]);
}

template <int N, bool past_caches, class V, class M>
[[gnu::noinline]] void read_token_backward(const M* du, const M* x, const Scalar<V>* pre, M* dx, Scalar<V>* dpre, int n_, int64_t row, int64_t C) {
    const int n = size<N>(n_);
    V p[room<N>], dots[room<N>];
    spread<N>(pre, p, n);
    SM_UNROLL for (int j = 0; j < n; ++j) dots[j] = V(0);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        const V g = load<V>(du + c, count);
        prefetch_next<V>(x, c, n, row, C);
        SM_UNROLL for (int j = 0; j < n; ++j) {
            dots[j] += g * load<V>(x + j * row + c, count);
            if constexpr (past_caches)
                store_past_caches(dx + j * row + c, p[j] * g);
            else
                store(dx + j * row + c, p[j] * g, count);
        }
    });
    SM_UNROLL for (int j = 0; j < n; ++j) dpre[j] = sum(dots[j]);
}

// ------------------------------------------------------------------------------------------------------------ write
template <int N, bool past_caches, class V, class M>
[[gnu::noinline]] void write_token(const M* x, const M* y, const Scalar<V>* post, const Scalar<V>* res, M* out, int n_, int64_t row, int64_t C) {
    const int n = size<N>(n_);
    V p[room<N>];
    Array<N * N, V> h(n * n);
    spread<N>(post, p, n);
    spread<N>(res, (V*)h, n * n);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        const V branch = load<V>(y + c, count);
        prefetch_next<V>(x, c, n, row, C);
        V streams[room<N>];
        SM_UNROLL for (int j = 0; j < n; ++j) streams[j] = load<V>(x + j * row + c, count);
        SM_UNROLL for (int i = 0; i < n; ++i) {
            V s = p[i] * branch;
            SM_UNROLL for (int j = 0; j < n; ++j) s += h[i * n + j] * streams[j];
            if constexpr (past_caches)
                store_past_caches(out + i * row + c, s);
            else
                store(out + i * row + c, s, count);
        }
    });
}

template <int N, bool past_caches, class V, class M>
[[gnu::noinline]] void write_token_backward(const M* grad, const M* x, const M* y, const Scalar<V>* post, const Scalar<V>* res, M* dx, M* dy,
                                            Scalar<V>* dpost, Scalar<V>* dres, int n_, int64_t row, int64_t C) {
    const int n = size<N>(n_);
    V p[room<N>], dp[room<N>];
    Array<N * N, V> h(n * n), dh(n * n);
    spread<N>(post, p, n);
    spread<N>(res, (V*)h, n * n);
    SM_UNROLL for (int i = 0; i < n; ++i) dp[i] = V(0);
    SM_UNROLL16 for (int i = 0; i < n * n; ++i) dh[i] = V(0);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        const V branch = load<V>(y + c, count);
        prefetch_next<V>(x, c, n, row, C);
        V g[room<N>], d = V(0);
        SM_UNROLL for (int i = 0; i < n; ++i) {
            g[i] = load<V>(grad + i * row + c, count);
            dp[i] += g[i] * branch;
            d += p[i] * g[i];
        }
        store(dy + c, d, count);
        SM_UNROLL for (int j = 0; j < n; ++j) {
            const V stream = load<V>(x + j * row + c, count);
            V s = V(0);
            SM_UNROLL for (int i = 0; i < n; ++i) {
                dh[i * n + j] += g[i] * stream;
                s += h[i * n + j] * g[i];
            }
            if constexpr (past_caches)
                store_past_caches(dx + j * row + c, s);
            else
                store(dx + j * row + c, s, count);
        }
    });
    SM_UNROLL for (int i = 0; i < n; ++i) dpost[i] = sum(dp[i]);
    SM_UNROLL16 for (int i = 0; i < n * n; ++i) dres[i] = sum(dh[i]);
}

}  // namespace streammix::SM_ISA
