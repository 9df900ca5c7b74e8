// Compile with -mavx2 -mfma -mf16c. Anywhere else this file is empty.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SM_ISA avx2
#include "table.h"
namespace streammix {
extern const Kernels kernels_avx2;
const Kernels kernels_avx2 = avx2::table("avx2");
}  // namespace streammix
#endif
