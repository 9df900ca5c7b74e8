// The kernels behind the operators: plain functions over contiguous memory, one table an instruction set.
#pragma once

#include <stdint.h>

#include "matrices/chart_steps.h"
#include "matrices/sinkhorn_rule.h"

namespace streammix {

enum class DType { float32, float64, float16, bfloat16 };  // 16-bit floats are computed in float32

inline constexpr int largest_n = 64;

// A batch of n x n matrices, row-major, one after the other; 1 <= n <= largest_n.
struct Matrices {
    DType dtype;
    int n;
    bool large;  // the results, as a whole, are larger than caches
};

// A batch of m x n matrices, row-major, and their marginals; 1 <= m, n <= largest_n. float32 or float64.
struct Plans {
    DType dtype;
    int m, n;
};

// State of a token: n streams of C channels, row by row. Tokens follow each other, or else runs of so many of them do, each of which is
// stored stream by stream: (tokens / run, n, run, C). Reads, writes and sites of rows take runs of more than one.
struct Streams {
    DType dtype;
    int n;
    int64_t C;
    int64_t run = 1;
};

enum class Activation { linear, sigmoid, twice_sigmoid };

// How a site makes its coefficients: see coefficients.h. The arrays are of the computing type: float64 for float64 streams, else float32.
struct Generator {
    const void *weight, *panel, *blocks;  // phi (rows, n C), row-major, and as the forward and the backward take it (see packing.h)
    const void *scale, *bias;             // (rows); rows = n read logits, n write logits, then those of the mix
    int rows;
    double norm_eps;
    Activation read, write;
    double read_eps;                     // added to the read weights
    double write_multiplier, write_eps;  // of the write weights: multiplier * write(logits) + eps
    bool tanh = false;                   // in sites whose streams make their own weights (rows.h), where phi is (n + 2, C), bias (n, n + 2)
};

// Numbers that phi takes packed: as a panel (0: with so few tokens none is used) and in blocks
struct Packed {
    int64_t panel, blocks;
};

// Tensors of a token and of its derivatives; coefficients of the computing type, x, y, u, out of the streams' type. Null: not wanted.
struct Read {
    const void* x;
    void *u, *post, *mix, *projected, *inverse_rms;
};
struct ReadBackward {
    const void *du, *dpost, *dmix, *through, *x, *projected, *inverse_rms;  // through: gradient of x from elsewhere
    void *dx, *dweight, *dscale, *dbias;  // the last three are added to, by one range at a time; dweight in blocks
};
struct Write {
    const void *x, *y, *post, *res;
    void* out;
    bool large;  // out, as a whole, is larger than caches
};
struct WriteBackward {
    const void *grad, *x, *y, *post, *res;
    void *dx, *dy, *dpost, *dres;
    bool large;  // dx, as a whole, is larger than caches
};
struct ReadOnlyBackward {
    const void *du, *x, *pre;
    void *dx, *dpre;
    bool large;
};

// A state of n streams of which k are active, with directions (basis) to write along; indices are distinct and in 0 .. n - 1: see streams/sparse.h.
struct Sparse {
    DType dtype;
    int n, k;
    int64_t basis, C;
};
struct SparseRead {
    const void *x, *pre;
    const int64_t* index;
    void *u, *active;
};
struct SparseReadBackward {
    const void *du, *dactive, *x, *pre;
    const int64_t* index;
    void *dx, *dpre;
    bool large;  // dx, as a whole, is larger than caches
};
struct SparseWrite {
    const void *x, *basis, *post, *res;
    const int64_t* index;
    void* out;
    bool large;  // out, as a whole, is larger than caches
};
struct SparseWriteBackward {
    const void *grad, *x, *basis, *post, *res;
    const int64_t* index;
    void *dx, *dbasis, *dpost, *dres;
    bool large;  // dx, as a whole, is larger than caches
};

// Sequences of `known` rows of C channels, whose last are tokens; filters of a length: see streams/temporal.h. float32 or float64.
struct Temporal {
    DType dtype;
    int64_t sequences, known, tokens, C;
    int filters;
    int64_t length;
};

// The functions over matrices work on the matrices [begin, end) of a batch. Input and output may be the same memory. Disjoint ranges may run
// on different threads; a matrix's result depends on nothing but itself.
struct Kernels {
    const char* isa;

    // T: the Birkhoff projection of the logits. tol: bound on sum_j |c_j - 1| before a last Sinkhorn pass; at least 2 n eps.
    void (*birkhoff)(Matrices, const void* logits, void* T, int64_t begin, int64_t end, double tol);

    // The gradient of the logits from that of T.
    void (*birkhoff_backward)(Matrices, const void* grad, const void* T, void* out, int64_t begin, int64_t end);

    // T: the projection of the logits onto the matrices with these sums; and the gradients of the logits, the rows and the columns from T's.
    void (*transport)(Plans, const void* logits, const void* rows, const void* columns, void* T, int64_t begin, int64_t end);
    void (*transport_backward)(Plans, const void* grad, const void* T, void* out, void* rows, void* columns, int64_t begin, int64_t end);

    // rounds >= 1
    void (*sinkhorn)(Matrices, const void* logits, void* M, int64_t begin, int64_t end, int rounds, const SinkhornRule&);
    void (*sinkhorn_backward)(Matrices, const void* grad, const void* logits, void* out, int64_t begin, int64_t end, int rounds, const SinkhornRule&);

    // Q: rotations, by the Cayley map of the entries above the diagonal of skew-symmetric matrices, n (n - 1) / 2 each, row by row;
    // and the gradient of the entries from Q and the gradient of Q. float32 and float64.
    void (*cayley)(Matrices, const void* entries, void* Q, int64_t begin, int64_t end);
    void (*cayley_backward)(Matrices, const void* grad, const void* Q, void* out, int64_t begin, int64_t end);

    // H (n, n): the transportation polytope's chart at (n - 1)^2 logits each; and the gradient of the logits. float32 and float64.
    void (*chart)(DType, const ChartSteps&, const void* logits, void* H, int64_t begin, int64_t end);
    void (*chart_backward)(DType, const ChartSteps&, const void* grad, const void* logits, void* out, int64_t begin, int64_t end);

    // Over the tokens [begin, end): reading with given weights, and writing.
    void (*read)(Streams, const void* x, const void* pre, void* u, int64_t begin, int64_t end);
    void (*read_backward)(Streams, ReadOnlyBackward, int64_t begin, int64_t end);
    void (*write)(Streams, Write, int64_t begin, int64_t end);
    void (*write_backward)(Streams, WriteBackward, int64_t begin, int64_t end);

    // The same where k streams are active: also what those hold; and writing to them alone.
    void (*sparse_read)(Sparse, SparseRead, int64_t begin, int64_t end);
    void (*sparse_read_backward)(Sparse, SparseReadBackward, int64_t begin, int64_t end);
    void (*sparse_write)(Sparse, SparseWrite, int64_t begin, int64_t end);
    void (*sparse_write_backward)(Sparse, SparseWriteBackward, int64_t begin, int64_t end);

    // Over the tokens of all sequences: v (1 + filters, C); from its gradient d, that of y by v_0 alone and those of what the filters gave.
    // Then over channels: the gradients of the known rows and, all sequences summed, of the filters.
    void (*temporal_basis)(Temporal, const void* known, const void* filters, void* v, int64_t begin, int64_t end);
    void (*temporal_orthogonal_backward)(Temporal, const void* grad, const void* known, const void* filters, void* d, int64_t begin, int64_t end);
    void (*temporal_filters_backward)(Temporal, const void* d, const void* known, const void* filters, void* dknown, void* dfilters, int64_t begin,
                                      int64_t end);

    Packed (*packed)(Streams, int rows, int64_t tokens);
    void (*pack_panel)(Streams, const void* weight, int rows, void* panel);
    void (*pack_blocks)(Streams, const void* weight, int rows, void* blocks);
    void (*unpack_blocks)(Streams, const void* blocks, int rows, void* weight);

    // A site's coefficients and its read, while the state is in cache; and the same on the state that the write of the site before gives.
    void (*site_read)(Streams, Generator, Read, int64_t begin, int64_t end);
    void (*site_read_backward)(Streams, Generator, ReadBackward, int64_t begin, int64_t end);
    void (*write_site_read)(Streams, Write, Generator, Read, int64_t begin, int64_t end);
    void (*write_site_read_backward)(Streams, WriteBackward, Generator, ReadBackward, int64_t begin, int64_t end);

    // A site whose streams make their weights of themselves; P (n, rows) and 1/rms (n) a token, dscale a number for each of bias.
    void (*rows_site_read)(Streams, Generator, Read, int64_t begin, int64_t end);
    void (*rows_site_read_backward)(Streams, Generator, ReadBackward, int64_t begin, int64_t end);
};

// The table for this CPU, or for the instruction set that the environment variable STREAMMIX_ISA names (avx512, avx2, baseline).
// Throws std::runtime_error when that one is unknown, or this build or CPU lacks it.
const Kernels& kernels();

// The same by name; nullptr or "" chooses for the CPU.
const Kernels& kernels_named(const char* isa);

}  // namespace streammix
