// The kernels behind the operators: plain functions over contiguous memory, one table an instruction set.
#pragma once

#include <stdint.h>

#include "recipes.h"

namespace streammix {

enum class DType { float32, float64, float16, bfloat16 };  // 16-bit floats are computed in float32

inline constexpr int largest_n = 64;

// Every function works on the matrices [begin, end) of a batch: row-major n x n, one after the other, 1 <= n <= largest_n. Input
// and output may be the same memory. Disjoint ranges may run on different threads; a matrix's result depends on nothing but itself.
struct Kernels {
    const char* isa;

    // T: the Birkhoff projection of the logits. tol: bound on sum_j |c_j - 1| before a last Sinkhorn pass; at least 2 n eps.
    void (*project)(DType, const void* logits, void* T, int64_t begin, int64_t end, int n, double tol);

    // The gradient of the logits from that of T.
    void (*project_backward)(DType, const void* grad, const void* T, void* out, int64_t begin, int64_t end, int n);

    // rounds >= 1
    void (*sinkhorn)(DType, const void* logits, void* M, int64_t begin, int64_t end, int n, int rounds, Recipe);
    void (*sinkhorn_backward)(DType, const void* grad, const void* logits, void* out, int64_t begin, int64_t end, int n, int rounds, Recipe);
};

// The table for this CPU, or for the instruction set that the environment variable STREAMMIX_ISA names (avx512, avx2, baseline).
// Throws std::runtime_error when that one is unknown, or this build or CPU lacks it.
const Kernels& kernels();

// The same by name; nullptr or "" chooses for the CPU.
const Kernels& kernels_named(const char* isa);

}  // namespace streammix
