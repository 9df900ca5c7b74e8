// The number types the solver is written over: float and double, Simd<F, W> (W matrices side by side, one a lane)
// and Pair<V> (two independent numbers in one, so that their latencies overlap).
//
// Every type offers + - * /, comparisons giving a mask, and the functions at the end of each section:
//   select(mask, a, b)  any(mask)  abs  min  max  max_abs  sqrt  reciprocal  rough_reciprocal  exponent  power_of_two
//   times_power_of_two  round_even  exp  exp2  log
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define SM_FN __host__ __device__ __forceinline__
#define SM_UNROLL _Pragma("unroll")
#else
#define SM_FN inline __attribute__((always_inline))
#define SM_UNROLL _Pragma("GCC unroll 8")
#define SM_UNROLL16 _Pragma("GCC unroll 16")
#endif

#if !defined(__CUDACC__) && (defined(__x86_64__) || defined(_M_X64))
#define SM_X86 1
#include <immintrin.h>
#endif

// Each instruction set gets its own namespace: an inline function compiled for AVX-512 must never be the one the
// linker keeps for a machine without it.
#ifndef SM_ISA
#define SM_ISA scalar
#endif

namespace streammix::SM_ISA {

// ---------------------------------------------------------------------------------------------- floating-point format
template <class F>
struct Format;
template <>
struct Format<float> {
    using Int = int32_t;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float eps = 1.1920929e-7f, max = 3.40282347e38f;
};
template <>
struct Format<double> {
    using Int = int64_t;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double eps = 2.220446049250313e-16, max = 1.7976931348623157e308;
};

// ------------------------------------------------------------------------------------------------------------- scalars
template <class To, class From>
SM_FN To bit_cast(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

template <class V>
struct ScalarOf {
    using type = V;
};
template <class V>
using Scalar = typename ScalarOf<V>::type;

template <class V>
struct MaskOf {
    using type = bool;
};
template <class V>
using Mask = typename MaskOf<V>::type;

SM_FN bool any(bool m) { return m; }
#define SM_SCALAR(F)                                                                                              \
    SM_FN F select(bool m, F a, F b) { return m ? a : b; }                                                        \
    SM_FN F abs(F x) { return __builtin_fabs(x); }                                                                \
    SM_FN F min(F a, F b) { return a < b ? a : b; }                                                               \
    SM_FN F max(F a, F b) { return a > b ? a : b; }                                                               \
    SM_FN F max_abs(F a, F b) { return max(abs(b), a); }                                                          \
    SM_FN F sqrt(F x) { return __builtin_sqrt(x); }                                                               \
    SM_FN F reciprocal(F x) { return F(1) / x; }                                                                  \
    SM_FN F rough_reciprocal(F x) { return F(1) / x; }                                                            \
    SM_FN F round_even(F x) { return __builtin_rint(x); }                                                         \
    /* floor(log2 |x|) of a normal number, as a number */                                                         \
    SM_FN F exponent(F x) {                                                                                       \
        using I = Format<F>::Int;                                                                                 \
        return F(((bit_cast<I>(x) >> Format<F>::mantissa) & (2 * Format<F>::bias + 1)) - Format<F>::bias);        \
    }                                                                                                             \
    /* 2^k for an integral k with a normal result */                                                              \
    SM_FN F power_of_two(F k) {                                                                                   \
        using I = Format<F>::Int;                                                                                 \
        return bit_cast<F>((I(k) + Format<F>::bias) << Format<F>::mantissa);                                      \
    }                                                                                                             \
    SM_FN F times_power_of_two(F x, F k) { return x * power_of_two(k); }
SM_SCALAR(float)
SM_SCALAR(double)
#undef SM_SCALAR

// ---------------------------------------------------------------------------------------------- SIMD: W numbers a value
#ifndef __CUDACC__
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

// ------------------------------------------------------------------------------- two numbers in one, to overlap latencies
template <class M>
struct PairMask {
    M a, b;
    friend SM_FN PairMask operator&(PairMask x, PairMask y) { return {x.a & y.a, x.b & y.b}; }
    friend SM_FN PairMask operator|(PairMask x, PairMask y) { return {x.a | y.a, x.b | y.b}; }
    friend SM_FN PairMask operator!(PairMask x) { return {!x.a, !x.b}; }
    friend SM_FN bool any(PairMask m) { return any(m.a | m.b); }
};
template <class V>
struct Pair {
    V a, b;

    Pair() = default;
    SM_FN Pair(V x, V y) : a(x), b(y) {}
    SM_FN Pair(Scalar<V> x) : a(x), b(x) {}
    friend SM_FN Pair operator+(Pair x, Pair y) { return {x.a + y.a, x.b + y.b}; }
    friend SM_FN Pair operator-(Pair x, Pair y) { return {x.a - y.a, x.b - y.b}; }
    friend SM_FN Pair operator*(Pair x, Pair y) { return {x.a * y.a, x.b * y.b}; }
    friend SM_FN Pair operator/(Pair x, Pair y) { return {x.a / y.a, x.b / y.b}; }
    friend SM_FN Pair operator-(Pair x) { return {-x.a, -x.b}; }
    SM_FN Pair& operator+=(Pair y) { return *this = *this + y; }
    SM_FN Pair& operator-=(Pair y) { return *this = *this - y; }
    SM_FN Pair& operator*=(Pair y) { return *this = *this * y; }
    friend SM_FN PairMask<Mask<V>> operator<(Pair x, Pair y) { return {x.a < y.a, x.b < y.b}; }
    friend SM_FN PairMask<Mask<V>> operator>(Pair x, Pair y) { return {x.a > y.a, x.b > y.b}; }
    friend SM_FN Pair select(PairMask<Mask<V>> m, Pair x, Pair y) { return {select(m.a, x.a, y.a), select(m.b, x.b, y.b)}; }
    friend SM_FN Pair min(Pair x, Pair y) { return {min(x.a, y.a), min(x.b, y.b)}; }
    friend SM_FN Pair max(Pair x, Pair y) { return {max(x.a, y.a), max(x.b, y.b)}; }
    friend SM_FN Pair max_abs(Pair x, Pair y) { return {max_abs(x.a, y.a), max_abs(x.b, y.b)}; }
};
template <class V>
struct ScalarOf<Pair<V>> {
    using type = Scalar<V>;
};
template <class V>
struct MaskOf<Pair<V>> {
    using type = PairMask<Mask<V>>;
};

#define SM_PAIRED(f) \
    template <class V> SM_FN Pair<V> f(Pair<V> x) { return {f(x.a), f(x.b)}; }
SM_PAIRED(abs)
SM_PAIRED(sqrt)
SM_PAIRED(reciprocal)
SM_PAIRED(rough_reciprocal)
SM_PAIRED(round_even)
SM_PAIRED(exponent)
SM_PAIRED(power_of_two)
#undef SM_PAIRED
template <class V>
SM_FN Pair<V> times_power_of_two(Pair<V> x, Pair<V> k) {
    return {times_power_of_two(x.a, k.a), times_power_of_two(x.b, k.b)};
}

// How many numbers a value is
template <class V>
struct LanesOf;
template <class F, int W>
struct LanesOf<Simd<F, W>> {
    static constexpr int value = W;
    using Single = Simd<F, W>;
};
template <class V>
struct LanesOf<Pair<V>> {
    static constexpr int value = 2 * LanesOf<V>::value;
    using Single = V;
};
template <class V>
inline constexpr int lanes = LanesOf<V>::value;

// One of them, for what happens to few
template <class F, int W>
SM_FN F lane(const Simd<F, W>& x, int i) {
    return x.v[i];
}
template <class F, int W>
SM_FN void set_lane(Simd<F, W>& x, int i, F value) {
    x.v[i] = value;
}
template <class V>
SM_FN Scalar<V> lane(const Pair<V>& x, int i) {
    return i < LanesOf<V>::value ? lane(x.a, i) : lane(x.b, i - LanesOf<V>::value);
}
template <class V>
SM_FN void set_lane(Pair<V>& x, int i, Scalar<V> value) {
    i < LanesOf<V>::value ? set_lane(x.a, i, value) : set_lane(x.b, i - LanesOf<V>::value, value);
}
#endif  // __CUDACC__

// ---------------------------------------------------------------------------------------------------------- exponential
// e^x = 2^k e^r with k = round(x / log 2), r = x - k log 2 (log 2 in two parts), e^r its Taylor polynomial; about one unit in the last
// place. NaN stays NaN. Gives e^r and k.
template <class V>
SM_FN V exp_without_power(V x, V& k) {
    using F = Scalar<V>;
    k = round_even(x * F(1.4426950408889634));
    if constexpr (sizeof(F) == 4) {
        const V r = (x - k * F(0.693145751953125)) - k * F(1.42860682030941723212e-6);
        // minimax on |r| <= log(2)/2
        V p = F(1.3888889e-3) + r * F(1.984127e-4);
        p = F(8.3333333e-3) + r * p;
        p = F(4.1666668e-2) + r * p;
        p = F(1.6666667e-1) + r * p;
        p = F(0.5) + r * p;
        return F(1) + (r + r * r * p);
    } else {
        const V r = (x - k * F(6.93147180369123816490e-1)) - k * F(1.90821492927058770002e-10);
        V p = F(1.0 / 6227020800.0);
        constexpr F inverse_factorial[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5};
        SM_UNROLL for (int i = 0; i < 11; ++i) p = inverse_factorial[i] + r * p;
        return F(1) + (r + r * r * p);
    }
}
// e^x for |x| small enough that the result is normal
template <class V>
SM_FN V exp(V x) {
    V k;
    const V p = exp_without_power(x, k);
    return p * power_of_two(k);
}
// e^x for x <= 0, rounded once where it is subnormal, 0 where it is less than half the least of those
template <class V>
SM_FN V exp_gradual(V x) {
    using F = Scalar<V>;
    constexpr F zero = sizeof(F) == 4 ? -104 : -746;
    V k;
    const V p = exp_without_power(max(V(zero), x), k);
    const V half = round_even(k * F(0.5));  // 2^k itself may be subnormal
    return (p * power_of_two(half)) * power_of_two(k - half);
}

// 2^(x c) where that is normal: x c = k + r with an integral k, and 2^r by a polynomial. The error that grows with x is the constant's
// own, which is less than x was rounded by.
template <class V>
SM_FN V exp2(V x, V c) {
    using F = Scalar<V>;
    const V k = round_even(x * c), r = x * c - k;
    V p;
    if constexpr (sizeof(F) == 4) {
        // minimax on |r| <= 1/2, relative error 2e-9
        constexpr F coefficients[] = {1.33990031e-3, 9.61843878e-3, 5.55033199e-2, 2.40226477e-1, 6.93147182e-1, 1};
        p = V(F(1.53532586e-4));
        SM_UNROLL for (int i = 0; i < 6; ++i) p = coefficients[i] + r * p;
    } else {
        // (log 2)^i / i!, relative error 5e-18
        constexpr F coefficients[] = {2.5678435993488196e-11, 4.44553827187081e-10,   7.054911620801121e-9,  1.0178086009239696e-7, 1.3215486790144305e-6,
                                      1.5252733804059838e-5,  1.5403530393381606e-4,  1.3333558146428441e-3, 9.618129107628477e-3,  5.5504108664821576e-2,
                                      0.2402265069591007,     0.6931471805599453,     1};
        p = V(F(1.3691488853904124e-12));
        SM_UNROLL16 for (int i = 0; i < 13; ++i) p = coefficients[i] + r * p;
    }
    return times_power_of_two(p, k);
}

// log x of a normal number: that of the power of two, and a cubic for the rest, which is good to 1e-3; then, with x e^-y = 1 + e, y + log(1 + e)
template <class V>
SM_FN V log(V x) {
    using F = Scalar<V>;
    const V k = exponent(x), m = times_power_of_two(x, -k);
    const V y = (k + (F(-2.13623207) + m * (F(3.01116215) + m * (F(-1.02680491) + m * F(0.15270028))))) * F(0.6931471805599453);
    const V half = exp(y * F(-0.5)), e = x * half * half - F(1);
    return y + e * (F(1) - e * (F(0.5) - e * F(1. / 3)));
}

}  // namespace streammix::SM_ISA
