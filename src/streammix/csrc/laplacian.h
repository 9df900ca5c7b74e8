// Linear systems (L + lambda I) x = b with L the Laplacian of a weighted graph, by elimination on the graph
// (Grassmann, Taksar & Heyman 1985): a node's pivot is the sum of the weights of its remaining edges, never a difference, so no
// digit is lost however close the graph is to falling apart.
#pragma once

#include "number.h"

namespace streammix::SM_ISA {

inline constexpr int max_n = 64;

// n when it is a compile-time constant, else (N = 0) the run-time one
template <int N>
SM_FN constexpr int size(int n) {
    return N ? N : n;
}

// Arrays of N numbers, or of as many as the run-time path can need
template <int N>
inline constexpr int room = N ? N : max_n;

// Eliminate the nodes 0 .. n-2; the last is the ground, x = 0. w[j n + k], j < k, holds the weights and is replaced by the factors f;
// pivot_inverse[p] = 1 / s_p:
//     s_p = lambda_p + sum_{k>p} w_pk        f_pk = w_pk / s_p        w_jk += w_pj f_pk        lambda_j += lambda_p f_pj
template <int N, class V>
SM_FN void eliminate(V* w, V* pivot_inverse, int n_, Scalar<V> lambda) {
    const int n = size<N>(n_);
    V l[room<N>];
    SM_UNROLL for (int j = 0; j < n - 1; ++j) l[j] = V(lambda);
    SM_UNROLL for (int p = 0; p < n - 1; ++p) {
        V s = l[p];
        SM_UNROLL for (int k = p + 1; k < n; ++k) s += w[p * n + k];
        const V r = reciprocal(s);
        pivot_inverse[p] = r;
        SM_UNROLL for (int j = p + 1; j < n; ++j) {
            const V f = w[p * n + j] * r;
            if (j < n - 1) l[j] += l[p] * f;
            SM_UNROLL for (int k = p + 1; k < j; ++k) w[k * n + j] += w[p * n + k] * f;
        }
        SM_UNROLL for (int j = p + 1; j < n; ++j) w[p * n + j] *= r;
    }
}

// The same for x in place of its right-hand side, n = 4, without a division before the last: the weights of a node's neighbours stay
// multiplied by its pivot, so that the reciprocals wait for each other no longer. Still sums of products of positive numbers.
template <class V>
SM_FN void solve4(const V* w, V* x, Scalar<V> lambda) {
    const V w01 = w[1], w02 = w[2], w03 = w[3] + lambda;
    const V s0 = (w01 + w02) + w03;
    const V w12 = w[6] * s0 + w01 * w02, w13 = (w[7] + lambda) * s0 + w01 * w03, w23 = (w[11] + lambda) * s0 + w02 * w03;
    const V s1 = w12 + w13;
    const V s2 = w23 * s1 + w12 * w13;
    const V b1 = x[1] * s0 + w01 * x[0], b2 = x[2] * s0 + w02 * x[0];
    x[2] = (b2 * s1 + w12 * b1) * reciprocal(s2);
    x[1] = (b1 + w12 * x[2]) * reciprocal(s1);
    x[0] = (x[0] + (w01 * x[1] + w02 * x[2])) * reciprocal(s0);
    x[3] = V(0);
}

// x: the right-hand side, replaced by the solution.
//     b_k += f_pk b_p   for p = 0 .. n-2;        x_p = b_p / s_p + sum_{k>p} f_pk x_k   for p = n-2 .. 0
template <int N, class V>
SM_FN void substitute(const V* f, const V* pivot_inverse, V* x, int n_) {
    const int n = size<N>(n_);
    SM_UNROLL for (int p = 0; p < n - 1; ++p)
        SM_UNROLL for (int k = p + 1; k < n - 1; ++k) x[k] += f[p * n + k] * x[p];
    x[n - 1] = V(0);
    SM_UNROLL for (int p = n - 2; p >= 0; --p) {
        x[p] *= pivot_inverse[p];
        SM_UNROLL for (int k = p + 1; k < n - 1; ++k) x[p] += f[p * n + k] * x[k];
    }
}

// (L + lambda I) x = b for the graph with weights w[j n + k], j < k, which are lost; x: b, replaced by the solution with x_{n-1} = 0, which
// is as good as any other that differs by a constant.
template <int N, class V>
SM_FN void solve(V* w, V* x, int n, Scalar<V> lambda) {
    if constexpr (N == 4) {
        solve4(w, x, lambda);
    } else {
        V pivot_inverse[room<N>];
        eliminate<N>(w, pivot_inverse, n, lambda);
        substitute<N>(w, pivot_inverse, x, n);
    }
}

}  // namespace streammix::SM_ISA
