// From the state to the coefficients of a site (mHC Eq. 7), and back.
//
//     v = vec x (n C numbers a token)        r = (mean v^2 + eps)^(-1/2)        P = r (phi v)        logits = scale o P + bias
//     backward, from dlogits:   dP = scale o dlogits,   q = r dP,   a = -(r^2 / (n C)) <dP, P>
//                               dv = phi' q + a v        dphi += q v'        dscale += dlogits o P        dbias += dlogits
//
// phi has a row for each logit: few rows, long ones. Many tokens are multiplied by a copy of it in the order of its use (packing.h), in
// tiles that fill the registers; every (token, row) sum runs in an order of its own, the same in every batch of `many_tokens` or more.
#pragma once

#include <math.h>

#include "streams/packing.h"

namespace streammix::SM_ISA {

inline constexpr int chunk = 512;  // channels of a tile that are in the first-level cache at a time

// V's of tokens x vectors, forward: 24 or 12 accumulators
inline constexpr int panel_tokens = vector_bytes == 64 ? 12 : 6;
inline constexpr int panel_vectors = 2;

// From so many tokens on a panel is worth packing.
inline constexpr int64_t many_tokens = 16;

// f.operator()<tokens>(first) over [begin, end) in tiles of `most`, of a third or half of that, and one by one
template <int most, class Function>
SM_FN void for_tiles(int64_t begin, int64_t end, Function f) {
    constexpr int some = most % 3 ? most / 2 : most / 3;
    int64_t t = begin;
    for (; t + most <= end; t += most) f.template operator()<most>(t);
    for (; t + some <= end; t += some) f.template operator()<some>(t);
    for (; t < end; ++t) f.template operator()<1>(t);
}

// ---------------------------------------------------------------------------------------------------------- few tokens
// sums of products with `some` rows of phi
template <int some, class V>
SM_FN void dot_rows(const Scalar<V>* v, const Scalar<V>* phi, int64_t width, Scalar<V>* out) {
    V s[some];
    SM_UNROLL for (int k = 0; k < some; ++k) s[k] = V(0);
    for_channels<V>(0, width, [&](int64_t e, auto count) __attribute__((always_inline)) {
        const V value = load<V>(v + e, count);
        SM_UNROLL for (int k = 0; k < some; ++k) s[k] += value * load<V>(phi + k * width + e, count);
    });
    SM_UNROLL for (int k = 0; k < some; ++k) out[k] = sum(s[k]);
}

// P and r of one token. room: for its width numbers
template <class V, class M>
[[gnu::noinline]] void multiply_phi(const M* x, const Scalar<V>* phi, int rows, int64_t width, Scalar<V> eps, Scalar<V>* P, Scalar<V>* r, Scalar<V>* room) {
    using F = Scalar<V>;
    const F* v;
    V squares(0);
    if constexpr (sizeof(M) == sizeof(F)) {
        v = x;
    } else {
        v = room;
        for_channels<V>(0, width, [&](int64_t e, auto count) __attribute__((always_inline)) { store(room + e, load<V>(x + e, count), count); });
    }
    for_channels<V>(0, width, [&](int64_t e, auto count) __attribute__((always_inline)) {
        const V value = load<V>(v + e, count);
        squares += value * value;
    });
    int k = 0;
    for (; k + 4 <= rows; k += 4) dot_rows<4, V>(v, phi + k * width, width, P + k);
    for (; k < rows; ++k) dot_rows<1, V>(v, phi + k * width, width, P + k);
    *r = F(1) / F(sqrt(sum(squares) / F(width) + eps));
    for (k = 0; k < rows; ++k) P[k] *= *r;
}

// ---------------------------------------------------------------------------------------------------------- many tokens
// sums (tokens, vectors of the panel) += v (tokens, chunk) times `some` vectors of the panel's columns. Meanwhile the second-level
// cache fetches `lines` cache lines of each of the tokens' rows at `ahead`, `apart` from each other, a line a channel.
template <int tokens, int some, class V, class M>
SM_FN void multiply_panel(const Scalar<V>* v, const Scalar<V>* panel, int stride, int64_t length, V* sums, int vectors, const M* ahead, int64_t apart) {
    constexpr int lines = chunk * sizeof(M) / 64;
    V s[tokens][some];
    SM_UNROLL16 for (int t = 0; t < tokens; ++t)
        SM_UNROLL for (int k = 0; k < some; ++k) s[t][k] = V(0);
    for (int64_t c = 0; c < length; ++c) {
        if (c < tokens * lines) __builtin_prefetch(reinterpret_cast<const char*>(ahead + c / lines * apart) + c % lines * 64, 0, 2);
        V w[some];
        SM_UNROLL for (int k = 0; k < some; ++k) w[k] = load<V>(panel + c * stride + k * lanes<V>, All());
        SM_UNROLL16 for (int t = 0; t < tokens; ++t) {
            const V value(v[t * chunk + c]);
            SM_UNROLL for (int k = 0; k < some; ++k) s[t][k] += w[k] * value;
        }
    }
    SM_UNROLL16 for (int t = 0; t < tokens; ++t)
        SM_UNROLL for (int k = 0; k < some; ++k) sums[t * vectors + k] += s[t][k];
}

// P and r of `tokens` tokens, whose numbers, P's and r's, are so far apart. sums: room for (tokens, vectors of the panel)
template <int tokens, class V, class M>
[[gnu::noinline]] void multiply_phi_tile(const M* x, int64_t x_apart, const Scalar<V>* panel, int rows, int64_t width, Scalar<V> eps, Scalar<V>* P,
                                         int64_t P_apart, Scalar<V>* r, int64_t r_apart, V* sums) {
    using F = Scalar<V>;
    constexpr int W = lanes<V>;
    const int vectors = (rows + W - 1) / W, stride = vectors * W;
    alignas(64) F v[tokens * chunk];
    V squares[tokens];
    for (V& s : squares) s = V(0);
    for (int i = 0; i < tokens * vectors; ++i) sums[i] = V(0);
    for (int64_t first = 0; first < width; first += chunk) {
        const int64_t length = width - first < chunk ? width - first : chunk;
        for (int t = 0; t < tokens; ++t) {
            V even(0), odd(0);
            const M* from = x + t * x_apart + first;
            F* to = v + t * chunk;
            const auto take = [&](int64_t c, auto count, V& total) __attribute__((always_inline)) {
                const V value = load<V>(from + c, count);
                store(to + c, value, All());
                total += value * value;
            };
            int64_t c = 0;
            for (; c + 2 * W <= length; c += 2 * W) {
                take(c, All(), even);
                take(c + W, All(), odd);
            }
            for_channels<V>(c, length, [&](int64_t c, auto count) __attribute__((always_inline)) { take(c, count, even); });
            squares[t] += even + odd;
        }
        const M* ahead = first + chunk < width ? x + first + chunk : x + tokens * x_apart;
        int k = 0;
        for (; k + panel_vectors <= vectors; k += panel_vectors)
            multiply_panel<tokens, panel_vectors>(v, panel + first * stride + k * W, stride, length, sums + k, vectors, ahead, x_apart);
        for (; k < vectors; ++k) multiply_panel<tokens, 1>(v, panel + first * stride + k * W, stride, length, sums + k, vectors, ahead, x_apart);
    }
    for (int t = 0; t < tokens; ++t) {
        const F inverse_rms = F(1) / F(sqrt(sum(squares[t]) / F(width) + eps));
        r[t * r_apart] = inverse_rms;
        for_channels<V>(0, rows, [&](int64_t k, auto count) __attribute__((always_inline)) {
            store(P + t * P_apart + k, V(inverse_rms) * sums[t * vectors + k / W], count);
        });
    }
}

// ---------------------------------------------------------------------------------------------------------- backward
inline constexpr int block_tokens = 16;  // as many as one call takes at most
inline constexpr int tile_tokens = vector_bytes == 64 ? 8 : 4;
inline constexpr int tile_rows = tile_tokens;

// What a block's gradients are made of: q (tokens, rows), a (tokens) and pre (tokens, n); du null where nothing was read; x, through and
// what is made, the tokens' own so far apart
template <class V, class M>
struct BlockInputs {
    using F = Scalar<V>;
    const M *x, *du, *through;  // through: gradient of x from elsewhere, or null
    const F *q, *a, *pre;
    int tokens, rows, n;
    int64_t C, apart;
};

// dv = through + pre o du + a v + phi' q of `tokens` tokens, and `many` vectors of channels
template <int tokens, int many, class V, class M, class Count>
SM_FN void gradient_tile(const BlockInputs<V, M>& in, int t0, int j, int64_t c, const Scalar<V>* phi, const Scalar<V>* values, M* dx, Count count) {
    constexpr int W = lanes<V>;
    V s[tokens][many];
    SM_UNROLL16 for (int t = 0; t < tokens; ++t)
        SM_UNROLL for (int v = 0; v < many; ++v) s[t][v] = V(in.a[t0 + t]) * load<V>(values + t * block_channels<V> + v * W, All());
    if (in.du)
        SM_UNROLL16 for (int t = 0; t < tokens; ++t)
            SM_UNROLL for (int v = 0; v < many; ++v) s[t][v] += V(in.pre[(t0 + t) * in.n + j]) * load<V>(in.du + (t0 + t) * in.C + c + v * W, count);
    if (in.through)
        SM_UNROLL16 for (int t = 0; t < tokens; ++t)
            SM_UNROLL for (int v = 0; v < many; ++v) s[t][v] += load<V>(in.through + (t0 + t) * in.apart + j * in.C + c + v * W, count);
    for (int k = 0; k < in.rows; ++k) {
        V w[many];
        SM_UNROLL for (int v = 0; v < many; ++v) w[v] = load<V>(phi + k * block_channels<V> + v * W, All());
        SM_UNROLL16 for (int t = 0; t < tokens; ++t) {
            const V factor(in.q[(t0 + t) * in.rows + k]);
            SM_UNROLL for (int v = 0; v < many; ++v) s[t][v] += factor * w[v];
        }
    }
    SM_UNROLL16 for (int t = 0; t < tokens; ++t)
        SM_UNROLL for (int v = 0; v < many; ++v) store(dx + (t0 + t) * in.apart + j * in.C + c + v * W, s[t][v], count);
}

// dphi += q v' of `some` rows
template <int some, class V>
SM_FN void accumulate_rows(const Scalar<V>* q, int rows, int tokens, const Scalar<V>* values, Scalar<V>* dphi) {
    constexpr int W = lanes<V>, many = block_channels<V> / W;
    V s[some][many];
    SM_UNROLL16 for (int i = 0; i < some; ++i)
        SM_UNROLL for (int v = 0; v < many; ++v) s[i][v] = load<V>(dphi + i * block_channels<V> + v * W, All());
    for (int t = 0; t < tokens; ++t) {
        V value[many];
        SM_UNROLL for (int v = 0; v < many; ++v) value[v] = load<V>(values + t * block_channels<V> + v * W, All());
        SM_UNROLL16 for (int i = 0; i < some; ++i) {
            const V factor(q[t * rows + i]);
            SM_UNROLL for (int v = 0; v < many; ++v) s[i][v] += factor * value[v];
        }
    }
    SM_UNROLL16 for (int i = 0; i < some; ++i)
        SM_UNROLL for (int v = 0; v < many; ++v) store(dphi + i * block_channels<V> + v * W, s[i][v], All());
}

// dx of a block (its first token at dx), and dphi of it added to `dphi`; phi and dphi in blocks.
template <class V, class M>
[[gnu::noinline]] void phi_gradients(const BlockInputs<V, M>& in, const Scalar<V>* phi, Scalar<V>* dphi, M* dx) {
    constexpr int W = lanes<V>, wide = block_channels<V>, many = wide / W;
    alignas(64) Scalar<V> values[block_tokens * wide];  // v of these channels, zero past the end
    for (int j = 0; j < in.n; ++j)
        for (int64_t c = 0; c < in.C; c += wide, phi += in.rows * wide, dphi += in.rows * wide) {
            const bool whole = c + wide <= in.C;
            for (int t = 0; t < in.tokens; ++t) {
                const M* from = in.x + t * in.apart + j * in.C + c;
                Scalar<V>* to = values + t * wide;
                if (!whole) SM_UNROLL for (int v = 0; v < many; ++v) store(to + v * W, V(0), All());
                for_channels<V>(0, whole ? wide : in.C - c, [&](int64_t i, auto count) __attribute__((always_inline)) {
                    store(to + i, load<V>(from + i, count), All());
                });
            }
            for_tiles<tile_tokens>(0, in.tokens, [&]<int tokens>(int64_t t) __attribute__((always_inline)) {
                if (whole) return gradient_tile<tokens, many>(in, int(t), j, c, phi, values + t * wide, dx, All());
                for_channels<V>(0, in.C - c, [&](int64_t i, auto count) __attribute__((always_inline)) {
                    gradient_tile<tokens, 1>(in, int(t), j, c + i, phi + i, values + t * wide + i, dx, count);
                });
            });
            for_tiles<tile_rows>(0, in.rows, [&]<int some>(int64_t k) __attribute__((always_inline)) {
                accumulate_rows<some, V>(in.q + k, in.rows, in.tokens, values, dphi + k * wide);
            });
        }
}

}  // namespace streammix::SM_ISA
