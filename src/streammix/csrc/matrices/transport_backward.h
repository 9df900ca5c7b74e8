// Gradients of the projection onto a transportation polytope by implicit differentiation: from T and the incoming gradient G alone, m >= n.
//
//     L w = sum of the flows F,   F_jk = sum_i T_ij T_ik / r_i (G_ij - G_ik),   r_i = sum_j T_ij
//     D_ij = sum_k T_ij T_ik / r_i ((G_ij - G_ik) - (w_j - w_k)),   x_i = sum_j T_ij / r_i (G_ij - w_j)
//
// D is the gradient of the logits, x that of r and w that of c, up to a constant between them. As in birkhoff_backward.h, differences come first, and
// where G is mostly x 1' + 1 w', those are taken off and what is left is worked on once more.
#pragma once

#include "matrices/birkhoff_backward.h"

namespace streammix::SM_ISA {

// In: T and G, which is lost. Out: D, x (m), w (n). P: room for m n numbers, g: for n n.
template <int N, class V>
SM_FN void transport_backward(const V* T, V* G, V* D, V* x, V* w, V* P, V* g, int m_, int n_) {
    using F = Scalar<V>;
    const int m = size<N>(m_), n = size<N>(n_);
    V y[room<N>];
    SM_UNROLL for (int i = 0; i < m; ++i) {
        V r = T[i * n];
        SM_UNROLL for (int j = 1; j < n; ++j) r += T[i * n + j];
        r = reciprocal(r);
        SM_UNROLL for (int j = 0; j < n; ++j) P[i * n + j] = T[i * n + j] * r;
        x[i] = V(0);
    }
    SM_UNROLL for (int j = 0; j < n; ++j) w[j] = V(0);
    for (bool again = false;; again = true) {
        SM_UNROLL for (int i = 0; i < m; ++i)
            SM_UNROLL for (int j = 0; j < n; ++j)
                SM_UNROLL for (int k = j + 1; k < n; ++k) {
                    const V t = P[i * n + j] * T[i * n + k], flow = t * (G[i * n + j] - G[i * n + k]);
                    g[j * n + k] = i ? g[j * n + k] + t : t;
                    g[k * n + j] = i ? g[k * n + j] + flow : flow;
                }
        solve<N>(g, y, n);
        SM_UNROLL for (int j = 0; j < n; ++j)
            SM_UNROLL for (int k = j + 1; k < n; ++k) g[j * n + k] = max(abs(y[j]), abs(y[k]));
        V most = V(0), left = V(0);
        SM_UNROLL for (int i = 0; i < m; ++i) {
            V row[room<N>];
            SM_UNROLL for (int j = 0; j < n; ++j) row[j] = V(0);
            SM_UNROLL for (int j = 0; j < n; ++j)
                SM_UNROLL for (int k = j + 1; k < n; ++k) {
                    const V t = P[i * n + j] * T[i * n + k];
                    const V e = t * ((G[i * n + j] - G[i * n + k]) - (y[j] - y[k]));
                    most = max(t * g[j * n + k], most);
                    row[j] += e;
                    row[k] -= e;
                }
            SM_UNROLL for (int j = 0; j < n; ++j) {
                left = max_abs(left, row[j]);
                D[i * n + j] = row[j];
            }
        }
        const Mask<V> lost = left < most * F(1. / 16);
        if (again || !any(lost)) break;
        // G_ij - y_j less that of the row's largest entry of T
        for (int i = 0; i < m; ++i) {
            V high[room<N>], low[room<N>];
            V largest = V(-1), top = V(0), rest = V(0);
            for (int j = 0; j < n; ++j) {
                high[j] = sum(G[i * n + j], -y[j], low[j]);
                const Mask<V> more = T[i * n + j] > largest;
                largest = select(more, T[i * n + j], largest);
                top = select(more, high[j], top);
                rest = select(more, low[j], rest);
            }
            for (int j = 0; j < n; ++j) G[i * n + j] = select(lost, (high[j] - top) + (low[j] - rest), G[i * n + j]);
            x[i] = select(lost, top + rest, V(0));
        }
        for (int j = 0; j < n; ++j) w[j] = select(lost, y[j], V(0));
    }
    SM_UNROLL for (int i = 0; i < m; ++i) {
        V s = V(0);
        SM_UNROLL for (int j = 0; j < n; ++j) s += P[i * n + j] * (G[i * n + j] - y[j]);
        x[i] += s;
    }
    SM_UNROLL for (int j = 0; j < n; ++j) w[j] += y[j];
    if (n == 1)
        for (int i = 0; i < m; ++i) D[i] = T[i] * V(0);  // NaN where T is
}

}  // namespace streammix::SM_ISA
