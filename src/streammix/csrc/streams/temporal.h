// A branch's outputs y over time as orthogonal directions to write along (xHC): causal depthwise filters, and modified Gram-Schmidt by token.
//
//     g_j[t] = sum_i f_j[i] * y[t - i],  y = 0 before the first        v_0 = y
//     w = g_j;  for i = 0 .. j:  w -= c v_i,  c = <w, v_i> / s_i       v_{j+1} = w,  s = max(|w|^2, 1e-10 |g_j|^2, least normal number)
//
// Backwards through a step of it, from the gradient d of the w that it leaves:
//
//     p = <d, v_i>      dv_i -= c d + (p / s_i) w_before      ds_i += p c / s_i      d -= (p / s_i) v_i        dv_i += 2 v_i ds_i at last
#pragma once

#include "kernels.h"
#include "streams/streams.h"

namespace streammix::SM_ISA {

template <class V>
SM_FN Scalar<V> dot(const Scalar<V>* a, const Scalar<V>* b, int64_t C) {
    V s(0);
    for_channels<V>(0, C, [&](int64_t c, auto count) __attribute__((always_inline)) { s += load<V>(a + c, count) * load<V>(b + c, count); });
    return sum(s);
}
// out = a x + y
template <class V>
SM_FN void add_scaled(Scalar<V> a, const Scalar<V>* x, const Scalar<V>* y, Scalar<V>* out, int64_t C) {
    for_channels<V>(0, C,
                    [&](int64_t c, auto count) __attribute__((always_inline)) { store(out + c, load<V>(y + c, count) + V(a) * load<V>(x + c, count), count); });
}

// g of one filter at row `at` of the known
template <class V>
[[gnu::noinline]] void filter_token(Temporal t, const Scalar<V>* known, int64_t at, const Scalar<V>* taps, Scalar<V>* g) {
    const int64_t reach = at + 1 < t.length ? at + 1 : t.length;
    for_channels<V>(0, t.C, [&](int64_t c, auto count) __attribute__((always_inline)) {
        V s = load<V>(taps + c, count) * load<V>(known + at * t.C + c, count);
        for (int64_t i = 1; i < reach; ++i) s += load<V>(taps + i * t.C + c, count) * load<V>(known + (at - i) * t.C + c, count);
        store(g + c, s, count);
    });
}

// What Gram-Schmidt leaves behind for its backward pass: every w before its step, the coefficients c, the squares s, and whether s is |v|^2
template <class F>
struct Steps {
    F *before, *coefficients, *squares;
    bool* exact;
    static int rows(int filters) { return filters * (filters + 1) / 2; }
};

// v (1 + filters, C) of a token whose y is row `at` of the known. steps: may be without `before`.
template <class V>
SM_FN void orthogonal_token(Temporal t, const Scalar<V>* known, int64_t at, const Scalar<V>* filters, Scalar<V>* v, const Steps<Scalar<V>>& steps) {
    using F = Scalar<V>;
    constexpr F negligible = F(1e-10), tiniest = sizeof(F) == 4 ? F(1.1754943508222875e-38) : F(2.2250738585072014e-308);
    const auto keep = [&](int j, F square, F least) {
        const F most = square > least ? square : least;
        steps.exact[j] = square >= least && square >= tiniest;
        steps.squares[j] = most > tiniest ? most : tiniest;
    };
    memcpy(v, known + at * t.C, t.C * sizeof(F));
    const F first = dot<V>(v, v, t.C);
    keep(0, first, negligible * first);
    for (int j = 0, step = 0; j < t.filters; ++j) {
        F* w = v + (j + 1) * t.C;
        filter_token<V>(t, known, at, filters + j * t.length * t.C, w);
        const F least = negligible * dot<V>(w, w, t.C);
        for (int i = 0; i <= j; ++i, ++step) {
            if (steps.before) memcpy(steps.before + step * t.C, w, t.C * sizeof(F));
            const F c = dot<V>(w, v + i * t.C, t.C) / steps.squares[i];
            steps.coefficients[step] = c;
            add_scaled<V>(-c, v + i * t.C, w, w, t.C);
        }
        keep(j + 1, dot<V>(w, w, t.C), least);
    }
}

// In: v and its gradient d, of a token. Out: d, the gradient of y by v_0 alone, and those of every g.
template <class V>
SM_FN void orthogonal_token_backward(Temporal t, const Scalar<V>* v, Scalar<V>* d, const Steps<Scalar<V>>& steps, Scalar<V>* dsquares) {
    using F = Scalar<V>;
    for (int j = 0; j <= t.filters; ++j) dsquares[j] = 0;
    for (int j = t.filters; j >= 0; --j) {
        F* dw = d + j * t.C;
        if (steps.exact[j]) add_scaled<V>(2 * dsquares[j], v + j * t.C, dw, dw, t.C);
        for (int i = j - 1; i >= 0; --i) {
            const int step = Steps<F>::rows(j - 1) + i;
            const F *vi = v + i * t.C, *w = steps.before + step * t.C;
            F* di = d + i * t.C;
            const F c = steps.coefficients[step], share = dot<V>(dw, vi, t.C) / steps.squares[i];
            dsquares[i] += share * c;
            for_channels<V>(0, t.C, [&](int64_t at, auto count) __attribute__((always_inline)) {
                const V g = load<V>(dw + at, count);
                store(di + at, load<V>(di + at, count) - (V(c) * g + V(share) * load<V>(w + at, count)), count);
                store(dw + at, g - V(share) * load<V>(vi + at, count), count);
            });
        }
    }
}

// The filters' backward over the channels [first, first + width) of a sequence: dknown, and dfilters, which is added to. d: (tokens, 1 + filters, C),
// as orthogonal_token_backward leaves it. room: for 2 known width numbers.
template <class V>
[[gnu::noinline]] void filters_backward(Temporal t, const Scalar<V>* d, const Scalar<V>* known, const Scalar<V>* filters, Scalar<V>* dknown,
                                        Scalar<V>* dfilters, int64_t first, int64_t width, Scalar<V>* room) {
    using F = Scalar<V>;
    // Side by side, because columns of a large matrix share a few sets of the cache
    F *y = room, *dy = y + t.known * width;
    const int64_t before = t.known - t.tokens, row = (1 + t.filters) * t.C;
    for (int64_t r = 0; r < t.known; ++r) {
        memcpy(y + r * width, known + r * t.C + first, width * sizeof(F));
        if (r < before) memset(dy + r * width, 0, width * sizeof(F));
        else memcpy(dy + r * width, d + (r - before) * row + first, width * sizeof(F));
    }
    for (int j = 0; j < t.filters; ++j)
        for (int64_t r = before; r < t.known; ++r) {
            const F* g = d + (r - before) * row + (j + 1) * t.C + first;
            const int64_t reach = r + 1 < t.length ? r + 1 : t.length;
            for (int64_t i = 0; i < reach; ++i) {
                const F *tap = filters + (j * t.length + i) * t.C + first, *from = y + (r - i) * width;
                F *dtap = dfilters + (j * t.length + i) * t.C + first, *to = dy + (r - i) * width;
                for_channels<V>(0, width, [&](int64_t c, auto count) __attribute__((always_inline)) {
                    const V x = load<V>(g + c, count);
                    store(to + c, load<V>(to + c, count) + x * load<V>(tap + c, count), count);
                    store(dtap + c, load<V>(dtap + c, count) + x * load<V>(from + c, count), count);
                });
            }
        }
    for (int64_t r = 0; r < t.known; ++r) memcpy(dknown + r * t.C + first, dy + r * width, width * sizeof(F));
}

// ------------------------------------------------------------------------------------------------------------------- ranges
template <class V>
void temporal_basis_range(Temporal t, const Scalar<V>* known, const Scalar<V>* filters, Scalar<V>* v, int64_t begin, int64_t end) {
    using F = Scalar<V>;
    const int size = 1 + t.filters;
    const Scratch<F> numbers(Steps<F>::rows(t.filters) + size);
    const Scratch<bool> exact(size);
    const Steps<F> steps{nullptr, numbers.p + size, numbers.p, exact.p};
    for (int64_t k = begin; k < end; ++k)
        orthogonal_token<V>(t, known + k / t.tokens * t.known * t.C, t.known - t.tokens + k % t.tokens, filters, v + k * size * t.C, steps);
}
template <class V>
void temporal_orthogonal_backward_range(Temporal t, const Scalar<V>* grad, const Scalar<V>* known, const Scalar<V>* filters, Scalar<V>* d, int64_t begin,
                                        int64_t end) {
    using F = Scalar<V>;
    const int size = 1 + t.filters, rows = Steps<F>::rows(t.filters);
    const Scratch<F> v(size * t.C), before(rows * t.C), numbers(rows + 2 * size);
    const Scratch<bool> exact(size);
    const Steps<F> steps{before.p, numbers.p + 2 * size, numbers.p, exact.p};
    for (int64_t k = begin; k < end; ++k) {
        orthogonal_token<V>(t, known + k / t.tokens * t.known * t.C, t.known - t.tokens + k % t.tokens, filters, v.p, steps);
        memcpy(d + k * size * t.C, grad + k * size * t.C, size * t.C * sizeof(F));
        orthogonal_token_backward<V>(t, v.p, d + k * size * t.C, steps, numbers.p + size);
    }
}
template <class V>
void temporal_filters_backward_range(Temporal t, const Scalar<V>* d, const Scalar<V>* known, const Scalar<V>* filters, Scalar<V>* dknown, Scalar<V>* dfilters,
                                     int64_t begin, int64_t end) {
    using F = Scalar<V>;
    constexpr int64_t at_once = 4 * lanes<V>;
    const Scratch<F> room(2 * t.known * at_once);
    for (int64_t r = 0; r < t.filters * t.length; ++r) memset(dfilters + r * t.C + begin, 0, (end - begin) * sizeof(F));
    for (int64_t first = begin; first < end; first += at_once) {
        const int64_t width = end - first < at_once ? end - first : at_once;
        for (int64_t s = 0; s < t.sequences; ++s) {
            const int64_t at = s * t.known * t.C;
            filters_backward<V>(t, d + s * t.tokens * (1 + t.filters) * t.C, known + at, filters, dknown + at, dfilters, first, width, room.p);
        }
    }
}

template <class Function>
SM_FN void for_temporal(Temporal t, Function f) {
    if (t.dtype == DType::float64) return f.template operator()<Simd<double, vector_bytes / 8>>();
    f.template operator()<Simd<float, vector_bytes / 4>>();
}
inline void temporal_basis_any(Temporal t, const void* known, const void* filters, void* v, int64_t begin, int64_t end) {
    for_temporal(t, [&]<class V>() { temporal_basis_range<V>(t, (const Scalar<V>*)known, (const Scalar<V>*)filters, (Scalar<V>*)v, begin, end); });
}
inline void temporal_orthogonal_backward_any(Temporal t, const void* grad, const void* known, const void* filters, void* d, int64_t begin, int64_t end) {
    for_temporal(t, [&]<class V>() {
        using F = Scalar<V>;
        temporal_orthogonal_backward_range<V>(t, (const F*)grad, (const F*)known, (const F*)filters, (F*)d, begin, end);
    });
}
inline void temporal_filters_backward_any(Temporal t, const void* d, const void* known, const void* filters, void* dknown, void* dfilters, int64_t begin,
                                          int64_t end) {
    for_temporal(t, [&]<class V>() {
        using F = Scalar<V>;
        temporal_filters_backward_range<V>(t, (const F*)d, (const F*)known, (const F*)filters, (F*)dknown, (F*)dfilters, begin, end);
    });
}

}  // namespace streammix::SM_ISA
