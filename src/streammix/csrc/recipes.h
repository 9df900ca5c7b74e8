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
    double eps;  // softmax: added to the start and to every sum; shifted: sums are at least this; normalised: 0
};

inline constexpr SinkhornRule sinkhorn_rules[] = {
    /* mhc                (columns, rows)                      */ {false, Start::normalised, 0},
    /* deepseek-v4        softmax rows + eps, columns, (r, c)  */ {true, Start::softmax, 1e-6},
    /* megatron           (rows, columns)                      */ {true, Start::shifted, 1e-6},
    /* liger              as deepseek-v4                       */ {true, Start::softmax, 1e-6},
    /* transformer-engine (rows, columns) on potentials        */ {true, Start::normalised, 0},
    /* lucidrains         (columns, rows)                      */ {false, Start::shifted, 1e-12},
};

// What an eps may be, next to 0 where it is added: less would overflow float32 when it is divided by.
inline constexpr double least_eps = 1e-20, largest_eps = 1;

constexpr bool takes_eps(const SinkhornRule& rule, double eps) {
    return rule.start != Start::normalised && ((least_eps <= eps && eps <= largest_eps) || (eps == 0 && rule.start == Start::softmax));
}
// With 0 added, a softmax and the division that follows it are a first round in exact arithmetic: taken so that no row or column vanishes.
constexpr SinkhornRule with_eps(SinkhornRule rule, double eps) {
    if (eps == 0) rule.start = Start::normalised;
    rule.eps = eps;
    return rule;
}

}  // namespace streammix
