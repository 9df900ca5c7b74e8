// The number of streams: a constant of the compilation, or known at run time.
#pragma once

#include "kernels.h"
#include "simd/number.h"

namespace streammix::SM_ISA {

// n when it is a compile-time constant, else (N = 0) the run-time one
template <int N>
SM_FN constexpr int size(int n) {
    return N ? N : n;
}

// Arrays of N numbers, or of as many as the run-time path can need
template <int N>
inline constexpr int room = N ? N : largest_n;

}  // namespace streammix::SM_ISA
