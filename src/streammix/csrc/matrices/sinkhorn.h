// Truncated Sinkhorn: a fixed number of half rounds M_ij /= s_j (columns) or s_i (rows), forward and exact backward. Sums may have an
// eps added; those that are clamped are in sinkhorn_clamped.h.
//
// The iterate is held as M = diag(u) K diag(v): a half round changes u or v only, n^2 products and n reciprocals. Now and then K absorbs
// u and v, so that they stay small. The backward repeats the rounds, keeps u and v of each (2 n numbers a round), and goes back
// through them with the adjoint of log M:
//     columns:  M'_ij = M_ij / (s_j + eps)   =>   A_ij -= M'_ij sum_i A_ij         (rows alike)
#pragma once

#include "simd/number.h"
#include "simd/size.h"
#include "matrices/sinkhorn_rule.h"

namespace streammix::SM_ISA {

inline constexpr int absorb_every = 8;

// e^x, or 0 where that is subnormal; NaN stays NaN
template <class V>
SM_FN V exp_or_zero(V x) {
    using F = Scalar<V>;
    constexpr F least = sizeof(F) == 4 ? -86 : -708;
    return select(x < V(least), V(0), exp(max(V(least), x)));
}

template <class V>
SM_FN void swap(V& a, V& b) {
    const V c = a;
    a = b;
    b = c;
}
template <int N, class V>
SM_FN void transpose_each(V* M, int n_) {
    const int n = size<N>(n_);
    SM_UNROLL for (int i = 0; i < n; ++i)
        SM_UNROLL for (int j = i + 1; j < n; ++j) swap(M[i * n + j], M[j * n + i]);
}

// Numbers the backward keeps: the first matrix, K of each absorption, and the factors u, v after every half round
inline int64_t scaled_history(int n, int rounds) {
    return int64_t(n) * n * (rounds / absorb_every + 2) + int64_t(2) * n * rounds;
}
template <class V>
struct History {
    V* first;
    V* K;
    V* factors;
    History() : first(nullptr), K(nullptr), factors(nullptr) {}
    History(V* p, int n, int rounds) : first(p), K(p + n * n), factors(p + int64_t(n) * n * (rounds / absorb_every + 2)) {}
};

// K = e^(R - column max) / (what the rule's start says). `first`, if asked for: the matrix whose columns (softmax, normalised) are exact.
template <int N, class V>
SM_FN void sinkhorn_start(V* R, V* first, int n_, const SinkhornRule& rule) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    V poison = V(0);  // NaN if any logit is not finite
    V sum[room<N>];
    V lowest = V(0);
    SM_UNROLL for (int j = 0; j < n; ++j) {
        V top = R[j];
        SM_UNROLL for (int i = 0; i < n; ++i) {
            poison += R[i * n + j] * V(0);
            top = max(top, R[i * n + j]);
        }
        sum[j] = poison;
        SM_UNROLL for (int i = 0; i < n; ++i) {
            R[i * n + j] = R[i * n + j] * V(F(0.5)) - top * V(F(0.5));  // halves cannot overflow
            lowest = min(lowest, R[i * n + j]);
            sum[j] += exp_or_zero(R[i * n + j] + R[i * n + j]);
        }
    }
    const bool normalised = rule.start == Start::normalised;
    // Rows far below the others are taken relative to their own maximum, so that none becomes zero.
    const Mask<V> deep = lowest < V(-15);
    const bool relative = normalised && any(deep);
    SM_UNROLL for (int j = 0; j < n; ++j) sum[j] = reciprocal(sum[j]) + poison;
    SM_UNROLL for (int i = 0; i < n; ++i) {
        V top = V(0);
        if (relative) {
            top = R[i * n];
            SM_UNROLL for (int j = 1; j < n; ++j) top = max(top, R[i * n + j]);
            top = select(deep, top, V(0));
        }
        V s = V(0);
        SM_UNROLL for (int j = 0; j < n; ++j) {
            V& x = R[i * n + j];
            if (first) first[i * n + j] = exp_or_zero(x + x) * sum[j];
            x = exp_or_zero((x - top) + (x - top)) * sum[j];
            if (!normalised) x += V(F(rule.eps));
            s += x;
        }
        if (normalised) {
            const V r = reciprocal(s);
            SM_UNROLL for (int j = 0; j < n; ++j) R[i * n + j] *= r;
        }
    }
}

// A factor after the half round that finds the sum z without it
template <bool added, class V>
SM_FN V half_round(V scale, V z, Scalar<V> eps) {
    if constexpr (added) return scale * reciprocal(scale * z + V(eps));
    return reciprocal(z);
}

// The half rounds on K, from the first that the start has not taken; leaves K, u, v.
template <int N, bool added, bool record, class V>
SM_FN void sinkhorn_rounds(V* K, V* u, V* v, History<V> history, int n_, int rounds, const SinkhornRule& rule) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    const F eps = F(rule.eps);
    SM_UNROLL for (int j = 0; j < n; ++j) u[j] = v[j] = V(1);
    const int begin = rule.start == Start::normalised;  // the first round that the start has not taken
    for (int round = begin; round < rounds; ++round) {
        if (round % absorb_every == 0 && round > 0) {
            SM_UNROLL for (int i = 0; i < n; ++i)
                SM_UNROLL for (int j = 0; j < n; ++j) K[i * n + j] = K[i * n + j] * v[j] * u[i];
            SM_UNROLL for (int j = 0; j < n; ++j) u[j] = v[j] = V(1);
        }
        if (record && (round % absorb_every == 0 || round == begin))
            for (int e = 0; e < n * n; ++e) history.K[(round / absorb_every) * n * n + e] = K[e];
        V* factors = record ? history.factors + int64_t(round) * 2 * n : nullptr;
        if (round > 0)
            SM_UNROLL for (int j = 0; j < n; ++j) {
                V z = K[j] * u[0];
                SM_UNROLL for (int i = 1; i < n; ++i) z += K[i * n + j] * u[i];
                v[j] = half_round<added>(v[j], z, eps);
                if (record) factors[j] = v[j];
            }
        SM_UNROLL for (int i = 0; i < n; ++i) {
            V z = K[i * n] * v[0];
            SM_UNROLL for (int j = 1; j < n; ++j) z += K[i * n + j] * v[j];
            u[i] = half_round<added>(u[i], z, eps);
            if (record) factors[n + i] = u[i];
        }
    }
}

// In: logits R. Out: M.
template <int N, bool added, class V>
SM_FN void sinkhorn(V* R, int n_, int rounds, const SinkhornRule& rule) {
    const int n = size<N>(n_);
    V u[room<N>], v[room<N>];
    if (rule.ends_on_columns) transpose_each<N>(R, n);
    sinkhorn_start<N>(R, static_cast<V*>(nullptr), n, rule);
    sinkhorn_rounds<N, added, false>(R, u, v, History<V>(), n, rounds, rule);
    SM_UNROLL for (int i = 0; i < n; ++i)
        SM_UNROLL for (int j = 0; j < n; ++j) R[i * n + j] = R[i * n + j] * v[j] * u[i];
    if (rule.ends_on_columns) transpose_each<N>(R, n);
}

// In: logits R and the gradient G. Out: the gradient of the logits in place of G.
template <int N, bool added, class V>
SM_FN void sinkhorn_backward(V* R, V* G, History<V> history, int n_, int rounds, const SinkhornRule& rule) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    V u[room<N>], v[room<N>], one[room<N>];
    SM_UNROLL for (int j = 0; j < n; ++j) one[j] = V(1);
    if (rule.ends_on_columns) {
        transpose_each<N>(R, n);
        transpose_each<N>(G, n);
    }
    sinkhorn_start<N>(R, history.first, n, rule);
    if (rule.start == Start::normalised)
        for (int e = 0; e < n * n; ++e) history.K[e] = R[e];
    sinkhorn_rounds<N, added, true>(R, u, v, history, n, rounds, rule);

    SM_UNROLL for (int i = 0; i < n; ++i)
        SM_UNROLL for (int j = 0; j < n; ++j) G[i * n + j] *= R[i * n + j] * v[j] * u[i];

    const int begin = rule.start == Start::normalised;
    for (int round = rounds - 1; round >= begin; --round) {
        const V* K = history.K + (round / absorb_every) * n * n;
        const V* factors = history.factors + int64_t(round) * 2 * n;
        const bool with_columns = round > 0;
        const bool from_one = round % absorb_every == 0 || round == begin;
        V before[room<N>], column[room<N>];  // u of the round before, v of this one
        SM_UNROLL for (int j = 0; j < n; ++j) {
            before[j] = from_one ? one[j] : (factors - 2 * n)[n + j];
            column[j] = with_columns ? factors[j] : one[j];
        }
        SM_UNROLL for (int i = 0; i < n; ++i) {
            V s = G[i * n];
            SM_UNROLL for (int j = 1; j < n; ++j) s += G[i * n + j];
            s *= factors[n + i];
            SM_UNROLL for (int j = 0; j < n; ++j) G[i * n + j] -= K[i * n + j] * column[j] * s;
        }
        if (!with_columns) break;
        SM_UNROLL for (int j = 0; j < n; ++j) {
            V s = G[j];
            SM_UNROLL for (int i = 1; i < n; ++i) s += G[i * n + j];
            s *= factors[j];
            SM_UNROLL for (int i = 0; i < n; ++i) G[i * n + j] -= K[i * n + j] * before[i] * s;
        }
    }

    const V* first = history.first;
    if (rule.start == Start::normalised) {
        const V* K = history.K;  // rows normalised, before any later round
        SM_UNROLL for (int i = 0; i < n; ++i) {
            V s = G[i * n];
            SM_UNROLL for (int j = 1; j < n; ++j) s += G[i * n + j];
            SM_UNROLL for (int j = 0; j < n; ++j) G[i * n + j] -= K[i * n + j] * s;
        }
        SM_UNROLL for (int j = 0; j < n; ++j) {
            V s = G[j];
            SM_UNROLL for (int i = 1; i < n; ++i) s += G[i * n + j];
            SM_UNROLL for (int i = 0; i < n; ++i) G[i * n + j] -= first[i * n + j] * s;
        }
    } else {
        // K = P + eps: through P / K, which is at most 1, and the softmax
        SM_UNROLL for (int j = 0; j < n; ++j) {
            V s = V(0);
            SM_UNROLL for (int i = 0; i < n; ++i) {
                const V P = first[i * n + j];
                G[i * n + j] *= P * reciprocal(P + V(F(rule.eps)));
                s += G[i * n + j];
            }
            SM_UNROLL for (int i = 0; i < n; ++i) G[i * n + j] -= first[i * n + j] * s;
        }
    }
    if (rule.ends_on_columns) transpose_each<N>(G, n);
}

}  // namespace streammix::SM_ISA
