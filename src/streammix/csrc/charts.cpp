// The same charts as ops/eager/chart.py, step by step.
#include "charts.h"

namespace streammix {

Chart::Chart(int n, bool is_recursive, bool scaled) : n(n), scaled(scaled), halving((n & (n - 1)) == 0) {
    const Numbers ones(n, 0);
    if (!is_recursive) sequential(ones, ones);
    else
        for (const Numbers& row : recursive(ones, ones)) entries.insert(entries.end(), row.begin(), row.end());
}

int32_t Chart::write(Step step, std::initializer_list<int32_t> of) {
    steps.push_back({step, int32_t(of.size()), int32_t(operands.size()), numbers});
    operands.insert(operands.end(), of);
    numbers += step == Step::choice ? 4 : 1;
    return steps.back().made;
}

int32_t Chart::total(const Numbers& of, size_t from, size_t to) {
    if (to - from == 1) return of[from];
    steps.push_back({Step::sum, int32_t(to - from), int32_t(operands.size()), numbers});
    operands.insert(operands.end(), of.begin() + from, of.begin() + to);
    return numbers++;
}

Chart::Chosen Chart::choose(int32_t lower, int32_t upper) {
    const int32_t made = write(Step::choice, {lower, upper});
    return {made, made + 1};
}

void Chart::sequential(Numbers r, Numbers c) {
    for (int i = 0; i < n - 1; ++i) {
        for (int j = 0; j < n - 1; ++j) {
            const int32_t of_row = write(Step::sum, {r[i], ~total(c, j + 1, n)}), of_column = write(Step::sum, {c[j], ~total(r, i + 1, n)});
            const int32_t lower = write(Step::largest, {of_row, of_column}), upper = write(Step::least, {r[i], c[j]});
            const Chosen x = choose(lower, upper);
            entries.push_back(write(Step::sum, {lower, x.below}));
            r[i] = write(Step::sum, {r[i], ~upper, x.above});
            c[j] = write(Step::sum, {c[j], ~upper, x.above});
            // = c[n - 1] - r[i], the last choice having had only c[n - 1] behind it
            if (j == n - 2) c[n - 1] = write(Step::sum, {lower, ~of_row, x.below});
        }
        entries.push_back(r[i]);
    }
    entries.insert(entries.end(), c.begin(), c.end());
}

std::vector<Chart::Numbers> Chart::recursive(const Numbers& r, const Numbers& c) {
    const size_t size = r.size(), h = size / 2;
    if (size == 1) return {r};
    if (size % 2) {  // corner, last column, last row, then the rest
        const Numbers rows(r.begin(), r.end() - 1), columns(c.begin(), c.end() - 1);
        const int32_t of_row = write(Step::sum, {r.back(), ~total(c, 0, size - 1)}), of_column = write(Step::sum, {c.back(), ~total(r, 0, size - 1)});
        const int32_t lower = write(Step::largest, {of_row, of_column}), upper = write(Step::least, {r.back(), c.back()});
        const Chosen x = choose(lower, upper);
        const Shares column = split(write(Step::sum, {c.back(), ~upper, x.above}), write(Step::sum, {lower, ~of_column, x.below}), rows);
        const Shares row = split(write(Step::sum, {r.back(), ~upper, x.above}), write(Step::sum, {lower, ~of_row, x.below}), columns);
        std::vector<Numbers> H = recursive(column.overs, row.overs);
        for (size_t i = 0; i < H.size(); ++i) H[i].push_back(column.shares[i]);
        H.push_back(row.shares);
        H.back().push_back(write(Step::sum, {lower, x.below}));
        return H;
    }
    const int32_t R1 = total(r, 0, h), R2 = total(r, h, size), C1 = total(c, 0, h), C2 = total(c, h, size);
    const int32_t of_rows = write(Step::sum, {R1, ~C2}), of_columns = write(Step::sum, {C1, ~R2});
    const int32_t lower = write(Step::largest, {of_rows, of_columns}), upper = write(Step::least, {R1, C1});
    const Chosen x = choose(lower, upper);
    const int32_t m11 = write(Step::sum, {lower, x.below});
    const int32_t m12 = write(Step::sum, {R1, ~upper, x.above}), m21 = write(Step::sum, {C1, ~upper, x.above});
    const int32_t m22_of_rows = write(Step::sum, {lower, ~of_columns, x.below}), m22_of_columns = write(Step::sum, {lower, ~of_rows, x.below});
    const auto half = [h](const Numbers& of, bool second) { return second ? Numbers(of.begin() + h, of.end()) : Numbers(of.begin(), of.begin() + h); };
    const Shares top = split(m11, m12, half(r, false)), bottom = split(m21, m22_of_rows, half(r, true));
    const Shares left = split(m11, m21, half(c, false)), right = split(m12, m22_of_columns, half(c, true));
    std::vector<Numbers> H = recursive(top.shares, left.shares), upper_right = recursive(top.overs, right.shares);
    std::vector<Numbers> lower_left = recursive(bottom.shares, left.overs), lower_right = recursive(bottom.overs, right.overs);
    for (size_t i = 0; i < h; ++i) H[i].insert(H[i].end(), upper_right[i].begin(), upper_right[i].end());
    for (size_t i = 0; i < h; ++i) {
        H.push_back(lower_left[i]);
        H.back().insert(H.back().end(), lower_right[i].begin(), lower_right[i].end());
    }
    return H;
}

Chart::Halves Chart::part(int32_t mass, int32_t cap, int32_t other_cap) {
    const int32_t least = write(Step::sum, {mass, ~other_cap});
    const int32_t lower = write(Step::largest, {least}), upper = write(Step::least, {mass, cap});
    const Chosen x = choose(lower, upper);
    return {{write(Step::sum, {lower, x.below}), write(Step::sum, {cap, ~upper, x.above})},
            {write(Step::sum, {mass, ~upper, x.above}), write(Step::sum, {lower, ~least, x.below})}};
}

// A mass among rows or columns, each within its cap: by a binary tree, or one after the other. left_over: what the caps hold beyond it.
Chart::Shares Chart::split(int32_t mass, int32_t left_over, const Numbers& caps) {
    const size_t size = caps.size(), first = halving ? size / 2 : 1;
    if (size == 1) return {{mass}, {left_over}};
    const Halves parts = part(mass, total(caps, 0, first), total(caps, first, size));
    Shares all = split(parts.first.share, parts.first.over, Numbers(caps.begin(), caps.begin() + first));
    const Shares rest = split(parts.second.share, parts.second.over, Numbers(caps.begin() + first, caps.end()));
    all.shares.insert(all.shares.end(), rest.shares.begin(), rest.shares.end());
    all.overs.insert(all.overs.end(), rest.overs.begin(), rest.overs.end());
    return all;
}

}  // namespace streammix
