// The Cayley map from skew-symmetric matrices to rotations, Q = (I + A)^-1 (I - A), of A's entries above the diagonal, and its gradient
// from Q alone. In float64 whatever the memory's type: float32 results then need no correction.
#pragma once

#include "simd/size.h"
#include "simd/machine.h"

namespace streammix::SM_ISA {

// Entries of an n x n matrix above its diagonal
template <int N>
SM_FN constexpr int upper(int n) {
    return size<N>(n) * (size<N>(n) - 1) / 2;
}

// A with an entry beyond it is scaled back to it, as a whole: Q's error is eps |A|, which float32 must not see and which the corrections
// of float64 must be able to remove.
template <class Memory>
inline constexpr double cayley_limit = sizeof(Memory) == sizeof(float) ? 1 << 22 : 1e-3 / Format<double>::eps;

// Q <- 1.5 Q - 0.5 Q (Q'Q), a step of Newton-Schulz towards the nearest rotation. w: room for n*n numbers.
template <int N, class V>
SM_FN void orthogonalise(V* Q, V* w, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            V s = Q[i] * Q[j];
            for (int k = 1; k < n; ++k) s += Q[k * n + i] * Q[k * n + j];
            w[i * n + j] = s;
        }
    V row[room<N>];
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
            V s = Q[i * n] * w[j];
            for (int k = 1; k < n; ++k) s += Q[i * n + k] * w[k * n + j];
            row[j] = F(1.5) * Q[i * n + j] - F(0.5) * s;
        }
        for (int j = 0; j < n; ++j) Q[i * n + j] = row[j];
    }
}

// In: a, row by row. Out: Q. w: room for n*n numbers. Householder's QR of I + A, whose singular values are at least 1: no pivoting, and
// nothing to divide by that could vanish.
template <int N, class V>
SM_FN void cayley(const V* a, V* Q, V* w, int n_, Scalar<V> limit, int corrections) {
    using F = Scalar<V>;
    const int n = size<N>(n_), count = upper<N>(n_);
    V largest = V(limit);
    for (int e = 0; e < count; ++e) largest = max(abs(a[e]), largest);
    const V scale = limit / largest;
    for (int i = 0, e = 0; i < n; ++i) {
        w[i * n + i] = Q[i * n + i] = V(1);
        for (int j = i + 1; j < n; ++j, ++e) {
            const V x = a[e] * scale;
            w[i * n + j] = Q[j * n + i] = x;
            w[j * n + i] = Q[i * n + j] = -x;
        }
    }
    // H_p = I - b v v',  v = x - r e_0 for what is left x of column p,  r = -sign(x_0) |x|,  b = 1 / (|x|^2 + |x_0| |x|)
    for (int p = 0; p < n - 1; ++p) {
        V square = w[p * n + p] * w[p * n + p];
        for (int i = p + 1; i < n; ++i) square += w[i * n + p] * w[i * n + p];
        const V length = sqrt(square), x = w[p * n + p];
        const V r = select(x < V(0), length, -length), v = x - r;
        const V b = reciprocal(square + abs(x) * length);
        const auto reflect = [&](V* column) __attribute__((always_inline)) {
            V s = v * column[p * n];
            for (int i = p + 1; i < n; ++i) s += w[i * n + p] * column[i * n];
            s *= b;
            column[p * n] -= s * v;
            for (int i = p + 1; i < n; ++i) column[i * n] -= s * w[i * n + p];
        };
        for (int j = p + 1; j < n; ++j) reflect(w + j);
        for (int j = 0; j < n; ++j) reflect(Q + j);
        w[p * n + p] = r;
    }
    // R Q = H (I - A)
    for (int p = n - 1; p >= 0; --p) {
        const V r = reciprocal(w[p * n + p]);
        for (int j = 0; j < n; ++j) {
            V s = Q[p * n + j];
            for (int k = p + 1; k < n; ++k) s -= w[p * n + k] * Q[k * n + j];
            Q[p * n + j] = s * r;
        }
    }
    for (int c = 0; c < corrections; ++c) orthogonalise<N>(Q, w, n);
}

// In: G, the gradient of Q; Q, which becomes P. Out: a, the gradient of the entries. w: room for n*n numbers.
//     dQ = -1/2 P dA P,  P = I + Q        D = -1/2 P' G P'        gradient of a_ij = D_ij - D_ji
template <int N, class V>
SM_FN void cayley_backward(const V* G, V* Q, V* a, V* w, int n_) {
    using F = Scalar<V>;
    const int n = size<N>(n_);
    for (int i = 0; i < n; ++i) Q[i * n + i] += F(1);
    for (int i = 0; i < n; ++i)  // w = P' G
        for (int j = 0; j < n; ++j) {
            V s = Q[i] * G[j];
            for (int k = 1; k < n; ++k) s += Q[k * n + i] * G[k * n + j];
            w[i * n + j] = s;
        }
    for (int i = 0, e = 0; i < n; ++i)
        for (int j = i + 1; j < n; ++j, ++e) {
            V s = w[i * n] * Q[j * n] - w[j * n] * Q[i * n];
            for (int k = 1; k < n; ++k) s += w[i * n + k] * Q[j * n + k] - w[j * n + k] * Q[i * n + k];
            a[e] = F(-0.5) * s;
        }
}

// ------------------------------------------------------------------------------------------------------------------ batches
using CayleyNumber = Simd<double, vector_bytes / sizeof(double)>;

// x <- `count` rows of `entries` numbers, one a lane, and back; the lanes left over repeat the last row.
template <class Memory>
SM_FN void load_lanes(const Memory* p, int count, int entries, CayleyNumber* x) {
    for (int e = 0; e < entries; ++e) {
        double lane[lanes<CayleyNumber>];
        for (int m = 0; m < lanes<CayleyNumber>; ++m) lane[m] = p[int64_t(m < count ? m : count - 1) * entries + e];
        memcpy(&x[e].v, lane, sizeof lane);
    }
}
template <class Memory>
SM_FN void store_lanes(Memory* p, int count, int entries, const CayleyNumber* x) {
    for (int e = 0; e < entries; ++e) {
        double lane[lanes<CayleyNumber>];
        memcpy(lane, &x[e].v, sizeof lane);
        for (int m = 0; m < count; ++m) p[int64_t(m) * entries + e] = Memory(lane[m]);
    }
}

template <int N, class Memory>
[[gnu::noinline]] void cayley_range(int n, const Memory* entries, Memory* Q, int64_t begin, int64_t end) {
    using V = CayleyNumber;
    constexpr int corrections = sizeof(Memory) == sizeof(double) ? 3 : 0;  // from an error of eps |A| = 1e-3 down to eps
    const int nn = size<N>(n) * size<N>(n), count = upper<N>(n);
    const Scratch<V> a(count), q(nn), w(nn);
    for (int64_t b = begin; b < end; b += lanes<V>) {
        const int rows = int(end - b < lanes<V> ? end - b : lanes<V>);
        load_lanes(entries + b * count, rows, count, a.p);
        cayley<N>(a.p, q.p, w.p, n, cayley_limit<Memory>, corrections);
        store_lanes(Q + b * nn, rows, nn, q.p);
    }
}
template <int N, class Memory>
[[gnu::noinline]] void cayley_backward_range(int n, const Memory* grad, const Memory* Q, Memory* out, int64_t begin, int64_t end) {
    using V = CayleyNumber;
    const int nn = size<N>(n) * size<N>(n), count = upper<N>(n);
    const Scratch<V> a(count), g(nn), q(nn), w(nn);
    for (int64_t b = begin; b < end; b += lanes<V>) {
        const int rows = int(end - b < lanes<V> ? end - b : lanes<V>);
        load_lanes(grad + b * nn, rows, nn, g.p);
        load_lanes(Q + b * nn, rows, nn, q.p);
        cayley_backward<N>(g.p, q.p, a.p, w.p, n);
        store_lanes(out + b * count, rows, count, a.p);
    }
}

// f.operator()<N, Memory>(): 3 and 4 are what four streams need most.
template <class Function>
SM_FN void for_rotations(Matrices m, Function f) {
    const auto by_n = [&]<class Memory>(Memory) {
        if (m.n == 3) return f.template operator()<3, Memory>();
        if (m.n == 4) return f.template operator()<4, Memory>();
        f.template operator()<0, Memory>();
    };
    m.dtype == DType::float64 ? by_n(double()) : by_n(float());
}
inline void cayley_any(Matrices m, const void* entries, void* Q, int64_t begin, int64_t end) {
    for_rotations(m, [&]<int N, class Memory>() { cayley_range<N>(m.n, (const Memory*)entries, (Memory*)Q, begin, end); });
}
inline void cayley_backward_any(Matrices m, const void* grad, const void* Q, void* out, int64_t begin, int64_t end) {
    for_rotations(m, [&]<int N, class Memory>() { cayley_backward_range<N>(m.n, (const Memory*)grad, (const Memory*)Q, (Memory*)out, begin, end); });
}

}  // namespace streammix::SM_ISA
