// Writes the steps of a chart: for every matrix of a size the same.
#pragma once

#include <stddef.h>

#include <initializer_list>
#include <vector>

#include "matrices/chart_steps.h"

namespace streammix {

class Chart {
    using Numbers = std::vector<int32_t>;  // of a row's margins, or a column's
    struct Part {                          // of a mass: a share, and what its cap holds beyond it
        int32_t share, over;
    };
    struct Halves {
        Part first, second;
    };
    struct Shares {
        Numbers shares, overs;
    };
    struct Chosen {
        int32_t below, above;  // x - L and U - x
    };

    std::vector<ChartStep> steps;
    Numbers operands, entries;
    int n, numbers = 1;
    bool scaled, halving;

public:
    // n >= 1. is_recursive: RTBP, else TBP
    Chart(int n, bool is_recursive, bool scaled);
    ChartSteps view() const { return {steps.data(), operands.data(), entries.data(), int(steps.size()), numbers, n, scaled}; }

private:
    int32_t write(Step step, std::initializer_list<int32_t> of);
    int32_t total(const Numbers& of, size_t from, size_t to);
    Chosen choose(int32_t lower, int32_t upper);
    void sequential(Numbers r, Numbers c);
    std::vector<Numbers> recursive(const Numbers& r, const Numbers& c);
    Halves part(int32_t mass, int32_t cap, int32_t other_cap);
    Shares split(int32_t mass, int32_t left_over, const Numbers& caps);
};

}  // namespace streammix
