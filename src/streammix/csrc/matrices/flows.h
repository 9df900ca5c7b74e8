// The Laplacian system L x = b of a weighted graph whose right-hand side is given as flows on the edges,
//
//     (L x)_j = sum_k w_jk (x_j - x_k) = sum_k g_jk,    w symmetric and positive, g antisymmetric
//
// by elimination on the graph (Grassmann, Taksar & Heyman 1985). A pivot is a sum of weights, never a difference; and as the flows stay on
// their edges, nothing is ever added up in which the large ones inside two groups of nodes would drown the small one between them. So
// x keeps its digits however close the graph is to falling apart.
#pragma once

#include "simd/size.h"

namespace streammix::SM_ISA {

// A node whose pivot is below it is connected to no later one.
template <class F>
inline constexpr F tiny = sizeof(F) == 4 ? 1e-35 : 1e-150;

// w[j n + k], j < k: the weight w_jk; w[k n + j]: the flow g_jk. Both are lost. x: the solution with x_{n-1} = 0, which is as good
// as any other that differs by a constant; nodes that are connected to no later one have x = 0 too. Returns the least pivot: how weakly some
// group of nodes hangs on the rest.
//
//     s_p = sum_{k>p} w_pk        w_jk += w_pj w_pk / s_p        g_jk += (g_pk w_pj - g_pj w_pk) / s_p        p = 0 .. n-2;  j, k > p
//     x_p = (sum_{k>p} g_pk + sum_{k>p} w_pk x_k) / s_p                                                      p = n-2 .. 0
template <int N, class V>
SM_FN V solve(V* w, V* x, int n_) {
    const int n = size<N>(n_);
    V least = V(1);
    SM_UNROLL for (int p = 0; p < n - 1; ++p) {
        V s = w[p * n + p + 1], b = w[(p + 1) * n + p];
        SM_UNROLL for (int k = p + 2; k < n; ++k) {
            s += w[p * n + k];
            b += w[k * n + p];
        }
        least = min(least, s);
        const V r = select(s < V(tiny<Scalar<V>>), V(0), reciprocal(s));
        V share[room<N>];
        SM_UNROLL for (int k = p + 1; k < n; ++k) share[k] = w[p * n + k] * r;
        SM_UNROLL for (int j = p + 1; j < n; ++j)
            SM_UNROLL for (int k = j + 1; k < n; ++k) {
                w[j * n + k] += w[p * n + j] * share[k];
                w[k * n + j] += w[k * n + p] * share[j] - w[j * n + p] * share[k];
            }
        SM_UNROLL for (int k = p + 1; k < n; ++k) w[p * n + k] = share[k];
        x[p] = b * r;
    }
    x[n - 1] = V(0);
    SM_UNROLL for (int p = n - 2; p >= 0; --p)
        SM_UNROLL for (int k = p + 1; k < n - 1; ++k) x[p] += w[p * n + k] * x[k];
    return least;
}

}  // namespace streammix::SM_ISA
