// From a batch in memory to blocks of matrices in lanes, and back.
#pragma once

#include <type_traits>

#include "simd/machine.h"
#include "matrices/birkhoff.h"
#include "matrices/birkhoff_backward.h"
#include "simd/specialise.h"
#include "matrices/sinkhorn_clamped.h"
#include "simd/transpose.h"

namespace streammix::SM_ISA {

// What the kernels for N compute with: two vectors at once while that hides latency more than it spills.
template <class F, int N>
struct NumberFor {
    using Single = Simd<F, vector_bytes / sizeof(F)>;
    using type = Single;
};
template <class F, int N>
    requires(N > 0 && N <= 4)
struct NumberFor<F, N> {
    using type = Pair<Simd<F, vector_bytes / sizeof(F)>>;
};
template <class F, int N>
using Number = typename NumberFor<F, N>::type;

// ---------------------------------------------------------------------------------- one block: noinline, so that every
// matrix goes through the same machine code, and gets the same bits, wherever it stands in its batch.
template <int N, class V>
[[gnu::noinline]] void birkhoff_block(V* R, V* work, int n, Scalar<V> small) {
    if constexpr (N == 2) {
        birkhoff2(R);
    } else if constexpr (N > 0) {
        V T[N * N], w[N * N];
        birkhoff<N>(R, T, w, n, small);
    } else if (n == 1) {
        R[0] = V(1) + R[0] * V(0);  // NaN where R is not finite
    } else {
        birkhoff<N>(R, work, work + n * n, n, small);
    }
}
template <int N, class V>
[[gnu::noinline]] void birkhoff_backward_block(const V* T, V* G, V* D, V* work, int n) {
    if constexpr (N > 0) {
        V w[N * N];
        birkhoff_backward<N>(T, G, D, w, n);
    } else if (n == 1) {
        D[0] = T[0] * V(0);
    } else {
        birkhoff_backward<N>(T, G, D, work, n);
    }
}
template <int N, bool added, class V>
[[gnu::noinline]] void sinkhorn_block(V* R, int n, int rounds, const SinkhornRule& rule) {
    sinkhorn<N, added>(R, n, rounds, rule);
}
template <int N, bool added, class V>
[[gnu::noinline]] void sinkhorn_backward_block(V* R, V* G, History<V> history, int n, int rounds, const SinkhornRule& rule) {
    sinkhorn_backward<N, added>(R, G, history, n, rounds, rule);
}
template <int N, class V>
[[gnu::noinline]] void sinkhorn_clamped_block(V* R, int n, int rounds, const SinkhornRule& rule) {
    sinkhorn_clamped<N>(R, n, rounds, rule);
}
template <int N, class V>
[[gnu::noinline]] void sinkhorn_clamped_backward_block(V* R, V* G, V* history, int n, int rounds, const SinkhornRule& rule) {
    sinkhorn_clamped_backward<N>(R, G, history, n, rounds, rule);
}

// Results = f(inputs), block by block: f(x) or f(x, y) changes its last argument into the result, or says where it is.
template <int N, class V, class Memory, class Function>
SM_FN void for_each_block(Matrices m, const Memory* first, const Memory* second, Memory* out, int64_t begin, int64_t end, Function f) {
    constexpr int known = N == 4 ? 16 : 0;
    const FlushSubnormals flush;
    const int entries = size<N>(m.n) * size<N>(m.n);
    const bool past_caches = m.large && rows_are_aligned<typename LanesOf<V>::Single, Memory>(out, entries);
    Array<N * N, V> x(entries), y(second ? entries : 0);
    for (int64_t b = begin; b < end; b += lanes<V>) {
        const int count = int(end - b < lanes<V> ? end - b : lanes<V>);
        const int64_t at = b * entries, next = at + lanes<V> * entries;
        load_block<known>(first + at, count, (V*)x, entries);
        if (second) load_block<known>(second + at, count, (V*)y, entries);
        if (N && m.large) {  // the next block comes while this one is worked on
            prefetch<1>(first + next, lanes<V> * entries);
            if (second) prefetch<1>(second + next, lanes<V> * entries);
        }
        V* result = second ? (V*)y : (V*)x;
        if constexpr (std::is_void_v<decltype(f((V*)x, (V*)y))>) f((V*)x, (V*)y);
        else result = f((V*)x, (V*)y);
        store_block<known>(out + at, count, result, entries, past_caches);
    }
    if (past_caches) finish_stores();
}

template <int N, class V, class Memory>
void birkhoff_range(Matrices m, const Memory* logits, Memory* T, int64_t begin, int64_t end, double tol) {
    const auto small = last_step<Scalar<V>>(tol, m.n);
    Scratch<V> work(N ? 0 : 2 * m.n * m.n);
    for_each_block<N, V, Memory>(m, logits, nullptr, T, begin, end, [&](V* x, V*) { birkhoff_block<N>(x, work.p, m.n, small); });
}
template <int N, class V, class Memory>
void birkhoff_backward_range(Matrices m, const Memory* grad, const Memory* T, Memory* out, int64_t begin, int64_t end) {
    Scratch<V> work(N ? 0 : m.n * m.n);
    Array<N * N, V> D(m.n * m.n);
    for_each_block<N, V>(m, T, grad, out, begin, end, [&](V* x, V* G) {
        birkhoff_backward_block<N>(x, G, (V*)D, work.p, m.n);
        return (V*)D;
    });
}
template <int N, class V, class Memory>
void sinkhorn_range(Matrices m, const Memory* logits, Memory* M, int64_t begin, int64_t end, int rounds, const SinkhornRule& rule) {
    const auto blocks = [&](auto f) { for_each_block<N, V, Memory>(m, logits, nullptr, M, begin, end, f); };
    switch (rule.start) {
        case Start::normalised: return blocks([&](V* x, V*) { sinkhorn_block<N, false>(x, m.n, rounds, rule); });
        case Start::softmax: return blocks([&](V* x, V*) { sinkhorn_block<N, true>(x, m.n, rounds, rule); });
        case Start::shifted:
            return blocks([&](V* x, V*) {
                const KeepSubnormals keep;
                sinkhorn_clamped_block<N>(x, m.n, rounds, rule);
            });
    }
}
template <int N, class V, class Memory>
void sinkhorn_backward_range(Matrices m, const Memory* grad, const Memory* logits, Memory* out, int64_t begin, int64_t end, int rounds,
                             const SinkhornRule& rule) {
    const bool clamped = rule.start == Start::shifted;
    Scratch<V> memory(clamped ? clamped_history(m.n, rounds) : scaled_history(m.n, rounds));
    const auto blocks = [&](auto f) { for_each_block<N, V>(m, logits, grad, out, begin, end, f); };
    if (clamped)
        return blocks([&](V* x, V* G) {
            const KeepSubnormals keep;
            sinkhorn_clamped_backward_block<N>(x, G, memory.p, m.n, rounds, rule);
        });
    const History<V> history(memory.p, m.n, rounds);
    blocks([&](V* x, V* G) {
        rule.start == Start::softmax ? sinkhorn_backward_block<N, true>(x, G, history, m.n, rounds, rule)
                                     : sinkhorn_backward_block<N, false>(x, G, history, m.n, rounds, rule);
    });
}

// ------------------------------------------------------------------------------------------------- run-time type and size
template <class Constants, class Function>
SM_FN void for_number(Constants constants, Matrices m, Function f) {
    specialise(constants, m.dtype, m.n, [&]<int N, class Memory>() { f.template operator()<N, Number<Computing<Memory>, N>, Memory>(); });
}
using ProjectionSizes = Sizes<SM_PROJECTION_SIZES>;
using SinkhornSizes = Sizes<SM_SINKHORN_SIZES>;

inline void birkhoff_any(Matrices m, const void* logits, void* T, int64_t begin, int64_t end, double tol) {
    for_number(ProjectionSizes(), m, [&]<int N, class V, class Memory>() { birkhoff_range<N, V>(m, (const Memory*)logits, (Memory*)T, begin, end, tol); });
}
inline void birkhoff_backward_any(Matrices m, const void* grad, const void* T, void* out, int64_t begin, int64_t end) {
    for_number(ProjectionSizes(), m,
               [&]<int N, class V, class Memory>() { birkhoff_backward_range<N, V>(m, (const Memory*)grad, (const Memory*)T, (Memory*)out, begin, end); });
}
inline void sinkhorn_any(Matrices m, const void* logits, void* M, int64_t begin, int64_t end, int rounds, const SinkhornRule& rule) {
    for_number(SinkhornSizes(), m,
               [&]<int N, class V, class Memory>() { sinkhorn_range<N, V>(m, (const Memory*)logits, (Memory*)M, begin, end, rounds, rule); });
}
inline void sinkhorn_backward_any(Matrices m, const void* grad, const void* logits, void* out, int64_t begin, int64_t end, int rounds,
                                  const SinkhornRule& rule) {
    for_number(SinkhornSizes(), m, [&]<int N, class V, class Memory>() {
        sinkhorn_backward_range<N, V>(m, (const Memory*)grad, (const Memory*)logits, (Memory*)out, begin, end, rounds, rule);
    });
}

}  // namespace streammix::SM_ISA
