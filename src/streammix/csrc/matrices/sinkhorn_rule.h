// Truncated Sinkhorn as each project writes it: the order of its half rounds, its start, and what it adds to a sum or clamps it to.
#pragma once

namespace streammix {

// Written for recipes that end on the rows: start, then `rounds` of (columns, rows). One that ends on the columns is the transpose.
// The numbers are those of ops/sinkhorn_rules.py, which has each recipe's rule.
enum class Start {
    normalised = 0,  // exp(R), its first round taken in max-subtracted form: nothing overflows, no row becomes zero
    shifted = 1,     // exp(R - column max)
    softmax = 2,     // softmax over columns + eps, which stands for the first columns' half round
};
struct SinkhornRule {
    bool ends_on_columns;
    Start start;
    double eps;  // softmax: added to the start and to every sum; shifted: sums are at least this; normalised: 0
};

// What an eps may be where there is one: less would overflow float32 when it is divided by.
inline constexpr double least_eps = 1e-20, largest_eps = 1;

constexpr bool is_valid(const SinkhornRule& rule) {
    if (rule.start == Start::normalised) return rule.eps == 0;
    return (rule.start == Start::shifted || rule.start == Start::softmax) && least_eps <= rule.eps && rule.eps <= largest_eps;
}

}  // namespace streammix
