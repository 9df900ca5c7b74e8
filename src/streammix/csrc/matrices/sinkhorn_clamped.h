// Truncated Sinkhorn with clamped sums, M_ij /= max(eps, s_j) (columns) or max(eps, s_i) (rows), forward and exact backward.
//
// A column far below the others grows by 1 / eps a round until its sum has reached eps. What it was at the start then decides the
// result, down to the least number there is: what the sources get hangs on how e^x is rounded where it is subnormal, and on how every
// division rounds it there. So the iterate itself is held, as they hold it. Run these functions within KeepSubnormals.
//
// The backward keeps every iterate, and goes back with the adjoint of log M, which does not grow as that of M does:
//     A_ij -= M'_ij sum_i A_ij      (columns; rows alike), and nothing where s was clamped
#pragma once

#include "matrices/sinkhorn.h"

namespace streammix::SM_ISA {

// For every half round the matrix after it, and 1 a sum, 0 where it was clamped
inline int64_t clamped_step(int n) { return int64_t(n) * n + n; }
inline int64_t clamped_history(int n, int rounds) { return 2 * rounds * clamped_step(n); }

// M = e^(R - column max) in place of R. Gives where an entry may get so small that its last bits decide.
template <int N, class V>
SM_FN Mask<V> clamped_start(V* R, int n_) {
    using F = Scalar<V>;
    constexpr F small = sizeof(F) == 4 ? -75 : -690;
    const int n = size<N>(n_);
    V poison = V(0), lowest = V(0);  // poison: NaN if any logit is not finite
    SM_UNROLL for (int e = 0; e < n * n; ++e) poison += R[e] * V(0);
    SM_UNROLL for (int j = 0; j < n; ++j) {
        V top = R[j];
        SM_UNROLL for (int i = 1; i < n; ++i) top = max(top, R[i * n + j]);
        SM_UNROLL for (int i = 0; i < n; ++i) {
            const V x = R[i * n + j] - top;
            lowest = min(lowest, x);
            R[i * n + j] = exp_gradual(x) + poison;
        }
    }
    return lowest < V(small);
}

// Entries k * step of M, divided by their sum or by eps if that is more. Gives 1, or 0 where the sum was clamped.
template <int N, class V>
SM_FN V clamped_division(V* M, int step, int n_, Scalar<V> eps, Mask<V> deep, bool any_deep) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    V s = M[0];
    SM_UNROLL for (int k = 1; k < n; ++k) s += M[k * step];
    const V divisor = max(V(eps), s), factor = reciprocal(divisor);
    if (any_deep) {
        // the quotient of subnormal numbers is the source's only if it is rounded once
        SM_UNROLL for (int k = 0; k < n; ++k) M[k * step] = select(deep, M[k * step] / divisor, M[k * step] * factor);
    } else {
        SM_UNROLL for (int k = 0; k < n; ++k) M[k * step] *= factor;
    }
    return select(s < V(eps), V(0), V(F(1)));
}

// In: logits R. Out: M. history: null, or room for clamped_history
template <int N, bool record, class V>
SM_FN void clamped_rounds(V* R, V* history, int n_, int rounds, Scalar<V> eps) {
    const int n = size<N>(n_);
    const Mask<V> deep = clamped_start<N>(R, n);
    const bool any_deep = any(deep);
    for (int half = 0; half < 2 * rounds; ++half) {
        const bool columns = half % 2 == 0;
        V* kept = record ? history + half * clamped_step(n) : nullptr;
        if (columns) {
            SM_UNROLL for (int j = 0; j < n; ++j) {
                const V active = clamped_division<N>(R + j, n, n, eps, deep, any_deep);
                if (record) kept[n * n + j] = active;
            }
        } else {
            SM_UNROLL for (int i = 0; i < n; ++i) {
                const V active = clamped_division<N>(R + i * n, 1, n, eps, deep, any_deep);
                if (record) kept[n * n + i] = active;
            }
        }
        if (record) SM_UNROLL for (int e = 0; e < n * n; ++e) kept[e] = R[e];
    }
}

// In: logits R. Out: M.
template <int N, class V>
SM_FN void sinkhorn_clamped(V* R, int n_, int rounds, const SinkhornRule& rule) {
    const int n = size<N>(n_);
    if (rule.ends_on_columns) transpose_each<N>(R, n);
    clamped_rounds<N, false>(R, static_cast<V*>(nullptr), n, rounds, Scalar<V>(rule.eps));
    if (rule.ends_on_columns) transpose_each<N>(R, n);
}

// In: logits R and the gradient G. Out: the gradient of the logits in place of G.
template <int N, class V>
SM_FN void sinkhorn_clamped_backward(V* R, V* G, V* history, int n_, int rounds, const SinkhornRule& rule) {
    const int n = size<N>(n_);
    if (rule.ends_on_columns) {
        transpose_each<N>(R, n);
        transpose_each<N>(G, n);
    }
    clamped_rounds<N, true>(R, history, n, rounds, Scalar<V>(rule.eps));
    SM_UNROLL for (int e = 0; e < n * n; ++e) G[e] *= R[e];
    // The maximum cancels in the first division, whose sum is at least 1: it counts as a constant, and A is the gradient in the end.
    for (int half = 2 * rounds - 1; half >= 0; --half) {
        const bool columns = half % 2 == 0;
        const V *M = history + half * clamped_step(n), *active = M + n * n;
        SM_UNROLL for (int a = 0; a < n; ++a) {
            const int first = columns ? a : a * n, step = columns ? n : 1;
            V s = G[first];
            SM_UNROLL for (int b = 1; b < n; ++b) s += G[first + b * step];
            s *= active[a];
            SM_UNROLL for (int b = 0; b < n; ++b) G[first + b * step] -= M[first + b * step] * s;
        }
    }
    if (rule.ends_on_columns) transpose_each<N>(G, n);
}

}  // namespace streammix::SM_ISA
