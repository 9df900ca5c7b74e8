// A block of matrices between memory (one after the other, row-major) and registers (one matrix a lane: x[e] is entry e of all of
// them). 16-bit floats are converted in the registers.
//
// Vectors are taken as 16-byte parts of L numbers. L entries of W matrices are read part by part, so that register k holds
// those of the matrices k, L + k, 2 L + k, ...; an L x L transpose within every part then puts matrix m into lane m.
#pragma once

#include "simd/traffic.h"

namespace streammix::SM_ISA {

// ------------------------------------------------------------------------------------------------- a register from its parts
template <class F>
inline constexpr int part = 16 / sizeof(F);  // L

template <int from, class T, int... i>
SM_FN auto cut(T x, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(x, x, (from + i)...);
}

// n numbers, their parts from `at(b)`, `at(b + 1)`, ... The inserts of AVX and AVX-512 read memory without a shuffle.
template <class F, int n, class Address>
SM_FN typename VectorOf<F, n>::type gather_parts(Address at, int b) {
    using Vector = typename VectorOf<F, n>::type;
    constexpr int L = part<F>;
#if defined(SM_X86)
    [[maybe_unused]] const auto read = [&](int i) __attribute__((always_inline)) { return _mm_loadu_ps(reinterpret_cast<const float*>(at(b + i))); };
#if defined(__AVX512F__)
    if constexpr (n == 4 * L) {
        __m512 x = _mm512_castps128_ps512(read(0));
        x = _mm512_insertf32x4(x, read(1), 1);
        x = _mm512_insertf32x4(x, read(2), 2);
        return (Vector)_mm512_insertf32x4(x, read(3), 3);
    }
#endif
#if defined(__AVX__)
    if constexpr (n == 2 * L) return (Vector)_mm256_insertf128_ps(_mm256_castps128_ps256(read(0)), read(1), 1);
#endif
#endif
    if constexpr (n == L) {
        Vector x;
        memcpy(&x, at(b), 16);
        return x;
    } else {
        return join(gather_parts<F, n / 2>(at, b), gather_parts<F, n / 2>(at, b + n / 2 / L), Indices<n>());
    }
}
template <class F, int W, class Memory, class Address>
SM_FN Simd<F, W> load_parts(Address at) {
    if constexpr (sizeof(Memory) == 2) {
        typename VectorOf<uint64_t, W / 4>::type p;
        // clang-format off: it loses the indentation
        SM_UNROLL for (int b = 0; b < W / 4; ++b) {
            uint64_t four;
            memcpy(&four, at(b), 8);
            p[b] = four;
        }
        // clang-format on
        return widen<W>(Memory(), (U16<W>)p);
    } else {
        return gather_parts<F, W>(at, 0);
    }
}

template <class F, int n, class Address, class Kept>
SM_FN void scatter_parts(typename VectorOf<F, n>::type x, Address at, Kept kept, int b) {
    constexpr int L = part<F>;
#if defined(SM_X86)
    [[maybe_unused]] const auto write = [&](__m128 y, int i) __attribute__((always_inline)) {
        if (kept(b + i)) _mm_storeu_ps(reinterpret_cast<float*>(at(b + i)), y);
    };
#if defined(__AVX512F__)
    if constexpr (n == 4 * L) {
        write(_mm512_castps512_ps128((__m512)x), 0);
        write(_mm512_extractf32x4_ps((__m512)x, 1), 1);
        write(_mm512_extractf32x4_ps((__m512)x, 2), 2);
        write(_mm512_extractf32x4_ps((__m512)x, 3), 3);
        return;
    }
#endif
#if defined(__AVX__)
    if constexpr (n == 2 * L) {
        write(_mm256_castps256_ps128((__m256)x), 0);
        write(_mm256_extractf128_ps((__m256)x, 1), 1);
        return;
    }
#endif
#endif
    if constexpr (n == L) {
        if (kept(b)) memcpy(at(b), &x, 16);
    } else {
        scatter_parts<F, n / 2>(cut<0>(x, Indices<n / 2>()), at, kept, b);
        scatter_parts<F, n / 2>(cut<n / 2>(x, Indices<n / 2>()), at, kept, b + n / 2 / L);
    }
}
// The parts b with kept(b) to `at(b)`
template <class Memory, class F, int W, class Address, class Kept>
SM_FN void store_parts(Simd<F, W> x, Address at, Kept kept) {
    if constexpr (sizeof(Memory) == 2) {
        const auto p = (typename VectorOf<uint64_t, W / 4>::type)narrow<W>(Memory(), x.v);
        SM_UNROLL for (int b = 0; b < W / 4; ++b) {
            const uint64_t four = p[b];
            if (kept(b)) memcpy(at(b), &four, 8);
        }
    } else {
        scatter_parts<F, W>(x.v, at, kept, 0);
    }
}

// ------------------------------------------------------------------------------------------------------- L x L in every part
// The blocks of h lanes off the diagonal change places.
template <int h, class F, int W, int... i>
SM_FN void exchange(Simd<F, W>& a, Simd<F, W>& b, std::integer_sequence<int, i...>) {
    const auto low = __builtin_shufflevector(a.v, b.v, (i & h ? W + i - h : i)...);
    const auto high = __builtin_shufflevector(a.v, b.v, (i & h ? W + i : i + h)...);
    a.v = low;
    b.v = high;
}
// Among registers whose numbers differ in the bits h, h / 2, .., 1
template <int h, class F, int W>
SM_FN void transpose(Simd<F, W>* x, int count) {
    SM_UNROLL16 for (int i = 0; i < count; ++i)
        if (!(i & h)) exchange<h>(x[i], x[i + h], Indices<W>());
    if constexpr (h > 1) transpose<h / 2>(x, count);
}

// ----------------------------------------------------------------------------------------------------------- whole blocks
template <class F, int W>
SM_FN Simd<F, W>& single(Simd<F, W>& x, int) {
    return x;
}
template <class V>
SM_FN V& single(Pair<V>& x, int which) {
    return which ? x.b : x.a;
}

// f(first) for every group of L entries; the last overlaps the one before when L does not divide their number
template <int L, class Function>
SM_FN void for_each_group(int entries, Function f) {
    for (int e = 0; e < entries; e += L) f(e + L <= entries ? e : entries - L);
}

template <bool full, class V, class Memory>
SM_FN void load_groups(const Memory* p, int count, V* x, int entries) {
    using Single = typename LanesOf<V>::Single;
    using F = Scalar<V>;
    constexpr int W = lanes<Single>, L = part<F>;
    for (int s = 0; s < lanes<V> / W; ++s)
        for_each_group<L>(entries, [&](int first) {
            Single r[L];
            SM_UNROLL for (int k = 0; k < L; ++k)
                r[k] = load_parts<F, W, Memory>([&](int b) {
                    const int m = s * W + b * L + k;
                    return p + int64_t(full || m < count ? m : count - 1) * entries + first;
                });
            transpose<L / 2>(r, L);
            SM_UNROLL for (int k = 0; k < L; ++k) single(x[first + k], s) = r[k];
        });
}
// Where W entries at a time make whole vectors of memory, those are written: wide stores are worth the longer transpose.
template <bool past_caches, class V, class Memory>
SM_FN void store_whole(Memory* p, V* x, int entries) {
    using Single = typename LanesOf<V>::Single;
    constexpr int W = lanes<Single>;
    for (int s = 0; s < lanes<V> / W; ++s)
        for (int first = 0; first < entries; first += W) {
            Single r[W];
            SM_UNROLL16 for (int k = 0; k < W; ++k) r[k] = single(x[first + k], s);
            transpose<W / 2>(r, W);
            SM_UNROLL16 for (int m = 0; m < W; ++m) {
                Memory* q = p + int64_t(s * W + m) * entries + first;
                if constexpr (past_caches)
                    store_past_caches(q, r[m]);
                else
                    store(q, r[m], All());
            }
        }
}
template <bool full, class V, class Memory>
SM_FN void store_groups(Memory* p, int count, V* x, int entries, bool past_caches = false) {
    using Single = typename LanesOf<V>::Single;
    using F = Scalar<V>;
    constexpr int W = lanes<Single>, L = part<F>;
    if (full && entries % W == 0) return past_caches ? store_whole<true>(p, x, entries) : store_whole<false>(p, x, entries);
    for (int s = 0; s < lanes<V> / W; ++s)
        for_each_group<L>(entries, [&](int first) {
            Single r[L];
            SM_UNROLL for (int k = 0; k < L; ++k) r[k] = single(x[first + k], s);
            transpose<L / 2>(r, L);
            SM_UNROLL for (int k = 0; k < L; ++k)
                store_parts<Memory>(r[k], [&](int b) { return p + int64_t(s * W + b * L + k) * entries + first; },
                                    [&](int b) { return full || s * W + b * L + k < count; });
        });
}

// x <- `count` matrices of `entries` numbers (known at compile time when known > 0), count <= lanes; the lanes left over repeat the last.
template <int known, class V, class Memory>
[[gnu::noinline]] void load_block(const Memory* p, int count, V* x, int entries) {
    constexpr int L = part<Scalar<V>>;
    if (known) entries = known;
    if (entries < L) {
        Memory padded[lanes<V> * L] = {};
        V y[L];
        for (int m = 0; m < count; ++m)
            for (int e = 0; e < entries; ++e) padded[m * L + e] = p[m * entries + e];
        load_groups<true>(padded, lanes<V>, y, L);
        for (int e = 0; e < entries; ++e) x[e] = y[e];
    } else if (count == lanes<V>) {
        load_groups<true>(p, count, x, entries);
    } else {
        load_groups<false>(p, count, x, entries);
    }
}
// The way back. past_caches: where whole vectors of memory are written, and p is aligned for them.
template <int known, class V, class Memory>
[[gnu::noinline]] void store_block(Memory* p, int count, V* x, int entries, bool past_caches) {
    constexpr int L = part<Scalar<V>>;
    if (known) entries = known;
    if (entries < L) {
        Memory padded[lanes<V> * L];
        V y[L];
        for (int e = 0; e < L; ++e) y[e] = x[e < entries ? e : 0];
        store_groups<true>(padded, lanes<V>, y, L);
        for (int m = 0; m < count; ++m)
            for (int e = 0; e < entries; ++e) p[m * entries + e] = padded[m * L + e];
    } else if (count == lanes<V>) {
        store_groups<true>(p, count, x, entries, past_caches);
    } else {
        store_groups<false>(p, count, x, entries);
    }
}

}  // namespace streammix::SM_ISA
