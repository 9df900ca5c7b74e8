// e^x, 2^x and log x of any number type.
#pragma once

#include "simd/scalar.h"

namespace streammix::SM_ISA {

#ifdef SM_DEVICE
// A device has 2^x as one instruction; for float, these go before the templates below. |x| up to 86 costs a factor of 1 + 4e-6 at most.
SM_FN float exp2(float x, float c) { return approximate_exp2(x * c); }
SM_FN float exp(float x) { return exp2(x, 1.4426950408889634f); }
#endif

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
        constexpr F inverse_factorial[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                           1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
        // clang-format off: it loses the indentation
        SM_UNROLL for (int i = 0; i < 11; ++i) p = inverse_factorial[i] + r * p;
        // clang-format on
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
