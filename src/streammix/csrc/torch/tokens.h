// The states that operators on streams are given, and how their tokens are shared among threads.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "torch/tensors.h"

namespace streammix {

inline constexpr int64_t elements_a_thread = 32768;  // of the state: below this, waking another thread costs more than it saves

inline constexpr int64_t beyond_last_cache = int64_t(32) << 20;  // bytes; a thread's share of a last-level cache is less

inline bool large(const Tensor& t) { return t.numel() * element_size(t) >= beyond_last_cache; }

struct Tokens {
    Streams streams;
    int64_t count, lead;  // lead: dimensions before the streams'

    // dim: where the streams are in x, from its end; the dimensions between them and the channels are those of a run.
    explicit Tokens(const Tensor& x, int64_t dim = -2) : streams{dtype_of(x), 0, 0}, count(1), lead(x.dim() - 2) {
        SM_CHECK(lead >= 0, "streammix: streams are (..., n, C)");
        SM_CHECK(dim <= -2 && dim >= -x.dim(), "streammix: dim of the streams: got ", dim, "; accepted: ", -x.dim(), " to -2");
        const int64_t place = x.dim() + dim, n = x.size(place);
        SM_CHECK(n >= 1 && n <= largest_n, "streammix: the CPU backend takes 1 to ", largest_n, " streams");
        streams.n = static_cast<int>(n);
        streams.C = x.size(lead + 1);
        for (int64_t k = 0; k < place; ++k) count *= x.size(k);
        for (int64_t k = place + 1; k <= lead; ++k) streams.run *= x.size(k);
        count *= streams.run;
    }

    int64_t grain() const { return 1 + elements_a_thread / std::max<int64_t>(1, streams.n * streams.C); }

    // Contiguous, of the leading shape and then `last`; coefficients are of the computing type.
    Tensor state(const Tensor& t, const char* name, std::initializer_list<int64_t> last) const { return checked(t, name, last, streams.dtype); }
    Tensor coefficient(const Tensor& t, const char* name, std::initializer_list<int64_t> last) const { return checked(t, name, last, computing()); }

    DType computing() const { return streams.dtype == DType::float64 ? DType::float64 : DType::float32; }

private:
    Tensor checked(const Tensor& t, const char* name, std::initializer_list<int64_t> last, DType dtype) const {
        int64_t elements = count;
        for (int64_t size : last) elements *= size;
        SM_CHECK(t.numel() == elements && dtype_of(t) == dtype, "streammix: ", name, " does not match the streams in shape or dtype");
        return as_contiguous(t);
    }
};

// A new tensor of x's shape but for its streams
inline Tensor without_streams(const Tensor& x, int64_t dim) {
    std::vector<int64_t> sizes(x.sizes(), x.sizes() + x.dim());
    sizes.erase(sizes.end() + dim);
    return new_tensor(x, sizes.data(), x.dim() - 1);
}

inline Activation activation(int64_t code) {
    SM_CHECK(code >= 0 && code <= 2, "streammix: an activation is 0 (linear), 1 (sigmoid) or 2 (twice sigmoid)");
    return static_cast<Activation>(code);
}

inline int64_t size_of_number(const Tokens& tokens) { return tokens.streams.dtype == DType::float64 ? sizeof(double) : sizeof(float); }

// Memory to work in, uninitialised
class Buffer {
    std::unique_ptr<char[]> p;

public:
    Buffer() = default;
    explicit Buffer(int64_t bytes) : p(new char[bytes]) {}
    char* get() const { return p.get(); }
};

// Gradients of parameters are sums over tokens: every range of tokens adds up its own, and those are added in order.
// run(begin, end, sums) with room for `numbers` zeros of the computing type
template <class Run>
void summed_over_ranges(const Tokens& tokens, bool wide, int64_t numbers, void* total, const Run& run) {
    const auto typed = [&]<class F>(F) {
        const int64_t ranges = std::max<int64_t>(1, std::min<int64_t>(num_threads(), tokens.count / tokens.grain()));
        std::unique_ptr<F[]> others(new F[(ranges - 1) * numbers]);
        F* sum = static_cast<F*>(total);
        const auto one = [&](int64_t range) {
            F* own = range ? others.get() + (range - 1) * numbers : sum;
            std::fill(own, own + numbers, F(0));
            run(tokens.count * range / ranges, tokens.count * (range + 1) / ranges, static_cast<void*>(own));
        };
        for_batch(ranges, 1, [&](int64_t begin, int64_t end) {
            for (int64_t range = begin; range < end; ++range) one(range);
        });
        for (int64_t range = 1; range < ranges; ++range)
            for (int64_t i = 0; i < numbers; ++i) sum[i] += others[(range - 1) * numbers + i];
    };
    wide ? typed(double()) : typed(float());
}

}  // namespace streammix
