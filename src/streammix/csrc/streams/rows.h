// A site whose streams make their weights of themselves: each row of the state is normalised and projected alone.
//
//     r_j = (mean x_j^2 + eps)^(-1/2)        P_j = r_j (phi x_j)        m_j = scale o act(P_j) + bias_j        act: tanh or the identity
//     pre_j = read(m_j0)        post_j = write(m_j1)        mix_j = (m_j2, ...)        u = sum_j pre_j x_j
//     backward, from dm:   dP_j = scale o dm_j o act'(P_j),   q_j = r_j dP_j,   a_j = -(r_j^2 / C) <dP_j, P_j>
//                          dx_j = pre_j du + phi' q_j + a_j x_j        dphi += q_j x_j'        dscale += dm o act(P)        dbias += dm
//
// phi has n + 2 rows. For one stream at a time, rows of several tokens are multiplied as the tokens of coefficients.h are.
#pragma once

#include "streams/site.h"

namespace streammix::SM_ISA {

// To an eps of itself: near zero by the continued fraction's seventh convergent, elsewhere by a sigmoid.
template <class V>
SM_FN V tanh(V x) {
    using F = Scalar<V>;
    const V far = F(2) * sigmoid(F(2) * x) - F(1), s = min(V(1), x * x);
    const V above = F(135135) + s * (F(17325) + s * (F(378) + s)), below = F(135135) + s * (F(62370) + s * (F(3150) + s * F(28)));
    return select(abs(x) < V(0.5), x * above / below, far);
}

// Per token: P, act(P) and m, each (n, rows)
template <class V>
struct RowWeights {
    using F = Scalar<V>;
    const Generator& g;
    const int n, rows, count;
    Scratch<F> scale, made, m;  // scale: of every stream the same

    RowWeights(const Generator& g, int n) : g(g), n(n), rows(g.rows), count(n * g.rows), scale(count), made(count), m(count) {
        for (int i = 0; i < count; ++i) scale.p[i] = ((const F*)g.scale)[i % rows];
    }
    void weigh(const F* P) const {
        for_numbers<V>(count, [&](int i, auto many) __attribute__((always_inline)) {
            V act = load<V>(P + i, many);
            if (g.tanh) act = tanh(act);
            store(made.p + i, act, many);
            store(m.p + i, load<V>(scale.p + i, many) * act + load<V>((const F*)g.bias + i, many), many);
        });
    }
    // Column k of m
    SM_FN void column(int k, F* out) const {
        for (int j = 0; j < n; ++j) out[j] = m.p[j * rows + k];
    }
    SM_FN void read_weights(F* pre) const {
        column(0, pre);
        activate_all<V>(g.read, pre, pre, n, F(1), F(g.read_eps));
    }
    SM_FN void write_weights(F* post) const {
        column(1, post);
        activate_all<V>(g.write, post, post, n, F(g.write_multiplier), F(g.write_eps));
    }
};

// f(first, last) for blocks of at most `most` tokens whose rows, stream by stream, are as far apart as `apart` says
template <class Function>
SM_FN void for_blocks_of_runs(Streams s, int64_t begin, int64_t end, int64_t most, Function f) {
    for (int64_t b = begin; b < end;) {
        int64_t e = b + most < end ? b + most : end;
        if (s.run > 1 && e > (b / s.run + 1) * s.run) e = (b / s.run + 1) * s.run;
        f(b, e);
        b = e;
    }
}
SM_FN int64_t apart(Streams s) { return s.run == 1 ? s.n * s.C : s.C; }

template <int N, class V, class M>
void rows_site_read_range(Streams s, const Generator& g, Read r, int64_t begin, int64_t end) {
    using F = Scalar<V>;
    const int n = s.n, rows = g.rows;
    const int64_t row = row_of(s), next = apart(s);
    const RowWeights<V> weights(g, n);
    const F *weight = (const F*)g.weight, *panel = (const F*)g.panel;
    const F eps(g.norm_eps);
    Scratch<F> numbers(s.C);
    Scratch<V> sums(panel_tokens * (rows / lanes<V> + 1));
    for_blocks_of_runs(s, begin, end, 2 * panel_tokens, [&](int64_t b, int64_t e) {
        for (int j = 0; j < n; ++j) {
            const M* x = (const M*)r.x + place(s, b) + j * row;
            F *P = (F*)r.projected + j * rows, *inverse_rms = (F*)r.inverse_rms + j;
            if (panel)
                for_tiles<panel_tokens>(b, e, [&]<int tokens>(int64_t t) {
                    multiply_phi_tile<tokens, V>(x + (t - b) * next, next, panel, rows, s.C, eps, P + t * n * rows, n * rows, inverse_rms + t * n, n, sums.p);
                });
            else
                for (int64_t t = b; t < e; ++t) multiply_phi<V>(x + (t - b) * next, weight, rows, s.C, eps, P + t * n * rows, inverse_rms + t * n, numbers.p);
        }
        for (int64_t t = b; t < e; ++t) {
            F pre[largest_n];
            weights.weigh((const F*)r.projected + t * n * rows);
            weights.read_weights(pre);
            weights.write_weights((F*)r.post + t * n);
            for (int j = 0; j < n; ++j) memcpy((F*)r.mix + (t * n + j) * n, weights.m.p + j * rows + 2, n * sizeof(F));
            read_token<N, Columns<V, M>>((const M*)r.x + place(s, t), pre, (M*)r.u + t * s.C, n, row, s.C);
        }
    });
}

// What the backward of a block keeps for each stream of its tokens: q (n, block_tokens, rows), a and pre (n, block_tokens)
template <class F>
struct BlockOfRows {
    Scratch<F> q, a, pre;
    BlockOfRows(int n, int rows) : q(n * block_tokens * rows), a(n * block_tokens), pre(n * block_tokens) {}
};

// dm of token t, and from it its q, a and pre; scale and bias add up.
template <int N, class V, class M>
void row_gradients(Streams s, const RowWeights<V>& weights, ReadBackward r, int64_t t, int i, const BlockOfRows<Scalar<V>>& kept, Scalar<V>* dm) {
    using F = Scalar<V>;
    const Generator& g = weights.g;
    const int n = s.n, rows = weights.rows;
    const F *P = (const F*)r.projected + t * weights.count, *inverse_rms = (const F*)r.inverse_rms + t * n;
    F pre[largest_n], dpre[largest_n], dpost[largest_n], logits[largest_n];
    weights.weigh(P);
    weights.read_weights(pre);
    read_token_dots<N, V>((const M*)r.du + t * s.C, (const M*)r.x + place(s, t), dpre, n, row_of(s), s.C);
    memcpy(dpost, (const F*)r.dpost + t * n, n * sizeof(F));
    const auto chain = [&](Activation how, int column, F* d, F multiplier) {
        weights.column(column, logits);
        for_numbers<V>(n, [&](int j, auto many) __attribute__((always_inline)) {
            store(d + j, load<V>(d + j, many) * (V(multiplier) * activation_slope(how, load<V>(logits + j, many))), many);
        });
    };
    chain(g.read, 0, dpre, F(1));
    chain(g.write, 1, dpost, F(g.write_multiplier));
    for (int j = 0; j < n; ++j) {
        dm[j * rows] = dpre[j];
        dm[j * rows + 1] = dpost[j];
        memcpy(dm + j * rows + 2, (const F*)r.dmix + (t * n + j) * n, n * sizeof(F));
    }
    F *dscale = (F*)r.dscale, *dbias = (F*)r.dbias;
    for_numbers<V>(weights.count, [&](int k, auto many) __attribute__((always_inline)) {
        const V d = load<V>(dm + k, many), act = load<V>(weights.made.p + k, many);
        store(dscale + k, load<V>(dscale + k, many) + d * act, many);
        store(dbias + k, load<V>(dbias + k, many) + d, many);
        V dP = d * load<V>(weights.scale.p + k, many);
        if (g.tanh) dP *= F(1) - act * act;
        store(dm + k, dP, many);
    });
    for (int j = 0; j < n; ++j) {
        V along(0);
        F* q = kept.q.p + (int64_t(j) * block_tokens + i) * rows;
        for_numbers<V>(rows, [&](int k, auto many) __attribute__((always_inline)) {
            const V dP = load<V>(dm + j * rows + k, many);
            along += dP * load<V>(P + j * rows + k, many);
            store(q + k, V(inverse_rms[j]) * dP, many);
        });
        kept.a.p[j * block_tokens + i] = -inverse_rms[j] * inverse_rms[j] / F(s.C) * sum(along);
        kept.pre.p[j * block_tokens + i] = pre[j];
    }
}

template <int N, class V, class M>
void rows_site_read_backward_range(Streams s, const Generator& g, ReadBackward r, int64_t begin, int64_t end) {
    using F = Scalar<V>;
    const RowWeights<V> weights(g, s.n);
    const BlockOfRows<F> kept(s.n, g.rows);
    Scratch<F> dm(weights.count);
    const int64_t row = row_of(s), next = apart(s);
    for_blocks_of_runs(s, begin, end, block_tokens, [&](int64_t b, int64_t e) {
        for (int64_t t = b; t < e; ++t) row_gradients<N, V, M>(s, weights, r, t, int(t - b), kept, dm.p);
        for (int j = 0; j < s.n; ++j) {
            const int64_t at = place(s, b) + j * row;
            const BlockInputs<V, M> in{(const M*)r.x + at,
                                       (const M*)r.du + b * s.C,
                                       nullptr,
                                       kept.q.p + int64_t(j) * block_tokens * g.rows,
                                       kept.a.p + j * block_tokens,
                                       kept.pre.p + j * block_tokens,
                                       int(e - b),
                                       g.rows,
                                       1,
                                       s.C,
                                       next};
            phi_gradients<V, M>(in, (const F*)g.blocks, (F*)r.dweight, (M*)r.dx + at);
        }
    });
}

inline void rows_site_read_any(Streams s, Generator g, Read r, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() { rows_site_read_range<N, V, M>(s, g, r, begin, end); });
}
inline void rows_site_read_backward_any(Streams s, Generator g, ReadBackward r, int64_t begin, int64_t end) {
    for_streams(s, [&]<int N, class V, class M>() { rows_site_read_backward_range<N, V, M>(s, g, r, begin, end); });
}

}  // namespace streammix::SM_ISA
