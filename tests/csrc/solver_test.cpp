// The native kernels against plain references, over a fuzzed corpus; run under AddressSanitizer and UndefinedBehaviorSanitizer.
// Usage: solver_test [--short | --thorough] [isa ...] (default: all that run here). Exits 1 with a message at the first failure.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#define SM_ISA baseline
#include "buffers.h"
#include "charts.h"
#include "corpus.h"
#include "kernels.h"
#include "references.h"
#include "simd/transpose.h"

using namespace streammix;

namespace {

// How much of the corpus is run; effort multiplies the matrices of a case.
enum class Corpus { brief, normal, thorough };
Corpus corpus = Corpus::normal;
int effort = 1;

[[noreturn]] void fail(const std::string& what) {
    printf("FAIL: %s\n", what.c_str());
    exit(1);
}
void check(bool ok, const std::string& what) {
    if (!ok) fail(what);
}

std::string where(const Kernels& k, DType t, int n, const char* what) { return std::string(k.isa) + " " + name(t) + " n=" + std::to_string(n) + " " + what; }

// ------------------------------------------------------------------------------------------------------------------- tests
// Marginals, non-negativity and boundedness over every family; the solution and its gradient where a float64 reference is cheap
void test_projection(const Kernels& k, DType t, int n, Random& random) {
    const int per_family = corpus == Corpus::brief ? 2 : effort * (n <= 8 ? 9 : n <= 16 ? 3 : 1), nn = n * n;
    const double accuracy = t == DType::float64 ? 1e-14 * n : t == DType::float32 ? (n == 4 ? 2e-6 : 1e-6 * std::max(n, 2)) : 2 * n * eps(t);
    for (int family = 0; family < family_count; ++family) {
        if (n > 16 && effort == 1 && family != 3 && family != 19) continue;
        const bool half = t == DType::float16;
        Buffer R(t, per_family * nn), T(t, per_family * nn);
        for (int m = 0; m < per_family; ++m) {
            const Matrix x = logits(family, n, random);
            for (int e = 0; e < nn; ++e)
                R.set(m * nn + e, half                   ? std::min(65504.0, std::max(-65504.0, x[e]))
                                  : t == DType::bfloat16 ? std::min(3.38e38, std::max(-3.38e38, x[e]))
                                                         : x[e]);
        }
        k.birkhoff({t, n, random() % 2 == 0}, R.data(), T.data(), 0, per_family, 0);
        for (int m = 0; m < per_family; ++m) {
            const Matrix x = T.matrix(m, nn);
            const std::string place = where(k, t, n, "project ") + families[family];
            for (double v : x) check(v >= 0 && v <= 1 + 1e-2, place + ": entry " + std::to_string(v));
            const double error = marginal_error(x, n);
            check(error <= accuracy, place + ": marginal error " + std::to_string(error * 1e6) + "e-6");
        }
        const bool gentle = family <= 2 || family == 8;
        if (!gentle || n > 16 || (t != DType::float32 && t != DType::float64)) continue;
        Buffer G(t, per_family * nn), D(t, per_family * nn);
        std::normal_distribution<double> normal;
        for (int e = 0; e < per_family * nn; ++e) G.set(e, normal(random));
        k.birkhoff_backward({t, n, random() % 2 == 0}, G.data(), T.data(), D.data(), 0, per_family);
        const double scale = t == DType::float32 ? 1 : 1e-7;
        for (int m = 0; m < std::min(per_family, 4 * effort); ++m) {
            const Matrix x = T.matrix(m, nn), g = G.matrix(m, nn);
            const double backward = difference(D.matrix(m, nn), reference_gradient(x, g, n));
            check(backward <= 5e-6 * scale, where(k, t, n, "gradient ") + families[family] + ": off by " + std::to_string(backward));
            if (family > 1) continue;
            const double forward = difference(x, reference_projection(R.matrix(m, nn), n));
            check(forward <= 3e-7 * scale, where(k, t, n, "project ") + families[family] + ": off by " + std::to_string(forward));
        }
    }
}

// Forward against the formula; backward against differences of the formula
void test_sinkhorn(const Kernels& k, DType t, int n, Random& random) {
    const int nn = n * n, count = 2 * effort;
    const bool wide = t == DType::float32 || t == DType::float64;
    for (int recipe = 0; recipe < 6; ++recipe)
        for (int rounds : {1, 2, 20})
            for (int family : {1, 2, 12, 19}) {
                if ((!wide || corpus == Corpus::brief) && rounds != 2) continue;
                const std::string place =
                    where(k, t, n, "sinkhorn recipe ") + std::to_string(recipe) + " rounds " + std::to_string(rounds) + " " + families[family];
                Buffer R(t, count * nn), M(t, count * nn), G(t, count * nn), D(t, count * nn);
                std::normal_distribution<double> normal;
                for (int m = 0; m < count; ++m) {
                    const Matrix x = logits(family, n, random);
                    for (int e = 0; e < nn; ++e) R.set(m * nn + e, std::min(6e4, x[e])), G.set(m * nn + e, normal(random));
                }
                k.sinkhorn({t, n, random() % 2 == 0}, R.data(), M.data(), 0, count, rounds, sinkhorn_rules[recipe]);
                k.sinkhorn_backward({t, n, random() % 2 == 0}, G.data(), R.data(), D.data(), 0, count, rounds, sinkhorn_rules[recipe]);
                for (int m = 0; m < count; ++m) {
                    const Matrix x = R.matrix(m, nn), g = G.matrix(m, nn);
                    const Matrix expected = reference_sinkhorn(x, n, rounds, Recipe(recipe));
                    // logits of size s are only known to s eps
                    double size = 1;
                    for (double v : x) size = std::max(size, family == 19 ? 1 : fabs(v));
                    const double bound = (t == DType::float64   ? 1e-14
                                          : t == DType::float32 ? 1e-6
                                                                : 2 * eps(t)) *
                                         (t == DType::float64 || t == DType::float32 ? size : 1);
                    const double off = difference(M.matrix(m, nn), expected);
                    check(off <= bound, place + ": off by " + std::to_string(off * 1e6) + "e-6");
                    const Matrix d = D.matrix(m, nn);
                    for (double v : d) check(isfinite(v), place + ": gradient not finite");
                    if (t != DType::float64 || n > 5 || m > 1 || family == 19) continue;
                    for (int e = 0; e < nn; ++e) {
                        const double h = 1e-5;
                        Matrix up = x, down = x;
                        up[e] += h, down[e] -= h;
                        up = reference_sinkhorn(up, n, rounds, Recipe(recipe)), down = reference_sinkhorn(down, n, rounds, Recipe(recipe));
                        double slope = 0;
                        for (int f = 0; f < nn; ++f) slope += g[f] * (up[f] - down[f]) / (2 * h);
                        check(fabs(slope - d[e]) <= 2e-8 * (1 + fabs(slope)),
                              place + ": gradient " + std::to_string(d[e]) + ", differences " + std::to_string(slope));
                    }
                }
            }
}

#include "streams_test.h"

#include "charts_test.h"
#include "rows_test.h"
#include "sparse_test.h"

// Rotations of any entries, which solve (I + A) Q = I - A as well as Q can be stored; the gradient against its formula; any batch and
// alignment; a non-finite entry poisons its own matrix, and only that
void test_cayley(const Kernels& k, DType t, int n, Random& random) {
    if (n < 2 || (t != DType::float32 && t != DType::float64)) return;
    const int nn = n * n, entries = n * (n - 1) / 2;
    for (int family = 0; family < family_count; ++family) {
        if (n > 16 && family != 1 && family != 7) continue;
        const int count = corpus == Corpus::brief ? 3 : 11 * effort, poisoned = count > 4 ? int(random() % count) : -1;
        Buffer a(t, count * entries, family % 3), Q(t, count * nn, family % 4), G = filled(t, count * nn, family % 2, random), D(t, count * entries);
        for (int m = 0; m < count; ++m) {
            const Matrix x = logits(family, n, random);
            for (int e = 0; e < entries; ++e) a.set(m * entries + e, x[e]);
        }
        if (poisoned >= 0) a.set(poisoned * entries + random() % entries, random() % 2 ? NAN : INFINITY);
        const int split = random() % (count + 1);
        k.cayley({t, n, false}, a.data(), Q.data(), 0, split);
        k.cayley({t, n, false}, a.data(), Q.data(), split, count);
        k.cayley_backward({t, n, false}, G.data(), Q.data(), D.data(), 0, count);
        for (int m = 0; m < count; ++m) {
            const std::string place = where(k, t, n, "cayley ") + families[family];
            const Matrix q = Q.matrix(m, nn), g = G.matrix(m, nn);
            if (m == poisoned) {
                for (double v : q) check(isnan(v), place + ": a non-finite entry left a finite one");
                continue;
            }
            Matrix A(nn, 0), P = q;
            double largest = 1;
            for (int i = 0, e = 0; i < n; ++i)
                for (int j = i + 1; j < n; ++j, ++e)
                    A[i * n + j] = a.get(m * entries + e), A[j * n + i] = -A[i * n + j], largest = std::max(largest, fabs(A[i * n + j]));
            for (int i = 0; i < n; ++i) P[i * n + i] += 1;
            for (int i = 0, e = 0; i < n; ++i)
                for (int j = 0; j < n; ++j) {
                    double gram = 0, product = 0, slope = 0;
                    for (int l = 0; l < n; ++l) {
                        gram += q[l * n + i] * q[l * n + j];
                        product += ((i == l) + A[i * n + l]) * q[l * n + j];
                        for (int o = 0; o < n; ++o) slope -= 0.5 * (P[l * n + i] * P[j * n + o] - P[l * n + j] * P[i * n + o]) * g[l * n + o];
                    }
                    check(fabs(gram - (i == j)) <= 4 * eps(t), place + ": Q'Q off by " + std::to_string(1e9 * (gram - (i == j))) + "e-9");
                    // a float32 Q is made in float64 and rounded, a float64 one also has the error of its own solve
                    const double bound = 4 * n * eps(t) * largest * (t == DType::float64 ? largest : 1);
                    if (largest <= 1e3) check(fabs(product - ((i == j) - A[i * n + j])) <= bound, place + ": (I + A) Q is not I - A");
                    if (i < j) check(fabs(slope - D.get(m * entries + e++)) <= 16 * eps(t) * n, place + ": gradient");
                }
        }
    }
}

// Plans m x n and n x m, n in 1 .. m: sums, gradients that sum to zero, the same bits wherever a plan stands, and NaN that stays where it is
void test_transport(const Kernels& k, DType t, int n, Random& random) {
    if (t != DType::float32 && t != DType::float64) return;
    const int count = 5;
    std::uniform_real_distribution<double> uniform(0.1, 1);
    for (int other : {1, n, n + 3})
        for (int family : {1, 2, 3, 12}) {
            const int rows = family % 2 ? n : other, columns = family % 2 ? other : n, size = std::max(rows, columns), entries = rows * columns;
            if (size > largest_n) continue;
            Buffer R(t, count * entries), T(t, count * entries), r(t, count * rows), c(t, count * columns), G(t, count * entries), D(t, count * entries),
                x(t, count * rows), w(t, count * columns);
            for (int b = 0; b < count; ++b) {
                const Matrix values = logits(family, size, random), grads = logits(1, size, random);
                for (int e = 0; e < entries; ++e) R.set(b * entries + e, values[e]), G.set(b * entries + e, grads[e]);
                Matrix side[2] = {Matrix(rows), Matrix(columns)};
                for (Matrix& s : side) {
                    double total = 0;
                    for (double& v : s) total += v = uniform(random);
                    for (double& v : s) v /= total;
                }
                for (int i = 0; i < rows; ++i) r.set(b * rows + i, side[0][i]);
                for (int j = 0; j < columns; ++j) c.set(b * columns + j, side[1][j]);
            }
            c.set(2 * columns, -1);  // the third has no solution
            const Plans plans{t, rows, columns};
            k.transport(plans, R.data(), r.data(), c.data(), T.data(), 0, count);
            k.transport_backward(plans, G.data(), T.data(), D.data(), x.data(), w.data(), 0, count);
            const std::string place = where(k, t, n, "transport ") + std::to_string(rows) + " x " + std::to_string(columns) + " " + families[family];
            const double accuracy = t == DType::float64 ? 1e-13 : 2e-6;
            for (int b = 0; b < count; ++b) {
                const Matrix plan = T.matrix(b, entries), slope = D.matrix(b, entries);
                for (int j = 0; j < columns; ++j) {
                    double sum = 0, balance = 0;
                    for (int i = 0; i < rows; ++i) sum += plan[i * columns + j], balance += slope[i * columns + j];
                    if (b == 2) check(isnan(sum) && isnan(balance), place + ": no NaN");
                    else
                        check(fabs(sum / c.get(b * columns + j) - 1) <= accuracy && fabs(balance) <= 10 * accuracy,
                              place + ": column sum " + std::to_string(sum));
                }
            }
            Buffer again(t, entries), one(t, entries), a(t, rows), z(t, columns);
            for (int e = 0; e < entries; ++e) one.set(e, R.get(4 * entries + e));
            for (int i = 0; i < rows; ++i) a.set(i, r.get(4 * rows + i));
            for (int j = 0; j < columns; ++j) z.set(j, c.get(4 * columns + j));
            k.transport(plans, one.data(), a.data(), z.data(), again.data(), 0, 1);
            check(!memcmp(again.data(), T.data() + 4 * entries * bytes(t), entries * bytes(t)), place + ": plan depends on its batch");
        }
}

using Run = void (*)(const Kernels&, Matrices, Buffer& R, Buffer& G, Buffer& out, int64_t begin, int64_t end);
const Run operations[] = {
    [](const Kernels& k, Matrices m, Buffer& R, Buffer&, Buffer& out, int64_t b, int64_t e) { k.birkhoff(m, R.data(), out.data(), b, e, 0); },
    [](const Kernels& k, Matrices m, Buffer& R, Buffer& G, Buffer& out, int64_t b, int64_t e) { k.birkhoff_backward(m, G.data(), R.data(), out.data(), b, e); },
    [](const Kernels& k, Matrices m, Buffer& R, Buffer&, Buffer& out, int64_t b, int64_t e) {
        k.sinkhorn(m, R.data(), out.data(), b, e, 9, sinkhorn_rules[int(Recipe::mhc)]);
    },
    [](const Kernels& k, Matrices m, Buffer& R, Buffer& G, Buffer& out, int64_t b, int64_t e) {
        k.sinkhorn_backward(m, G.data(), R.data(), out.data(), b, e, 9, sinkhorn_rules[int(Recipe::megatron)]);
    },
};

// Every batch size and alignment, stores past the caches too; the same bits wherever a matrix stands; a non-finite logit poisons its own matrix, and only that
void test_batches(const Kernels& k, DType t, int n, Random& random) {
    const int nn = n * n, most = n <= 8 ? 70 : 19;
    for (int operation = 0; operation < 4; ++operation) {
        const bool has_logits = operation != 1;
        std::vector<Matrix> rows(most), grads(most);
        for (int m = 0; m < most; ++m) {
            rows[m] = logits(m % 5 == 0 ? 2 : m % 7 == 0 ? 13 : 1, n, random), grads[m] = logits(1, n, random);
            if (!has_logits) rows[m] = reference_sinkhorn(rows[m], n, 3, Recipe::deepseek_v4);
        }
        std::vector<std::string> alone(most);
        for (int m = 0; m < most; ++m) {
            Buffer R(t, nn), G(t, nn), out(t, nn);
            for (int e = 0; e < nn; ++e) R.set(e, rows[m][e]), G.set(e, grads[m][e]);
            operations[operation](k, {t, n, false}, R, G, out, 0, 1);
            alone[m].assign(out.data(), nn * bytes(t));
        }
        for (int count = 0; count <= most; count += count < 4 || (n == 4 && t == DType::float32) ? 1 : corpus == Corpus::brief ? 22 : 9) {
            Buffer R(t, count * nn, count % 5), G(t, count * nn, count % 3), out(t, count * nn, count % 4);
            const double bad[] = {NAN, INFINITY, -INFINITY};
            const int poisoned = has_logits && count > 2 && count % 2 ? int(random() % count) : -1;
            for (int m = 0; m < count; ++m)
                for (int e = 0; e < nn; ++e) R.set(m * nn + e, rows[m][e]), G.set(m * nn + e, grads[m][e]);
            if (poisoned >= 0) {
                const int at = random() % nn, which = random() % 3;
                // of the projection, -inf is a mask: one that leaves nothing of a row has no solution
                const int first = operation == 0 && which == 2 ? at / n * n : at, last = operation == 0 && which == 2 ? first + n : at + 1;
                for (int e = first; e < last; ++e) R.set(poisoned * nn + e, bad[which]);
            }
            const int64_t split = count ? random() % (count + 1) : 0;
            const Matrices batch{t, n, random() % 2 == 0};
            operations[operation](k, batch, R, G, out, 0, split);
            operations[operation](k, batch, R, G, out, split, count);
            for (int m = 0; m < count; ++m) {
                const std::string place = where(k, t, n, "operation ") + std::to_string(operation) + " batch " + std::to_string(count);
                if (m == poisoned) {
                    for (double v : out.matrix(m, nn)) check(isnan(v), place + ": a non-finite logit left a finite entry");
                } else {
                    check(!memcmp(alone[m].data(), out.data() + m * nn * bytes(t), nn * bytes(t)), place + ": matrix depends on its batch");
                }
            }
        }
    }
}

void test_tolerance(const Kernels& k) {
    Random random(5);
    const int count = 200;
    for (double tol : {1e-1, 1e-3, 1e-5}) {
        Buffer R(DType::float64, count * 16), T(DType::float64, count * 16);
        for (int m = 0; m < count; ++m) {
            const Matrix x = logits(m % 2 ? 1 : 2, 4, random);
            for (int e = 0; e < 16; ++e) R.set(m * 16 + e, x[e]);
        }
        k.birkhoff({DType::float64, 4, false}, R.data(), T.data(), 0, count, tol);
        double worst = 0;
        for (int m = 0; m < count; ++m) worst = std::max(worst, marginal_error(T.matrix(m, 16), 4));
        check(worst <= tol, "tolerance " + std::to_string(tol) + " missed: " + std::to_string(worst));
        check(worst >= 1e-13, "tolerance " + std::to_string(tol) + " ignored");
    }
}

void test_agreement(const std::vector<const Kernels*>& all) {
    Random random(6);
    const int count = 300;
    Buffer R(DType::float32, count * 16);
    for (int m = 0; m < count; ++m) {
        const Matrix x = logits(m % 2 ? 1 : 9, 4, random);
        for (int e = 0; e < 16; ++e) R.set(m * 16 + e, x[e]);
    }
    for (const Run run : {operations[0], operations[2]}) {
        Buffer first(DType::float32, count * 16), other(DType::float32, count * 16);
        run(*all[0], {DType::float32, 4, false}, R, R, first, 0, count);
        for (const Kernels* k : all) {
            run(*k, {DType::float32, 4, true}, R, R, other, 0, count);
            for (int m = 0; m < count; ++m)
                check(difference(first.matrix(m, 16), other.matrix(m, 16)) <= 1e-6, std::string(k->isa) + " and " + all[0]->isa + " differ");
        }
    }
}

// The baseline's own conversions of 16-bit floats, over every value and every boundary between two
template <class Memory>
void test_conversion(float (*decode)(uint16_t), uint16_t infinity) {
    const auto widen = [](uint16_t h) { return baseline::widen<4>(Memory(), baseline::U16<4>{h, h, h, h})[1]; };
    const auto narrow = [](float x) { return baseline::narrow<4>(Memory(), baseline::F32<4>{x, x, x, x})[2]; };
    for (int sign = 0; sign < 2; ++sign)
        for (int h = 0; h <= infinity + 1; ++h) {
            const uint16_t bits = uint16_t(h | sign << 15);
            const float exact = decode(bits), loaded = widen(bits);
            check(isnan(exact) ? isnan(loaded) : memcmp(&exact, &loaded, 4) == 0, "16-bit load of " + std::to_string(bits));
            if (h >= infinity) continue;
            const float next = h + 1 == infinity ? 2 * exact - decode(uint16_t(bits - 1)) : decode(uint16_t(bits + 1)), middle = exact / 2 + next / 2;
            for (float x : {exact, middle, nextafterf(middle, 0), nextafterf(middle, 2 * middle)})
                if (isfinite(x)) check(narrow(x) == nearest(x, decode, infinity), "16-bit store of " + std::to_string(x) + " near " + std::to_string(bits));
        }
    check(isnan(decode(narrow(NAN))) && narrow(INFINITY) == infinity && narrow(-INFINITY) == (infinity | 0x8000), "16-bit store of non-finite values");
}

// Every instruction set runs these for every dtype and n of the corpus. Tests of new kernels go here.
struct Check {
    void (*run)(const Kernels&, DType, int n, Random&);
    int largest;  // n
};
const Check checks[] = {{test_projection, 64}, {test_batches, 16}, {test_transport, 16}, {test_sinkhorn, 9}, {test_cayley, 33},
                        {test_chart, 9},       {test_streams, 9},  {test_sites, 9},      {test_runs, 9},     {test_rows, 9},
                        {test_sparse, 9},      {test_temporal, 9}};

// Large n in float32 only; of the brief corpus, the sizes next to each change of path (closed form, constant n, groups of eight), and
// all of them in float32 only.
bool in_corpus(DType t, int n) {
    const bool narrow = t != DType::float32;
    if (corpus == Corpus::brief && (n == 6 || n == 8 || n == 16 || n == 64 || (narrow && n != 1 && n != 4 && n != 9))) return false;
    return n <= 16 || !narrow || corpus == Corpus::thorough;
}

void test_names() {
    for (const char* unknown : {"avx1024", "AVX2", " "}) {
        try {
            kernels_named(unknown);
        } catch (const std::runtime_error&) {
            continue;
        }
        fail(std::string("instruction set '") + unknown + "' accepted");
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<const Kernels*> all;
    if (argc > 1 && std::string(argv[1]) == "--thorough") corpus = Corpus::thorough, effort = 12, --argc, ++argv;
    else if (argc > 1 && std::string(argv[1]) == "--short") corpus = Corpus::brief, --argc, ++argv;
    for (const char* isa : {"avx512", "avx2", "baseline"}) {
        const bool asked = std::any_of(argv + 1, argv + argc, [&](const char* a) { return std::string(a) == isa; });
        if (argc > 1 && !asked) continue;
        try {
            all.push_back(&kernels_named(isa));
        } catch (const std::runtime_error& e) {
            printf("%s: %s\n", isa, e.what());
            if (asked) return 1;
        }
    }
    check(!all.empty(), "no instruction set of that name; accepted: avx512, avx2, baseline");
    test_names();
    test_conversion<baseline::Half>(half_to_float, 0x7c00);
    test_conversion<baseline::BFloat16>(bfloat16_to_float, 0x7f80);
    test_agreement(all);
    for (const Kernels* k : all) {
        test_tolerance(*k);
        Random random(1);
        for (const Check& check : checks)
            for (DType t : dtypes)
                for (int n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 64})
                    if (n <= check.largest && in_corpus(t, n)) check.run(*k, t, n, random);
        printf("%s: passed\n", k->isa);
    }
}
