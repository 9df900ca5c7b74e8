// Tensors of LibTorch's stable ABI as the kernels want them.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <stdint.h>

#include <initializer_list>

#include "kernels.h"
#include "torch/stable.h"

namespace streammix {

inline DType dtype_of(const Tensor& t) {
    static const int32_t float32 = aoti_torch_dtype_float32(), float64 = aoti_torch_dtype_float64(), float16 = aoti_torch_dtype_float16(),
                         bfloat16 = aoti_torch_dtype_bfloat16();
    const int32_t dtype = t.dtype();
    if (dtype == float32) return DType::float32;
    if (dtype == float64) return DType::float64;
    if (dtype == float16) return DType::float16;
    if (dtype == bfloat16) return DType::bfloat16;
    fail("streammix: the CPU backend takes float16, bfloat16, float32 and float64");
}
inline int64_t element_size(const Tensor& t) {
    switch (dtype_of(t)) {
        case DType::float64: return 8;
        case DType::float32: return 4;
        default: return 2;
    }
}

// The tensor itself where it is contiguous: asking the dispatcher costs a small call more than the work.
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : contiguous(t); }

// Large outputs come as memory that nobody has touched: with pages of 4 KB, the kernel's handing them out one by one takes longer than
// writing to them. Linux gives pages of 2 MB where it is asked to.
inline void ask_for_huge_pages([[maybe_unused]] void* p, [[maybe_unused]] int64_t bytes) {
#ifdef __linux__
    constexpr uintptr_t huge = uintptr_t(2) << 20;
    const uintptr_t at = reinterpret_cast<uintptr_t>(p), begin = (at + huge - 1) & ~(huge - 1), end = (at + bytes) & ~(huge - 1);
    if (bytes >= int64_t(2 * huge) && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// A new contiguous tensor of these sizes, with like's dtype and device, past the dispatcher.
inline Tensor new_tensor(const Tensor& like, const int64_t* sizes, int64_t dim) {
    constexpr int64_t most = 64;  // as many dimensions as torch itself allows
    SM_CHECK(dim <= most, "streammix: more than ", most, " dimensions");
    int64_t strides[most], stride = 1;
    for (int64_t k = dim - 1; k >= 0; --k) {
        strides[k] = stride;
        stride *= sizes[k] > 1 ? sizes[k] : 1;
    }
    AtenTensorHandle made;
    succeed(aoti_torch_empty_strided(dim, sizes, strides, like.dtype(), like.device_type(), like.device(), &made));
    Tensor out(made);
    if (stride >= int64_t(1) << 20) ask_for_huge_pages(out.mutable_data_ptr(), stride * element_size(out));
    return out;
}
inline Tensor new_like(const Tensor& t) { return new_tensor(t, t.sizes(), t.dim()); }

// The first `lead` sizes of `shape`, then `last`, with like's dtype.
inline Tensor new_tensor(const Tensor& like, const Tensor& shape, int64_t lead, std::initializer_list<int64_t> last = {}) {
    int64_t sizes[66], dim = 0;
    SM_CHECK(lead <= 62, "streammix: more than 64 dimensions");
    for (; dim < lead; ++dim) sizes[dim] = shape.size(dim);
    for (int64_t size : last) sizes[dim++] = size;
    return new_tensor(like, sizes, dim);
}

// f(begin, end) over 0 .. count on torch's threads, or here and now if it is small.
template <class F>
void for_batch(int64_t count, int64_t grain, const F& f) {
    if (count <= grain) return f(int64_t{0}, count);
    parallel_for(0, count, grain, f);
}

}  // namespace streammix
