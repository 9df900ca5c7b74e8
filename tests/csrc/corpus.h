// Families of logits, from tame to as bad as the format allows.
#pragma once

#include <math.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

using Matrix = std::vector<double>;

namespace {

using Random = std::mt19937;
const char* const families[] = {"normal 1e-2", "normal 1",    "normal 10",  "normal 100",    "normal 1e3",       "normal 1e6",
                                "normal 1e30", "normal 3e38", "uniform 10", "near identity", "near permutation", "blocks",
                                "triangular",  "0/60",        "0/1e4",      "0/1e30",        "integers",         "rank one",
                                "Cauchy",      "one huge",    "constant",   "subnormal",     "signed zeros",     "two values 3e38"};
constexpr int family_count = sizeof families / sizeof *families;

Matrix logits(int family, int n, Random& random) {
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform(-1, 1);
    const double scales[] = {1e-2, 1, 10, 100, 1e3, 1e6, 1e30, 3e38};
    std::vector<int> permutation(n);
    std::vector<double> a(n), b(n);
    for (int i = 0; i < n; ++i) permutation[i] = i, a[i] = 10 * normal(random), b[i] = 10 * normal(random);
    std::shuffle(permutation.begin(), permutation.end(), random);
    const int entry = random() % (n * n), cut = 1 + random() % std::max(1, n - 1);
    Matrix R(n * n);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            double& x = R[i * n + j];
            switch (family) {
                case 0:
                case 1:
                case 2:
                case 3:
                case 4:
                case 5:
                case 6:
                case 7: x = scales[family] * normal(random); break;
                case 8: x = 10 * uniform(random); break;
                case 9: x = (i != j ? -8 : 0) + 0.1 * normal(random); break;
                case 10: x = (permutation[i] == j ? 30 : 0) + normal(random); break;
                case 11: x = ((i < cut) == (permutation[j] < cut) ? 40 : 0) + normal(random); break;
                case 12: x = (i > j ? -50 : 0) + normal(random); break;
                case 13: x = random() % 2 * 60; break;
                case 14: x = random() % 2 * 1e4; break;
                case 15: x = random() % 2 * 1e30; break;
                case 16: x = int(random() % 201) - 100; break;
                case 17: x = a[i] + b[j]; break;
                case 18: x = tan(1.5707963 * uniform(random)); break;
                case 19: x = i * n + j == entry ? 1e6 : normal(random); break;
                case 20: x = 3; break;
                case 21: x = 1e-40 * normal(random); break;
                case 22: x = random() % 2 ? -0.0 : 0.0; break;
                default: x = random() % 2 ? 3.4e38 : -3.4e38;
            }
            x = std::min(3.4e38, std::max(-3.4e38, x));
        }
    return R;
}

}  // namespace
