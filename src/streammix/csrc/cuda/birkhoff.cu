// The Birkhoff projection and its gradient on a CUDA device, by the templates that a CPU runs: float32, one matrix a thread, in registers.
#define SM_ISA cuda
#include <cuda_runtime.h>

#include "matrices/birkhoff.h"
#include "matrices/birkhoff_backward.h"

namespace streammix::SM_ISA {

// Ten blocks of 64 threads on a multiprocessor: each thread has 96 registers, with which nothing spills, and together they can have 40 KB of
// loads under way, where by count 14 KB keep its share of 3 TB/s busy. Not measured: no device was at hand.
constexpr int block = 64, blocks = 10;

template <int N>
struct Row {
    float x[N];
};

// A matrix, four numbers at a time where it has a multiple of four
template <int N>
SM_FN void load(const float* from, float* x) {
    if constexpr (N * N % 4 == 0) {
        // clang-format off: it loses the indentation
        SM_UNROLL for (int e = 0; e < N * N; e += 4) {
            const float4 four = *reinterpret_cast<const float4*>(from + e);
            x[e] = four.x, x[e + 1] = four.y, x[e + 2] = four.z, x[e + 3] = four.w;
        }
        // clang-format on
    } else {
        SM_UNROLL for (int e = 0; e < N * N; ++e) x[e] = from[e];
    }
}
template <int N>
SM_FN void store(float* to, const float* x) {
    if constexpr (N * N % 4 == 0) {
        SM_UNROLL for (int e = 0; e < N * N; e += 4) *reinterpret_cast<float4*>(to + e) = make_float4(x[e], x[e + 1], x[e + 2], x[e + 3]);
    } else {
        SM_UNROLL for (int e = 0; e < N * N; ++e) to[e] = x[e];
    }
}

// -------------------------------------------------------------------------------------------- What few matrices need is out of line, and
// starts from memory again, so that no registers are kept for it.
template <int N>
SM_APART void project_far(const float* logits, float* T, float small) {
    float R[N * N], x[N * N], w[N * N];
    load<N>(logits, R);
    const float k = Settings<float>::few + 1;  // far; how far, the first level finds out
    newton<N>(R, x, w, k, N, small, true);
    store<N>(T, R);
}
template <int N>
SM_APART void differentiate_again(const float* grad, const float* T, float* out, Row<N> potentials) {
    float x[N * N], G[N * N], D[N * N], w[N * N];
    load<N>(T, x);
    load<N>(grad, G);
    take_off<N>(x, G, potentials.x, true, N);
    differentiate<N>(x, G, D, w, potentials.x, N);
    store<N>(out, D);
}

template <int N>
__global__ void __launch_bounds__(block, blocks) birkhoff_kernel(const float* logits, float* T, int64_t count, float small) {
    const int64_t i = int64_t(blockIdx.x) * block + threadIdx.x;
    if (i >= count) return;
    logits += i * (N * N), T += i * (N * N);
    float R[N * N], x[N * N], w[N * N];
    load<N>(logits, R);
    if constexpr (N == 2) {
        birkhoff2(R);
    } else {
        const float k = exponentials<N>(R, x, N);
        if (is_far(k)) return project_far<N>(logits, T, small);
        newton<N>(R, x, w, k, N, small, false);
    }
    store<N>(T, R);
}

template <int N>
__global__ void __launch_bounds__(block, blocks) birkhoff_backward_kernel(const float* grad, const float* T, float* out, int64_t count) {
    const int64_t i = int64_t(blockIdx.x) * block + threadIdx.x;
    if (i >= count) return;
    grad += i * (N * N), T += i * (N * N), out += i * (N * N);
    float x[N * N], G[N * N], D[N * N], w[N * N];
    Row<N> potentials;
    load<N>(T, x);
    load<N>(grad, G);
    const bool lost = differentiate<N>(x, G, D, w, potentials.x, N);
    if (lost) return differentiate_again(grad, T, out, potentials);
    store<N>(out, D);
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t count, cudaStream_t stream, Arguments... arguments) {
    if (!count) return cudaSuccess;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned((count + block - 1) / block));
    config.blockDim = dim3(block);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}
inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % alignof(float4) == 0; }

}  // namespace streammix::SM_ISA

// In device memory, at multiples of 16 bytes: `count` matrices, n = 2, 3, 4. Input and output may be the same. tol: as in kernels.h.
extern "C" cudaError_t streammix_cuda_birkhoff(const float* logits, float* T, int n, int64_t count, double tol, cudaStream_t stream) {
    using namespace streammix::SM_ISA;
    if (!aligned(logits) || !aligned(T)) return cudaErrorMisalignedAddress;
    const float small = last_step<float>(tol, n);
    switch (n) {
        case 2: return launch(birkhoff_kernel<2>, count, stream, logits, T, count, small);
        case 3: return launch(birkhoff_kernel<3>, count, stream, logits, T, count, small);
        case 4: return launch(birkhoff_kernel<4>, count, stream, logits, T, count, small);
        default: return cudaErrorInvalidValue;
    }
}
extern "C" cudaError_t streammix_cuda_birkhoff_backward(const float* grad, const float* T, float* out, int n, int64_t count, cudaStream_t stream) {
    using namespace streammix::SM_ISA;
    if (!aligned(grad) || !aligned(T) || !aligned(out)) return cudaErrorMisalignedAddress;
    switch (n) {
        case 2: return launch(birkhoff_backward_kernel<2>, count, stream, grad, T, out, count);
        case 3: return launch(birkhoff_backward_kernel<3>, count, stream, grad, T, out, count);
        case 4: return launch(birkhoff_backward_kernel<4>, count, stream, grad, T, out, count);
        default: return cudaErrorInvalidValue;
    }
}
