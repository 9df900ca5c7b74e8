// The number types the kernels are written over: float and double, Simd<F, W> (W matrices side by side, one a lane)
// and Pair<V> (two independent numbers in one, so that their latencies overlap). A CUDA device has float and double.
//
// Every type offers + - * /, comparisons giving a mask, and
//   select(mask, a, b)  any(mask)  abs  min  max  max_abs  sqrt  reciprocal  rough_reciprocal  exponent  power_of_two
//   times_power_of_two  round_even  lane  set_lane  exp  exp2  log
#pragma once

#include "simd/scalar.h"
#ifndef SM_DEVICE
#include "simd/vector.h"
#include "simd/pair.h"
#endif
#include "simd/exponential.h"
