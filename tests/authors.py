"""The sets of mixing matrices by their authors' formulas, written out in Python's own float64 arithmetic.

Nothing here is computed by streammix or torch: lists, loops and `math`. H is H_res, out_i = sum_j H[i][j] x_j
+ post_i y; where an author's code applies the transpose, so does this page.
"""

import itertools
import math
from collections.abc import Callable

Vector = list[float]
Matrix = list[list[float]]


# --- what the papers share --------------------------------------------------------------------------------------


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def softmax(z: Vector) -> Vector:
    e = [math.exp(a - max(z)) for a in z]
    return [a / sum(e) for a in e]


def square(z: Vector) -> Matrix:
    n = math.isqrt(len(z))
    return [z[i * n : (i + 1) * n] for i in range(n)]


def transpose(A: Matrix) -> Matrix:
    return [list(column) for column in zip(*A)]


def times(A: Matrix, B: Matrix) -> Matrix:
    return [[sum(a * b for a, b in zip(row, column)) for column in zip(*B)] for row in A]


def identity(n: int) -> Matrix:
    return [[float(i == j) for j in range(n)] for i in range(n)]


def solve(A: Matrix, B: Matrix) -> Matrix:
    """A^-1 B by Gauss-Jordan elimination with pivots."""
    n, rows = len(A), [[*a, *b] for a, b in zip(A, B)]
    for k in range(n):
        pivot = max(range(k, n), key=lambda i: abs(rows[i][k]))
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [value / rows[k][k] for value in rows[k]]
        for i in range(n):
            if i != k:
                factor = rows[i][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k])]
    return [row[n:] for row in rows]


def skew(entries: Vector, n: int) -> Matrix:
    A, of_pair = [[0.0] * n for _ in range(n)], iter(entries)
    for i, j in itertools.combinations(range(n), 2):
        A[i][j] = next(of_pair)
        A[j][i] = -A[i][j]
    return A


def cayley(A: Matrix) -> Matrix:
    """(I + A)^-1 (I - A)."""
    n = len(A)
    plus = [[float(i == j) + A[i][j] for j in range(n)] for i in range(n)]
    minus = [[float(i == j) - A[i][j] for j in range(n)] for i in range(n)]
    return solve(plus, minus)


# --- from the mixing logits to H --------------------------------------------------------------------------------


def mhc(z: Vector, rounds: int = 20) -> Matrix:
    """exp, then T_r(T_c(.)): arXiv 2512.24880, Eq. 9."""
    M = [[math.exp(a) for a in row] for row in square(z)]
    for _ in range(rounds):
        sums = [sum(column) for column in zip(*M)]
        M = [[a / s for a, s in zip(row, sums)] for row in M]
        M = [[a / sum(row) for a in row] for row in M]
    return M


def projected(z: Vector) -> Matrix:
    """The limit of those rounds, to which arXiv 2606.07574 projects."""
    M = mhc(z, rounds=2000)
    assert all(abs(sum(column) - 1) < 1e-14 for column in zip(*M)), "too few rounds for these logits"
    return M


def deepseek(z: Vector, rounds: int = 20, eps: float = 1e-6) -> Matrix:
    """DeepSeek-V4's comb, before it is transposed; Liger's h_res."""
    K = [[a + eps for a in softmax(row)] for row in square(z)]
    for step in range(2 * rounds - 1):  # columns first: the softmax is the first of the rows
        K = transpose(K) if step % 2 == 0 else K
        K = [[a / (sum(row) + eps) for a in row] for row in K]
        K = transpose(K) if step % 2 == 0 else K
    return K


def mixture(z: Vector, permutations: list[tuple[int, ...]]) -> Matrix:
    """sum_k a_k P_k with P = eye[permutation]."""
    n, H = len(permutations[0]), [[0.0] * len(permutations[0]) for _ in permutations[0]]
    for a, permutation in zip(softmax(z), permutations, strict=True):
        for i in range(n):
            H[i][permutation[i]] += a
    return H


def mhc_lite(n: int) -> Callable[[Vector], Matrix]:
    """arXiv 2601.05732, Eq. 4-5: all permutations in lexicographic order."""
    return lambda z: mixture(z, list(itertools.permutations(range(n))))


def kromhc(factors: list[int]) -> Callable[[Vector], Matrix]:
    """arXiv 2601.21579: the Kronecker product of a mixture for each factor, the first with the slowest index."""

    def H(z: Vector) -> Matrix:
        result, at = [[1.0]], 0
        for i in factors:
            count = math.factorial(i)
            U = mhc_lite(i)(z[at : at + count])
            at += count
            result = [[a * u for a in row for u in urow] for row in result for urow in U]
        return result

    return H


def minorised(X: Matrix, share: float) -> Matrix:
    d, n = sigmoid(share), len(X)
    return [[(1 - d) * a + d / n for a in row] for row in X]


def tbp(t: Vector, n: int) -> Matrix:
    """arXiv 2605.21724, the sequential chart: t is (n - 1) x (n - 1)."""
    X = [[0.0] * n for _ in range(n)]
    r, c = [1.0] * n, [1.0] * n
    for i in range(n - 1):
        for j in range(n - 1):
            L = max(0.0, r[i] - sum(c[j + 1 :]), c[j] - sum(r[i + 1 :]))
            U = min(r[i], c[j])
            X[i][j] = L + (U - L) * sigmoid(t[i * (n - 1) + j])
            r[i] -= X[i][j]
            c[j] -= X[i][j]
        X[i][n - 1] = r[i]
        c[n - 1] -= r[i]
    X[n - 1] = c
    return X


class RTBP:
    """arXiv 2605.21724, the recursive chart. Masses are split by a binary tree if n is a power of two, else in turn."""

    def __init__(self, t: Vector, n: int) -> None:
        self.t, self.at = t, 0
        self.split = self.tree if n in (1, 2, 4, 8) else self.in_turn
        self.X = self.node([1.0] * n, [1.0] * n)
        assert self.at == len(t)

    def choose(self, L: float, U: float) -> float:
        self.at += 1
        return L + max(U - L, 0.0) * sigmoid(self.t[self.at - 1])

    def tree(self, m: float, w: Vector) -> Vector:
        if len(w) == 1:
            return [m]
        h = len(w) // 2
        left = self.choose(max(0.0, m - sum(w[h:])), min(m, sum(w[:h])))
        return [*self.tree(left, w[:h]), *self.tree(m - left, w[h:])]

    def in_turn(self, m: float, w: Vector) -> Vector:
        z: Vector = []
        for i in range(len(w) - 1):
            z.append(self.choose(max(0.0, m - sum(z) - sum(w[i + 1 :])), min(w[i], m - sum(z))))
        return [*z, m - sum(z)]

    def node(self, r: Vector, c: Vector) -> Matrix:
        n, h = len(r), len(r) // 2
        if n == 1:
            return [[r[0]]]
        if n == 2:
            x = self.choose(max(0.0, r[0] - c[1], c[0] - r[1]), min(r[0], c[0]))
            return [[x, r[0] - x], [c[0] - x, r[1] - c[0] + x]]
        if n % 2:
            corner = self.choose(max(0.0, r[-1] - sum(c[:-1]), c[-1] - sum(r[:-1])), min(r[-1], c[-1]))
            q = self.split(c[-1] - corner, r[:-1])
            p = self.split(r[-1] - corner, c[:-1])
            child = self.node([a - b for a, b in zip(r, q)], [a - b for a, b in zip(c, p)])
            return [*([*row, last] for row, last in zip(child, q)), [*p, corner]]
        top, bottom, left, right = r[:h], r[h:], c[:h], c[h:]
        R1, R2, C1, C2 = sum(top), sum(bottom), sum(left), sum(right)
        m11 = self.choose(max(0.0, R1 - C2, C1 - R2), min(R1, C1))
        m12, m21 = R1 - m11, C1 - m11
        a, gamma = self.split(m11, top), self.split(m21, bottom)
        u, s = self.split(m11, left), self.split(m12, right)
        A = self.node(a, u)
        B = self.node([x - y for x, y in zip(top, a)], s)
        D = self.node(gamma, [x - y for x, y in zip(left, u)])
        E = self.node([x - y for x, y in zip(bottom, gamma)], [x - y for x, y in zip(right, s)])
        return [*([*x, *y] for x, y in zip(A, B)), *([*x, *y] for x, y in zip(D, E))]


def shc(z: Vector, n: int, gamma: Vector) -> Matrix:
    """The code of arXiv 2603.20896: J + U_z (U diag(sigma) V') U_z', U_z the Helmert basis."""
    m = n - 1
    k = m * (m - 1) // 2
    t = [math.tanh(a) for a in z]
    U = cayley(skew([gamma[0] * a for a in t[:k]], m))
    V = cayley(skew([gamma[1] * a for a in t[k : 2 * k]], m))
    sigma = t[2 * k :]
    E = [[sum(U[i][k] * sigma[k] * V[j][k] for k in range(m)) for j in range(m)] for i in range(m)]
    Uz = [[0.0] * m for _ in range(n)]
    for i in range(1, n):
        for row in range(i):
            Uz[row][i - 1] = 1 / math.sqrt(i * (i + 1))
        Uz[i][i - 1] = -i / math.sqrt(i * (i + 1))
    X = times(times(Uz, E), transpose(Uz))
    return [[1 / n + a for a in row] for row in X]


def jpmhc_cayley(z: Vector, iterations: int | None, alpha: float = 0.1) -> Matrix:
    """arXiv 2602.18308, App. I; None: the fixed point (I - alpha W / 2)^-1 (I + alpha W / 2)."""
    L = square(z)
    n = len(L)
    half = [[alpha / 2 * (L[i][j] - L[j][i]) for j in range(n)] for i in range(n)]
    if iterations is None:
        return cayley([[-a for a in row] for row in half])
    Y = [[float(i == j) + 2 * half[i][j] for j in range(n)] for i in range(n)]
    for _ in range(iterations):
        one_plus = [[float(i == j) + Y[i][j] for j in range(n)] for i in range(n)]
        Y = [[float(i == j) + a for j, a in enumerate(row)] for i, row in enumerate(times(half, one_plus))]
    return Y


def jpmhc_sinkhorn(z: Vector, rounds: int = 20) -> Matrix:
    """arXiv 2602.18308, App. B: clamped to +-10, rows then columns."""
    P = [[math.exp(min(10.0, max(-10.0, a))) for a in row] for row in square(z)]
    for _ in range(rounds):
        P = [[a / sum(row) for a in row] for row in P]
        sums = [sum(column) for column in zip(*P)]
        P = [[a / s for a, s in zip(row, sums)] for row in P]
    return P


def grassmann(V: Matrix) -> Matrix:
    """arXiv 2602.18308, App. J: U U', U an orthonormal basis of the columns of V."""
    basis: list[Vector] = []
    for column in transpose(V):
        for u in basis:
            along = sum(a * b for a, b in zip(u, column))
            column = [a - along * b for a, b in zip(column, u)]
        norm = math.sqrt(sum(a * a for a in column))
        basis.append([a / norm for a in column])
    n = len(V)
    return [[sum(u[i] * u[j] for u in basis) for j in range(n)] for i in range(n)]


def c_mhc(z: Vector, sites: int = 24, beta: float = 4.0) -> Matrix:
    """contactsebi/circulant-hyper-connections, leaky: Pi_ij = 1 where j = i + 1 mod n."""
    n, leak = len(z), beta / (2 * sites)
    c = [leak * a for a in softmax(z)]
    c[0] += 1 - leak
    return [[c[(j - i) % n] for j in range(n)] for i in range(n)]


def ohc(z: Vector) -> Matrix:
    """arXiv 2609.02672: left multiplication by q times right multiplication by conj(r)."""
    q, r = [1 + z[0], *z[1:4]], [1 + z[4], *z[5:]]
    w, x, y, k = (a / math.sqrt(sum(b * b for b in q)) for a in q)
    L = [[w, -x, -y, -k], [x, w, -k, y], [y, k, w, -x], [k, -y, x, w]]
    w, x, y, k = (a / math.sqrt(sum(b * b for b in r)) for a in r)
    R = [[w, x, y, k], [-x, w, -k, y], [-y, k, w, -x], [-k, -y, x, w]]
    return times(L, R)


def go_mhc(z: Vector, n: int, s: int = 2) -> Matrix:
    """arXiv 2604.02309: mean squares of the s x s blocks of the Cayley map's rotation."""
    Q = cayley(skew(z, n * s))
    pairs = list(itertools.product(range(s), repeat=2))
    return [[sum(Q[i * s + a][j * s + b] ** 2 for a, b in pairs) / s for j in range(n)] for i in range(n)]


def os_hc(z: Vector, sums: str) -> Matrix:
    """OpenReview 1BC0eYN2uS: rows, or columns, by a softmax."""
    L = square(z)
    return [softmax(row) for row in L] if sums == "rows" else transpose([softmax(column) for column in transpose(L)])


def exponential(A: Matrix) -> Matrix:
    """exp(A) = exp(A / 2^s)^(2^s), with 25 terms of the series for entries of at most 1/4."""
    n, s = len(A), max(0, 2 + math.ceil(math.log2(max(1e-30, *(abs(a) for row in A for a in row)))))
    A = [[a / 2**s for a in row] for row in A]
    term, total = identity(n), identity(n)
    for k in range(1, 26):
        term = [[a / k for a in row] for row in times(term, A)]
        total = [[a + b for a, b in zip(*rows)] for rows in zip(total, term)]
    for _ in range(s):
        total = times(total, total)
    return total


def cghc(z: Vector, n: int, generator: str, dt: float = 1.0) -> Matrix:
    """pjjajal/hyperconnections: exp(dt (S - D)), with S of the upper triangle of M, D of its lower one or diagonal."""
    skewed, psd, diagonal = (word in generator.split("-") for word in ("conservative", "psd", "diagonal"))
    given, S, R = iter(z), [[0.0] * n for _ in range(n)], [[0.0] * n for _ in range(n)]
    for i, j in itertools.product(range(n), repeat=2):
        if j > i and skewed:
            S[i][j] = next(given)
            S[j][i] = -S[i][j]
        elif (j <= i and psd) or (j == i and diagonal):
            R[i][j] = next(given)
    D = times(R, transpose(R))
    if diagonal:
        D = [[math.log1p(math.exp(R[i][i])) if i == j else 0.0 for j in range(n)] for i in range(n)]
    return exponential([[dt * (a - d) for a, d in zip(*rows)] for rows in zip(S, D)])


def ito_hc(z: Vector, n: int, bound: float) -> Matrix:
    """OpenReview nKRfYmPtP2: ones on the diagonal, bounded tanh elsewhere."""
    given = iter(z)
    return [[1.0 if i == j else bound * math.tanh(next(given)) for j in range(n)] for i in range(n)]


def contracted(P: Matrix, gamma: float) -> Matrix:
    """cmHC as MindFormers has it: gamma P + (1 - gamma) / n."""
    return [[gamma * a + (1 - gamma) / len(P) for a in row] for row in P]
