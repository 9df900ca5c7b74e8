// Everything compiled for one instruction set.
#pragma once

#include "matrices/batch.h"
#include "matrices/cayley.h"
#include "matrices/chart.h"
#include "matrices/plans.h"
#include "streams/rows.h"
#include "streams/site.h"
#include "streams/sparse.h"
#include "streams/temporal.h"

namespace streammix::SM_ISA {

inline constexpr Kernels table(const char* name) {
    return {
        .isa = name,
        .birkhoff = birkhoff_any,
        .birkhoff_backward = birkhoff_backward_any,
        .transport = transport_any,
        .transport_backward = transport_backward_any,
        .sinkhorn = sinkhorn_any,
        .sinkhorn_backward = sinkhorn_backward_any,
        .cayley = cayley_any,
        .cayley_backward = cayley_backward_any,
        .chart = chart_any,
        .chart_backward = chart_backward_any,
        .read = read_any,
        .read_backward = read_backward_any,
        .write = write_any,
        .write_backward = write_backward_any,
        .sparse_read = sparse_read_any,
        .sparse_read_backward = sparse_read_backward_any,
        .sparse_write = sparse_write_any,
        .sparse_write_backward = sparse_write_backward_any,
        .temporal_basis = temporal_basis_any,
        .temporal_orthogonal_backward = temporal_orthogonal_backward_any,
        .temporal_filters_backward = temporal_filters_backward_any,
        .packed = packed_any,
        .pack_panel = pack_panel_any,
        .pack_blocks = pack_blocks_any,
        .unpack_blocks = unpack_blocks_any,
        .site_read = site_read_any,
        .site_read_backward = site_read_backward_any,
        .write_site_read = write_site_read_any,
        .write_site_read_backward = write_site_read_backward_any,
        .rows_site_read = rows_site_read_any,
        .rows_site_read_backward = rows_site_read_backward_any,
    };
}

}  // namespace streammix::SM_ISA
