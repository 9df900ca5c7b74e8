// One number: float and double.
#pragma once

#include <stdint.h>
#include <string.h>

#include "simd/target.h"
#ifdef __CUDACC__
#include "cuda/special.h"
#endif

namespace streammix::SM_ISA {

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

// How many numbers a value is
template <class V>
struct LanesOf {
    static constexpr int value = 1;
    using Single = V;
};
template <class V>
inline constexpr int lanes = LanesOf<V>::value;

SM_FN bool any(bool m) { return m; }
SM_FN double inverse(double x) { return 1 / x; }
#ifdef SM_DEVICE
SM_FN float inverse(float x) { return approximate_reciprocal(x); }
#else
SM_FN float inverse(float x) { return 1 / x; }
#endif
#define SM_SCALAR(F)                                                                                       \
    SM_FN F select(bool m, F a, F b) { return m ? a : b; }                                                 \
    SM_FN F abs(F x) { return __builtin_fabs(x); }                                                         \
    SM_FN F min(F a, F b) { return a < b ? a : b; }                                                        \
    SM_FN F max(F a, F b) { return a > b ? a : b; }                                                        \
    SM_FN F max_abs(F a, F b) { return max(abs(b), a); }                                                   \
    SM_FN F sqrt(F x) { return __builtin_sqrt(x); }                                                        \
    SM_FN F reciprocal(F x) { return inverse(x); }                                                         \
    SM_FN F rough_reciprocal(F x) { return inverse(x); }                                                   \
    SM_FN F round_even(F x) { return __builtin_rint(x); }                                                  \
    /* floor(log2 |x|) of a normal number, as a number */                                                  \
    SM_FN F exponent(F x) {                                                                                \
        using I = Format<F>::Int;                                                                          \
        return F(((bit_cast<I>(x) >> Format<F>::mantissa) & (2 * Format<F>::bias + 1)) - Format<F>::bias); \
    }                                                                                                      \
    /* 2^k for an integral k with a normal result */                                                       \
    SM_FN F power_of_two(F k) {                                                                            \
        using I = Format<F>::Int;                                                                          \
        return bit_cast<F>((I(k) + Format<F>::bias) << Format<F>::mantissa);                               \
    }                                                                                                      \
    SM_FN F times_power_of_two(F x, F k) { return x * power_of_two(k); }                                   \
    SM_FN F lane(F x, int) { return x; }                                                                   \
    SM_FN void set_lane(F& x, int, F value) { x = value; }
SM_SCALAR(float)
SM_SCALAR(double)
#undef SM_SCALAR

}  // namespace streammix::SM_ISA
