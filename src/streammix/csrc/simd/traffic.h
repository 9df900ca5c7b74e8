// Vectors between registers and memory, 16-bit floats converted on the way; and what helps where the data is larger than the caches:
// stores past them, and lines asked for before they are needed.
#pragma once

#include <utility>

#include "simd/halves.h"

namespace streammix::SM_ISA {

template <int n>
using Indices = std::make_integer_sequence<int, n>;
template <class T, int... i>
SM_FN auto join(T low, T high, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(low, high, i...);
}

// How many of a vector's lanes there are: all of them, as a type, or a number.
struct All {};

template <class V, class M>
SM_FN V load(const M* p, All) {
    if constexpr (lanes<V> != lanes<typename LanesOf<V>::Single>) {
        using Single = typename LanesOf<V>::Single;
        return {load<Single>(p, All()), load<Single>(p + lanes<Single>, All())};
    } else if constexpr (sizeof(M) == 2) {
        U16<lanes<V>> h;
        memcpy(&h, p, sizeof h);
        return widen<lanes<V>>(M(), h);
    } else {
        V x;
        memcpy(&x.v, p, sizeof x.v);
        return x;
    }
}
template <class M, class F, int W>
SM_FN void store(M* p, Simd<F, W> x, All) {
    if constexpr (sizeof(M) == 2) {
        const auto h = narrow<W>(M(), x.v);
        memcpy(p, &h, sizeof h);
    } else {
        memcpy(p, &x.v, sizeof x.v);
    }
}
template <class M, class V>
SM_FN void store(M* p, Pair<V> x, All) {
    store(p, x.a, All());
    store(p + lanes<V>, x.b, All());
}

// ------------------------------------------------------------------------------------------------------ larger than caches
template <class Vector>
SM_FN void stream(void* p, Vector v) {
#if defined(__AVX512F__)
    if constexpr (sizeof v == 64) return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#endif
#if defined(__AVX__)
    if constexpr (sizeof v == 32) return _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#endif
#if defined(SM_X86)
    if constexpr (sizeof v == 16) return _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#endif
    memcpy(p, &v, sizeof v);
}
// A store past the caches: a line is then written without being read first. p is aligned to what is written.
template <class M, class F, int W>
SM_FN void store_past_caches(M* p, Simd<F, W> x) {
    if constexpr (sizeof(M) == 2) stream(p, narrow<W>(M(), x.v));
    else stream(p, x.v);
}
template <class M, class F, int W>
SM_FN void store_past_caches(M* p, Pair<Simd<F, W>> x) {
    if constexpr (sizeof(M) == 2) {
        stream(p, join(narrow<W>(M(), x.a.v), narrow<W>(M(), x.b.v), Indices<2 * W>()));
    } else {
        stream(p, x.a.v);
        stream(p + W, x.b.v);
    }
}
// Whether rows of `count` numbers from p on begin where such stores of V may
template <class V, class M>
SM_FN bool rows_are_aligned(const void* p, int64_t count) {
    return reinterpret_cast<uintptr_t>(p) % (lanes<V> * sizeof(M)) == 0 && count % lanes<V> == 0;
}
// What was stored past the caches is there for other threads.
SM_FN void finish_stores() {
#if defined(SM_X86)
    _mm_sfence();
#endif
}

// `count` numbers are asked for, into the cache of this level.
template <int level, class M>
SM_FN void prefetch(const M* p, int64_t count) {
    const char* line = reinterpret_cast<const char*>(p);
    for (int64_t i = 0; i < count * int64_t(sizeof(M)); i += 64) __builtin_prefetch(line + i, 0, 4 - level);
}

}  // namespace streammix::SM_ISA
