"""The projection onto a transportation polytope and its gradients to 50 digits, by the textbook: Newton, with LU.

Slow, and sharing nothing with the library. Column potentials b minimise
sum_i r_i log sum_j e^(R_ij + b_j) - sum_j c_j b_j;
with P = row-softmax(R + b) the gradient is P'r - c and the Hessian diag(P'r) - P' diag(r) P.
"""

from mpmath import mp, mpf

mp.dps = 80
RIDGE = mpf(10) ** -45
Matrix = list[list[mpf]]


def _softmax(R: Matrix, b: list[mpf], scale: mpf) -> Matrix:
    P = []
    for row in R:
        x = [None if v is None else v * scale + s for v, s in zip(row, b)]
        top = max(v for v in x if v is not None)
        e = [mpf(0) if v is None or v - top < -1000 else mp.exp(v - top) for v in x]
        total = mp.fsum(e)
        P.append([v / total for v in e])
    return P


def _hessian(P: Matrix, r: list[mpf]) -> mp.matrix:
    """Without the last column, whose potential is 0; from differences, so that it is as small as it is."""
    n = len(P[0])
    columns = [[p[j] for p in P] for j in range(n)]
    weighted = [[a * p for a, p in zip(r, column)] for column in columns]
    W = [[mp.fdot(weighted[j], columns[k]) if k < j else None for k in range(n)] for j in range(n)]
    at = lambda j, k: W[j][k] if k < j else W[k][j]  # noqa: E731
    H = mp.matrix(n - 1, n - 1)
    for j in range(n - 1):
        for k in range(n - 1):
            H[j, k] = -at(j, k) if j != k else RIDGE + mp.fsum(at(j, i) for i in range(n) if i != j)
    return H


def _solve(H: mp.matrix, x: list[mpf]) -> list[mpf]:
    return [*mp.lu_solve(H, mp.matrix(x)), mpf(0)] if x else [mpf(0)]


def _settled(P: Matrix, d: list[mpf]) -> bool:
    """Whether the potentials move by 1e-25 at most between columns that some entries above 1e-30 couple."""
    seen = [[j for j, p in enumerate(row) if p > mpf(10) ** -30] for row in P]
    return all(abs(d[j] - d[k]) < mpf(10) ** -25 for row in seen for j in row for k in row)


def project(logits: list[list[float]], rows: list[float], columns: list[float]) -> Matrix:
    """T, columns scaled to the sum of the rows. -inf is a mask; entries it leaves must not be forced to zero."""
    r, c = [mpf(x) for x in rows], [mpf(x) for x in columns]
    ratio = mp.fsum(r) / mp.fsum(c)
    c = [x * ratio for x in c]
    if len(c) > len(r):  # the smaller dual
        flipped = [list(line) for line in zip(*logits)]
        return [list(line) for line in zip(*_project(flipped, c, r))]
    return _project(logits, r, c)


def _project(logits: list[list[float]], r: list[mpf], c: list[mpf]) -> Matrix:
    n = len(c)
    R = [[None if v == -float("inf") else mpf(v) for v in row] for row in logits]
    spread = max(max(v for v in row if v is not None) - min(v for v in row if v is not None) for row in R)
    level = max(0, int(mp.ceil(mp.log(spread / 4, 2)))) if spread else 0
    free = [mp.log(x) for x in c]
    b = [mpf(0)] * n
    for _ in range(5000):
        P = _softmax(R, [x + y for x, y in zip(b, free)], mpf(2) ** -level)
        missing = [c[j] - mp.fsum(a * p[j] for a, p in zip(r, P)) for j in range(n - 1)]
        d = _solve(_hessian(P, r), missing)
        size = (max(d) - min(d)) / 2
        b = [x + y * min(1, 1 / size) if size else x for x, y in zip(b, d)]
        if level and size < 1:
            level -= 1
            b = [2 * x for x in b]
        elif not level and _settled(P, d):
            P = _softmax(R, [x + y for x, y in zip(b, free)], mpf(1))
            return [[a * x for x in p] for a, p in zip(r, P)]
    raise AssertionError("no convergence")


def gradients(T: Matrix, grads: list[list[float]]) -> tuple[Matrix, list[mpf], list[mpf]]:
    """Of the logits, rows and columns: T_ij (G_ij - x_i - w_j), x and w, for which its rows and columns sum to zero,
    and sum_j c_j w_j = 0."""
    m, n = len(T), len(T[0])
    G = [[mpf(g) for g in row] for row in grads]
    flipped = n > m
    if flipped:
        T, G = [list(x) for x in zip(*T)], [list(x) for x in zip(*G)]
    r = [mp.fsum(t) for t in T]
    P = [[x / a for x in t] for a, t in zip(r, T)]
    size = len(P[0])
    mean = [mp.fdot(p, g) for p, g in zip(P, G)]
    flow = [mp.fsum(a * p[j] * (g[j] - e) for a, p, g, e in zip(r, P, G, mean)) for j in range(size - 1)]
    w = _solve(_hessian(P, r), flow)
    x = [e - mp.fdot(p, w) for e, p in zip(mean, P)]
    D = [
        [t * mp.fsum(q * ((g[j] - h) - (w[j] - w[k])) for k, (q, h) in enumerate(zip(p, g))) for j, t in enumerate(ts)]
        for ts, p, g in zip(T, P, G)
    ]
    if flipped:
        D, x, w = [list(line) for line in zip(*D)], w, x
        T = [list(line) for line in zip(*T)]
    c = [mp.fsum(t[j] for t in T) for j in range(n)]
    shift = mp.fdot(c, w) / mp.fsum(c)
    return D, [v + shift for v in x], [v - shift for v in w]
