// The part of LibTorch's stable ABI that the operators use: C functions that every torch since 2.10 exports, and what turns a C++ function
// into an operator. Restated here, because then building needs no torch, whose headers come with gigabytes of it.
// tests/csrc/stable_test.cpp includes torch's own headers beside this one, so that a declaration that differs does not compile.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <utility>

// ------------------------------------------------------- declared in torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h
struct AtenTensorOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
class TorchLibraryOpaque;
using TorchLibraryHandle = TorchLibraryOpaque*;
using AOTITorchError = int32_t;  // 0: none
using StableIValue = uint64_t;   // an argument or a result: a number's bytes, or a handle; of an optional a pointer to those, or null

extern "C" {
// A kind of number, of device, of layout
int32_t aoti_torch_dtype_float16();
int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_memory_format_contiguous_format();

// A tensor: what is returned as a handle is a new reference, sizes and data are borrowed.
AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle, AtenTensorHandle*);
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle, int64_t*);
AOTITorchError aoti_torch_get_numel(AtenTensorHandle, int64_t*);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle, int64_t**);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle, int32_t*);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t*);
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t*);
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle, bool*);
AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle, void**);
AOTITorchError torch_get_const_data_ptr(AtenTensorHandle, const void**);
AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t device_type, int32_t device,
                                        AtenTensorHandle*);

// The dispatcher, and libraries of operators
AOTITorchError torch_call_dispatcher(const char* op, const char* overload, StableIValue* stack, uint64_t built_for);
AOTITorchError aoti_torch_library_init_def(const char* name_space, const char* file, uint32_t line, TorchLibraryHandle*);
AOTITorchError aoti_torch_library_init_impl(const char* name_space, const char* key, const char* file, uint32_t line, TorchLibraryHandle*);
AOTITorchError aoti_torch_library_def(TorchLibraryHandle, const char* schema);
AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, void (*)(StableIValue*, uint64_t, uint64_t), uint64_t built_for);

// Torch's threads
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*)(int64_t, int64_t, void*), void* with);
AOTITorchError torch_get_num_threads(uint32_t*);
}

namespace streammix {

inline constexpr uint64_t built_for = uint64_t(0x020a) << 48;  // torch 2.10

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw std::runtime_error(text.str());
}

// SM_CHECK(condition, what, to, say): std::runtime_error, which torch raises as RuntimeError
#define SM_CHECK(condition, ...)                          \
    do {                                                  \
        if (!(condition)) ::streammix::fail(__VA_ARGS__); \
    } while (false)

inline void succeed(AOTITorchError error) { SM_CHECK(error == 0, "streammix: a function of torch's failed"); }

// -------------------------------------------------------------------------------------------------------------------- tensors
// Holds one reference.
class Tensor {
    AtenTensorHandle handle;

public:
    explicit Tensor(AtenTensorHandle owned) : handle(owned) {}
    Tensor(const Tensor& other) { succeed(aoti_torch_new_tensor_handle(other.handle, &handle)); }
    Tensor(Tensor&& other) noexcept : handle(std::exchange(other.handle, nullptr)) {}
    Tensor& operator=(Tensor other) noexcept {
        std::swap(handle, other.handle);
        return *this;
    }
    ~Tensor() {
        if (handle) aoti_torch_delete_tensor_object(handle);
    }

    AtenTensorHandle get() const { return handle; }
    AtenTensorHandle release() { return std::exchange(handle, nullptr); }

    int64_t dim() const { return ask<int64_t>(aoti_torch_get_dim); }
    int64_t numel() const { return ask<int64_t>(aoti_torch_get_numel); }
    const int64_t* sizes() const { return ask<int64_t*>(aoti_torch_get_sizes); }
    int64_t size(int64_t k) const { return sizes()[k]; }
    int32_t dtype() const { return ask<int32_t>(aoti_torch_get_dtype); }
    int32_t device_type() const { return ask<int32_t>(aoti_torch_get_device_type); }
    int32_t device() const { return ask<int32_t>(aoti_torch_get_device_index); }
    bool is_contiguous() const { return ask<bool>(aoti_torch_is_contiguous); }
    const void* const_data_ptr() const { return ask<const void*>(torch_get_const_data_ptr); }
    void* mutable_data_ptr() { return ask<void*>(torch_get_mutable_data_ptr); }

private:
    template <class Answer>
    Answer ask(AOTITorchError (*function)(AtenTensorHandle, Answer*)) const {
        Answer answer;
        succeed(function(handle, &answer));
        return answer;
    }
};

// ---------------------------------------------------------------------------------------------- arguments and results of operators
template <class T>
struct Value {  // numbers
    static T take(StableIValue value) {
        T out;
        memcpy(&out, &value, sizeof out);
        return out;
    }
    static StableIValue give(T value) {
        StableIValue out = 0;
        memcpy(&out, &value, sizeof value);
        return out;
    }
};
template <>
struct Value<Tensor> {
    static Tensor take(StableIValue value) { return Tensor(Value<AtenTensorHandle>::take(value)); }
    static StableIValue give(Tensor tensor) { return Value<AtenTensorHandle>::give(tensor.release()); }
};
template <class T>
struct Value<std::optional<T>> {
    static std::optional<T> take(StableIValue value) {
        StableIValue* const held = Value<StableIValue*>::take(value);
        if (!held) return std::nullopt;
        std::optional<T> out(Value<T>::take(*held));
        delete held;
        return out;
    }
};

inline Tensor contiguous(const Tensor& t) {
    StableIValue stack[2] = {Value<Tensor>::give(t), Value<int32_t>::give(aoti_torch_memory_format_contiguous_format())};
    succeed(torch_call_dispatcher("aten::contiguous", "", stack, built_for));
    return Value<Tensor>::take(stack[0]);
}

template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
    const auto call = [](int64_t from, int64_t to, void* with) { (*static_cast<const F*>(with))(from, to); };
    succeed(torch_parallel_for(begin, end, grain, call, const_cast<F*>(&f)));
}
inline int64_t num_threads() {
    uint32_t count;
    succeed(torch_get_num_threads(&count));
    return count;
}

// boxed<f>: the C++ function f as the dispatcher calls it, with arguments on a stack that the results replace
template <auto f>
struct Boxed;
template <class Result, class... Arguments, Result (*f)(Arguments...)>
struct Boxed<f> {
    static void call(StableIValue* stack, uint64_t arguments, uint64_t) {
        SM_CHECK(arguments == sizeof...(Arguments), "streammix: an operator was called with ", arguments, " arguments");
        give(taken(stack, std::index_sequence_for<Arguments...>()), stack);
    }

private:
    template <size_t... i>
    static Result taken(StableIValue* stack, std::index_sequence<i...>) {
        // All are taken before f runs, and in order: whatever it throws, none is lost.
        std::tuple<std::decay_t<Arguments>...> arguments{Value<std::decay_t<Arguments>>::take(stack[i])...};
        return std::apply(f, arguments);
    }
    static void give(Tensor result, StableIValue* stack) { stack[0] = Value<Tensor>::give(std::move(result)); }
    template <class... T>
    static void give(std::tuple<T...> results, StableIValue* stack) {
        std::apply([&](auto&... result) { ((*stack++ = Value<Tensor>::give(std::move(result))), ...); }, results);
    }
};
template <auto f>
inline constexpr auto boxed = &Boxed<f>::call;

// A library of operators, for as long as this one is loaded; SM_LIBRARY's body fills it.
class Library {
    TorchLibraryHandle handle;

public:
    Library(const char* name_space, const char* key, const char* file, uint32_t line, void (*fill)(Library&)) {
        succeed(key ? aoti_torch_library_init_impl(name_space, key, file, line, &handle) : aoti_torch_library_init_def(name_space, file, line, &handle));
        fill(*this);
    }
    void def(const char* schema) { succeed(aoti_torch_library_def(handle, schema)); }
    void impl(const char* name, void (*function)(StableIValue*, uint64_t, uint64_t)) { succeed(torch_library_impl(handle, name, function, built_for)); }
};
#define SM_LIBRARY(name, key)                                                                            \
    static void fill_##name(::streammix::Library&);                                                      \
    static const ::streammix::Library library_##name("streammix", key, __FILE__, __LINE__, fill_##name); \
    void fill_##name(::streammix::Library& m)

}  // namespace streammix
