// From a dtype and a size known at run time to types and constants.
#pragma once

#include "simd/halves.h"
#include "kernels.h"

namespace streammix::SM_ISA {

// What numbers of type Memory are computed in
template <class Memory>
struct ComputingType {
    using type = float;
};
template <>
struct ComputingType<double> {
    using type = double;
};
template <class Memory>
using Computing = typename ComputingType<Memory>::type;

template <int... N>
struct Sizes {};

// f.operator()<N, Memory>() for the dtype and n at hand; N = 0 where n is not among the sizes compiled as constants
template <int... N, class Function>
SM_FN void specialise(Sizes<N...>, DType dtype, int n, Function f) {
    const auto by_n = [&]<class Memory>(Memory) {
        const bool found = ((n == N && (f.template operator()<N, Memory>(), true)) || ...);
        if (!found) f.template operator()<0, Memory>();
    };
    switch (dtype) {
        case DType::float32: return by_n(float());
        case DType::float64: return by_n(double());
        case DType::float16: return by_n(Half());
        case DType::bfloat16: return by_n(BFloat16());
    }
}

// What is compiled as a constant; the sanitizers' build, which is slow to compile, does with fewer.
#ifndef SM_PROJECTION_SIZES
#define SM_PROJECTION_SIZES 2, 3, 4, 5, 6, 7, 8
#endif
#ifndef SM_TRANSPORT_SIZES
#define SM_TRANSPORT_SIZES 4, 8
#endif
#ifndef SM_SINKHORN_SIZES
#define SM_SINKHORN_SIZES 4
#endif
#ifndef SM_STREAMS_SIZES
#define SM_STREAMS_SIZES 4
#endif

}  // namespace streammix::SM_ISA
