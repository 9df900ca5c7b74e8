// Compile with -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c. Anywhere else this file is empty.
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SM_ISA avx512
#include "table.h"
namespace streammix {
extern const Kernels kernels_avx512;
const Kernels kernels_avx512 = avx512::table("avx512");
}  // namespace streammix
#endif
