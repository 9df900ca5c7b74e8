// Tensors of LibTorch's stable ABI as the kernels want them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <stdint.h>

#include <initializer_list>

#include "kernels.h"

namespace streammix {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& t) {
    switch (t.scalar_type()) {
        case ScalarType::Float: return DType::float32;
        case ScalarType::Double: return DType::float64;
        case ScalarType::Half: return DType::float16;
        case ScalarType::BFloat16: return DType::bfloat16;
        default: break;
    }
    STD_TORCH_CHECK(false, "streammix: the CPU backend takes float16, bfloat16, float32 and float64");
}

// The tensor itself where it is contiguous: asking the dispatcher costs a small call more than the work.
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

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
    STD_TORCH_CHECK(dim <= most, "streammix: more than ", most, " dimensions");
    int64_t strides[most], stride = 1;
    for (int64_t k = dim - 1; k >= 0; --k) {
        strides[k] = stride;
        stride *= sizes[k] > 1 ? sizes[k] : 1;
    }
    int32_t dtype, device_type, device;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device));
    AtenTensorHandle made;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dim, sizes, strides, dtype, device_type, device, &made));
    Tensor out(made);
    if (stride >= int64_t(1) << 20) ask_for_huge_pages(out.mutable_data_ptr(), stride * out.element_size());
    return out;
}
inline Tensor new_like(const Tensor& t) { return new_tensor(t, t.sizes().data(), t.dim()); }

// The first `lead` sizes of `shape`, then `last`, with like's dtype.
inline Tensor new_tensor(const Tensor& like, const Tensor& shape, int64_t lead, std::initializer_list<int64_t> last = {}) {
    int64_t sizes[66], dim = 0;
    STD_TORCH_CHECK(lead <= 62, "streammix: more than 64 dimensions");
    for (; dim < lead; ++dim) sizes[dim] = shape.size(dim);
    for (int64_t size : last) sizes[dim++] = size;
    return new_tensor(like, sizes, dim);
}

// f(begin, end) over 0 .. count on torch's threads, or here and now if it is small.
template <class F>
void for_batch(int64_t count, int64_t grain, const F& f) {
    if (count <= grain) return f(int64_t{0}, count);
    torch::stable::parallel_for(0, count, grain, f);
}

}  // namespace streammix
