// Which row belongs to which column: perfect matchings through the large entries of a matrix, and through the allowed ones of a mask.
#pragma once

#include <stdint.h>

#include "simd/size.h"

namespace streammix::SM_ISA {

// ------------------------------------------------------------------------------------------------- sets of columns, as bits
// Rows of allowed columns. owner[j]: the row matched to column j, or -1. N: n, or 0 for one known at run time.
template <int N>
struct Bipartite {
    uint64_t rows[room<N>];
    int owner[room<N>];
    int n;

    SM_FN static int lowest(uint64_t set) {
#ifdef __CUDA_ARCH__
        return __ffsll(set) - 1;
#else
        return __builtin_ctzll(set);
#endif
    }
    // Finds row i a column, moving others along an augmenting path: path[0] = i gets column taken[0], whose owner path[1] gets taken[1], ...
    // Columns are tried once, depth first. Without recursion, for which a device would have to know how much stack to keep.
    SM_RARE bool augment(int i) {
        int path[room<N>], taken[room<N>];
        uint64_t seen = 0;
        path[0] = i;
        for (int depth = 0; depth >= 0;) {
            const uint64_t open = rows[path[depth]] & ~seen;
            if (!open) {
                --depth;
                continue;
            }
            const int j = taken[depth] = lowest(open);
            seen |= uint64_t(1) << j;
            if (owner[j] >= 0) {
                path[++depth] = owner[j];
                continue;
            }
            for (; depth >= 0; --depth) owner[taken[depth]] = path[depth];
            return true;
        }
        return false;
    }
    SM_RARE bool match() {
        for (int j = 0; j < n; ++j) owner[j] = -1;
        for (int i = 0; i < n; ++i)
            if (!augment(i)) return false;
        return true;
    }
    // Whether some doubly stochastic matrix is positive exactly where columns are allowed: every one of them lies on a perfect matching, so
    // that from column j one comes, over columns allowed to the owner of the last, to every k from which one comes to j.
    SM_RARE bool total_support() {
        if (!match()) return false;
        uint64_t reach[room<N>];
        for (int j = 0; j < n; ++j) reach[j] = rows[owner[j]];
        for (int k = 0; k < n; ++k)
            for (int j = 0; j < n; ++j)
                if (reach[j] >> k & 1) reach[j] |= reach[k];
        for (int j = 0; j < n; ++j)
            for (int k = 0; k < n; ++k)
                if ((reach[j] >> k & 1) != (reach[k] >> j & 1)) return false;
        return true;
    }
};

// ----------------------------------------------------------------------------------------------------- the largest entries
// column[i]: the column matched to row i. The perfect matching with the greatest product of entries, over all sets S of columns for the
// first |S| rows:    best(S) = max_{j in S} best(S - j) T_|S|j
template <int N, class V>
SM_FN void match_best(const V* T, V* column) {
    constexpr int subsets = 1 << N;
    using F = Scalar<V>;
    V best[subsets], choice[subsets];
    best[0] = V(1);
    for (int S = 1; S < subsets; ++S) {
        const V* row = T + (__builtin_popcount(S) - 1) * N;
        V most = V(-1), chosen = V(0);
        for (int j = 0; j < N; ++j) {
            if (!(S >> j & 1)) continue;
            const V product = best[S ^ (1 << j)] * row[j];
            const Mask<V> more = product > most;
            most = select(more, product, most);
            chosen = select(more, V(F(j)), chosen);
        }
        best[S] = most;
        choice[S] = chosen;
    }
    V set = V(F(subsets - 1));
    for (int i = N - 1; i >= 0; --i) {
        V j = V(0);
        for (int S = 1; S < subsets; ++S)
            if (__builtin_popcount(S) == i + 1) j = select(abs(set - V(F(S))) < V(F(0.5)), choice[S], j);
        column[i] = j;
        set -= power_of_two(j);
    }
}

// n = 4: the best of the six ways to give the first two rows two columns, each in the better of its two orders. Two columns a, b go as a + 4 b.
template <class V>
SM_FN void match_best4(const V* T, V* column) {
    using F = Scalar<V>;
    V most, upper, lower;
    SM_UNROLL for (int a = 0; a < 4; ++a)
        SM_UNROLL for (int b = a + 1; b < 4; ++b) {
            const int c = a ? 0 : b == 1 ? 2 : 1, e = 6 - a - b - c;  // the other two, c < e
            const V up = T[a] * T[4 + b], down = T[b] * T[4 + a], rest_up = T[8 + c] * T[12 + e], rest_down = T[8 + e] * T[12 + c];
            const V product = max(up, down) * max(rest_up, rest_down);
            const V first = select(up < down, V(F(b + 4 * a)), V(F(a + 4 * b)));
            const V second = select(rest_up < rest_down, V(F(e + 4 * c)), V(F(c + 4 * e)));
            if (a + b == 1) {
                most = product, upper = first, lower = second;
            } else {
                const Mask<V> more = product > most;
                most = max(product, most);
                upper = select(more, first, upper);
                lower = select(more, second, lower);
            }
        }
    column[1] = round_even(upper * F(0.25) - F(0.375));
    column[0] = upper - column[1] * F(4);
    column[3] = round_even(lower * F(0.25) - F(0.375));
    column[2] = lower - column[3] * F(4);
}

// The same for one matrix of any n: a matching through entries of at least t, with t halved from 1 / n until there is one. With sums next to
// one there is by t = 4 / (n + 1)^2; where there is none by t = 2^-60, the rows stay as they are.
template <class V>
SM_RARE void match_large(const V* T, V* column, int n, int at) {
    Bipartite<0> graph;
    graph.n = n;
    for (double t = 1. / n; t > 1e-18; t /= 2) {
        for (int i = 0; i < n; ++i) {
            graph.rows[i] = 0;
            for (int j = 0; j < n; ++j) graph.rows[i] |= uint64_t(lane(T[i * n + j], at) >= t) << j;
        }
        if (!graph.match()) continue;
        for (int j = 0; j < n; ++j) set_lane(column[graph.owner[j]], at, Scalar<V>(j));
        return;
    }
}

// ------------------------------------------------------------------------------------------------------- rows put in order
template <class V>
SM_FN void swap_where(Mask<V> m, V& a, V& b) {
    const V x = a;
    a = select(m, b, a);
    b = select(m, x, b);
}

// Sorts rows of the matrices T and, when given, R and the column `with`, by their keys; every matrix by itself
template <int N, class V>
SM_FN void sort_rows(V* key, V* with, V* T, V* R, int n_) {
    const int n = size<N>(n_);
    const auto order = [&](int a, int b) __attribute__((always_inline)) {
        const Mask<V> m = key[a] > key[b];
        swap_where(m, key[a], key[b]);
        if (with) swap_where(m, with[a], with[b]);
        SM_UNROLL for (int j = 0; j < n; ++j) swap_where(m, T[a * n + j], T[b * n + j]);
        if (R) SM_UNROLL for (int j = 0; j < n; ++j) swap_where(m, R[a * n + j], R[b * n + j]);
    };
    if constexpr (N == 4) {
        order(0, 1), order(2, 3), order(0, 2), order(1, 3), order(1, 2);
    } else {
        for (int a = 0; a < n; ++a)
            for (int b = a + 1; b < n; ++b) order(a, b);
    }
}

// In the matrices `where` some T_jj is small: brings rows to the columns they belong to; `origin` (which row of the logits each is) goes
// along, and R with it.
template <int N, class V>
SM_RARE void match_rows(Mask<V> where, V* T, V* R, V* origin, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    V column[room<N>];
    for (int i = 0; i < n; ++i) column[i] = V(F(i));
    if constexpr (N > 0) {
        if constexpr (N == 4) match_best4(T, column);
        else match_best<N>(T, column);
        for (int i = 0; i < n; ++i) column[i] = select(where, column[i], V(F(i)));
    } else {
        const V flag = select(where, V(1), V(0));
        for (int at = 0; at < lanes<V>; ++at)
            if (lane(flag, at) != 0) match_large(T, column, n, at);
    }
    sort_rows<N>(column, origin, T, R, n);
}
template <int N, class V>
SM_RARE void restore_rows(V* origin, V* T, int n) {
    sort_rows<N>(origin, (V*)nullptr, T, (V*)nullptr, n);
}

}  // namespace streammix::SM_ISA
