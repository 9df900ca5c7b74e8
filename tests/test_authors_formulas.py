"""The recipes against their authors' formulas, written out token by token in Python's own float64 arithmetic.

Nothing here is computed by streammix but what is tested: lists, loops and `math`. H is H_res, out_i = sum_j H[i][j] x_j
+ post_i y; where an author's code applies the transpose, so does this page.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

import streammix as sm

C = 3
TOLERANCE = 1e-12
BACKENDS = ["eager", "auto"]

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


# --- a token of a site ------------------------------------------------------------------------------------------


@dataclass
class Form:
    """A site's settings: norm eps (None: F.normalize), eps of the reads, multiplier and eps of the writes."""

    norm_eps: float | None = 1e-6
    read_eps: float = 0.0
    write_multiplier: float = 2.0
    write_eps: float = 0.0
    mix_gate: float | None = None  # a constant one


def coefficients(x: Matrix, site: sm.HyperConnection, form: Form, mixing: Callable) -> tuple[Vector, Vector, Matrix]:
    n, logits = len(x), site.logits
    weight, bias, gates = logits.weight.tolist(), logits.bias.tolist(), logits.gate.tolist()
    if form.mix_gate is not None:
        gates.append(form.mix_gate)
    v = [a for stream in x for a in stream]
    norm = math.sqrt(sum(a * a for a in v))
    if form.norm_eps is None:
        v = [a / max(norm, 1e-12) * math.sqrt(len(v)) for a in v]
    else:
        v = [a / math.sqrt(norm * norm / len(v) + form.norm_eps) for a in v]
    z = []
    for row, (phi, b) in enumerate(zip(weight, bias)):
        gate = gates[0] if row < n else gates[1] if row < 2 * n else gates[2]
        z.append(gate * sum(a * w for a, w in zip(v, phi)) + b)
    pre = [sigmoid(a) + form.read_eps for a in z[:n]]
    post = [form.write_multiplier * sigmoid(a) + form.write_eps for a in z[n : 2 * n]]
    return pre, post, mixing(z[2 * n :])


def read_streams(x: Matrix, pre: Vector) -> Vector:
    return [sum(p * stream[c] for p, stream in zip(pre, x)) for c in range(len(x[0]))]


def written_streams(x: Matrix, u: Vector, post: Vector, H: Matrix) -> Matrix:
    y = [math.tanh(a) + 0.5 * u[(c + 1) % len(u)] for c, a in enumerate(u)]
    return [
        [sum(h * stream[c] for h, stream in zip(row, x)) + p * y[c] for c in range(len(u))] for row, p in zip(H, post)
    ]


def branch(u: torch.Tensor) -> torch.Tensor:
    return u.tanh() + 0.5 * u.roll(-1, -1)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in module.double().named_parameters():
            parameter.normal_()
            if name.endswith("logits.weight"):  # logits of about one, gates of about one
                parameter.mul_(parameter.shape[1] ** -0.5)
            elif name.endswith("logits.gate"):
                parameter.clamp_(-1.5, 1.5)
    return module


def close(actual: torch.Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=TOLERANCE)


def check(site: sm.HyperConnection, form: Form, mixing: Callable[[Vector], Matrix], backend: str) -> None:
    """pre, post, H and the new streams of a few tokens."""
    x = torch.randn(4, site.streams, C, dtype=torch.float64)
    if form.norm_eps is not None:
        x[1] *= 1e-3  # where the norm's eps is to be seen
    with sm.backend(backend):
        made, out = site.coefficients(x), site(x)
    for t, token in enumerate(x.tolist()):
        pre, post, H = coefficients(token, site, form, mixing)
        for actual, expected in zip(made, (pre, post, H), strict=True):
            close(actual[t], expected)
        close(out[t], written_streams(token, read_streams(token, pre), post, H))


def site_of(recipe: str | sm.recipes.Recipe, n: int = 4) -> sm.HyperConnection:
    return randomised(sm.HyperConnection(branch, C, n, recipe, site=1))


LITE = Form(norm_eps=None)  # the code of mHC-lite, KromHC, TBP and sHC

#: name -> streams, form, and H of the mixing logits (of the site too, where it has parameters of its own)
RECIPES = {
    "mhc": (4, Form(), projected),
    "mhc-sinkhorn": (4, Form(norm_eps=1e-20), mhc),
    "ihc": (4, Form(), lambda z: identity(4)),
    "deepseek-v4": (4, Form(read_eps=1e-6), lambda z: transpose(deepseek(z))),
    "mhc-lite": (4, LITE, mhc_lite(4)),
    "go-mhc": (4, Form(), lambda z: go_mhc(z, 4)),
    "c-mhc": (4, Form(), c_mhc),
    "ohc": (4, Form(mix_gate=0.01), ohc),
    "jpmhc-cayley": (4, Form(), lambda z: jpmhc_cayley(z, None)),
    "jpmhc-sinkhorn": (4, Form(), jpmhc_sinkhorn),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name, backend, seed):
    n, form, mixing = RECIPES[name]
    check(site_of(name, n), form, mixing, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "factors"), [(2, [2]), (4, [2, 2]), (8, [2, 2, 2]), (6, [2, 3])])
def test_kromhc(n, factors, backend, seed):
    check(site_of("kromhc", n), LITE, kromhc(factors), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 7])
def test_tbp(n, backend, seed):
    site = site_of("tbp", n)
    share = site.manifold.share.item()
    check(site, LITE, lambda z: minorised(tbp(z, n), share), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 10])
def test_rtbp(n, backend, seed):
    site = site_of("rtbp", n)
    share = site.manifold.share.item()
    check(site, LITE, lambda z: minorised(RTBP(z, n).X, share), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_shc(n, backend, seed):
    site = site_of("shc", n)
    gamma = site.manifold.gamma.tolist()
    check(site, LITE, lambda z: shc(z, n, gamma), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_jpmhc_cayley_in_two_steps(backend, seed):
    recipe = dataclasses.replace(sm.recipes.get("jpmhc-cayley"), manifold_options={"iterations": 2})
    check(site_of(recipe), Form(), lambda z: jpmhc_cayley(z, 2), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_jpmhc_grassmann(backend, seed):
    site = site_of("jpmhc-grassmann")
    V = site.manifold.V.tolist()
    check(site, Form(), lambda z: grassmann(V), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_perm_mix(backend, seed):
    site = site_of("perm-mix")
    published = [(0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 2, 3, 0), (3, 0, 1, 2)]
    drawn = [p for p in site.manifold.permutations if p not in published]
    check(site, Form(), lambda z: mixture(z, [*published, *drawn]), backend)


#: What other code makes of the same logits: base recipe, its changes, form, H
WRITES = {
    "liger": (
        "deepseek-v4",
        {"manifold_options": {"recipe": "liger"}, "write_multiplier": 2.0, "read_eps": 0.0},
        Form(),
        deepseek,
    ),
    "tile-kernels": (
        "deepseek-v4",
        {"manifold_options": {"recipe": "deepseek-v4", "rounds": 10}, "write_multiplier": 1.0},
        Form(read_eps=1e-6, write_multiplier=1.0),
        lambda z: transpose(deepseek(z, rounds=10)),
    ),
    "hy4": (
        "ihc",
        {"write_multiplier": 2.0, "read_eps": 1e-6, "write_eps": 1e-6, "norm_eps": 1e-5},
        Form(norm_eps=1e-5, read_eps=1e-6, write_eps=1e-6),
        lambda z: identity(4),
    ),
    "any": (
        "mhc",
        {"write_multiplier": 1.3, "read_eps": 0.03, "write_eps": 0.2, "norm_eps": None},
        Form(norm_eps=None, read_eps=0.03, write_multiplier=1.3, write_eps=0.2),
        projected,
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WRITES)
def test_writes_of_other_implementations(name, backend, seed):
    base, changes, form, mixing = WRITES[name]
    check(site_of(dataclasses.replace(sm.recipes.get(base), write="sigmoid", **changes)), form, mixing, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", ["any", "hy4"])
def test_a_stack_in_one_pass_from_site_to_site(name, grad, backend, seed):
    base, changes, form, mixing = WRITES[name]
    recipe = dataclasses.replace(sm.recipes.get(base), write="sigmoid", **changes)
    stack = randomised(sm.Stack([branch] * 3, C, recipe=recipe))
    x = torch.randn(2, C, dtype=torch.float64)
    with sm.backend(backend), torch.set_grad_enabled(grad):
        out = stack(x)
    for t, token in enumerate(x.tolist()):
        streams = [token] * 4
        for site in stack.sites:
            pre, post, H = coefficients(streams, site, form, mixing)
            streams = written_streams(streams, read_streams(streams, pre), post, H)
        close(out[t], [sum(stream[c] for stream in streams) / 4 for c in range(C)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_deepseek_v4_1_in_a_stack(backend, seed):
    """The read weights of a site are used at the next; the first reads stream 0, the last site's end the streams."""
    stack = randomised(sm.Stack([branch] * 3, C, recipe="deepseek-v4.1"))
    x = torch.randn(2, C, dtype=torch.float64)
    with sm.backend(backend):
        out = stack(x)
    form = Form(norm_eps=1e-20, read_eps=1e-6)
    for t, token in enumerate(x.tolist()):
        streams, pre = [token] * 4, [1.0, 0.0, 0.0, 0.0]
        for site in stack.sites:
            following, post, H = coefficients(streams, site, form, lambda z: transpose(deepseek(z)))
            streams = written_streams(streams, read_streams(streams, pre), post, H)
            pre = following
        close(out[t], read_streams(streams, pre))
