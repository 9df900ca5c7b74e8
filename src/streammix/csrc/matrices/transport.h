// The projection onto a transportation polytope: T = argmin over T >= 0 with T 1 = r, T' 1 = c of sum_ij T_ij (log T_ij - R_ij), m >= n.
//
// T = r_i P_ij, P = row-softmax(R + b), and the state is P, with unit row sums. The dual in b is convex with gradient -(c - P'r) and Hessian the
// Laplacian of the graph with weights W_jk = sum_i r_i P_ij P_ik. The imbalance c - P'r is never formed by cancelling: with p(i) a large
// entry's column in row i, which is one less the others of its row,
//
//     c_j - sum_i r_i P_ij = beta_j + sum_k g_jk
//     g_jk = sum_{i: p(i) = j} r_i P_ik - sum_{i: p(i) = k} r_i P_ij,    beta_j = c_j - sum_{i: p(i) = j} r_i
//
// The noise of g_jk is some eps of W_jk. beta, which depends on the marginals alone, is summed with twice the digits, and sent along the
// strongest edges while the graph is eliminated. docs/transport.md has the whole derivation.
#pragma once

#include "matrices/birkhoff.h"

namespace streammix::SM_ISA {

// Of the side that is eliminated, and of the other: twice the digits each. Sums of both that differ by less than `least` are alike.
template <class V>
struct Marginals {
    const V *r, *r_low, *c, *c_low;
    V least;
};

template <class V>
SM_FN void add_twofold(V& high, V& low, V x, V x_low) {
    V error;
    const V s = sum(high, x, error);
    high = sum(s, error + (low + x_low), low);
}

// How weakly columns hang on the rest: the least pivot of those that want no more from it than that; and of those that want more.
template <class V>
struct Ties {
    V faint, wanting;
};

// As `solve`, for sum_k w_jk (x_j - x_k) = beta_j + sum_k g_jk. What is given at a node, high + low, becomes a flow on its strongest edge when the
// node is eliminated; what arrives at the other end is added there with twice the digits, so that it is the sum over all nodes behind it.
// All are lost. much: what counts as wanting.
template <int N, class V>
SM_FN Ties<V> solve_nodes(V* w, V* x, V* high, V* low, V least, V much, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    Ties<V> ties{V(1), V(1)};
    SM_UNROLL for (int p = 0; p < n - 1; ++p) {
        V s = w[p * n + p + 1], most = s, strongest = V(F(p + 1));
        SM_UNROLL for (int k = p + 2; k < n; ++k) {
            const Mask<V> more = w[p * n + k] > most;
            s += w[p * n + k];
            most = max(w[p * n + k], most);
            strongest = select(more, V(F(k)), strongest);
        }
        const Mask<V> alone = s < V(tiny<F>), nothing = alone | (abs(high[p]) < least);
        const V sent = select(nothing, V(0), high[p]), sent_low = select(nothing, V(0), low[p]);
        V b = V(0);
        SM_UNROLL for (int k = p + 1; k < n; ++k) {
            const Mask<V> there = abs(strongest - F(k)) < V(F(0.5));
            const V arrives = select(there, sent, V(0));
            w[k * n + p] += arrives;
            b += w[k * n + p];
            if (k < n - 1) add_twofold(high[k], low[k], arrives, select(there, sent_low, V(0)));
        }
        const V out = abs(b);
        ties.faint = min(ties.faint, max(s, out));
        ties.wanting = min(ties.wanting, select(alone | (out < much), V(1), s));
        const V reciprocal_s = select(alone, V(0), reciprocal(s));
        V share[room<N>];
        SM_UNROLL for (int k = p + 1; k < n; ++k) share[k] = w[p * n + k] * reciprocal_s;
        SM_UNROLL for (int j = p + 1; j < n; ++j)
            SM_UNROLL for (int k = j + 1; k < n; ++k) {
                w[j * n + k] += w[p * n + j] * share[k];
                w[k * n + j] += w[k * n + p] * share[j] - w[j * n + p] * share[k];
            }
        SM_UNROLL for (int k = p + 1; k < n; ++k) w[p * n + k] = share[k];
        x[p] = b * reciprocal_s;
    }
    x[n - 1] = V(0);
    SM_UNROLL for (int p = n - 2; p >= 0; --p)
        SM_UNROLL for (int k = p + 1; k < n - 1; ++k) x[p] += w[p * n + k] * x[k];
    return ties;
}

// own_ij = 1 at a large entry of row i, else 0: one that is at least half the largest stays. Returns whether any changed.
template <int N, class V>
SM_FN bool choose_owners(const V* P, V* own, int m_, int n_) {
    using F = Scalar<V>;
    const int m = size<N>(m_), n = size<N>(n_);
    Mask<V> any_changed = V(1) < V(0);
    SM_UNROLL for (int i = 0; i < m; ++i) {
        V held = own[i * n] * P[i * n], most = P[i * n];
        SM_UNROLL for (int j = 1; j < n; ++j) {
            held += own[i * n + j] * P[i * n + j];
            most = max(P[i * n + j], most);
        }
        any_changed = any_changed | (held < most * F(0.5));
    }
    if (!any(any_changed)) return false;
    for (int i = 0; i < m; ++i) {
        V held = V(0), most = V(-1), at = V(0);
        for (int j = 0; j < n; ++j) {
            held += own[i * n + j] * P[i * n + j];
            const Mask<V> more = P[i * n + j] > most;
            most = select(more, P[i * n + j], most);
            at = select(more, V(F(j)), at);
        }
        const Mask<V> changed = held < most * F(0.5);
        for (int j = 0; j < n; ++j) own[i * n + j] = select(changed, select(abs(at - F(j)) < V(F(0.5)), V(1), V(0)), own[i * n + j]);
    }
    return true;
}

// beta
template <int N, class V>
[[gnu::noinline]] void constants(const Marginals<V>& given, const V* own, V* high, V* low, int m_, int n_) {
    const int m = size<N>(m_), n = size<N>(n_);
    for (int j = 0; j < n; ++j) {
        high[j] = given.c[j];
        low[j] = given.c_low[j];
        for (int i = 0; i < m; ++i) add_twofold(high[j], low[j], -own[i * n + j] * given.r[i], -own[i * n + j] * given.r_low[i]);
    }
}

// W and g, in the order of `solve`
template <int N, class V>
SM_FN void plan_graph(const V* P, const V* r, const V* own, V* w, int m_, int n_) {
    const int m = size<N>(m_), n = size<N>(n_);
    SM_UNROLL for (int i = 0; i < m; ++i) {
        V T[room<N>];
        SM_UNROLL for (int j = 0; j < n; ++j) T[j] = r[i] * P[i * n + j];
        SM_UNROLL for (int j = 0; j < n; ++j)
            SM_UNROLL for (int k = j + 1; k < n; ++k) {
                const V weight = T[j] * P[i * n + k], flow = own[i * n + j] * T[k] - own[i * n + k] * T[j];
                w[j * n + k] = i ? w[j * n + k] + weight : weight;
                w[k * n + j] = i ? w[k * n + j] + flow : flow;
            }
    }
}

template <int N, class V>
SM_FN void normalise_plan(V* P, int m_, int n_) {
    const int m = size<N>(m_), n = size<N>(n_);
    SM_UNROLL for (int i = 0; i < m; ++i) {
        const V missing = one_minus_sum<N>(P + i * n, 1, n);
        const V r = missing * reciprocal(Scalar<V>(1) - missing);
        SM_UNROLL for (int j = 0; j < n; ++j) P[i * n + j] += P[i * n + j] * r;
    }
}

// c_j / sum_i r_i P_ij, whose scaling brings a column back at once that holds next to nothing of its marginal
template <int N, class V>
SM_FN V column_factor(const V* P, const Marginals<V>& given, int j, int m_, int n_) {
    const int m = size<N>(m_), n = size<N>(n_);
    V s = given.r[0] * P[j];
    for (int i = 1; i < m; ++i) s += given.r[i] * P[i * n + j];
    return given.c[j] * reciprocal(max(V(tiny<Scalar<V>>), s));
}

// On from level k + 1 to k in the matrices `where`: along the path of solutions by a step of Euler's method. With L w = the flows of log P,
// F_jk = sum_i r_i P_ij P_ik (log P_ij - log P_ik), potentials b become 2 b - w. Doubling them alone would square entries that the marginals
// hold where they are.
template <int N, class V>
[[gnu::noinline]] void next_level(const V* R, V k, Mask<V> where, V* P, const Marginals<V>& given, Potentials<N, V>& potentials, V* w, V* logs, int m_,
                                  int n_) {
    using F = Scalar<V>;
    const int m = size<N>(m_), n = size<N>(n_);
    constexpr F least = sizeof(F) == 4 ? 1e-37 : 1e-300;
    V x[room<N>], *coupled = logs + m * n;
    for (int e = 0; e < m * n; ++e) logs[e] = log(max(V(least), P[e]));
    for (int j = 0; j < n; ++j)
        for (int l = j + 1; l < n; ++l) {
            V weight = V(0), flow = V(0);
            for (int i = 0; i < m; ++i) {
                const V t = given.r[i] * P[i * n + j] * P[i * n + l];
                weight += t;
                flow += t * (logs[i * n + j] - logs[i * n + l]);
            }
            coupled[j * n + l] = w[j * n + l] = weight;
            w[l * n + j] = flow;
        }
    solve<N>(w, x, n);
    const auto connected = [&](int j, int l) { return select(coupled[j < l ? j * n + l : l * n + j] < Settings<F>::coupling, V(0), V(1)); };
    potentials.descend(R, k, where, where, P, n, m, connected, x);
    V most = V(0);
    for (int j = 0; j < n; ++j) {
        x[j] = select(where, column_factor<N>(P, given, j, m, n), V(1));
        most = max(x[j], most);
    }
    const V scale = select(where, reciprocal(most), V(1));
    for (int j = 0; j < n; ++j) {
        x[j] *= scale;
        for (int i = 0; i < m; ++i) P[i * n + j] *= x[j];
        x[j] = log(max(V(least), x[j]));
    }
    for (int i = 0; i < m; ++i) {
        V s = V(0);
        for (int j = 0; j < n; ++j) s += P[i * n + j];
        const V r = select(where, reciprocal(s), V(1));
        for (int j = 0; j < n; ++j) P[i * n + j] *= r;
    }
    for (int j = 0; j < n; ++j) x[j] = select(where, x[j], V(0));
    potentials.step(x, n);
}

// In: logits (m, n). Out: P in their place; NaN where no matrix has these sums. work: room for 3 m n + 2 n n numbers.
template <int N, class V>
SM_FN void transport(V* R, const Marginals<V>& given, V* work, int m_, int n_) {
    using F = Scalar<V>;
    using S = Settings<F>;
    const int m = size<N>(m_), n = size<N>(n_);
    V *P = work, *own = P + m * n, *w = own + m * n;
    const V least(-Format<F>::max);
    V spread = V(0), d[room<N>], v[room<N>];
    SM_UNROLL for (int i = 0; i < m; ++i) {
        V low = V(Format<F>::max), high = least;
        SM_UNROLL for (int j = 0; j < n; ++j) {
            const V x = R[i * n + j];
            low = min(select(x < least, V(Format<F>::max), x), low);
            high = max(x, high);
        }
        spread = max(high * (1 / unit<F>) - low * (1 / unit<F>), spread);
    }
    V k = max(exponent(spread * (unit<F> / S::reach)) + F(1), V(0));
    const Mask<V> far = k > F(0), all = V(0) < V(1);
    const bool any_far = any(far);
    SM_UNROLL for (int j = 0; j < n; ++j) d[j] = log(given.c[j]) * (1 / unit<F>);
    form<N>(R, k, d, all, P, n, m);

    // Sinkhorn passes: P diag(v)
    SM_UNROLL for (int j = 0; j < n; ++j) v[j] = V(1);
    for (int pass = 0; pass < S::passes; ++pass) {
        SM_UNROLL for (int j = 0; j < n; ++j) d[j] = V(tiny<F>);
        SM_UNROLL for (int i = 0; i < m; ++i) {
            V s = P[i * n] * v[0];
            SM_UNROLL for (int j = 1; j < n; ++j) s += P[i * n + j] * v[j];
            const V u = given.r[i] * rough_reciprocal(s);
            SM_UNROLL for (int j = 0; j < n; ++j) d[j] += P[i * n + j] * u;
        }
        SM_UNROLL for (int j = 0; j < n; ++j) v[j] = given.c[j] * rough_reciprocal(d[j]);
    }
    SM_UNROLL for (int i = 0; i < m; ++i) {
        V s = V(0);
        SM_UNROLL for (int j = 0; j < n; ++j) s += P[i * n + j] * v[j];
        const V r = reciprocal(s);
        SM_UNROLL for (int j = 0; j < n; ++j) P[i * n + j] *= v[j] * r;
    }
    Potentials<N, V> potentials;
    if (any_far) {
        SM_UNROLL for (int j = 0; j < n; ++j) d[j] = v[j] * given.c[j];
        potentials.begin(d, k > S::many, n);
    }

    V beta[room<N>], beta_low[room<N>], coupling = V(S::coupling);
    SM_UNROLL for (int e = 0; e < m * n; ++e) own[e] = V(0);
    Mask<V> active = all;
    const F small = last_step<F>(0, n);
    for (int step = 0; step < S::max_steps; ++step) {
        if (choose_owners<N>(P, own, m, n)) constants<N>(given, own, beta, beta_low, m, n);
        // One copy of the arithmetic, run again where the graph nearly falls apart: every matrix gets the same bits whatever its neighbours do.
        Mask<V> faint = active & !active;
        for (bool cut = false;; cut = true) {
            plan_graph<N>(P, given.r, own, w, m, n);
            if (cut) disconnect<N>(w, faint, coupling, n);
            V high[room<N>], low[room<N>];
            SM_UNROLL for (int j = 0; j < n; ++j) high[j] = beta[j], low[j] = beta_low[j];
            const V much = coupling * F(64);
            const Ties<V> ties = solve_nodes<N>(w, d, high, low, given.least, much, n);
            if (cut) break;
            faint = active & (ties.faint < much) & !(ties.wanting < much);
            if (!any(faint)) break;
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
        SM_UNROLL for (int j = 0; j < n; ++j) d[j] = select(active, (d[j] - centre) * scale, V(0));
        if (any_far) potentials.step(d, n);
        // matrices that have converged stay as they are, to the bit
        SM_UNROLL for (int j = 0; j < n; ++j) {
            const V root = F(1) + d[j] * (F(1. / 3) + d[j] * F(1. / 18));  // (1 + d/3 + d^2/18)^3 = e^d + O(d^3)
            V factor = root * root * root;
            if (any_far) factor = select(far, exp(d[j]), factor);
            d[j] = select(active, factor, V(1));
        }
        SM_UNROLL for (int i = 0; i < m; ++i) {
            SM_UNROLL for (int j = 0; j < n; ++j) P[i * n + j] *= d[j];
            const V missing = one_minus_sum<N>(P + i * n, 1, n);
            const V r = select(active, missing * reciprocal(F(1) - missing), V(0));
            SM_UNROLL for (int j = 0; j < n; ++j) P[i * n + j] += P[i * n + j] * r;
        }
        const Mask<V> above = active & (k > F(0)), lower = above & (size < S::max_step);
        const Mask<V> more = active & ((size * size > small) | above) & (size < V(Format<F>::max));  // a NaN stops
        if (!any(more)) break;
        active = more;
        if (any_far && any(lower)) {  // once no step need be shortened at this level
            k = select(lower, k - F(1), k);
            coupling = select(lower, V(S::coupling), coupling);
            next_level<N>(R, k, lower, P, given, potentials, w, w + n * n, m, n);
        }
    }
    // One Sinkhorn pass, to rounding level; and have the columns what they should?
    constexpr F enough = sizeof(F) == 4 ? 1e-5 : 1e-11;
    Mask<V> met = !(k > F(0));
    SM_UNROLL for (int j = 0; j < n; ++j) {
        V missing = given.c[j];
        SM_UNROLL for (int i = 0; i < m; ++i) missing -= given.r[i] * P[i * n + j];
        missing *= reciprocal(given.c[j]);
        met = met & (abs(missing) < V(enough));
        SM_UNROLL for (int i = 0; i < m; ++i) P[i * n + j] += P[i * n + j] * missing;
    }
    normalise_plan<N>(P, m, n);
    const V infinite = V(Format<F>::max) + V(Format<F>::max), poison = select(met, V(0), infinite) * F(0);
    SM_UNROLL for (int e = 0; e < m * n; ++e) R[e] = P[e] + poison;
}

}  // namespace streammix::SM_ISA
