// From a batch in memory to blocks of matrices in lanes, and back.
#pragma once

#include "kernels.h"
#include "machine.h"
#include "project.h"
#include "project_backward.h"
#include "sinkhorn.h"
#include "transpose.h"

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
[[gnu::noinline]] void project_block(V* T, V* work, int n, Scalar<V> tol) {
    if constexpr (N == 2) {
        project2(T);
    } else if constexpr (N > 0) {
        V w[N * N];
        project<N>(T, w, n, tol);
    } else if (n == 1) {
        T[0] = V(1) + T[0] * V(0);
    } else {
        project<N>(T, work, n, tol);
    }
}
template <int N, class V>
[[gnu::noinline]] void project_backward_block(const V* T, V* G, V* work, int n) {
    if constexpr (N > 0) {
        V w[N * N];
        project_backward<N>(T, G, w, n);
    } else {
        project_backward<N>(T, G, work, n);
    }
}
template <int N, bool guarded, class V>
[[gnu::noinline]] void sinkhorn_block(V* R, int n, int rounds, const SinkhornRule& rule) {
    sinkhorn<N, guarded>(R, n, rounds, rule);
}
template <int N, bool guarded, class V>
[[gnu::noinline]] void sinkhorn_backward_block(V* R, V* G, History<V> history, int n, int rounds, const SinkhornRule& rule) {
    sinkhorn_backward<N, guarded>(R, G, history, n, rounds, rule);
}

// The block's matrices: on the stack when n is a constant
template <int N, class V>
struct Block {
    V x[N * N];
    explicit Block(int) {}
    operator V*() { return x; }
};
template <class V>
struct Block<0, V> {
    Scratch<V> x;
    explicit Block(int n) : x(n * n) {}
    operator V*() { return x.p; }
};

// f(first matrix, how many) for every block of [begin, end)
template <class V, class Function>
SM_FN void for_each_block(int64_t begin, int64_t end, Function f) {
    const FlushSubnormals flush;
    for (int64_t b = begin; b < end; b += lanes<V>) f(b, int(end - b < lanes<V> ? end - b : lanes<V>));
}

template <int N, class V, class Memory>
void project_range(const Memory* logits, Memory* T, int64_t begin, int64_t end, int n, double tol) {
    const int entries = size<N>(n) * size<N>(n);
    const auto bound = tolerance<Scalar<V>>(tol, n);
    Block<N, V> x(n);
    Scratch<V> work(N ? 0 : entries);
    for_each_block<V>(begin, end, [&](int64_t b, int count) {
        load_block<N == 4 ? 16 : 0>(logits + b * entries, count, (V*)x, entries);
        project_block<N>((V*)x, work.p, n, bound);
        store_block<N == 4 ? 16 : 0>(T + b * entries, count, (V*)x, entries);
    });
}
template <int N, class V, class Memory>
void project_backward_range(const Memory* grad, const Memory* T, Memory* out, int64_t begin, int64_t end, int n) {
    const int entries = size<N>(n) * size<N>(n);
    Block<N, V> x(n), G(n);
    Scratch<V> work(N ? 0 : entries);
    for_each_block<V>(begin, end, [&](int64_t b, int count) {
        load_block<N == 4 ? 16 : 0>(T + b * entries, count, (V*)x, entries);
        load_block<N == 4 ? 16 : 0>(grad + b * entries, count, (V*)G, entries);
        project_backward_block<N>((V*)x, (V*)G, work.p, n);
        store_block<N == 4 ? 16 : 0>(out + b * entries, count, (V*)G, entries);
    });
}
template <int N, class V, class Memory>
void sinkhorn_range(const Memory* logits, Memory* M, int64_t begin, int64_t end, int n, int rounds, Recipe recipe) {
    const int entries = size<N>(n) * size<N>(n);
    const SinkhornRule& rule = sinkhorn_rules[int(recipe)];
    Block<N, V> x(n);
    for_each_block<V>(begin, end, [&](int64_t b, int count) {
        load_block<N == 4 ? 16 : 0>(logits + b * entries, count, (V*)x, entries);
        if (rule.eps > 0 || rule.floor > 0)
            sinkhorn_block<N, true>((V*)x, n, rounds, rule);
        else
            sinkhorn_block<N, false>((V*)x, n, rounds, rule);
        store_block<N == 4 ? 16 : 0>(M + b * entries, count, (V*)x, entries);
    });
}
template <int N, class V, class Memory>
void sinkhorn_backward_range(const Memory* grad, const Memory* logits, Memory* out, int64_t begin, int64_t end, int n, int rounds, Recipe recipe) {
    const int entries = size<N>(n) * size<N>(n);
    const SinkhornRule& rule = sinkhorn_rules[int(recipe)];
    Block<N, V> x(n), G(n);
    Scratch<V> memory(sinkhorn_history(n, rounds));
    const History<V> history(memory.p, n, rounds);
    for_each_block<V>(begin, end, [&](int64_t b, int count) {
        load_block<N == 4 ? 16 : 0>(logits + b * entries, count, (V*)x, entries);
        load_block<N == 4 ? 16 : 0>(grad + b * entries, count, (V*)G, entries);
        if (rule.eps > 0 || rule.floor > 0)
            sinkhorn_backward_block<N, true>((V*)x, (V*)G, history, n, rounds, rule);
        else
            sinkhorn_backward_block<N, false>((V*)x, (V*)G, history, n, rounds, rule);
        store_block<N == 4 ? 16 : 0>(out + b * entries, count, (V*)G, entries);
    });
}

// ------------------------------------------------------------------------------------------------- run-time type and size
template <class F, class M>
struct Types {
    using Compute = F;
    using Memory = M;
};

template <int... N>
struct Sizes {};

// f.operator()<N, V, Memory>() for the dtype and n at hand; N = 0 when n is not among the sizes compiled as constants
template <int... N, class Function>
SM_FN void specialise(Sizes<N...>, DType dtype, int n, Function f) {
    const auto by_n = [&]<class F, class Memory>(Types<F, Memory>) {
        const bool found = ((n == N && (f.template operator()<N, Number<F, N>, Memory>(), true)) || ...);
        if (!found) f.template operator()<0, Number<F, 0>, Memory>();
    };
    switch (dtype) {
        case DType::float32: return by_n(Types<float, float>());
        case DType::float64: return by_n(Types<double, double>());
        case DType::float16: return by_n(Types<float, Half>());
        case DType::bfloat16: return by_n(Types<float, BFloat16>());
    }
}
// What is compiled as a constant; the sanitizers' build, which is slow to compile, does with fewer.
#ifndef SM_PROJECTION_SIZES
#define SM_PROJECTION_SIZES 2, 3, 4, 5, 6, 7, 8
#endif
using ProjectionSizes = Sizes<SM_PROJECTION_SIZES>;
#ifndef SM_SINKHORN_SIZES
#define SM_SINKHORN_SIZES 4
#endif
using SinkhornSizes = Sizes<SM_SINKHORN_SIZES>;

inline void project_any(DType dtype, const void* logits, void* T, int64_t begin, int64_t end, int n, double tol) {
    specialise(ProjectionSizes(), dtype, n, [&]<int N, class V, class M>() { project_range<N, V>((const M*)logits, (M*)T, begin, end, n, tol); });
}
inline void project_backward_any(DType dtype, const void* grad, const void* T, void* out, int64_t begin, int64_t end, int n) {
    specialise(ProjectionSizes(), dtype, n, [&]<int N, class V, class M>() {
        project_backward_range<N, V>((const M*)grad, (const M*)T, (M*)out, begin, end, n);
    });
}
inline void sinkhorn_any(DType dtype, const void* logits, void* M, int64_t begin, int64_t end, int n, int rounds, Recipe recipe) {
    specialise(SinkhornSizes(), dtype, n, [&]<int N, class V, class Mem>() {
        sinkhorn_range<N, V>((const Mem*)logits, (Mem*)M, begin, end, n, rounds, recipe);
    });
}
inline void sinkhorn_backward_any(DType dtype, const void* grad, const void* logits, void* out, int64_t begin, int64_t end, int n, int rounds, Recipe recipe) {
    specialise(SinkhornSizes(), dtype, n, [&]<int N, class V, class M>() {
        sinkhorn_backward_range<N, V>((const M*)grad, (const M*)logits, (M*)out, begin, end, n, rounds, recipe);
    });
}

}  // namespace streammix::SM_ISA
