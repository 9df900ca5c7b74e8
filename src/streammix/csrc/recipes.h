// Truncated Sinkhorn as each project writes it: the order of its half rounds, its start, and what it adds to a sum or clamps it to.
#pragma once

namespace streammix {

enum class Recipe { mhc, deepseek_v4, megatron, liger, transformer_engine, lucidrains };

// Written for recipes that end on the rows: start, then `rounds` of (columns, rows). One that ends on the columns is the transpose.
enum class Start {
    normalised,  // exp(R), its first round taken in max-subtracted form: nothing overflows, no row becomes zero
    shifted,     // exp(R - column max)
    softmax,     // softmax over columns + eps, which stands for the first columns' half round
};
struct SinkhornRule {
    bool ends_on_columns;
    Start start;
    double eps;    // sums s become s + eps,
    double floor;  // then at least floor
};

inline constexpr SinkhornRule sinkhorn_rules[] = {
    /* mhc                (columns, rows)                      */ {false, Start::normalised, 0, 0},
    /* deepseek-v4        softmax rows + eps, columns, (r, c)  */ {true, Start::softmax, 1e-6, 0},
    /* megatron           (rows, columns)                      */ {true, Start::shifted, 0, 1e-6},
    /* liger              as deepseek-v4                       */ {true, Start::softmax, 1e-6, 0},
    /* transformer-engine (rows, columns) on potentials        */ {true, Start::normalised, 0, 0},
    /* lucidrains         (columns, rows)                      */ {false, Start::shifted, 0, 1e-12},
};

}  // namespace streammix
