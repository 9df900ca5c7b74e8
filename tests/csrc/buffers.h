// Numbers of any dtype in memory of exactly their size, read and set as double; conversions by definition, not by instruction.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <memory>
#include <new>
#include <vector>

#include "kernels.h"

using namespace streammix;
using Matrix = std::vector<double>;

namespace {

constexpr DType dtypes[] = {DType::float32, DType::float64, DType::float16, DType::bfloat16};

float half_to_float(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                            : exponent     ? ldexpf(float(1024 + mantissa), exponent - 25)
                                           : ldexpf(float(mantissa), -24);
    return h >> 15 ? -magnitude : magnitude;
}
float bfloat16_to_float(uint16_t h) {
    const uint32_t bits = uint32_t(h) << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
// By search: the nearest of all values, ties to the even one.
uint16_t nearest(float x, float (*decode)(uint16_t), uint16_t infinity) {
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x)) return infinity + 1;
    uint16_t low = 0, high = infinity;
    while (high - low > 1) {
        const uint16_t middle = (low + high) / 2;
        (decode(middle) <= fabsf(x) ? low : high) = middle;
    }
    if (isinf(x)) return sign | infinity;
    // the value beyond the largest finite one, were the exponent range unlimited, decides what rounds to infinity
    const double below = decode(low);
    const double above = high == infinity ? 2 * double(decode(low)) - decode(uint16_t(low - 1)) : decode(high);
    const double middle = (below + above) / 2, a = fabsf(x);
    return sign | (a < middle || (a == middle && low % 2 == 0) ? low : high);
}

size_t bytes(DType t) { return t == DType::float64 ? 8 : t == DType::float32 ? 4 : 2; }
double eps(DType t) { return t == DType::float64 ? 2.3e-16 : t == DType::float32 ? 1.2e-7 : t == DType::float16 ? 1e-3 : 8e-3; }
const char* name(DType t) { return t == DType::float64 ? "float64" : t == DType::float32 ? "float32" : t == DType::float16 ? "float16" : "bfloat16"; }

struct Free {
    void operator()(char* p) const { operator delete[](p, std::align_val_t(64)); }
};

// Exactly `count` numbers on the heap, `offset` elements past a line of the cache, so that the sanitizer sees every byte too far.
struct Buffer {
    DType dtype;
    int64_t count;
    int offset;
    std::unique_ptr<char[], Free> memory;
    Buffer(DType t, int64_t n, int off = 0) : dtype(t), count(n), offset(off), memory(new (std::align_val_t(64)) char[(n + off) * bytes(t)]()) {}
    char* data() { return memory.get() + offset * bytes(dtype); }
    double get(int64_t i) {
        char* p = data() + i * bytes(dtype);
        double d;
        float f;
        uint16_t h;
        switch (dtype) {
            case DType::float64: return memcpy(&d, p, 8), d;
            case DType::float32: return memcpy(&f, p, 4), f;
            case DType::float16: return memcpy(&h, p, 2), half_to_float(h);
            default: return memcpy(&h, p, 2), bfloat16_to_float(h);
        }
    }
    void set(int64_t i, double x) {
        char* p = data() + i * bytes(dtype);
        const float f = float(x);
        uint16_t h;
        switch (dtype) {
            case DType::float64: memcpy(p, &x, 8); break;
            case DType::float32: memcpy(p, &f, 4); break;
            case DType::float16: h = nearest(f, half_to_float, 0x7c00), memcpy(p, &h, 2); break;
            default: h = nearest(f, bfloat16_to_float, 0x7f80), memcpy(p, &h, 2);
        }
    }
    Matrix matrix(int64_t m, int nn) {
        Matrix x(nn);
        for (int e = 0; e < nn; ++e) x[e] = get(m * nn + e);
        return x;
    }
};

}  // namespace
