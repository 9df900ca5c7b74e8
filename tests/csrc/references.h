// The projection, its gradient and truncated Sinkhorn in float64, as directly as they can be written.
#pragma once

#include <math.h>

#include <algorithm>
#include <vector>

#include "matrices/sinkhorn_rule.h"

using namespace streammix;
using Matrix = std::vector<double>;

namespace {

double log_sum_exp(const double* x, int n, int stride) {
    double top = -INFINITY, s = 0;
    for (int i = 0; i < n; ++i) top = std::max(top, x[i * stride]);
    for (int i = 0; i < n; ++i) s += exp(x[i * stride] - top);
    return top + log(s);
}

// Sinkhorn-Knopp in the log domain until it stands still
Matrix reference_projection(Matrix R, int n) {
    for (int round = 0; round < 20000; ++round) {
        double change = 0;
        for (int j = 0; j < n; ++j) {
            const double l = log_sum_exp(&R[j], n, n);
            change = std::max(change, fabs(l));
            for (int i = 0; i < n; ++i) R[i * n + j] -= l;
        }
        for (int i = 0; i < n; ++i) {
            const double l = log_sum_exp(&R[i * n], n, 1);
            for (int j = 0; j < n; ++j) R[i * n + j] -= l;
        }
        if (change < 1e-15) break;
    }
    for (double& x : R) x = exp(x);
    return R;
}

// D = T o (G - a 1' - 1 b') with zero row and column sums, from the dense 2n x 2n system (its null space pinned)
Matrix reference_gradient(const Matrix& T, const Matrix& G, int n) {
    const int m = 2 * n;
    std::vector<long double> A(m * (m + 1), 0);
    auto at = [&](int r, int c) -> long double& { return A[r * (m + 1) + c]; };
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            const long double t = T[i * n + j];
            at(i, i) += t, at(n + j, n + j) += t, at(i, n + j) += t, at(n + j, i) += t;
            at(i, m) += t * G[i * n + j], at(n + j, m) += t * G[i * n + j];
        }
    for (int c = 0; c <= m; ++c) at(m - 1, c) = c == m - 1;
    for (int p = 0; p < m; ++p) {
        int best = p;
        for (int r = p; r < m; ++r)
            if (fabsl(at(r, p)) > fabsl(at(best, p))) best = r;
        for (int c = 0; c <= m; ++c) std::swap(at(p, c), at(best, c));
        for (int r = 0; r < m; ++r)
            if (r != p) {
                const long double f = at(r, p) / at(p, p);
                for (int c = p; c <= m; ++c) at(r, c) -= f * at(p, c);
            }
    }
    Matrix D(n * n);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) D[i * n + j] = double(T[i * n + j] * (G[i * n + j] - at(i, m) / at(i, i) - at(n + j, m) / at(n + j, n + j)));
    return D;
}

void divide(Matrix& M, int n, bool columns, double add, double least) {
    for (int a = 0; a < n; ++a) {
        double s = 0;
        for (int b = 0; b < n; ++b) s += columns ? M[b * n + a] : M[a * n + b];
        s = std::max(s + add, least);
        for (int b = 0; b < n; ++b) (columns ? M[b * n + a] : M[a * n + b]) /= s;
    }
}
// The recipes of ops/sinkhorn_rules.py and their rules, once more.
enum class Recipe { mhc, deepseek_v4, megatron, liger, transformer_engine, lucidrains };
constexpr SinkhornRule sinkhorn_rules[] = {
    {false, Start::normalised, 0}, {true, Start::softmax, 1e-6}, {true, Start::shifted, 1e-6},
    {true, Start::softmax, 1e-6},  {true, Start::normalised, 0}, {false, Start::shifted, 1e-12},
};

Matrix reference_sinkhorn(Matrix R, int n, int rounds, Recipe recipe) {
    if (recipe == Recipe::mhc || recipe == Recipe::transformer_engine) {
        const bool columns_first = recipe == Recipe::mhc;
        for (int half = 0; half < 2 * rounds; ++half)
            for (int a = 0; a < n; ++a) {
                const bool columns = columns_first == (half % 2 == 0);
                const double l = columns ? log_sum_exp(&R[a], n, n) : log_sum_exp(&R[a * n], n, 1);
                for (int b = 0; b < n; ++b) R[columns ? b * n + a : a * n + b] -= l;
            }
        for (double& x : R) x = exp(x);
        return R;
    }
    const bool by_column = recipe == Recipe::lucidrains;
    for (int a = 0; a < n; ++a) {
        double top = -INFINITY;
        for (int b = 0; b < n; ++b) top = std::max(top, by_column ? R[b * n + a] : R[a * n + b]);
        for (int b = 0; b < n; ++b) {
            double& x = by_column ? R[b * n + a] : R[a * n + b];
            x = exp(x - top);
        }
    }
    switch (recipe) {
        case Recipe::lucidrains:
            for (int t = 0; t < rounds; ++t) divide(R, n, true, 0, 1e-12), divide(R, n, false, 0, 1e-12);
            break;
        case Recipe::megatron:
            for (int t = 0; t < rounds; ++t) divide(R, n, false, 0, 1e-6), divide(R, n, true, 0, 1e-6);
            break;
        default:
            divide(R, n, false, 0, 0);
            for (double& x : R) x += 1e-6;
            divide(R, n, true, 1e-6, 0);
            for (int t = 1; t < rounds; ++t) divide(R, n, false, 1e-6, 0), divide(R, n, true, 1e-6, 0);
    }
    return R;
}

double marginal_error(const Matrix& T, int n) {
    double error = 0;
    for (int a = 0; a < n; ++a) {
        double row = -1, column = -1;
        for (int b = 0; b < n; ++b) row += T[a * n + b], column += T[b * n + a];
        error += fabs(row) + fabs(column);
    }
    return error;
}
double difference(const Matrix& a, const Matrix& b) {
    double d = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double x = fabs(a[i] - b[i]);
        if (!(x <= d)) d = x;  // NaN sticks
    }
    return d;
}

}  // namespace
