// Everything compiled for one instruction set.
#pragma once

#include "batch.h"
#include "cayley.h"
#include "site.h"

namespace streammix::SM_ISA {

inline constexpr Kernels table(const char* name) {
    return {name,
            project_any,
            project_backward_any,
            sinkhorn_any,
            sinkhorn_backward_any,
            cayley_any,
            cayley_backward_any,
            read_any,
            read_backward_any,
            write_any,
            write_backward_any,
            packed_any,
            pack_panel_any,
            pack_blocks_any,
            unpack_blocks_any,
            site_read_any,
            site_read_backward_any,
            write_site_read_any,
            write_site_read_backward_any};
}

}  // namespace streammix::SM_ISA
