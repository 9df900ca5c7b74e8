// The Birkhoff projection: T = argmin over doubly stochastic T of sum_ij T_ij (log T_ij - R_ij).
//
// T = diag(u) e^R diag(v), and the state of the iteration is T itself, with unit row sums. Let c be its column sums. The
// dual is convex in b = log v with gradient c - 1 and Hessian diag(c) - T'T = the Laplacian of the graph with weights
// W_jk = sum_i T_ij T_ik. A Newton step: (L + lambda I) d = 1 - c, T_ij *= phi(d_j), rows renormalised.
#pragma once

#include "laplacian.h"

namespace streammix::SM_ISA {

template <class F>
struct Settings {
    static constexpr F reach = 8;         // logits further apart than this (in a row) go through the homotopy
    static constexpr int passes = 3;      // Sinkhorn passes before the first Newton step
    static constexpr F balanced = 0.5;    // sum |c - 1| from which the homotopy may advance
    static constexpr F max_step = 2;      // largest |d_j|
    static constexpr int max_steps = sizeof(F) == 4 ? 640 : 4800;  // several for each of the at most 128 or 1024 squarings
};

// What is asked of sum_j |c_j - 1|, at least
template <class F>
SM_FN F tolerance(double tol, int n) {
    const double least = 2 * n * double(Format<F>::eps);
    return F(tol > least ? (tol < 0.5 ? tol : 0.5) : least);
}

// K = e^(R / 2^k), up to a factor for each row, with the smallest k that keeps every |K_ij| in e^-reach .. e^reach; returns k.
// R is finite up to the format's limit: the differences are taken of halves. Non-finite R makes K NaN.
template <int N, class V>
SM_FN V exponentials(V* R, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    V spread = V(0);
    SM_UNROLL for (int i = 0; i < n; ++i) {
        const V half = R[i * n] * F(0.5);
        SM_UNROLL for (int j = 1; j < n; ++j) {
            R[i * n + j] = R[i * n + j] * F(0.5) - half;
            spread = max_abs(spread, R[i * n + j]);
        }
        R[i * n] = half - half;  // NaN when non-finite
    }
    const V k = max(exponent(spread * (2 / Settings<F>::reach)) + F(1), V(0));
    const V scale = power_of_two(F(1) - k) * F(1.4426950408889634);  // 2 / 2^k / log 2
    SM_UNROLL for (int i = 0; i < n; ++i) {
        SM_UNROLL for (int j = 1; j < n; ++j) R[i * n + j] = exp2(R[i * n + j], scale);
        R[i * n] += F(1);
    }
    return k;
}

// 1 - sum of n numbers `stride` apart. Smallest partial sums last, and in groups of eight, so that what many small numbers add to is
// not rounded away.
template <int N, class V>
SM_FN V one_minus_sum(const V* x, int stride, int n_) {
    const int n = size<N>(n_);
    V missing = V(1);
    if constexpr (N > 0) {
        SM_UNROLL for (int i = 0; i < n; ++i) missing -= x[i * stride];
    } else {
        for (int first = 0; first < n; first += 8) {
            V s = x[first * stride];
            for (int i = first + 1; i < n && i < first + 8; ++i) s += x[i * stride];
            missing -= s;
        }
    }
    return missing;
}

template <int N, class V>
SM_FN void normalise_rows(V* T, int n_) {
    const int n = size<N>(n_);
    SM_UNROLL for (int i = 0; i < n; ++i) {
        V s = T[i * n];
        SM_UNROLL for (int j = 1; j < n; ++j) s += T[i * n + j];
        const V r = reciprocal(s);
        SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] *= r;
    }
}

// One Sinkhorn pass, columns then rows, as corrections T += T (1 - s) / s: with sums s next to one this rounds least. Of the columns,
// which the rows disturb again, to first order: T += T (1 - s) is off by (1 - s)^2, which is within the tolerance.
template <int N, class V>
SM_FN void polish(V* T, int n_) {
    const int n = size<N>(n_);
    SM_UNROLL for (int j = 0; j < n; ++j) {
        const V missing = one_minus_sum<N>(T + j, n, n);
        SM_UNROLL for (int i = 0; i < n; ++i) T[i * n + j] += T[i * n + j] * missing;
    }
    SM_UNROLL for (int i = 0; i < n; ++i) {
        const V missing = one_minus_sum<N>(T + i * n, 1, n);
        const V r = missing * reciprocal(Scalar<V>(1) - missing);
        SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] += T[i * n + j] * r;
    }
}

// Sinkhorn passes (rows, columns) on diag(u) K diag(v), u and v apart and rough; then T with exact unit rows.
//
// From the second pass on v is over-relaxed: v + (1 + 1/n) (v_new - v). It stays positive, because v_new / v = 1 / (a column sum of a
// matrix with unit rows) is 1 / n at least; and for logits of order one it spares most blocks of matrices a third Newton step.
template <int N, class V>
SM_FN void start(V* T, int n_) {
    constexpr int passes = Settings<Scalar<V>>::passes;
    const int n = size<N>(n_);
    const Scalar<V> more = Scalar<V>(1) / n;
    V v[room<N>];
    SM_UNROLL for (int pass = 0; pass < passes; ++pass) {
        V c[room<N>];
        SM_UNROLL for (int i = 0; i < n; ++i) {
            V s = pass ? T[i * n] * v[0] : T[i * n];
            SM_UNROLL for (int j = 1; j < n; ++j) s += pass ? T[i * n + j] * v[j] : T[i * n + j];
            const V u = rough_reciprocal(s);
            SM_UNROLL for (int j = 0; j < n; ++j) c[j] = i ? c[j] + T[i * n + j] * u : T[i * n + j] * u;
        }
        SM_UNROLL for (int j = 0; j < n; ++j) {
            const V next = rough_reciprocal(c[j]);
            v[j] = pass ? next + (next - v[j]) * more : next;
        }
    }
    SM_UNROLL for (int i = 0; i < n; ++i)
        SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] *= v[j];
    normalise_rows<N>(T, n);
}

// n = 2 in closed form: T_11 = T_22 = sigmoid((R_11 + R_22 - R_12 - R_21) / 2)
template <class V>
SM_FN void project2(V* R) {
    using F = Scalar<V>;
    const V half(F(0.5));
    const V x = (R[0] * half - R[1] * half) + (R[3] * half - R[2] * half);
    const V poison = (R[0] * V(0) + R[1] * V(0)) + (R[2] * V(0) + R[3] * V(0));
    const V e = exp(-min(V(sizeof(F) == 4 ? 86 : 708), abs(x))) + poison;
    const V larger = reciprocal(V(1) + e), smaller = e * larger;
    R[0] = R[3] = select(x < V(0), smaller, larger);
    R[1] = R[2] = select(x < V(0), larger, smaller);
}

// In: logits, row-major. Out: T. w: room for n*n numbers. Returns the number of steps taken, by the slowest of V's matrices.
template <int N, class V>
SM_FN int project(V* T, V* w, int n_, Scalar<V> tol) {
    using F = Scalar<V>;
    using S = Settings<F>;
    const int n = size<N>(n_);
    const F lambda = F(n) * (Format<F>::eps / 2);  // as large as the rounding noise of c - 1, which must not move nodes next to disconnected
    const F small = 4 * tol / F(n);  // a step with max|d|^2 below it leaves sum |c - 1| below tol

    V k = exponentials<N>(T, n);
    start<N>(T, n);

    V d[room<N>];
    Mask<V> active = V(0) < V(1);
    int step = 0;
    for (; step < S::max_steps; ++step) {
        V residual = V(0);
        SM_UNROLL for (int j = 0; j < n; ++j) {
            d[j] = one_minus_sum<N>(T + j, n, n);  // 1 - c
            residual += abs(d[j]);
        }
        // W, L d = 1 - c
        SM_UNROLL for (int j = 0; j < n; ++j)
            SM_UNROLL for (int l = j + 1; l < n; ++l) {
                V s = T[j] * T[l];
                SM_UNROLL for (int i = 1; i < n; ++i) s += T[i * n + j] * T[i * n + l];
                w[j * n + l] = s;
            }
        solve<N>(w, d, n, lambda);

        // centre d, then scale it to max |d_j| <= max_step
        V high = d[0], low = d[0];
        SM_UNROLL for (int j = 1; j < n; ++j) {
            high = max(high, d[j]);
            low = min(low, d[j]);
        }
        const V size = (high - low) * F(0.5), centre = (high + low) * F(0.5);
        const V scale = select(size > S::max_step, S::max_step * rough_reciprocal(size), V(1));

        // matrices that have converged stay as they are, to the bit
        const Mask<V> squaring = k > F(0);
        const Mask<V> going = active & (residual > select(squaring, V(-1), V(tol)));  // a NaN stops
        SM_UNROLL for (int j = 0; j < n; ++j) {
            // phi(d) = (1 + d/3 + d^2/18)^3 = e^d + O(d^3): positive, and increasing well beyond |d| = 2
            const V x = (d[j] - centre) * scale;
            const V root = F(1) + x * (F(1. / 3) + x * F(1. / 18));
            d[j] = select(going, root * root * root, V(1));
        }
        SM_UNROLL for (int i = 0; i < n; ++i) {
            SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] *= d[j];
            const V missing = one_minus_sum<N>(T + i * n, 1, n);
            const V r = select(going, missing * reciprocal(F(1) - missing), V(0));
            SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] += T[i * n + j] * r;
        }
        const Mask<V> more = going & ((size * size > small) | squaring);
        if (!any(more)) break;
        active = more;

        // the homotopy: squaring T doubles the inverse temperature
        const Mask<V> square = going & squaring & (residual < S::balanced);
        if (any(square)) {
            SM_UNROLL for (int i = 0; i < n; ++i) {
                V s = V(0);
                V t[room<N>];
                SM_UNROLL for (int j = 0; j < n; ++j) {
                    t[j] = T[i * n + j] * T[i * n + j];
                    s += t[j];
                }
                const V r = reciprocal(s);
                SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] = select(square, t[j] * r, T[i * n + j]);
            }
            k = select(square, k - F(1), k);
        }
    }
    polish<N>(T, n);
    return step + 1;
}

}  // namespace streammix::SM_ISA
