// Does not compile where csrc/torch/stable.h declares a function or a type otherwise than torch's own headers do.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include "torch/stable.h"

static_assert(sizeof(StableIValue) == 8);
