// The charts of the transportation polytope: what they promise, and their gradients against differences. Part of solver_test.cpp.
#pragma once

// Sums are one and nothing is negative, for any logits; the same bits wherever a matrix stands; a non-finite logit poisons its own matrix, and
// has no gradient.
void test_chart(const Kernels& k, DType t, int n, Random& random) {
    if (n < 2 || (t != DType::float32 && t != DType::float64)) return;
    const int nn = n * n, choices = (n - 1) * (n - 1), count = corpus == Corpus::brief ? 3 : 67;
    for (bool recursive : {false, true})
        for (bool scaled : {false, true}) {
            const Chart chart(n, recursive, scaled);
            for (double size : {1., 30., 1e30}) {
                const std::string place = where(k, t, n, "chart ") + (recursive ? "recursive " : "sequential ") + (scaled ? "scaled" : "");
                Buffer logits = filled(t, count * choices, 1, random), H(t, count * nn, 3), G = filled(t, count * nn, 0, random), D(t, count * choices);
                for (int e = 0; e < count * choices; ++e) logits.set(e, size * logits.get(e));
                const int poisoned = random() % count, split = random() % (count + 1);
                logits.set(poisoned * choices + random() % choices, random() % 2 ? NAN : -INFINITY);
                k.chart(t, chart.view(), logits.data(), H.data(), 0, split);
                k.chart(t, chart.view(), logits.data(), H.data(), split, count);
                k.chart_backward(t, chart.view(), G.data(), logits.data(), D.data(), 0, count);
                for (int m = 0; m < count; ++m) {
                    const Matrix x = H.matrix(m, nn), slope = D.matrix(m, choices);
                    if (m == poisoned) {
                        for (double v : x) check(isnan(v), place + ": a non-finite logit left a finite entry");
                        for (double v : slope) check(v == 0, place + ": a non-finite logit has a gradient");
                        continue;
                    }
                    for (double v : x) check(v >= 0, place + ": entry " + std::to_string(v));
                    check(marginal_error(x, n) <= 4 * n * n * eps(t), place + ": marginal error " + std::to_string(1e9 * marginal_error(x, n)) + "e-9");
                    for (double v : slope) check(isfinite(v), place + ": gradient not finite");
                    Buffer one(t, choices), alone(t, nn);
                    for (int e = 0; e < choices; ++e) one.set(e, logits.get(m * choices + e));
                    k.chart(t, chart.view(), one.data(), alone.data(), 0, 1);
                    check(!memcmp(alone.data(), H.data() + m * nn * bytes(t), nn * bytes(t)), place + ": matrix depends on its batch");
                    if (t != DType::float64 || size != 1 || m > 1) continue;
                    for (int e = 0; e < choices; ++e) {
                        double difference = 0;
                        for (double h : {1e-5, -1e-5}) {
                            one.set(e, logits.get(m * choices + e) + h);
                            k.chart(t, chart.view(), one.data(), alone.data(), 0, 1);
                            for (int i = 0; i < nn; ++i) difference += G.get(m * nn + i) * alone.get(i) / (2 * h);
                        }
                        one.set(e, logits.get(m * choices + e));
                        check(fabs(difference - slope[e]) <= 1e-7 * (1 + fabs(difference)),
                              place + ": gradient " + std::to_string(slope[e]) + ", differences " + std::to_string(difference));
                    }
                }
            }
        }
}
