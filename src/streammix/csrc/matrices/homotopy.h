// Logits that range far, or are masked: the homotopy's levels.
//
// At level k the problem is that of R / 2^k. Its solution squared, rows normalised, is the start at level k - 1; but its errors double with it, and
// from `few` levels on the result has to be accurate for what it is formed from: the potentials b, doubled from level to level, and the logits.
//   - up to `many` levels, T is formed once, at the last one, and potentials of one number will do: their errors move the start a little;
//   - beyond, at every level, with potentials of three.
// -inf is a mask: its entry is zero at every level.
#pragma once

#include "matrices/matching.h"

namespace streammix::SM_ISA {

// R and b enter sums in these units, so that none overflows
template <class F>
inline constexpr F unit = 256;

// x[0] + x[1] + x[2], each the rest rounded: three times the digits. Logits of 1e9 or 1e30 may tie, and what then decides are potentials of order
// one beside sums of such logits.
template <class V>
struct Threefold {
    V x[3];
};
// a + b, rounded, and the error (Knuth, TAOCP 2, 4.2.2)
template <class V>
SM_FN V sum(V a, V b, V& error) {
    const V s = a + b, back = s - a;
    error = (a - (s - back)) + (b - back);
    return s;
}
template <class V>
SM_FN Threefold<V> sum(Threefold<V> a, V b) {
    V e0, e1, e2;
    V s0 = sum(a.x[0], b, e0), s1 = sum(a.x[1], e0, e1);
    s1 = sum(s1, a.x[2] + e1, e2);
    s0 = sum(s0, s1, s1);
    s1 = sum(s1, e2, e2);
    return {s0, s1, e2};
}

// e^(unit (x + error)), x <= 0, and zero where that is not normal: with log2 e too in two parts, so that with FMA no digit is lost to a large x
template <class V>
SM_FN V exp_of_units(V x, V error) {
    using F = Scalar<V>;
    constexpr F least = (sizeof(F) == 4 ? F(-87) : F(-708)) / unit<F>;
    const Mask<V> nothing = x < V(least);
    x = select(nothing, V(0), x);
    error = select(nothing, V(0), error);
    constexpr F log2_e = F(1.4426950408889634);
    constexpr F rest = F(1.4426950408889634 - double(log2_e) + 2.0355273740931033e-17);
    const V scaled = x * unit<F>, k = round_even(scaled * log2_e);
    return select(nothing, V(0), times_power_of_two(exp2((scaled * log2_e - k) + (scaled * rest + error * (unit<F> * log2_e)), V(1)), k));
}

// T = row-softmax(R / 2^k + b) in the matrices `where`; b in units of 256. Of R and b that are known, nothing but the results is rounded:
// x_ij = R_ij / 2^k + b_j, and its difference to the row's largest, come with their errors. T has N rows, or where n is known at run time
// m_ of them.
template <int N, class V>
SM_APART void form(const V* R, V k, const V* b, Mask<V> where, V* T, int n_, int m_) {
    using F = Scalar<V>;
    const int n = size<N>(n_), m = size<N>(m_);
    const V least(-Format<F>::max), none(F(0));
    for (int i = 0; i < m; ++i) {
        V x[room<N>], rest[room<N>];
        V top = least, total = none;
        for (int j = 0; j < n; ++j) {
            const Mask<V> masked = R[i * n + j] < least;
            const V r = times_power_of_two(select(masked, none, R[i * n + j]) * (1 / unit<F>), -k);
            x[j] = select(masked, least, sum(r, b[j], rest[j]));
            top = max(x[j], top);
        }
        for (int j = 0; j < n; ++j) {
            V error;
            const V below = sum(x[j], -top, error);
            x[j] = exp_of_units(below, error + rest[j]);
            total += x[j];
        }
        const V r = reciprocal(total);
        for (int j = 0; j < n; ++j) T[i * n + j] = select(where, x[j] * r, T[i * n + j]);
    }
}

// The same with threefold potentials, which takes four times as long
template <int N, class V>
SM_APART void form(const V* R, V k, const Threefold<V>* b, Mask<V> where, V* T, int n_, int m_) {
    using F = Scalar<V>;
    const int n = size<N>(n_), m = size<N>(m_);
    const V least(-Format<F>::max), none(F(0));
    for (int i = 0; i < m; ++i) {
        Threefold<V> x[room<N>];
        // the greatest by the first part, of those equal in it by the second, and so on
        V top = least, second = least, third = least;
        for (int j = 0; j < n; ++j) {
            const Mask<V> masked = R[i * n + j] < least;
            x[j] = sum(b[j], times_power_of_two(select(masked, none, R[i * n + j]) * (1 / unit<F>), -k));
            x[j].x[0] = select(masked, least, x[j].x[0]);
            top = max(x[j].x[0], top);
        }
        for (int j = 0; j < n; ++j) second = max(select(x[j].x[0] < top, least, x[j].x[1]), second);
        for (int j = 0; j < n; ++j) third = max(select((x[j].x[0] < top) | (x[j].x[1] < second), least, x[j].x[2]), third);
        V total = none;
        for (int j = 0; j < n; ++j) {
            const Threefold<V> difference = sum(sum(sum(x[j], -top), -second), -third);
            V error;
            const V below = sum(difference.x[0], difference.x[1], error);
            x[j].x[0] = exp_of_units(below, error);
            total += x[j].x[0];
        }
        const V r = reciprocal(total);
        for (int j = 0; j < n; ++j) T[i * n + j] = select(where, x[j].x[0] * r, T[i * n + j]);
    }
}

// Of matrices with -inf among their logits, those whose mask no doubly stochastic matrix has; as 1
template <int N, class V>
SM_RARE V not_supported(const V* R, V masked, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    V result = V(0);
    for (int at = 0; at < lanes<V>; ++at) {
        if (lane(masked, at) == 0) continue;
        Bipartite<N> allowed;
        allowed.n = n;
        for (int i = 0; i < n; ++i) {
            allowed.rows[i] = 0;
            for (int j = 0; j < n; ++j) allowed.rows[i] |= uint64_t(lane(R[i * n + j], at) >= -Format<F>::max) << j;
        }
        if (!allowed.total_support()) set_lane(result, at, F(1));
    }
    return result;
}

// For the `far` matrices: k, the smallest for which no row of R / 2^k ranges over more than `reach` (masked logits left out); T at that level;
// NaN where there is no solution.
template <int N, class V>
SM_APART void first_level(const V* R, V& k, Mask<V> far, Scalar<V> reach, V* T, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    const V most = V(Format<F>::max), none = V(0);
    constexpr F scale = 1 / unit<F>;
    V masked = none, poison = none, spread = none;
    for (int i = 0; i < n; ++i) {
        V low = most, high = -most;
        for (int j = 0; j < n; ++j) {
            const V r = R[i * n + j];
            const Mask<V> out = r < -most;
            poison += select(out, none, r) * F(0);
            masked = select(out, V(1), masked);
            low = min(select(out, most, r), low);
            high = max(r, high);
        }
        spread = max(high * scale - low * scale, spread);
    }
    masked = select(far, masked, none);
    if (any(none < masked)) poison += select(none < not_supported<N>(R, masked, n), most + most, none) * F(0);
    const V level = max(exponent(spread * (unit<F> / reach)) + F(1), none);
    V b[room<N>];
    for (int j = 0; j < n; ++j) b[j] = none;
    form<N>(R, level, b, far, T, n, n);
    for (int e = 0; e < n * n; ++e) T[e] += select(far, poison, none);
    const Mask<V> solvable = poison < V(1);  // else NaN
    k = select(far, select(solvable, level, none), k);
}

// Potentials log v in units of 256, and the forming of T from them
template <int N, class V>
class Potentials {
    V one[room<N>];             // of matrices with some levels,
    Threefold<V> three[room<N>];  // and of those with many
    Mask<V> many;
    bool any_many;

public:
    SM_RARE void begin(const V* v, Mask<V> many_levels, int n_) {
        const int n = size<N>(n_);
        many = many_levels;
        any_many = any(many);
        for (int j = 0; j < n; ++j) {
            one[j] = log(v[j]) * (1 / unit<Scalar<V>>);
            three[j] = {one[j], V(0), V(0)};
        }
    }
    // After T_ij *= e^(d_j)
    SM_FN void step(const V* d, int n_) {
        const int n = size<N>(n_);
        for (int j = 0; j < n; ++j) one[j] += d[j] * (1 / unit<Scalar<V>>);
        if (any_many) step_three(d, n);
    }
    // Those T that are formed on the way from level k + 1 to k
    SM_FN Mask<V> forms(V k) const { return many | (k < Scalar<V>(1)); }

    // On from level k + 1 to k in the matrices `where`: potentials are doubled, and then less `less` where that is given; forms T (of m_ rows) of
    // those that `formed` says. connected(j, l): as 1, whether T couples columns j and l.
    template <class Connected>
    SM_FN void descend(const V* R, V k, Mask<V> where, Mask<V> formed, V* T, int n_, int m_, Connected connected, const V* less = nullptr) {
        using F = Scalar<V>;
        const int n = size<N>(n_), m = size<N>(m_);
        for (int j = 0; j < n; ++j) one[j] = select(where, one[j] * F(2) - (less ? less[j] * (1 / unit<F>) : V(0)), one[j]);
        if (any(formed & !many)) form<N>(R, k, one, formed & !many, T, n, m);
        if (!any_many) return;
        ground(where & many, n, connected);
        for (int j = 0; j < n; ++j) {
            for (V& part : three[j].x) part = select(where, part * F(2), part);
            if (less) three[j] = sum(three[j], select(where, less[j] * (-1 / unit<F>), V(0)));
        }
        if (any(formed & many)) form<N>(R, k, three, formed & many, T, n, m);
    }

private:
    SM_APART void step_three(const V* d, int n) {
        for (int j = 0; j < n; ++j) three[j] = sum(three[j], d[j] * (1 / unit<Scalar<V>>));
    }

    static constexpr Scalar<V> far_off = 1 << 16;

    // Columns that are no longer coupled keep their distance, and what it is does not matter to the digit: so every group of coupled columns is
    // shifted to where its first one has a potential of one number. Else the digits of that distance, which doubles from level to level, would
    // take the place of those that decide within the group.
    template <class Connected>
    SM_FN void ground(Mask<V> where, int n_, Connected connected) {
        V most = V(0);
        for (int j = 0; j < size<N>(n_); ++j) most = max(abs(three[j].x[0]), most);
        where = where & (most > far_off);
        if (any(where)) shift_groups(where, n_, connected);
    }
    template <class Connected>
    SM_APART void shift_groups(Mask<V> where, int n_, Connected connected) {
        using F = Scalar<V>;
        const int n = size<N>(n_);
        V first[room<N>], rest1[room<N>], rest2[room<N>];
        for (int j = 0; j < n; ++j) first[j] = V(F(j));
        for (int round = 0; round < n; ++round)
            for (int j = 0; j < n; ++j)
                for (int l = 0; l < n; ++l)
                    if (l != j) first[j] = select(connected(j, l) > F(0.5), min(first[l], first[j]), first[j]);
        for (int j = 0; j < n; ++j) {
            rest1[j] = rest2[j] = V(0);
            for (int l = 0; l < n; ++l) {
                const Mask<V> here = abs(first[j] - F(l)) < F(0.5);
                rest1[j] = select(here & (abs(three[l].x[0]) > far_off), three[l].x[1], rest1[j]);
                rest2[j] = select(here & (abs(three[l].x[0]) > far_off), three[l].x[2], rest2[j]);
            }
        }
        for (int j = 0; j < n; ++j) {
            const Threefold<V> shifted = sum(sum(three[j], -rest1[j]), -rest2[j]);
            for (int part = 0; part < 3; ++part) three[j].x[part] = select(where, shifted.x[part], three[j].x[part]);
        }
    }
};

}  // namespace streammix::SM_ISA
