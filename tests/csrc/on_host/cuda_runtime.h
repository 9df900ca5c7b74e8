// CUDA C++ as plain C++, for kernels without barriers, shuffles and shared memory: a launch is a loop over the threads.
//
//     g++ -x c++ -std=c++20 -I tests/csrc/on_host -I src/streammix/csrc src/streammix/csrc/cuda/birkhoff.cu
//
// It stands in for CUDA's header of this name. The special functions are as wrong as a device's may be: see cuda/special.h.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define SM_DEVICE
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline dim3 threadIdx, blockIdx, blockDim;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMisalignedAddress = 716 };
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments... arguments) {
    blockDim = config->blockDim;
    for (blockIdx.x = 0; blockIdx.x < config->gridDim.x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(arguments...);
    return cudaSuccess;
}

namespace streammix {

// x moved by -1, 0 or 1 units of the given size, as its bits say
inline float inexact(float x, float unit) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x + x * (unit * (int(bits * 2654435761u >> 16) % 3 - 1));
}
inline float flushed(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0, x) : x; }
inline float approximate_reciprocal(float x) { return flushed(inexact(1 / flushed(x), 0x1p-23f)); }
inline float approximate_exp2(float x) { return flushed(inexact(exp2f(x), 0x1p-22f)); }

}  // namespace streammix
