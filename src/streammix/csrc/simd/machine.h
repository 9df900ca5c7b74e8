// What the instruction set gives, and memory to work in.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include <new>

#include "simd/number.h"

namespace streammix::SM_ISA {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

// Subnormal intermediate results are zero, for speed: they are far below the accuracy of any result but those that KeepSubnormals
// is for.
class FlushSubnormals {
#if defined(SM_X86)
    unsigned saved = _mm_getcsr();

public:
    FlushSubnormals() { _mm_setcsr(saved | 0x8040); }
    ~FlushSubnormals() { _mm_setcsr(saved); }
#else
public:
    FlushSubnormals() {}
#endif
};

// Within the life of a FlushSubnormals: they are kept again, where their last bits decide a result. The arithmetic belongs in a function
// that is not inlined: the compiler moves it across the change of mode otherwise.
class KeepSubnormals {
#if defined(SM_X86)
    unsigned saved = _mm_getcsr();

public:
    KeepSubnormals() { _mm_setcsr(saved & ~0x8040u); }
    ~KeepSubnormals() { _mm_setcsr(saved); }
#else
public:
    KeepSubnormals() {}
#endif
};

// Room for `count` numbers, aligned
template <class V>
struct Scratch {
    V* p;
    explicit Scratch(int64_t count) : p(nullptr) {
        if (count && posix_memalign(reinterpret_cast<void**>(&p), alignof(V) < 64 ? 64 : alignof(V), count * sizeof(V))) throw std::bad_alloc();
    }
    Scratch(const Scratch&) = delete;
    ~Scratch() { free(p); }
};

// `N` numbers on the stack where N is a constant; else (N = 0) `count` on the heap, because a thread's stack may be small (128 KiB, say)
template <int N, class V>
struct Array {
    V x[N];
    explicit Array(int64_t) {}
    SM_FN V& operator[](int64_t i) { return x[i]; }
    SM_FN operator V*() { return x; }
};
template <class V>
struct Array<0, V> {
    Scratch<V> x;
    explicit Array(int64_t count) : x(count) {}
    SM_FN V& operator[](int64_t i) { return x.p[i]; }
    SM_FN operator V*() { return x.p; }
};

}  // namespace streammix::SM_ISA
