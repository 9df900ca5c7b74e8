// Charts of the transportation polytope: their steps (chart_steps.h) over many matrices at a time, and backwards through them.
#pragma once

#include "kernels.h"
#include "matrices/batch.h"

namespace streammix::SM_ISA {

template <class F>
inline constexpr F chart_beta = 4;
template <class F>
inline constexpr F chart_eps = F(1e-3);

// e^-|far| is normal
template <class F>
inline constexpr F chart_far = sizeof(F) == 4 ? 86 : 708;

template <class V>
SM_FN V chart_logit(const ChartSteps& chart, V t, V width) {
    using F = Scalar<V>;
    const V logit = chart.scaled ? chart_beta<F> * t / (width + chart_eps<F>) : t;
    return min(V(chart_far<F>), max(V(-chart_far<F>), logit));
}

// In: logits t. Out: the numbers x.
template <class V>
[[gnu::noinline]] void run_chart(const ChartSteps& chart, const V* t, V* x) {
    using F = Scalar<V>;
    x[0] = V(1);
    for (int s = 0; s < chart.count; ++s) {
        const ChartStep& step = chart.steps[s];
        const int32_t* of = chart.operands + step.first;
        V* out = x + step.made;
        switch (step.step) {
            case Step::sum: {
                V total = x[of[0]];
                for (int k = 1; k < step.operands; ++k) total = of[k] < 0 ? total - x[~of[k]] : total + x[of[k]];
                *out = total;
                break;
            }
            case Step::largest: *out = max(V(0), max(x[of[0]], x[of[step.operands - 1]])); break;
            case Step::least: *out = min(x[of[0]], x[of[1]]); break;
            case Step::choice: {
                const V width = max(V(0), x[of[1]] - x[of[0]]), logit = chart_logit(chart, *t++, width);
                const V power = exp(-abs(logit)), most = reciprocal(F(1) + power), rest = power * most;  // the share, or one less it
                out[2] = select(logit < V(0), rest, most);
                out[3] = most * rest;
                out[0] = width * out[2];
                out[1] = width - out[0];
                break;
            }
        }
    }
}

// In: logits t, the numbers x, and G, the gradients of the entries. Out: dt. d: room for the numbers' gradients. Of numbers that tie, each has
// half; with zero none does.
template <class V>
[[gnu::noinline]] void run_chart_backward(const ChartSteps& chart, const V* t, const V* x, const V* G, V* d, V* dt) {
    using F = Scalar<V>;
    for (int k = 0; k < chart.numbers; ++k) d[k] = V(0);
    for (int e = 0; e < chart.n * chart.n; ++e) d[chart.entries[e]] += G[e];
    const auto divide = [](V a, V high, V low, V& if_higher, V& if_lower) __attribute__((always_inline)) {
        const V half = select(low < high, V(0), select(high < low, a, a * F(0.5)));
        if_lower += half;
        if_higher += a - half;
    };
    int choice = (chart.n - 1) * (chart.n - 1);
    for (int s = chart.count - 1; s >= 0; --s) {
        const ChartStep& step = chart.steps[s];
        const int32_t* of = chart.operands + step.first;
        const V a = d[step.made];
        switch (step.step) {
            case Step::sum:
                for (int k = 0; k < step.operands; ++k) {
                    if (of[k] < 0) d[~of[k]] -= a;
                    else d[of[k]] += a;
                }
                break;
            case Step::largest: {
                const V high = x[of[0]], low = x[of[step.operands - 1]], kept = select(max(high, low) < V(0), V(0), a);
                divide(kept, high, low, d[of[0]], d[of[step.operands - 1]]);
                break;
            }
            case Step::least: divide(a, x[of[1]], x[of[0]], d[of[0]], d[of[1]]); break;
            case Step::choice: {
                // x - L = width share,  U - x = width - width share
                --choice;
                const V between = x[of[1]] - x[of[0]], width = max(V(0), between), above = d[step.made + 1], both = a - above;
                const V dlogit = both * width * x[step.made + 3];
                V dwidth = above + both * x[step.made + 2];
                if (chart.scaled) {
                    const V per = reciprocal(width + chart_eps<F>);
                    dwidth -= dlogit * chart_logit(chart, t[choice], width) * per;
                    dt[choice] = dlogit * chart_beta<F> * per;
                } else {
                    dt[choice] = dlogit;
                }
                const V kept = select(between < V(0), V(0), dwidth);
                d[of[1]] += kept;
                d[of[0]] -= kept;
                break;
            }
        }
    }
}

// Zero in place of logits of which one is not finite; returns NaN there, else zero.
template <class V>
SM_FN V take_out_poison(V* t, int count) {
    V poison = V(0);
    for (int k = 0; k < count; ++k) poison += t[k] * V(0);
    const Mask<V> sound = poison < V(1);
    for (int k = 0; k < count; ++k) t[k] = select(sound, t[k], V(0));
    return poison;
}

// ------------------------------------------------------------------------------------------------------------------ batches
template <class F>
using ChartNumber = Pair<Simd<F, vector_bytes / sizeof(F)>>;

template <class F>
void chart_range(const ChartSteps& chart, const F* logits, F* H, int64_t begin, int64_t end) {
    using V = ChartNumber<F>;
    const FlushSubnormals flush;
    const int nn = chart.n * chart.n, choices = (chart.n - 1) * (chart.n - 1);
    const Scratch<V> t(choices), x(chart.numbers), entries(nn);
    for (int64_t b = begin; b < end; b += lanes<V>) {
        const int count = int(end - b < lanes<V> ? end - b : lanes<V>);
        load_block<0>(logits + b * choices, count, t.p, choices);
        const V poison = take_out_poison(t.p, choices);
        run_chart(chart, t.p, x.p);
        for (int e = 0; e < nn; ++e) entries.p[e] = x.p[chart.entries[e]] + poison;
        store_block<0>(H + b * nn, count, entries.p, nn, false);
    }
}
template <class F>
void chart_backward_range(const ChartSteps& chart, const F* grad, const F* logits, F* out, int64_t begin, int64_t end) {
    using V = ChartNumber<F>;
    const FlushSubnormals flush;
    const int nn = chart.n * chart.n, choices = (chart.n - 1) * (chart.n - 1);
    const Scratch<V> t(choices), x(chart.numbers), d(chart.numbers), G(nn), dt(choices);
    for (int64_t b = begin; b < end; b += lanes<V>) {
        const int count = int(end - b < lanes<V> ? end - b : lanes<V>);
        load_block<0>(logits + b * choices, count, t.p, choices);
        load_block<0>(grad + b * nn, count, G.p, nn);
        const Mask<V> sound = take_out_poison(t.p, choices) < V(1);
        run_chart(chart, t.p, x.p);
        run_chart_backward(chart, t.p, x.p, G.p, d.p, dt.p);
        for (int k = 0; k < choices; ++k) dt.p[k] = select(sound, dt.p[k], V(0));
        store_block<0>(out + b * choices, count, dt.p, choices, false);
    }
}

inline void chart_any(DType dtype, const ChartSteps& chart, const void* logits, void* H, int64_t begin, int64_t end) {
    if (dtype == DType::float64) return chart_range(chart, (const double*)logits, (double*)H, begin, end);
    chart_range(chart, (const float*)logits, (float*)H, begin, end);
}
inline void chart_backward_any(DType dtype, const ChartSteps& chart, const void* grad, const void* logits, void* out, int64_t begin, int64_t end) {
    if (dtype == DType::float64) return chart_backward_range(chart, (const double*)grad, (const double*)logits, (double*)out, begin, end);
    chart_backward_range(chart, (const float*)grad, (const float*)logits, (float*)out, begin, end);
}

}  // namespace streammix::SM_ISA
