// W numbers a value, by the vector extensions of GCC and clang and the intrinsics that they lack.
#pragma once

#include "simd/scalar.h"

namespace streammix::SM_ISA {

template <class T, int W>
struct VectorOf {
    typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <class F, int W>
struct Bits {
    using Ints = typename VectorOf<typename Format<F>::Int, W>::type;
    Ints v;
    friend SM_FN Bits operator&(Bits a, Bits b) { return {a.v & b.v}; }
    friend SM_FN Bits operator|(Bits a, Bits b) { return {a.v | b.v}; }
    friend SM_FN Bits operator!(Bits a) { return {~a.v}; }
};
template <class F, int W>
struct Simd {
    using Vector = typename VectorOf<F, W>::type;
    using Ints = typename VectorOf<typename Format<F>::Int, W>::type;
    Vector v;

    Simd() = default;
    SM_FN Simd(Vector x) : v(x) {}
    SM_FN Simd(F x) : v(x - Vector{}) {}
    friend SM_FN Simd operator+(Simd a, Simd b) { return a.v + b.v; }
    friend SM_FN Simd operator-(Simd a, Simd b) { return a.v - b.v; }
    friend SM_FN Simd operator*(Simd a, Simd b) { return a.v * b.v; }
    friend SM_FN Simd operator/(Simd a, Simd b) { return a.v / b.v; }
    friend SM_FN Simd operator-(Simd a) { return -a.v; }
    SM_FN Simd& operator+=(Simd b) { return *this = *this + b; }
    SM_FN Simd& operator-=(Simd b) { return *this = *this - b; }
    SM_FN Simd& operator*=(Simd b) { return *this = *this * b; }
    friend SM_FN Bits<F, W> operator<(Simd a, Simd b) { return {a.v < b.v}; }
    friend SM_FN Bits<F, W> operator>(Simd a, Simd b) { return {a.v > b.v}; }
    friend SM_FN Simd select(Bits<F, W> m, Simd a, Simd b) { return m.v ? a.v : b.v; }
};
template <class F, int W>
struct ScalarOf<Simd<F, W>> {
    using type = F;
};
template <class F, int W>
struct MaskOf<Simd<F, W>> {
    using type = Bits<F, W>;
};

#define SM_TEMPLATE template <class F, int W>
#define SM_SIMD Simd<F, W>
SM_TEMPLATE SM_FN bool any(Bits<F, W> m) {
#if defined(__AVX512F__)
    if constexpr (W * sizeof(F) == 64) return _mm512_test_epi64_mask((__m512i)m.v, (__m512i)m.v) != 0;
#endif
#if defined(__AVX2__)
    if constexpr (W * sizeof(F) == 32) return _mm256_movemask_ps((__m256)m.v) != 0;
#endif
#if defined(SM_X86)
    if constexpr (W * sizeof(F) == 16) return _mm_movemask_ps((__m128)m.v) != 0;
#endif
    typename Format<F>::Int lanes = 0;
    for (int i = 0; i < W; ++i) lanes |= m.v[i];
    return lanes != 0;
}

SM_TEMPLATE SM_FN SM_SIMD abs(SM_SIMD x) {
    using T = SM_SIMD;
    constexpr auto sign = typename Format<F>::Int(1) << (8 * sizeof(F) - 1);
    return {(typename T::Vector)((typename T::Ints)x.v & ~sign)};
}

// a > b ? a : b; for a NaN in either, b, as the x86 instructions do
SM_TEMPLATE SM_FN SM_SIMD max(SM_SIMD a, SM_SIMD b) {
#if defined(__AVX512F__)
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 4) return {(typename SM_SIMD::Vector)_mm512_max_ps((__m512)a.v, (__m512)b.v)};
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 8) return {(typename SM_SIMD::Vector)_mm512_max_pd((__m512d)a.v, (__m512d)b.v)};
#endif
    return {a.v > b.v ? a.v : b.v};
}
// max(a, |b|) for a >= 0; a where b is NaN
SM_TEMPLATE SM_FN SM_SIMD max_abs(SM_SIMD a, SM_SIMD b) {
#if defined(__AVX512DQ__)
    constexpr int larger_magnitude_positive = 0b1011;
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 4)
        return {(typename SM_SIMD::Vector)_mm512_range_ps((__m512)a.v, (__m512)b.v, larger_magnitude_positive)};
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 8)
        return {(typename SM_SIMD::Vector)_mm512_range_pd((__m512d)a.v, (__m512d)b.v, larger_magnitude_positive)};
#endif
    return max(abs(b), a);
}
SM_TEMPLATE SM_FN SM_SIMD min(SM_SIMD a, SM_SIMD b) {
#if defined(__AVX512F__)
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 4) return {(typename SM_SIMD::Vector)_mm512_min_ps((__m512)a.v, (__m512)b.v)};
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 8) return {(typename SM_SIMD::Vector)_mm512_min_pd((__m512d)a.v, (__m512d)b.v)};
#endif
    return {a.v < b.v ? a.v : b.v};
}

SM_TEMPLATE SM_FN SM_SIMD sqrt(SM_SIMD x) {
    using T = typename SM_SIMD::Vector;
#if defined(__AVX512F__)
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 8) return {(T)_mm512_sqrt_pd((__m512d)x.v)};
#endif
#if defined(__AVX2__)
    if constexpr (W * sizeof(F) == 32 && sizeof(F) == 8) return {(T)_mm256_sqrt_pd((__m256d)x.v)};
#endif
#if defined(SM_X86)
    if constexpr (W * sizeof(F) == 16 && sizeof(F) == 8) return {(T)_mm_sqrt_pd((__m128d)x.v)};
#endif
    for (int i = 0; i < W; ++i) x.v[i] = sqrt(x.v[i]);
    return x;
}

// Good to 11 bits or more: for directions and starting points, which correct themselves.
SM_TEMPLATE SM_FN SM_SIMD rough_reciprocal(SM_SIMD x) {
    using T = typename SM_SIMD::Vector;
#if defined(__AVX512F__)
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 4) return {(T)_mm512_rcp14_ps((__m512)x.v)};
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 8) return {(T)_mm512_rcp14_pd((__m512d)x.v)};
#endif
#if defined(__AVX2__)
    if constexpr (W * sizeof(F) == 32 && sizeof(F) == 4) return {(T)_mm256_rcp_ps((__m256)x.v)};
#endif
#if defined(SM_X86)
    if constexpr (W * sizeof(F) == 16 && sizeof(F) == 4) return {(T)_mm_rcp_ps((__m128)x.v)};
#endif
    return F(1) / x;
}

// 1/x to half a unit in the last place and a little: a rough reciprocal r, its residual e = 1 - x r, then r (1 + e + e^2).
SM_TEMPLATE SM_FN SM_SIMD reciprocal(SM_SIMD x) {
#if defined(__AVX512F__)
    if constexpr (W * sizeof(F) == 64) {
        const SM_SIMD r = rough_reciprocal(x), e = F(1) - x * r;
        if constexpr (sizeof(F) == 4) return r + r * e;  // e < 2^-14
        const SM_SIMD r3 = r + r * (e + e * e);
        return r3 + r3 * (F(1) - x * r3);
    }
#endif
#if defined(__AVX2__) && defined(__FMA__)
    if constexpr (W * sizeof(F) == 32 && sizeof(F) == 4) {
        const SM_SIMD r = rough_reciprocal(x), e = F(1) - x * r;
        return r + r * (e + e * e);
    }
#endif
    return F(1) / x;
}

// |x| < 2^22 or 2^51
SM_TEMPLATE SM_FN SM_SIMD round_even(SM_SIMD x) {
    constexpr F magic = F(3) * F(typename Format<F>::Int(1) << (Format<F>::mantissa - 1));
    return (x + magic) - magic;
}
SM_TEMPLATE SM_FN SM_SIMD exponent(SM_SIMD x) {
    using T = SM_SIMD;
    const typename T::Ints e = ((typename T::Ints)x.v >> Format<F>::mantissa) & (2 * Format<F>::bias + 1);
    return {__builtin_convertvector(e - Format<F>::bias, typename T::Vector)};
}
SM_TEMPLATE SM_FN SM_SIMD power_of_two(SM_SIMD k) {
    using T = SM_SIMD;
    // k + magic holds k in its lowest bits: a conversion to integer that every instruction set has, for double too
    constexpr F magic = F(3) * F(typename Format<F>::Int(1) << (Format<F>::mantissa - 1));
    const typename T::Ints bits = (typename T::Ints)(k + (magic + F(Format<F>::bias))).v;
    return {(typename T::Vector)(bits << Format<F>::mantissa)};
}
SM_TEMPLATE SM_FN SM_SIMD times_power_of_two(SM_SIMD x, SM_SIMD k) {
#if defined(__AVX512F__)
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 4) return {(typename SM_SIMD::Vector)_mm512_scalef_ps((__m512)x.v, (__m512)k.v)};
    if constexpr (W * sizeof(F) == 64 && sizeof(F) == 8) return {(typename SM_SIMD::Vector)_mm512_scalef_pd((__m512d)x.v, (__m512d)k.v)};
#endif
    return x * power_of_two(k);
}
#undef SM_TEMPLATE
#undef SM_SIMD

template <class F, int W>
struct LanesOf<Simd<F, W>> {
    static constexpr int value = W;
    using Single = Simd<F, W>;
};
// One of them, for what happens to few
template <class F, int W>
SM_FN F lane(const Simd<F, W>& x, int i) {
    return x.v[i];
}
template <class F, int W>
SM_FN void set_lane(Simd<F, W>& x, int i, F value) {
    x.v[i] = value;
}

}  // namespace streammix::SM_ISA
