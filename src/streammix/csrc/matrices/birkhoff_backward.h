// Gradient of the Birkhoff projection by implicit differentiation: from T and the incoming gradient G alone.
//
//     L w = sum of the flows F,   F_jk = sum_i T_ij T_ik (G_ij - G_ik)
//     D_ij = T_ij sum_k T_ik ((G_ij - G_ik) - (w_j - w_k))
//
// Differences come first and every product carries its small factors, so D keeps its digits next to a vertex of the polytope. Its
// rows and columns sum to zero.
//
// Row and column potentials in G change nothing, so where they are most of it, the solution's are taken off with their rounding errors, and what is
// left, which is as small as D, is worked on once more.
#pragma once

#include "matrices/flows.h"

namespace streammix::SM_ISA {

// w: the weights and the flows, then x: the potentials
template <int N, class V>
SM_FN void column_potentials(const V* T, const V* G, V* w, V* x, int n_) {
    const int n = size<N>(n_);
    SM_UNROLL for (int j = 0; j < n; ++j)
        SM_UNROLL for (int k = j + 1; k < n; ++k) {
            V weight = V(0), flow = V(0);
            SM_UNROLL for (int i = 0; i < n; ++i) {
                const V t = T[i * n + j] * T[i * n + k];
                weight += t;
                flow += t * (G[i * n + j] - G[i * n + k]);
            }
            w[j * n + k] = weight;
            w[k * n + j] = flow;
        }
    solve<N>(w, x, n);
}

// G_ij - x_j less that of the row's largest entry of T, in the matrices `where`
template <int N, class V>
SM_RARE void take_off(const V* T, V* G, const V* x, Mask<V> where, int n_) {
    const int n = size<N>(n_);
    for (int i = 0; i < n; ++i) {
        V high[room<N>], low[room<N>];
        V most = V(-1), top = V(0), rest = V(0);
        for (int j = 0; j < n; ++j) {
            const V g = G[i * n + j];
            high[j] = g - x[j];
            const V back = high[j] - g;
            low[j] = (g - (high[j] - back)) - (x[j] + back);
            const Mask<V> more = T[i * n + j] > most;
            most = select(more, T[i * n + j], most);
            top = select(more, high[j], top);
            rest = select(more, low[j], rest);
        }
        for (int j = 0; j < n; ++j) G[i * n + j] = select(where, (high[j] - top) + (low[j] - rest), G[i * n + j]);
    }
}

// D and the potentials x. Returns where D is so much smaller than what it is the difference of that its digits are lost.
template <int N, class V>
SM_FN Mask<V> differentiate(const V* T, const V* G, V* D, V* w, V* x, int n_) {
    const int n = size<N>(n_);
    column_potentials<N>(T, G, w, x, n);
    SM_UNROLL for (int j = 0; j < n; ++j)
        SM_UNROLL for (int k = j + 1; k < n; ++k) w[j * n + k] = max(abs(x[j]), abs(x[k]));
    V most = V(0), left = V(0);
    SM_UNROLL for (int i = 0; i < n; ++i) {
        V row[room<N>];
        SM_UNROLL for (int j = 0; j < n; ++j) row[j] = V(0);
        SM_UNROLL for (int j = 0; j < n; ++j)
            SM_UNROLL for (int k = j + 1; k < n; ++k) {
                const V t = T[i * n + j] * T[i * n + k];
                const V e = t * ((G[i * n + j] - G[i * n + k]) - (x[j] - x[k]));
                most = max(t * w[j * n + k], most);
                row[j] += e;
                row[k] -= e;
            }
        SM_UNROLL for (int j = 0; j < n; ++j) {
            left = max_abs(left, row[j]);
            D[i * n + j] = row[j];
        }
    }
    return left < most * Scalar<V>(1. / 64);
}

// In: T and G, which is lost. Out: D. w: room for n*n numbers.
template <int N, class V>
SM_FN void birkhoff_backward(const V* T, V* G, V* D, V* w, int n) {
    V x[room<N>];
    for (bool again = false;; again = true) {
        const Mask<V> lost = differentiate<N>(T, G, D, w, x, n);
        if (again || !any(lost)) break;
        take_off<N>(T, G, x, lost, n);
    }
}

}  // namespace streammix::SM_ISA
