// Which of the instruction sets compiled into this library runs.
#include <stdlib.h>

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace streammix {

// Weak: a build may leave one out.
extern const Kernels kernels_avx512 __attribute__((weak));
extern const Kernels kernels_avx2 __attribute__((weak));
extern const Kernels kernels_baseline;

namespace {

struct Choice {
    const char* name;
    const Kernels* built;  // nullptr: not in this build
    bool runs;             // on this CPU
};

bool cpu_has_avx512() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}
bool cpu_has_avx2() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

}  // namespace

const Kernels& kernels_named(const char* isa) {
    const Choice choices[] = {
        {"avx512", &kernels_avx512, cpu_has_avx512()},
        {"avx2", &kernels_avx2, cpu_has_avx2()},
        {"baseline", &kernels_baseline, true},
    };
    const std::string wanted = isa ? isa : "";
    for (const Choice& choice : choices) {
        if (wanted.empty() ? choice.built && choice.runs : wanted == choice.name) {
            if (!choice.built) throw std::runtime_error("instruction set '" + wanted + "' is not in this build of streammix");
            if (!choice.runs) throw std::runtime_error("instruction set '" + wanted + "' is not supported by this CPU");
            return *choice.built;
        }
    }
    throw std::runtime_error("instruction set '" + wanted + "' is unknown; accepted: avx512, avx2, baseline");
}

const Kernels& kernels() {
    static const Kernels& chosen = [&]() -> const Kernels& {
        try {
            return kernels_named(getenv("STREAMMIX_ISA"));
        } catch (const std::runtime_error& e) {
            throw std::runtime_error(std::string("STREAMMIX_ISA: ") + e.what());
        }
    }();
    return chosen;
}

}  // namespace streammix
