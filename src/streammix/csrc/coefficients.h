// From the state to the coefficients of a site (mHC Eq. 7), and back.
//
//     v = vec x (n C numbers a token)        r = (mean v^2 + eps)^(-1/2)        P = r (phi v)        logits = scale o P + bias
//
// phi has a row for each logit. Tokens are taken in tiles, channels in chunks that stay in the first-level cache; every (token,
// row) sum runs over the channels in the same order wherever the token stands, so that no result depends on its batch.
//
// Backward, from dlogits:   dP = scale o dlogits,   q = r dP,   a = -(r^2 / (n C)) <dP, P>
//     dv = phi' q + a v        dphi += q v'        dscale += dlogits o P        dbias += dlogits
#pragma once

#include <math.h>

#include "machine.h"
#include "streams.h"

namespace streammix::SM_ISA {

inline constexpr int chunk = 512;                                     // channels at a time
inline constexpr int tile_tokens = vector_bytes == 64 ? 8 : 4;        // accumulators of a tile fill the registers:
inline constexpr int tile_rows = vector_bytes == 64 ? 3 : 2;          // tokens x rows, forward
inline constexpr int tile_vectors = 2;                                // tokens x vectors or rows x vectors, backward
inline constexpr int block_tokens = 16;                               // tokens between which a stage of a site changes to the next

// A chunk of a tile's tokens in the computing type: the state itself where it is of that type and whole vectors.
template <class V, int tokens>
struct Chunk {
    Scalar<V> room[tokens][chunk];
    const Scalar<V>* at[tokens];
    int vectors;

    template <class M>
    SM_FN void take(const M* x, int64_t stride, int64_t first, int64_t length) {
        constexpr int W = lanes<V>;
        vectors = int((length + W - 1) / W);
        for (int t = 0; t < tokens; ++t) {
            const M* from = x + t * stride + first;
            if constexpr (sizeof(M) == sizeof(Scalar<V>)) {
                at[t] = from;
                if (length % W == 0) continue;
            }
            at[t] = room[t];
            for_channels<V>(0, length, [&](int64_t c, auto count) __attribute__((always_inline)) {
                store(room[t] + c, load<V>(from + c, count), All());  // lanes past the end: zero
            });
        }
    }
};

// The rows of phi from a chunk on; a row's last lanes are filled up with zeros.
template <class V>
SM_FN V load_row(const Scalar<V>* row, int vector, int64_t length) {
    constexpr int W = lanes<V>;
    const int64_t left = length - int64_t(vector) * W;
    return left >= W ? load<V>(row + int64_t(vector) * W, All()) : load<V>(row + int64_t(vector) * W, int(left));
}

template <int tokens, int rows, class V>
SM_FN void project_tile(const Chunk<V, tokens>& x, const Scalar<V>* phi, int64_t stride, int64_t length, V* sums, int sums_stride) {
    V s[tokens][rows];
    SM_UNROLL16 for (int t = 0; t < tokens; ++t)
        SM_UNROLL for (int k = 0; k < rows; ++k) s[t][k] = sums[t * sums_stride + k];
    const int whole = int(length / lanes<V>);
    const auto step = [&](int v, auto load_phi) __attribute__((always_inline)) {
        V w[rows];
        SM_UNROLL for (int k = 0; k < rows; ++k) w[k] = load_phi(phi + k * stride);
        SM_UNROLL16 for (int t = 0; t < tokens; ++t) {
            const V value = load<V>(x.at[t] + v * lanes<V>, All());
            SM_UNROLL for (int k = 0; k < rows; ++k) s[t][k] += w[k] * value;
        }
    };
    for (int v = 0; v < whole; ++v) step(v, [&](const Scalar<V>* row) __attribute__((always_inline)) { return load<V>(row + v * lanes<V>, All()); });
    if (whole < x.vectors) step(whole, [&](const Scalar<V>* row) __attribute__((always_inline)) { return load_row<V>(row, whole, length); });
    SM_UNROLL16 for (int t = 0; t < tokens; ++t)
        SM_UNROLL for (int k = 0; k < rows; ++k) sums[t * sums_stride + k] = s[t][k];
}

// P (rows a token) and r of `tokens` tokens. sums: room for tokens * (rows + 1) vectors.
template <int tokens, class V, class M>
[[gnu::noinline]] void project_tokens(const M* x, const Scalar<V>* phi, int rows, int64_t width, Scalar<V> eps, Scalar<V>* P, Scalar<V>* r, V* sums) {
    using F = Scalar<V>;
    const int stride = rows + 1;
    for (int i = 0; i < tokens * stride; ++i) sums[i] = V(0);
    Chunk<V, tokens> values;
    for (int64_t first = 0; first < width; first += chunk) {
        const int64_t length = width - first < chunk ? width - first : chunk;
        values.take(x, width, first, length);
        for (int t = 0; t < tokens; ++t) {
            V squares = sums[t * stride + rows];
            for (int v = 0; v < values.vectors; ++v) {
                const V value = load<V>(values.at[t] + v * lanes<V>, All());
                squares += value * value;
            }
            sums[t * stride + rows] = squares;
        }
        int k = 0;
        for (; k + tile_rows <= rows; k += tile_rows) project_tile<tokens, tile_rows>(values, phi + k * width + first, width, length, sums + k, stride);
        for (; k < rows; ++k) project_tile<tokens, 1>(values, phi + k * width + first, width, length, sums + k, stride);
    }
    for (int t = 0; t < tokens; ++t) {
        r[t] = F(1) / F(sqrt(sum(sums[t * stride + rows]) / F(width) + eps));
        for (int k = 0; k < rows; ++k) P[t * rows + k] = r[t] * sum(sums[t * stride + k]);
    }
}

// dv of `tokens` tokens: base + a v + phi' q, with base = through + pre o du (where there is a read and a gradient from beyond the site)
template <int N, int tokens, class V, class M>
[[gnu::noinline]] void project_tokens_backward(const M* x, const Scalar<V>* phi, const Scalar<V>* q, const Scalar<V>* a, int rows, const M* through,
                                               const M* du, const Scalar<V>* pre, M* dx, int n_, int64_t C) {
    const int n = size<N>(n_);
    const int64_t width = n * C;
    constexpr int W = lanes<V>;
    const auto vectors = [&]<int many>(int j, int64_t c, auto count) __attribute__((always_inline)) {
        const int64_t e = j * C + c;
        V s[tokens][many];
        SM_UNROLL16 for (int t = 0; t < tokens; ++t)
            SM_UNROLL for (int v = 0; v < many; ++v) {
                s[t][v] = V(a[t]) * load<V>(x + t * width + e + v * W, count);
                if (du) s[t][v] += V(pre[t * n + j]) * load<V>(du + t * C + c + v * W, count);
                if (through) s[t][v] += load<V>(through + t * width + e + v * W, count);
            }
        for (int k = 0; k < rows; ++k) {
            V w[many];
            SM_UNROLL for (int v = 0; v < many; ++v) w[v] = load<V>(phi + k * width + e + v * W, count);
            SM_UNROLL16 for (int t = 0; t < tokens; ++t) {
                const V factor(q[t * rows + k]);
                SM_UNROLL for (int v = 0; v < many; ++v) s[t][v] += factor * w[v];
            }
        }
        SM_UNROLL16 for (int t = 0; t < tokens; ++t)
            SM_UNROLL for (int v = 0; v < many; ++v) store(dx + t * width + e + v * W, s[t][v], count);
    };
    for (int j = 0; j < n; ++j) {
        int64_t c = 0;
        for (; c + tile_vectors * W <= C; c += tile_vectors * W) vectors.template operator()<tile_vectors>(j, c, All());
        for (; c + W <= C; c += W) vectors.template operator()<1>(j, c, All());
        if (c < C) vectors.template operator()<1>(j, c, int(C - c));
    }
}

// dphi += sum over tokens of q v'
template <class V, class M>
[[gnu::noinline]] void accumulate_phi(const M* x, const Scalar<V>* q, int tokens, int rows, int64_t width, Scalar<V>* dphi) {
    constexpr int W = lanes<V>, rows_at_once = tile_tokens;
    const auto tile = [&]<int some, int many>(int k, int64_t e, auto count) __attribute__((always_inline)) {
        V s[some][many];
        SM_UNROLL16 for (int i = 0; i < some; ++i)
            SM_UNROLL for (int v = 0; v < many; ++v) s[i][v] = load<V>(dphi + (k + i) * width + e + v * W, count);
        for (int t = 0; t < tokens; ++t) {
            V value[many];
            SM_UNROLL for (int v = 0; v < many; ++v) value[v] = load<V>(x + t * width + e + v * W, count);
            SM_UNROLL16 for (int i = 0; i < some; ++i) {
                const V factor(q[t * rows + k + i]);
                SM_UNROLL for (int v = 0; v < many; ++v) s[i][v] += factor * value[v];
            }
        }
        SM_UNROLL16 for (int i = 0; i < some; ++i)
            SM_UNROLL for (int v = 0; v < many; ++v) store(dphi + (k + i) * width + e + v * W, s[i][v], count);
    };
    const auto every_row = [&]<int many>(int64_t e, auto count) __attribute__((always_inline)) {
        int k = 0;
        for (; k + rows_at_once <= rows; k += rows_at_once) tile.template operator()<rows_at_once, many>(k, e, count);
        for (; k < rows; ++k) tile.template operator()<1, many>(k, e, count);
    };
    int64_t e = 0;
    for (; e + tile_vectors * W <= width; e += tile_vectors * W) every_row.template operator()<tile_vectors>(e, All());
    for (; e + W <= width; e += W) every_row.template operator()<1>(e, All());
    if (e < width) every_row.template operator()<1>(e, int(width - e));
}

}  // namespace streammix::SM_ISA
