// The charts of the transportation polytope (TBP and RTBP, arXiv 2605.21724) as steps over numbers: which they are depends on n alone, so
// they are written once and run for many matrices at a time. charts.h writes them, chart.h runs them forwards and backwards.
#pragma once

#include <stdint.h>

namespace streammix {

// Each step makes one number, a choice four.
enum class Step : int32_t {
    sum,      // of its operands; one given as ~k is number k, subtracted
    largest,  // of zero and its operands, one or two
    least,    // of its two operands
    choice,   // of x in [L, U] by the next logit: x - L, U - x, the share (x - L) / (U - L), and its slope by the logit
};

struct ChartStep {
    Step step;
    int32_t operands, first;  // how many, and where they are
    int32_t made;             // the first number it makes
};

// Number 0 is one, the margin of every row and column.
struct ChartSteps {
    const ChartStep* steps;
    const int32_t* operands;
    const int32_t* entries;  // the number of each entry of H, row by row
    int count, numbers;
    int n;
    bool scaled;  // a choice's share is sigmoid(4 t / (U - L + 1e-3)) in place of sigmoid(t)
};

}  // namespace streammix
