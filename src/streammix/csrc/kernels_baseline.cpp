// Compile for the oldest machine supported: SSE2 on x86-64, NEON on AArch64.
#define SM_ISA baseline
#include "table.h"
namespace streammix {
extern const Kernels kernels_baseline;
const Kernels kernels_baseline = baseline::table("baseline");
}  // namespace streammix
