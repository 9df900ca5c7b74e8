// 16-bit floats: numbers in memory, converted in the registers.
#pragma once

#include "simd/number.h"

namespace streammix::SM_ISA {

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

template <int W>
using U16 = typename VectorOf<uint16_t, W>::type;
template <int W>
using U32 = typename VectorOf<uint32_t, W>::type;
template <int W>
using F32 = typename VectorOf<float, W>::type;

template <int W>
SM_FN F32<W> widen(BFloat16, U16<W> h) {
    return (F32<W>)(__builtin_convertvector(h, U32<W>) << 16);
}
// Round to nearest, ties to even; a NaN stays one.
template <int W>
SM_FN U16<W> narrow(BFloat16, F32<W> x) {
    const U32<W> b = (U32<W>)x;
    const U32<W> rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    return __builtin_convertvector(x == x ? rounded : (b >> 16) | 0x40, U16<W>);
}

template <int W>
SM_FN F32<W> widen(Half, U16<W> h) {
#if defined(__AVX512F__)
    if constexpr (W == 16) return (F32<W>)_mm512_cvtph_ps((__m256i)h);
#endif
#if defined(__F16C__)
    if constexpr (W == 8) return (F32<W>)_mm256_cvtph_ps((__m128i)h);
#endif
    // Exponent and mantissa moved into place, then rescaled: exact. All-ones exponents become infinity or NaN. Subnormals are
    // normalised by a subtraction, since the scaling's input would itself be subnormal, and flushed.
    const U32<W> b = __builtin_convertvector(h, U32<W>), magnitude = (b & 0x7fff) << 13;
    const U32<W> subnormal = (U32<W>)((F32<W>)((b & 0x3ff) | 0x4b000000) - 0x1p23f);
    const F32<W> small = (F32<W>)subnormal * 0x1p-24f;
    const U32<W> normal = magnitude + (112u << 23);
    const U32<W> finite = (b & 0x7c00) != 0 ? normal : (U32<W>)small;
    return (F32<W>)(((b & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000 : finite) | (b & 0x8000) << 16);
}
template <int W>
SM_FN U16<W> narrow(Half, F32<W> x) {
#if defined(__AVX512F__)
    if constexpr (W == 16) return (U16<W>)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#endif
#if defined(__F16C__)
    if constexpr (W == 8) return (U16<W>)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#endif
    // Adding 2^(e + 13) rounds to the 10 bits (fewer when subnormal) that a half keeps, ties to even.
    const U32<W> b = (U32<W>)x, sign = b & 0x80000000, a = b ^ sign;
    const U32<W> least = U32<W>{} + 0x38800000;  // 2^-14, the smallest normal half
    const U32<W> unit = ((a < least ? least : a) & 0x7f800000) + (13u << 23);
    const F32<W> y = ((F32<W>)a + (F32<W>)unit) - (F32<W>)unit;
    const U32<W> normal = ((U32<W>)y - (112u << 23)) >> 13;
    const U32<W> subnormal = (U32<W>)(y * 0x1p24f + 0x1p23f) & 0x7ff;
    const U32<W> finite = (U32<W>)y < least ? subnormal : normal;
    const U32<W> large = a >= 0x477ff000 ? U32<W>{} + 0x7c00 : finite;  // 65520 and more: infinity
    return __builtin_convertvector((a > 0x7f800000 ? U32<W>{} + 0x7e00 : large) | sign >> 16, U16<W>);
}

}  // namespace streammix::SM_ISA
