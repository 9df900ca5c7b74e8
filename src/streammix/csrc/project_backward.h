// Gradient of the Birkhoff projection by implicit differentiation: from T and the incoming gradient G alone.
//
//     L w = b,   b_j = sum_k F_jk,   F_jk = sum_i T_ij T_ik (G_ij - G_ik)
//     D_ij = T_ij sum_k T_ik ((G_ij - G_ik) - (w_j - w_k))
//
// Differences come first and every product carries its small factors, so D keeps its digits next to a vertex of the polytope. Its
// rows and columns sum to zero.
#pragma once

#include "laplacian.h"

namespace streammix::SM_ISA {

// In: T and G. Out: D in place of G. w: room for n*n numbers.
template <int N, class V>
SM_FN void project_backward(const V* T, V* G, V* w, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    constexpr F lambda = sizeof(F) == 4 ? F(1e-9) : F(1e-18);

    V x[room<N>];
    SM_UNROLL for (int j = 0; j < n; ++j) x[j] = V(0);
    SM_UNROLL for (int j = 0; j < n; ++j)
        SM_UNROLL for (int k = j + 1; k < n; ++k) {
            V weight = V(0), flow = V(0);
            SM_UNROLL for (int i = 0; i < n; ++i) {
                const V t = T[i * n + j] * T[i * n + k];
                weight += t;
                flow += t * (G[i * n + j] - G[i * n + k]);
            }
            w[j * n + k] = weight;
            x[j] += flow;
            x[k] -= flow;
        }
    solve<N>(w, x, n, lambda);

    SM_UNROLL for (int i = 0; i < n; ++i) {
        V D[room<N>];
        SM_UNROLL for (int j = 0; j < n; ++j) D[j] = V(0);
        SM_UNROLL for (int j = 0; j < n; ++j)
            SM_UNROLL for (int k = j + 1; k < n; ++k) {
                const V t = T[i * n + j] * T[i * n + k] * ((G[i * n + j] - G[i * n + k]) - (x[j] - x[k]));
                D[j] += t;
                D[k] -= t;
            }
        SM_UNROLL for (int j = 0; j < n; ++j) G[i * n + j] = D[j];
    }
}

}  // namespace streammix::SM_ISA
