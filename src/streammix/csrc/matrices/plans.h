// Batches of plans (m x n matrices with marginals) in memory, block by block: turned so that m >= n, scaled, projected, and turned back.
#pragma once

#include "matrices/batch.h"
#include "matrices/transport.h"
#include "matrices/transport_backward.h"

namespace streammix::SM_ISA {

// (rows, columns) -> (columns, rows)
template <class V>
SM_FN void turn(const V* x, V* y, int rows, int columns) {
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) y[j * rows + i] = x[i * columns + j];
}

// What `prepare` finds out
template <class V>
struct Prepared {
    V poison;    // NaN where there is no problem to solve, else 0
    V exponent;  // marginals have been divided by two to this power
    V least;     // sums of rows and columns that differ by less are alike
};

// Divides marginals by a power of two that brings their sums near one, and scales columns (high and low) to the sum of the rows. Where logits or
// marginals are out of range, or sums differ, a sound problem takes their place.
template <int N, class V>
SM_FN Prepared<V> prepare(V* R, V* rows, V* columns, V* columns_low, int m_, int n_) {
    using F = Scalar<V>;
    constexpr F alike = 1e-5, eps = Format<F>::eps;
    const int m = size<N>(m_), n = size<N>(n_);
    const V most(Format<F>::max), infinite = most + most, none(F(0));
    Mask<V> sound = none < most;
    V total = none, total_low = none, other = none, other_low = none;
    SM_UNROLL for (int i = 0; i < m; ++i) {
        sound = sound & (rows[i] > none);
        add_twofold(total, total_low, rows[i], none);
        V high = -infinite;
        SM_UNROLL for (int j = 0; j < n; ++j) {
            sound = sound & (R[i * n + j] < infinite);
            high = max(R[i * n + j], high);
        }
        sound = sound & (high > -infinite);
    }
    SM_UNROLL for (int j = 0; j < n; ++j) {
        sound = sound & (columns[j] > none);
        add_twofold(other, other_low, columns[j], none);
    }
    V difference = (total - other) + (total_low - other_low);
    sound = sound & (total < infinite) & (other < infinite) & !(abs(difference) > total * alike);
    if (any(!sound)) {
        for (int e = 0; e < m * n; ++e) R[e] = select(sound, R[e], none);
        for (int i = 0; i < m; ++i) rows[i] = select(sound, rows[i], V(F(1) / m));
        for (int j = 0; j < n; ++j) columns[j] = select(sound, columns[j], V(F(1) / n));
        total = select(sound, total, V(1));
        other = select(sound, other, V(1));
        difference = select(sound, difference, none);
    }
    const V power = max(V(F(1 - Format<F>::bias)), min(V(F(Format<F>::bias - 1)), exponent(total) + F(1))), scale = power_of_two(-power);
    const V share = difference * reciprocal(other);
    SM_UNROLL for (int i = 0; i < m; ++i) rows[i] *= scale;
    SM_UNROLL for (int j = 0; j < n; ++j) {
        columns[j] *= scale;
        const V more = columns[j] * share;
        columns[j] = sum(columns[j], more, columns_low[j]);
    }
    return {select(sound, none, infinite) * F(0), power, (abs(difference) * F(4) + total * (eps / 8)) * scale * eps};
}

// -------------------------------------------------------------------------------------------------------------- one block
// In: logits, rows (twofold: what is low is zero) and columns. Out: T in place of the logits.
template <int N, class V>
[[gnu::noinline]] void transport_block(V* R, V* rows, V* rows_low, V* columns, V* columns_low, V* work, int m, int n) {
    const Prepared<V> found = prepare<N>(R, rows, columns, columns_low, m, n);
    const V back = power_of_two(found.exponent);
    if (N || m >= n) {
        transport<N>(R, Marginals<V>{rows, rows_low, columns, columns_low, found.least}, work, m, n);
        for (int i = 0; i < size<N>(m); ++i) {
            const V mass = rows[i] * back + found.poison;
            SM_UNROLL for (int j = 0; j < size<N>(n); ++j) R[i * size<N>(n) + j] *= mass;
        }
    } else {
        V* const turned = work + 3 * m * n + 2 * m * m;
        turn(R, turned, m, n);
        transport<N>(turned, Marginals<V>{columns, columns_low, rows, rows_low, found.least}, work, n, m);
        for (int j = 0; j < n; ++j) {
            const V mass = columns[j] * back + found.poison;
            for (int i = 0; i < m; ++i) R[i * n + j] = turned[j * m + i] * mass;
        }
    }
}

// In: T and G, which is lost. Out: D, x and w, with sum_j c_j w_j = 0.
template <int N, class V>
[[gnu::noinline]] void transport_backward_block(const V* T, V* G, V* D, V* x, V* w, V* work, int m_, int n_) {
    const int m = size<N>(m_), n = size<N>(n_);
    if (N || m >= n) {
        transport_backward<N>(T, G, D, x, w, work, work + m * n, m, n);
    } else {
        V *turned_T = work + m * n + m * m, *turned_G = turned_T + m * n, *turned_D = turned_G + m * n;
        turn(T, turned_T, m, n);
        turn(G, turned_G, m, n);
        transport_backward<N>(turned_T, turned_G, turned_D, w, x, work, work + m * n, n, m);
        turn(turned_D, D, n, m);
    }
    V total = V(0), moment = V(0);
    for (int j = 0; j < n; ++j) {
        V c = T[j];
        for (int i = 1; i < m; ++i) c += T[i * n + j];
        total += c;
        moment += c * w[j];
    }
    const V shift = moment * reciprocal(total);
    for (int i = 0; i < m; ++i) x[i] += shift;
    for (int j = 0; j < n; ++j) w[j] -= shift;
}

// ---------------------------------------------------------------------------------------------------------------- batches
template <int N, class V, class Memory>
void transport_range(Plans p, const Memory* logits, const Memory* rows, const Memory* columns, Memory* T, int64_t begin, int64_t end) {
    const FlushSubnormals flush;
    const int m = size<N>(p.m), n = size<N>(p.n), least = m < n ? m : n;
    Array<N * N, V> R(m * n);
    Array<N, V> r(m), r_low(m), c(n), c_low(n);
    Array<5 * N * N, V> work(4 * m * n + 2 * least * least);
    for (int i = 0; i < m; ++i) r_low[i] = V(0);
    for (int64_t b = begin; b < end; b += lanes<V>) {
        const int count = int(end - b < lanes<V> ? end - b : lanes<V>);
        load_block<0>(logits + b * m * n, count, (V*)R, m * n);
        load_block<0>(rows + b * m, count, (V*)r, m);
        load_block<0>(columns + b * n, count, (V*)c, n);
        transport_block<N>((V*)R, (V*)r, (V*)r_low, (V*)c, (V*)c_low, (V*)work, m, n);
        store_block<0>(T + b * m * n, count, (V*)R, m * n, false);
    }
}
template <int N, class V, class Memory>
void transport_backward_range(Plans p, const Memory* grad, const Memory* T, Memory* out, Memory* rows, Memory* columns, int64_t begin, int64_t end) {
    const FlushSubnormals flush;
    const int m = size<N>(p.m), n = size<N>(p.n), least = m < n ? m : n;
    Array<N * N, V> G(m * n), t(m * n), D(m * n);
    Array<N, V> x(m), w(n);
    Array<2 * N * N, V> work(4 * m * n + least * least);
    for (int64_t b = begin; b < end; b += lanes<V>) {
        const int count = int(end - b < lanes<V> ? end - b : lanes<V>);
        load_block<0>(grad + b * m * n, count, (V*)G, m * n);
        load_block<0>(T + b * m * n, count, (V*)t, m * n);
        transport_backward_block<N>((V*)t, (V*)G, (V*)D, (V*)x, (V*)w, (V*)work, m, n);
        store_block<0>(out + b * m * n, count, (V*)D, m * n, false);
        store_block<0>(rows + b * m, count, (V*)x, m, false);
        store_block<0>(columns + b * n, count, (V*)w, n, false);
    }
}

// f.operator()<N, V, Memory>() for the dtype and size at hand; N = 0 unless m = n is among the sizes compiled as constants
template <int... N, class Function>
SM_FN void for_plan(Sizes<N...>, Plans p, Function f) {
    const auto by_size = [&]<class F>(F) {
        const bool found = ((p.m == N && p.n == N && (f.template operator()<N, Number<F, N>, F>(), true)) || ...);
        if (!found) f.template operator()<0, Number<F, 0>, F>();
    };
    p.dtype == DType::float64 ? by_size(double()) : by_size(float());
}
using TransportSizes = Sizes<SM_TRANSPORT_SIZES>;

inline void transport_any(Plans p, const void* logits, const void* rows, const void* columns, void* T, int64_t begin, int64_t end) {
    for_plan(TransportSizes(), p, [&]<int N, class V, class Memory>() {
        transport_range<N, V>(p, (const Memory*)logits, (const Memory*)rows, (const Memory*)columns, (Memory*)T, begin, end);
    });
}
inline void transport_backward_any(Plans p, const void* grad, const void* T, void* out, void* rows, void* columns, int64_t begin, int64_t end) {
    for_plan(TransportSizes(), p, [&]<int N, class V, class Memory>() {
        transport_backward_range<N, V>(p, (const Memory*)grad, (const Memory*)T, (Memory*)out, (Memory*)rows, (Memory*)columns, begin, end);
    });
}

}  // namespace streammix::SM_ISA
