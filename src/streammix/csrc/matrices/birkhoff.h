// The Birkhoff projection: T = argmin over doubly stochastic T of sum_ij T_ij (log T_ij - R_ij).
//
// T = diag(u) e^R diag(v), and the state of the iteration is T itself, with unit row sums. Let c be its column sums. The
// dual is convex in b = log v with gradient c - 1 and Hessian diag(c) - T'T = the Laplacian of the graph with weights
// W_jk = sum_i T_ij T_ik. As the rows sum to one, 1 - c is a sum of flows on the edges,
//
//     1 - c_j = sum_k g_jk,    g_jk = T_jk - T_kj
//
// whose noise is as small as they are once the rows are in an order that puts large entries on the diagonal. A Newton step: L d = 1 - c,
// T_ij *= phi(d_j), rows renormalised.
#pragma once

#include "matrices/flows.h"
#include "matrices/homotopy.h"

namespace streammix::SM_ISA {

template <class F>
struct Settings {
    static constexpr F reach = 8;         // logits further than this from the first of their row go through the homotopy
    static constexpr F few = 4;           // so many levels are squarings of T alone, which cost as many bits of it
    static constexpr F many = 12;         // with more, T is formed from the logits at every level: see homotopy.h
    static constexpr int passes = 3;      // Sinkhorn passes before the first Newton step
    static constexpr F max_step = 2;      // largest |d_j|
    static constexpr F weak = 1. / 32;    // a pivot below it: the order of the rows matters; four times it for n > 4, whose errors add up
    static constexpr F coupling = sizeof(F) == 4 ? 1e-24 : 1e-60;  // two columns coupled by less are not: they would be balanced by entries that
                                                                // are zero in this format, and drift
    static constexpr int max_steps = sizeof(F) == 4 ? 640 : 4800;  // several for each of the at most 128 or 1024 levels
};

// The max |d|^2 of the last step: steps converge quadratically, so it leaves errors of about eps, and sum |c - 1| below tol.
template <class F>
F last_step(double tol, int n) {
    const double least = 4 * double(Format<F>::eps);
    const double asked = 2 * (tol < 0.5 ? tol : 0.5) / n;
    return F(asked > least ? asked : least);
}

// K = e^(R / 2^k), up to a factor for each row, with the smallest k that keeps every K_ij in e^-reach .. e^reach; returns k.
// R is finite up to the format's limit: the differences are taken of halves. NaN makes K NaN; an infinity beside finite ones makes k large too.
template <int N, class V>
SM_FN V exponentials(const V* R, V* K, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    V spread = V(0);
    SM_UNROLL for (int i = 0; i < n; ++i) {
        const V half = R[i * n] * F(0.5);
        SM_UNROLL for (int j = 1; j < n; ++j) {
            K[i * n + j] = R[i * n + j] * F(0.5) - half;
            spread = max_abs(spread, K[i * n + j]);
        }
        K[i * n] = half - half;  // NaN when non-finite
    }
    const V k = max(exponent(spread * (2 / Settings<F>::reach)) + F(1), V(0));
    const V scale = power_of_two(F(1) - k) * F(1.4426950408889634);  // 2 / 2^k / log 2
    SM_UNROLL for (int i = 0; i < n; ++i) {
        SM_UNROLL for (int j = 1; j < n; ++j) K[i * n + j] = exp2(K[i * n + j], scale);
        K[i * n] += F(1);
    }
    return k;
}

// 1 - sum of n numbers `stride` apart. Smallest partial sums last, and for large n in groups of eight, so that what many small numbers add to is
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
SM_FN void polish(V* T, V* out, int n_) {
    const int n = size<N>(n_);
    SM_UNROLL for (int j = 0; j < n; ++j) {
        const V missing = one_minus_sum<N>(T + j, n, n);
        SM_UNROLL for (int i = 0; i < n; ++i) T[i * n + j] += T[i * n + j] * missing;
    }
    SM_UNROLL for (int i = 0; i < n; ++i) {
        const V missing = one_minus_sum<N>(T + i * n, 1, n);
        const V r = missing * reciprocal(Scalar<V>(1) - missing);
        SM_UNROLL for (int j = 0; j < n; ++j) out[i * n + j] = T[i * n + j] + T[i * n + j] * r;
    }
}

// Sinkhorn passes (rows, columns) on diag(u) K diag(v), u and v apart and rough; then T with exact unit rows. T holds K, and v is given.
//
// From the second pass on v is over-relaxed: v + (1 + 1/n) (v_new - v). It stays positive, because v_new / v = 1 / (a column sum of a
// matrix with unit rows) is 1 / n at least; and for logits of order one it spares most blocks of matrices a third Newton step.
template <int N, class V>
SM_FN void start(V* T, V* v, int n_) {
    constexpr int passes = Settings<Scalar<V>>::passes;
    const int n = size<N>(n_);
    const Scalar<V> more = Scalar<V>(1) / n;
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

// n = 2 in closed form: T_11 = T_22 = sigmoid((R_11 + R_22 - R_12 - R_21) / 2). The rounding errors of R_11 - R_12 and R_22 - R_21 are
// added back: those two may be large, and their sum small.
template <class V>
SM_FN void birkhoff2(V* R) {
    using F = Scalar<V>;
    const V most(Format<F>::max), none(F(0)), half(F(0.5));
    const auto difference = [&](V a, V b, V& error) {
        const V d = a - b, back = d - a;
        error = (a - (d - back)) - (b + back);
        return d;
    };
    V e0, e1;
    const V x0 = difference(R[0] * half, R[1] * half, e0), x1 = difference(R[3] * half, R[2] * half, e1);
    V x = (x0 + x1) + (e0 + e1);
    // masks: two of a diagonal, and no other
    const Mask<V> off = (R[1] < -most) & (R[2] < -most), on = (R[0] < -most) & (R[3] < -most) & !off;
    const V a = select(on, none, R[0]) * F(0) + select(on, none, R[3]) * F(0);
    const V b = select(off, none, R[1]) * F(0) + select(off, none, R[2]) * F(0);
    x = select(off, most, select(on, -most, x));
    const V poison = a + b;  // NaN where something else is not finite
    constexpr F least = sizeof(F) == 4 ? 86 : 708;
    const V e = select(abs(x) < V(least), exp(-min(V(least), abs(x))), none) + poison;
    const V larger = reciprocal(V(1) + e), smaller = e * larger;
    R[0] = R[3] = select(x < none, smaller, larger);
    R[1] = R[2] = select(x < none, larger, smaller);
}

// W and g of T, in the order of `solve`
template <int N, class V>
SM_FN void graph(const V* T, V* w, int n_) {
    const int n = size<N>(n_);
    SM_UNROLL for (int j = 0; j < n; ++j)
        SM_UNROLL for (int k = j + 1; k < n; ++k) {
            V s = T[j] * T[k];
            SM_UNROLL for (int i = 1; i < n; ++i) s += T[i * n + j] * T[i * n + k];
            w[j * n + k] = s;
            w[k * n + j] = T[j * n + k] - T[k * n + j];
        }
}

// The matrices `where` at twice the inverse temperature: T_ij^2, rows normalised
template <int N, class V>
SM_FN void square(V* T, Mask<V> where, int n_) {
    const int n = size<N>(n_);
    SM_UNROLL for (int i = 0; i < n; ++i) {
        V s = V(0);
        V t[room<N>];
        SM_UNROLL for (int j = 0; j < n; ++j) {
            t[j] = T[i * n + j] * T[i * n + j];
            s += t[j];
        }
        const V r = reciprocal(s);
        SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] = select(where, t[j] * r, T[i * n + j]);
    }
}

// Of the graphs `where`, takes the edges out that are weaker than `coupling`.
template <int N, class V>
SM_RARE void disconnect(V* w, Mask<V> where, V coupling, int n_) {
    const int n = size<N>(n_);
    for (int j = 0; j < n; ++j)
        for (int k = j + 1; k < n; ++k) {
            const Mask<V> out = where & (w[j * n + k] < coupling);
            w[j * n + k] = select(out, V(0), w[j * n + k]);
            w[k * n + j] = select(out, V(0), w[k * n + j]);
        }
}

// Whether matrices of k levels need their logits again: see homotopy.h
template <class V>
SM_FN Mask<V> is_far(V k) {
    return k > Settings<Scalar<V>>::few;
}

// From the exponentials T of logits R, over k levels; the rest as below. any_far: whether any is far; a constant leaves
// half of the code out.
template <int N, class V>
SM_FN int newton(V* R, V* T, V* w, V k, int n_, Scalar<V> small, bool any_far) {
    using F = Scalar<V>;
    using S = Settings<F>;
    const int n = size<N>(n_);
    const Mask<V> far = is_far(k), near = !far;
    if (any_far) first_level<N>(R, k, far, S::reach, T, n);

    V d[room<N>];
    start<N>(T, d, n);
    Potentials<N, V> potentials;
    if (any_far) potentials.begin(d, far & (k > S::many), n);

    V origin[room<N>], matched = V(0), coupling = V(S::coupling);
    bool in_order = true;
    const auto order = [&](Mask<V> which) __attribute__((always_inline)) {
        V diagonal = T[0];
        SM_UNROLL for (int j = 1; j < n; ++j) diagonal = min(diagonal, T[j * n + j]);
        const Mask<V> wanted = which & (diagonal < F(0.5) / F(n));
        if (!any(wanted)) return false;
        if (in_order) SM_UNROLL for (int i = 0; i < n; ++i) origin[i] = V(F(i));
        in_order = false;
        match_rows<N>(wanted, T, any_far ? R : nullptr, origin, n);
        if (N > 0) matched = select(wanted & near, V(1), matched);  // what is best at one temperature is so at all
        return true;
    };
    const Mask<V> levels = k > F(0);
    if (any(levels)) order(levels);

    Mask<V> active = V(0) < V(1), formed = far;
    int steps = 0;
    for (bool again = false;;) {
        for (int step = 0; step < S::max_steps; ++step, ++steps) {
            // One copy of the arithmetic, run again where the graph nearly falls apart: every matrix gets the same bits whatever its neighbours do.
            Mask<V> faint = active & !active;
            for (bool ordered = false, cut = false;;) {
                graph<N>(T, w, n);
                if (cut) disconnect<N>(w, faint, coupling, n);
                const V least = solve<N>(w, d, n);
                const Mask<V> weak = active & (least < S::weak * (N > 0 && N <= 4 ? 1 : 4));
                if (cut || !any(weak)) break;
                if (!ordered) {
                    ordered = true;
                    if (order(weak & (matched < F(0.5)))) continue;
                }
                faint = active & (least < coupling * F(64));
                if (!any(faint)) break;
                cut = true;
            }
            coupling = select(faint, coupling * F(1.125), coupling);  // nor may an edge come and go for ever

            // centre d, then scale it to max |d_j| <= max_step
            V high = d[0], low = d[0];
            SM_UNROLL for (int j = 1; j < n; ++j) {
                high = max(high, d[j]);
                low = min(low, d[j]);
            }
            const V size = (high - low) * F(0.5), centre = (high + low) * F(0.5);
            const V scale = select(size > S::max_step, S::max_step * rough_reciprocal(size), V(1));
            SM_UNROLL for (int j = 0; j < n; ++j) d[j] = (d[j] - centre) * scale;

            // the homotopy's next level, once no step need be shortened at this one
            const Mask<V> above = active & (k > F(0)), descend = above & (size < S::max_step);
            const bool any_above = any(above);
            if (any_far && any_above) potentials.step(d, n);

            // matrices that have converged stay as they are, to the bit
            SM_UNROLL for (int j = 0; j < n; ++j) {
                // phi(d) = (1 + d/3 + d^2/18)^3 = e^d + O(d^3): positive, and increasing well beyond |d| = 2
                const V root = F(1) + d[j] * (F(1. / 3) + d[j] * F(1. / 18));
                V factor = root * root * root;
                if (any_far) factor = select(far, exp(d[j]), factor);
                d[j] = select(active, factor, V(1));
            }
            SM_UNROLL for (int i = 0; i < n; ++i) {
                SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] *= d[j];
                const V missing = one_minus_sum<N>(T + i * n, 1, n);
                const V r = select(active, missing * reciprocal(F(1) - missing), V(0));
                SM_UNROLL for (int j = 0; j < n; ++j) T[i * n + j] += T[i * n + j] * r;
            }
            const Mask<V> more = active & ((size * size > small) | (k > F(0))) & (size < V(Format<F>::max));  // a NaN stops
            if (!any(more)) break;
            active = more;

            if (any_above && any(descend)) {
                k = select(descend, k - F(1), k);
                coupling = select(descend, V(S::coupling), coupling);
                if (!any_far) {
                    square<N>(T, descend, n);
                } else {
                    const Mask<V> forms = descend & formed & potentials.forms(k);
                    square<N>(T, descend & !forms, n);
                    graph<N>(T, w, n);
                    const auto connected = [&](int j, int l) { return select(w[j < l ? j * n + l : l * n + j] < S::coupling, V(0), V(1)); };
                    potentials.descend(R, k, descend, forms, T, n, n, connected);
                }
            }
        }
        if (!any_far || again) break;
        // Logits whose sums tie, or nearly, through more digits than the potentials have: once more by squares, which find a doubly stochastic
        // matrix whatever the logits are.
        V residual = V(0);
        for (int j = 0; j < n; ++j) residual += abs(one_minus_sum<N>(T + j, n, n));
        active = far & (!(residual < V(n * max(8 * Format<F>::eps, small))) | (k > F(0)));
        if (!any(active)) break;
        again = true;
        formed = active & !active;
        coupling = V(S::coupling);
        first_level<N>(R, k, active, S::reach, T, n);
    }
    if (!in_order) restore_rows<N>(origin, T, n);
    polish<N>(T, R, n);
    return steps + 1;
}

// In: logits, row-major. Out: T in their place. T, w: room for n*n numbers each. Returns the number of steps taken, by the slowest of V's
// matrices.
template <int N, class V>
SM_FN int birkhoff(V* R, V* T, V* w, int n, Scalar<V> small) {
    const V k = exponentials<N>(R, T, n);
    return newton<N>(R, T, w, k, n, small, any(is_far(k)));
}

}  // namespace streammix::SM_ISA
