// What is compiled for: an instruction set of a CPU, or a CUDA device.
#pragma once

#ifdef __CUDACC__
#define SM_DEVICE  // or by a header that imitates a device
#endif

// SM_FN     a function that is always inlined
// SM_RARE   out of the way of what is always needed; on a device inlined too, because arrays that are given to a function out of line are in memory
// SM_APART  out of line everywhere: what a device needs so rarely that memory will do
#ifdef SM_DEVICE
#define SM_FN __device__ __forceinline__
#define SM_RARE __device__ __forceinline__
#define SM_APART __device__ __noinline__
#else
#define SM_FN inline __attribute__((always_inline))
#define SM_RARE [[gnu::noinline]]
#define SM_APART SM_RARE
#endif
#ifdef __CUDACC__
#define SM_UNROLL _Pragma("unroll")
#define SM_UNROLL16 _Pragma("unroll")
#else
#define SM_UNROLL _Pragma("GCC unroll 8")
#define SM_UNROLL16 _Pragma("GCC unroll 16")
#endif

#if !defined(SM_DEVICE) && (defined(__x86_64__) || defined(_M_X64))
#define SM_X86 1
#include <immintrin.h>
#endif

// Each instruction set gets its own namespace: an inline function compiled for AVX-512 must never be the one the
// linker keeps for a machine without it.
#ifndef SM_ISA
#define SM_ISA scalar
#endif
