// Two numbers in one, to overlap latencies.
#pragma once

#include "simd/scalar.h"

namespace streammix::SM_ISA {

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

#define SM_PAIRED(f)             \
    template <class V>           \
    SM_FN Pair<V> f(Pair<V> x) { \
        return {f(x.a), f(x.b)}; \
    }
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

template <class V>
struct LanesOf<Pair<V>> {
    static constexpr int value = 2 * LanesOf<V>::value;
    using Single = V;
};
template <class V>
SM_FN Scalar<V> lane(const Pair<V>& x, int i) {
    return i < lanes<V> ? lane(x.a, i) : lane(x.b, i - lanes<V>);
}
template <class V>
SM_FN void set_lane(Pair<V>& x, int i, Scalar<V> value) {
    i < lanes<V> ? set_lane(x.a, i, value) : set_lane(x.b, i - lanes<V>, value);
}

}  // namespace streammix::SM_ISA
