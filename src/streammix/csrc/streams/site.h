// A site's work between two branches, block by block of tokens so that the state stays in cache from one stage to the next:
// the write of the site before, the coefficients, the read. The backward goes the other way.
#pragma once

#include "streams/coefficients.h"
#include "kernels.h"

namespace streammix::SM_ISA {

// ------------------------------------------------------------------------------------------------------------ activations
template <class V>
SM_FN V sigmoid(V x) {
    using F = Scalar<V>;
    constexpr F far = sizeof(F) == 4 ? 86 : 708;
    return reciprocal(F(1) + exp(-min(V(far), max(V(-far), x))));
}
template <class V>
SM_FN V activate(Activation how, V x) {
    if (how == Activation::linear) return x;
    return how == Activation::sigmoid ? sigmoid(x) : Scalar<V>(2) * sigmoid(x);
}
template <class V>
SM_FN V activation_slope(Activation how, V x) {
    if (how == Activation::linear) return V(1);
    const V s = sigmoid(x), slope = s * (Scalar<V>(1) - s);
    return how == Activation::sigmoid ? slope : Scalar<V>(2) * slope;
}

// f(first, how many) over `count` numbers, vector by vector
template <class V, class Function>
SM_FN void for_numbers(int count, Function f) {
    for_channels<V>(0, count, [&](int64_t i, auto many) __attribute__((always_inline)) { f(int(i), many); });
}

// multiplier * activation + more
template <class V>
SM_FN void activate_all(Activation how, const Scalar<V>* logits, Scalar<V>* out, int count, Scalar<V> multiplier, Scalar<V> more) {
    for_numbers<V>(count, [&](int i, auto many)
                              __attribute__((always_inline)) { store(out + i, V(multiplier) * activate(how, load<V>(logits + i, many)) + V(more), many); });
}

// ------------------------------------------------------------------------------------------------------------ a generator, typed
template <class V>
struct Generated {
    using F = Scalar<V>;
    const Generator& g;
    const F *weight, *panel, *blocks, *scale, *bias;
    int n, rows, mixed;

    Generated(const Generator& g, int n)
        : g(g),
          weight((const F*)g.weight),
          panel((const F*)g.panel),
          blocks((const F*)g.blocks),
          scale((const F*)g.scale),
          bias((const F*)g.bias),
          n(n),
          rows(g.rows),
          mixed(g.rows - 2 * n) {}

    SM_FN void logits(const F* P, F* out) const {
        for_numbers<V>(rows, [&](int i, auto many) __attribute__((always_inline)) {
            store(out + i, load<V>(scale + i, many) * load<V>(P + i, many) + load<V>(bias + i, many), many);
        });
    }
    SM_FN void read_weights(const F* logits, F* pre) const { activate_all<V>(g.read, logits, pre, n, F(1), F(g.read_eps)); }
    SM_FN void write_weights(const F* logits, F* post) const { activate_all<V>(g.write, logits, post, n, F(g.write_multiplier), F(g.write_eps)); }
};

// ------------------------------------------------------------------------------------------------------------ forward
template <int N, bool past_caches, class V, class M>
void write_range(Streams s, Write w, int64_t begin, int64_t end) {
    using F = Scalar<V>;
    for (int64_t t = begin; t < end; ++t) {
        const int64_t at = place(s, t);
        write_token<N, past_caches, Columns<V, M>>((const M*)w.x + at, (const M*)w.y + t * s.C, (const F*)w.post + t * s.n, (const F*)w.res + t * s.n * s.n,
                                                   (M*)w.out + at, s.n, row_of(s), s.C);
    }
}

template <int N, class V, class M>
void site_read_block(Streams s, const Generated<V>& gen, Read r, int64_t begin, int64_t end, Scalar<V>* numbers, V* sums) {
    using F = Scalar<V>;
    const int n = s.n, rows = gen.rows;
    const int64_t width = n * s.C;
    const M* x = (const M*)r.x;
    F *P = (F*)r.projected, *inverse_rms = (F*)r.inverse_rms;
    const F eps(gen.g.norm_eps);
    if (gen.panel)
        for_tiles<panel_tokens>(begin, end, [&]<int tokens>(int64_t t) {
            multiply_phi_tile<tokens, V>(x + t * width, width, gen.panel, rows, width, eps, P + t * rows, rows, inverse_rms + t, 1, sums);
        });
    else
        for (int64_t t = begin; t < end; ++t) multiply_phi<V>(x + t * width, gen.weight, rows, width, eps, P + t * rows, inverse_rms + t, numbers);
    if (!r.u) return;
    F* logits = numbers;
    for (int64_t t = begin; t < end; ++t) {
        gen.logits(P + t * rows, logits);
        F pre[largest_n];
        gen.read_weights(logits, pre);
        read_token<N, Columns<V, M>>(x + t * width, pre, (M*)r.u + t * s.C, n, s.C, s.C);
        gen.write_weights(logits + n, (F*)r.post + t * n);
        memcpy((F*)r.mix + t * gen.mixed, logits + 2 * n, gen.mixed * sizeof(F));
    }
}

template <int N, class V, class M>
void write_site_read_range(Streams s, const Write* w, Generator g, Read r, int64_t begin, int64_t end) {
    const Generated<V> gen(g, s.n);
    const int64_t width = s.n * s.C;
    Scratch<Scalar<V>> numbers(g.rows > width ? g.rows : width);
    Scratch<V> sums(panel_tokens * (g.rows / lanes<V> + 1));
    for (int64_t b = begin; b < end; b += 2 * panel_tokens) {
        const int64_t e = b + 2 * panel_tokens < end ? b + 2 * panel_tokens : end;
        if (w) write_range<N, false, V, M>(s, *w, b, e);
        site_read_block<N, V, M>(s, gen, r, b, e, numbers.p, sums.p);
    }
}

// ------------------------------------------------------------------------------------------------------------ backward
template <int N, bool past_caches, class V, class M>
SM_FN void write_backward_one(Streams s, WriteBackward w, const M* grad, int64_t t) {
    using F = Scalar<V>;
    const int64_t at = place(s, t), square = int64_t(s.n) * s.n;
    write_token_backward<N, past_caches, V>(grad, (const M*)w.x + at, (const M*)w.y + t * s.C, (const F*)w.post + t * s.n, (const F*)w.res + t * square,
                                            (M*)w.dx + at, (M*)w.dy + t * s.C, (F*)w.dpost + t * s.n, (F*)w.dres + t * square, s.n, row_of(s), s.C);
}
// grad(t): the gradient of what was written to token t
template <int N, class V, class M, class Grad>
void write_backward_range(Streams s, WriteBackward w, int64_t begin, int64_t end, Grad grad) {
    const bool past_caches = w.large && rows_are_aligned<V, M>(w.dx, s.C);
    for (int64_t t = begin; t < end; ++t)
        past_caches ? write_backward_one<N, true, V, M>(s, w, grad(t), t) : write_backward_one<N, false, V, M>(s, w, grad(t), t);
    if (past_caches) finish_stores();
}

// What the backward of a block keeps for each of its tokens
template <class F>
struct BlockGradients {
    F* q;       // rows a token
    F* logits;  // rows
    F a[block_tokens], pre[block_tokens * largest_n];
};

// dlogits of token t, and from them its q and a; scale and bias add up.
template <int N, class V, class M>
void logit_gradients(Streams s, const Generated<V>& gen, ReadBackward r, int64_t t, int64_t first, BlockGradients<Scalar<V>>& kept) {
    using F = Scalar<V>;
    const int n = s.n, rows = gen.rows;
    const F* P = (const F*)r.projected + t * rows;
    F *q = kept.q + (t - first) * rows, *dscale = (F*)r.dscale, *dbias = (F*)r.dbias;
    if (r.du) {
        gen.logits(P, kept.logits);
        gen.read_weights(kept.logits, kept.pre + (t - first) * n);
        read_token_dots<N, V>((const M*)r.du + t * s.C, (const M*)r.x + t * n * s.C, q, n, s.C, s.C);
        memcpy(q + n, (const F*)r.dpost + t * n, n * sizeof(F));
        const auto chain = [&](Activation how, int from, F multiplier) {
            for_numbers<V>(n, [&](int i, auto many) __attribute__((always_inline)) {
                const V slope = V(multiplier) * activation_slope(how, load<V>(kept.logits + from + i, many));
                store(q + from + i, load<V>(q + from + i, many) * slope, many);
            });
        };
        chain(gen.g.read, 0, F(1));
        chain(gen.g.write, n, F(gen.g.write_multiplier));
        memcpy(q + 2 * n, (const F*)r.dmix + t * gen.mixed, gen.mixed * sizeof(F));
    } else {
        memcpy(q, (const F*)r.dmix + t * rows, rows * sizeof(F));  // the gradient of P itself: scale is one
    }
    const F inverse_rms = ((const F*)r.inverse_rms)[t];
    V along(0);
    for_numbers<V>(rows, [&](int i, auto many) __attribute__((always_inline)) {
        const V dlogits = load<V>(q + i, many), projected = load<V>(P + i, many);
        V dP = dlogits;
        if (gen.scale) {
            store(dscale + i, load<V>(dscale + i, many) + dlogits * projected, many);
            store(dbias + i, load<V>(dbias + i, many) + dlogits, many);
            dP *= load<V>(gen.scale + i, many);
        }
        along += dP * projected;
        store(q + i, V(inverse_rms) * dP, many);
    });
    kept.a[t - first] = -inverse_rms * inverse_rms / F(n * s.C) * sum(along);
}

// The gradient of the block's state, to dx (its first token at dx)
template <int N, class V, class M>
void site_read_backward_block(Streams s, const Generated<V>& gen, ReadBackward r, int64_t begin, int64_t end, BlockGradients<Scalar<V>>& kept, M* dx) {
    const int64_t width = s.n * s.C;
    const M *x = (const M*)r.x, *du = (const M*)r.du, *through = (const M*)r.through;
    for (int64_t t = begin; t < end; ++t) logit_gradients<N, V, M>(s, gen, r, t, begin, kept);
    const BlockInputs<V, M> in{x + begin * width,
                               du ? du + begin * s.C : nullptr,
                               through ? through + begin * width : nullptr,
                               kept.q,
                               kept.a,
                               kept.pre,
                               int(end - begin),
                               gen.rows,
                               s.n,
                               s.C,
                               width};
    phi_gradients<V, M>(in, gen.blocks, (Scalar<V>*)r.dweight, dx);
}

template <int N, class V, class M>
void write_site_read_backward_range(Streams s, const WriteBackward* w, Generator g, ReadBackward r, int64_t begin, int64_t end) {
    using F = Scalar<V>;
    const Generated<V> gen(g, s.n);
    const int64_t width = s.n * s.C;
    Scratch<F> q(block_tokens * g.rows), logits(g.rows);
    Scratch<M> state(w ? block_tokens * width : 0);
    BlockGradients<F> kept{q.p, logits.p, {}, {}};
    for (int64_t b = begin; b < end; b += block_tokens) {
        const int64_t e = b + block_tokens < end ? b + block_tokens : end;
        M* dx = w ? state.p : (M*)r.dx + b * width;
        site_read_backward_block<N, V, M>(s, gen, r, b, e, kept, dx);
        if (w) write_backward_range<N, V, M>(s, *w, b, e, [&](int64_t t) { return dx + (t - b) * width; });
    }
}

// ------------------------------------------------------------------------------------------------------------ run-time type and n
// f.operator()<N, V, M>()
template <class Function>
SM_FN void for_streams(Streams s, Function f) {
    specialise(Sizes<SM_STREAMS_SIZES>(), s.dtype, s.n, [&]<int N, class M>() {
        using F = Computing<M>;
        f.template operator()<N, Simd<F, vector_bytes / sizeof(F)>, M>();
    });
}

template <class Function>
SM_FN void for_parameters(Streams s, Function f) {
    for_streams(s, [&]<int N, class V, class M>() { f.template operator()<V>(); });
}
inline Packed packed_any(Streams s, int rows, int64_t tokens) {
    Packed size{0, 0};
    for_parameters(s, [&]<class V>() { size = {tokens >= many_tokens ? panel_numbers<V>(rows, s.n * s.C) : 0, blocks_numbers<V>(rows, s.n, s.C)}; });
    return size;
}
inline void pack_panel_any(Streams s, const void* weight, int rows, void* panel) {
    for_parameters(s, [&]<class V>() { pack_panel<V>((const Scalar<V>*)weight, rows, s.n * s.C, (Scalar<V>*)panel); });
}
inline void pack_blocks_any(Streams s, const void* weight, int rows, void* blocks) {
    for_parameters(s, [&]<class V>() { pack_blocks<V>((const Scalar<V>*)weight, rows, s.n, s.C, (Scalar<V>*)blocks); });
}
inline void unpack_blocks_any(Streams s, const void* blocks, int rows, void* weight) {
    for_parameters(s, [&]<class V>() { unpack_blocks<V>((const Scalar<V>*)blocks, rows, s.n, s.C, (Scalar<V>*)weight); });
}

inline void read_any(Streams s, const void* x, const void* pre, void* u, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() {
        for (int64_t t = begin; t < end; ++t)
            read_token<N, Columns<V, M>>((const M*)x + place(s, t), (const Scalar<V>*)pre + t * s.n, (M*)u + t * s.C, s.n, row_of(s), s.C);
    });
}
inline void read_backward_any(Streams s, ReadOnlyBackward r, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() {
        using F = Scalar<V>;
        const auto run = [&]<bool past_caches>() {
            for (int64_t t = begin; t < end; ++t) {
                const int64_t at = place(s, t), small = t * s.n;
                read_token_backward<N, past_caches, Columns<V, M>>((const M*)r.du + t * s.C, (const M*)r.x + at, (const F*)r.pre + small, (M*)r.dx + at,
                                                                   (F*)r.dpre + small, s.n, row_of(s), s.C);
            }
        };
        if (!r.large || !rows_are_aligned<Columns<V, M>, M>(r.dx, s.C)) return run.template operator()<false>();
        run.template operator()<true>();
        finish_stores();
    });
}
inline void write_any(Streams s, Write w, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() {
        if (!w.large || !rows_are_aligned<Columns<V, M>, M>(w.out, s.C)) return write_range<N, false, V, M>(s, w, begin, end);
        write_range<N, true, V, M>(s, w, begin, end);
        finish_stores();
    });
}
inline void write_backward_any(Streams s, WriteBackward w, int64_t begin, int64_t end) {
    for_streams(s,
                [&]<int N, class V, class M>() { write_backward_range<N, V, M>(s, w, begin, end, [&](int64_t t) { return (const M*)w.grad + place(s, t); }); });
}
inline void site_read_any(Streams s, Generator g, Read r, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() { write_site_read_range<N, V, M>(s, nullptr, g, r, begin, end); });
}
inline void site_read_backward_any(Streams s, Generator g, ReadBackward r, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() { write_site_read_backward_range<N, V, M>(s, nullptr, g, r, begin, end); });
}
inline void write_site_read_any(Streams s, Write w, Generator g, Read r, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() { write_site_read_range<N, V, M>(s, &w, g, r, begin, end); });
}
inline void write_site_read_backward_any(Streams s, WriteBackward w, Generator g, ReadBackward r, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() { write_site_read_backward_range<N, V, M>(s, &w, g, r, begin, end); });
}

}  // namespace streammix::SM_ISA
