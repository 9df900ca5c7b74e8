// Sparse sites against plain loops, and a branch's recent outputs; gradients of the latter against differences. Part of solver_test.cpp.
#pragma once

void test_sparse(const Kernels& k, DType t, int n, Random& random) {
    const DType wide = computing(t);
    for (const auto& [tokens, C, offset] : {std::tuple{1, 1, 0}, {3, 7, 1}, {2, 33, 0}, {5, 64, 0}})
        for (int active : {1, (n + 1) / 2, n}) {
            const std::string place = std::string(k.isa) + " " + name(t) + " sparse n " + std::to_string(n) + " C " + std::to_string(C);
            const int basis = 1 + n % 3;
            const Sparse s{t, n, active, basis, C};
            const int64_t width = int64_t(n) * C, square = active * active, weights = active * basis;
            Buffer x = filled(t, tokens * width, offset, random), G = filled(t, tokens * width, offset, random);
            Buffer pre = filled(wide, tokens * n, 0, random), post = filled(wide, tokens * weights, 0, random), res = filled(wide, tokens * square, 0, random);
            Buffer v = filled(wide, tokens * basis * C, 0, random), du = filled(t, tokens * C, 0, random), da = filled(t, tokens * active * C, 0, random);
            std::vector<int64_t> index(tokens * active);
            for (int m = 0; m < tokens; ++m) {
                std::vector<int64_t> all(n);
                for (int j = 0; j < n; ++j) all[j] = j;
                std::shuffle(all.begin(), all.end(), random);
                std::copy(all.begin(), all.begin() + active, index.begin() + m * active);
            }
            for (const bool large : {false, true}) {
                Buffer u(t, tokens * C), a(t, tokens * active * C), out(t, tokens * width), rdx(t, tokens * width), dpre(wide, tokens * n);
                Buffer dx(t, tokens * width), dv(wide, tokens * basis * C), dpost(wide, tokens * weights), dres(wide, tokens * square);
                k.sparse_read(s, {x.data(), pre.data(), index.data(), u.data(), a.data()}, 0, tokens);
                k.sparse_read_backward(s, {du.data(), da.data(), x.data(), pre.data(), index.data(), rdx.data(), dpre.data(), large}, 0, tokens);
                k.sparse_write(s, {x.data(), v.data(), post.data(), res.data(), index.data(), out.data(), large}, 0, tokens);
                k.sparse_write_backward(
                    s, {G.data(), x.data(), v.data(), post.data(), res.data(), index.data(), dx.data(), dv.data(), dpost.data(), dres.data(), large}, 0,
                    tokens);
                const auto close = [&](double ours, double right, DType type, const char* what) { check_close(ours, right, type, 4 * n, place + what); };
                for (int m = 0; m < tokens; ++m) {
                    std::vector<int> where_of(n, -1);
                    for (int i = 0; i < active; ++i) where_of[index[m * active + i]] = i;
                    const auto row = [&](Buffer& of, int i, int c) { return of.get(m * width + index[m * active + i] * C + c); };
                    for (int c = 0; c < C; ++c) {
                        double read = 0;
                        for (int j = 0; j < n; ++j) {
                            const int64_t at = m * width + j * C + c;
                            const int i = where_of[j];
                            read += pre.get(m * n + j) * x.get(at);
                            close(rdx.get(at), pre.get(m * n + j) * du.get(m * C + c) + (i < 0 ? 0 : da.get((m * active + i) * C + c)), t, ": read, dx");
                            double written = x.get(at), back = G.get(at);
                            if (i >= 0) {
                                check(a.get((m * active + i) * C + c) == x.get(at), place + ": not the active stream");
                                written = back = 0;
                                for (int l = 0; l < active; ++l) {
                                    written += res.get(m * square + i * active + l) * row(x, l, c);
                                    back += res.get(m * square + l * active + i) * row(G, l, c);
                                }
                                for (int b = 0; b < basis; ++b) written += post.get(m * weights + i * basis + b) * v.get((m * basis + b) * C + c);
                            }
                            close(out.get(at), written, t, ": write");
                            close(dx.get(at), back, t, ": write, dx");
                        }
                        close(u.get(m * C + c), read, t, ": read");
                        for (int b = 0; b < basis; ++b) {
                            double back = 0;
                            for (int i = 0; i < active; ++i) back += post.get(m * weights + i * basis + b) * row(G, i, c);
                            close(dv.get((m * basis + b) * C + c), back, wide, ": dbasis");
                        }
                    }
                    for (int j = 0; j < n; ++j) {
                        double dot = 0;
                        for (int c = 0; c < C; ++c) dot += du.get(m * C + c) * x.get(m * width + j * C + c);
                        check_close(dpre.get(m * n + j), dot, wide, C, place + ": dpre");
                    }
                    for (int i = 0; i < active; ++i) {
                        for (int l = 0; l < active; ++l) {
                            double dot = 0;
                            for (int c = 0; c < C; ++c) dot += row(G, i, c) * row(x, l, c);
                            check_close(dres.get(m * square + i * active + l), dot, wide, 4 * C, place + ": dres");
                        }
                        for (int b = 0; b < basis; ++b) {
                            double dot = 0;
                            for (int c = 0; c < C; ++c) dot += row(G, i, c) * v.get((m * basis + b) * C + c);
                            check_close(dpost.get(m * weights + i * basis + b), dot, wide, 4 * C, place + ": dpost");
                        }
                    }
                }
            }
        }
}

// n is the filters' length. Every direction against the filters written out, the gradient against differences along a random direction
void test_temporal(const Kernels& k, DType t, int n, Random& random) {
    if (t != DType::float32 && t != DType::float64) return;
    for (const auto& [known, tokens, C, filters] : {std::tuple{1, 1, 5, 2}, {7, 7, 17, 3}, {11, 6, 40, 1}, {9, 9, 70, 0}}) {
        const std::string place = where(k, t, n, "temporal C ") + std::to_string(C);
        const int sequences = 2, size = 1 + filters;
        const Temporal s{t, sequences, known, tokens, C, filters, n};
        Buffer y = filled(t, sequences * known * C, 1, random), f = filled(t, filters * n * C, 0, random),
               G = filled(t, sequences * tokens * size * C, 0, random);
        Buffer V(t, sequences * tokens * size * C), d(t, sequences * tokens * size * C), dy(t, sequences * known * C), df(t, filters * n * C);
        const auto value = [&](Buffer& y, Buffer& f) {
            k.temporal_basis(s, y.data(), f.data(), V.data(), 0, 1);
            k.temporal_basis(s, y.data(), f.data(), V.data(), 1, sequences * tokens);
            double total = 0;
            for (int64_t e = 0; e < V.count; ++e) total += G.get(e) * V.get(e);
            return total;
        };
        value(y, f);
        for (int q = 0; q < sequences; ++q)
            for (int m = 0; m < tokens; ++m) {
                const auto at = [&](int b, int c) { return V.get(((q * tokens + m) * size + b) * C + c); };
                for (int a = 1; a < size; ++a) {
                    // orthogonal to those before, and g less its parts along them
                    std::vector<double> left(C);
                    double square = 0, off = 0;
                    for (int c = 0; c < C; ++c) {
                        for (int i = 0; i < n && known - tokens + m - i >= 0; ++i)
                            left[c] += f.get(((a - 1) * n + i) * C + c) * y.get((q * known + known - tokens + m - i) * C + c);
                        square += left[c] * left[c];
                    }
                    for (int b = 0; b < a; ++b) {
                        double along = 0, norm = 0;
                        for (int c = 0; c < C; ++c) along += left[c] * at(b, c), norm += at(b, c) * at(b, c);
                        for (int c = 0; c < C; ++c) left[c] -= along / norm * at(b, c);
                    }
                    for (int c = 0; c < C; ++c) off = std::max(off, fabs(left[c] - at(a, c)));
                    check(off <= 1e3 * eps(t) * (1 + sqrt(square)), place + ": direction off by " + std::to_string(1e9 * off) + "e-9");
                }
            }
        k.temporal_orthogonal_backward(s, G.data(), y.data(), f.data(), d.data(), 0, sequences * tokens);
        k.temporal_filters_backward(s, d.data(), y.data(), f.data(), dy.data(), df.data(), 0, C / 2);
        k.temporal_filters_backward(s, d.data(), y.data(), f.data(), dy.data(), df.data(), C / 2, C);
        if (t != DType::float64) continue;
        Buffer step = filled(t, y.count, 0, random), tap = filled(t, f.count, 0, random);
        double slope = 0, difference = 0;
        for (int64_t e = 0; e < y.count; ++e) slope += step.get(e) * dy.get(e);
        for (int64_t e = 0; e < f.count; ++e) slope += tap.get(e) * df.get(e);
        for (double h : {1e-6, -1e-6}) {
            Buffer moved(t, y.count), taps(t, f.count);
            for (int64_t e = 0; e < y.count; ++e) moved.set(e, y.get(e) + h * step.get(e));
            for (int64_t e = 0; e < f.count; ++e) taps.set(e, f.get(e) + h * tap.get(e));
            difference += value(moved, taps) / (2 * h);
        }
        check(fabs(slope - difference) <= 1e-6 * (1 + fabs(difference)),
              place + ": gradient " + std::to_string(slope) + ", differences " + std::to_string(difference));
    }
}
