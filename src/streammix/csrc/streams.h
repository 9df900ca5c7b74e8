// Reading and writing the streams: one pass over the state each, forward and backward.
//
//     read    u = sum_j pre_j x_j                     dx_j = pre_j du            dpre_j = <du, x_j>
//     write   out_i = sum_j res_ij x_j + post_i y     dx_j = sum_i res_ij g_i    dres_ij = <g_i, x_j>
//                                                     dy = sum_i post_i g_i      dpost_i = <g_i, y>
//
// A token's state is n rows of C channels; channels lie in lanes. The state, u and y are of type M in memory, coefficients of the
// computing type F. All of it is bound by memory: the loops over streams need no tuning, n = 4 is unrolled all the same.
#pragma once

#include "laplacian.h"
#include "transpose.h"

namespace streammix::SM_ISA {

// ----------------------------------------------------------------------------------------------- channels in memory <-> lanes
// How many of a vector's lanes there are: all of them, as a type, or a number.
struct All {};

template <class V, class M>
SM_FN V load(const M* p, All) {
    using Single = V;
    if constexpr (sizeof(M) == 2) {
        U16<lanes<Single>> h;
        memcpy(&h, p, sizeof h);
        return widen<lanes<Single>>(M(), h);
    } else {
        Single x;
        memcpy(&x.v, p, sizeof x.v);
        return x;
    }
}
template <class M, class F, int W>
SM_FN void store(M* p, Simd<F, W> x, All) {
    if constexpr (sizeof(M) == 2) {
        const auto h = narrow<W>(M(), x.v);
        memcpy(p, &h, sizeof h);
    } else {
        memcpy(p, &x.v, sizeof x.v);
    }
}
// A store past the caches, for an output that is larger than they are: a line is then written without being read first.
template <class M, class F, int W>
SM_FN void store_past_caches(M* p, Simd<F, W> x) {
    [[maybe_unused]] const auto whole = [&](auto v) __attribute__((always_inline)) {
#if defined(__AVX512F__)
        if constexpr (sizeof v == 64) return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#endif
#if defined(__AVX__)
        if constexpr (sizeof v == 32) return _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#endif
#if defined(SM_X86)
        if constexpr (sizeof v == 16) return _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#endif
        memcpy(p, &v, sizeof v);
    };
    if constexpr (sizeof(M) == 2)
        whole(narrow<W>(M(), x.v));
    else
        whole(x.v);
}
// Whether rows of C numbers from p on begin where such stores may
template <class V, class M>
SM_FN bool rows_are_aligned(const void* p, int64_t C) {
    constexpr uintptr_t vector = lanes<V> * sizeof(M);
    return reinterpret_cast<uintptr_t>(p) % vector == 0 && C % lanes<V> == 0;
}
// What was stored past the caches is there for other threads.
SM_FN void finish_stores() {
#if defined(SM_X86)
    _mm_sfence();
#endif
}

template <class V, class M>
SM_FN V load(const M* p, int count) {
    M padded[lanes<V>] = {};
    for (int i = 0; i < count; ++i) padded[i] = p[i];
    return load<V>(padded, All());
}
template <class M, class F, int W>
SM_FN void store(M* p, Simd<F, W> x, int count) {
    M padded[W];
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

// Coefficients of one token, each in all lanes
template <int N, class V, class F>
SM_FN void spread(const F* from, V* to, int count) {
    SM_UNROLL16 for (int i = 0; i < count; ++i) to[i] = V(from[i]);
}

template <int N>
inline constexpr int square_room = N ? N * N : max_n* max_n;

// The second-level cache fetches `vectors` vectors of the next token's state, of which the processor sees short rows only.
template <class V, class M>
SM_FN void prefetch_row(const M* state, int64_t first, int vectors) {
    for (int i = 0; i < vectors * int(lanes<V> * sizeof(M)); i += 64) __builtin_prefetch(reinterpret_cast<const char*>(state + first) + i, 0, 2);
}

// ------------------------------------------------------------------------------------------------------------ read
template <int N, class V, class M>
[[gnu::noinline]] void read_token(const M* x, const Scalar<V>* pre, M* u, int n_, int64_t C) {
    const int n = size<N>(n_);
    V p[room<N>];
    spread<N>(pre, p, n);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        V s = p[0] * load<V>(x + c, count);
        SM_UNROLL for (int j = 1; j < n; ++j) s += p[j] * load<V>(x + j * C + c, count);
        store(u + c, s, count);
    });
}

// dpre_j = <du, x_j>
template <int N, class V, class M>
[[gnu::noinline]] void read_token_dots(const M* du, const M* x, Scalar<V>* dpre, int n_, int64_t C) {
    const int n = size<N>(n_);
    V dots[room<N>];
    SM_UNROLL for (int j = 0; j < n; ++j) dots[j] = V(0);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        const V g = load<V>(du + c, count);
        SM_UNROLL for (int j = 0; j < n; ++j) dots[j] += g * load<V>(x + j * C + c, count);
    });
    SM_UNROLL for (int j = 0; j < n; ++j) dpre[j] = sum(dots[j]);
}

template <int N, bool past_caches, class V, class M>
[[gnu::noinline]] void read_token_backward(const M* du, const M* x, const Scalar<V>* pre, M* dx, Scalar<V>* dpre, int n_, int64_t C) {
    const int n = size<N>(n_);
    V p[room<N>], dots[room<N>];
    spread<N>(pre, p, n);
    SM_UNROLL for (int j = 0; j < n; ++j) dots[j] = V(0);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        const V g = load<V>(du + c, count);
        prefetch_row<V>(x + n * C, n * c, n);
        SM_UNROLL for (int j = 0; j < n; ++j) {
            dots[j] += g * load<V>(x + j * C + c, count);
            if constexpr (past_caches)
                store_past_caches(dx + j * C + c, p[j] * g);
            else
                store(dx + j * C + c, p[j] * g, count);
        }
    });
    SM_UNROLL for (int j = 0; j < n; ++j) dpre[j] = sum(dots[j]);
}

// ------------------------------------------------------------------------------------------------------------ write
template <int N, bool past_caches, class V, class M>
[[gnu::noinline]] void write_token(const M* x, const M* y, const Scalar<V>* post, const Scalar<V>* res, M* out, int n_, int64_t C) {
    const int n = size<N>(n_);
    V p[room<N>], h[square_room<N>];
    spread<N>(post, p, n);
    spread<N>(res, h, n * n);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        const V branch = load<V>(y + c, count);
        prefetch_row<V>(x + n * C, n * c, n);
        V streams[room<N>];
        SM_UNROLL for (int j = 0; j < n; ++j) streams[j] = load<V>(x + j * C + c, count);
        SM_UNROLL for (int i = 0; i < n; ++i) {
            V s = p[i] * branch;
            SM_UNROLL for (int j = 0; j < n; ++j) s += h[i * n + j] * streams[j];
            if constexpr (past_caches)
                store_past_caches(out + i * C + c, s);
            else
                store(out + i * C + c, s, count);
        }
    });
}

template <int N, bool past_caches, class V, class M>
[[gnu::noinline]] void write_token_backward(const M* grad, const M* x, const M* y, const Scalar<V>* post, const Scalar<V>* res, M* dx, M* dy,
                                            Scalar<V>* dpost, Scalar<V>* dres, int n_, int64_t C) {
    const int n = size<N>(n_);
    V p[room<N>], h[square_room<N>], dp[room<N>], dh[square_room<N>];
    spread<N>(post, p, n);
    spread<N>(res, h, n * n);
    SM_UNROLL for (int i = 0; i < n; ++i) dp[i] = V(0);
    SM_UNROLL16 for (int i = 0; i < n * n; ++i) dh[i] = V(0);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        const V branch = load<V>(y + c, count);
        prefetch_row<V>(x + n * C, n * c, n);
        V g[room<N>], d = V(0);
        SM_UNROLL for (int i = 0; i < n; ++i) {
            g[i] = load<V>(grad + i * C + c, count);
            dp[i] += g[i] * branch;
            d += p[i] * g[i];
        }
        store(dy + c, d, count);
        SM_UNROLL for (int j = 0; j < n; ++j) {
            const V stream = load<V>(x + j * C + c, count);
            V s = V(0);
            SM_UNROLL for (int i = 0; i < n; ++i) {
                dh[i * n + j] += g[i] * stream;
                s += h[i * n + j] * g[i];
            }
            if constexpr (past_caches)
                store_past_caches(dx + j * C + c, s);
            else
                store(dx + j * C + c, s, count);
        }
    });
    SM_UNROLL for (int i = 0; i < n; ++i) dpost[i] = sum(dp[i]);
    SM_UNROLL16 for (int i = 0; i < n * n; ++i) dres[i] = sum(dh[i]);
}

}  // namespace streammix::SM_ISA
