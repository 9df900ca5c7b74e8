"""The projection and its gradient to 50 digits and more, by the textbook's way: Newton's method on the dual, with LU.

Slow, and sharing nothing with the library: column potentials b minimise sum_i log sum_j e^(R_ij + b_j) - sum_j b_j.
With T = row-softmax(R + b) its gradient is the column sums of T less one, and its Hessian diag(T'1) - T'T. Groups of
columns coupled by less than RIDGE keep their distance.
"""

from mpmath import mp, mpf

mp.dps = 80
RIDGE = mpf(10) ** -45
Matrix = list[list[mpf]]


def _softmax(R: Matrix, b: list[mpf], scale: mpf) -> Matrix:
    T = []
    for row in R:
        x = [None if r is None else r * scale + s for r, s in zip(row, b)]
        top = max(v for v in x if v is not None)
        e = [mpf(0) if v is None or v - top < -1000 else mp.exp(v - top) for v in x]
        total = mp.fsum(e)
        T.append([v / total for v in e])
    return T


def _hessian(T: Matrix) -> mp.matrix:
    """Without the last column, whose potential is 0; from differences, so that it is as small as it is."""
    n = len(T)
    W = [[mp.fsum(row[j] * row[k] for row in T) for k in range(n)] for j in range(n)]
    H = mp.matrix(n - 1, n - 1)
    for j in range(n - 1):
        for k in range(n - 1):
            H[j, k] = -W[j][k] if j != k else RIDGE + mp.fsum(W[j][i] for i in range(n) if i != j)
    return H


def _settled(T: Matrix, d: list[mpf]) -> bool:
    """Whether the potentials move by 1e-25 at most between columns that some entries above 1e-30 couple."""
    n = len(d)
    seen = [[row[j] > mpf(10) ** -30 for j in range(n)] for row in T]
    return all(
        abs(d[j] - d[k]) < mpf(10) ** -25 for row in seen for j in range(n) for k in range(n) if row[j] and row[k]
    )


def project(logits: list[list[float]]) -> Matrix:
    """T. -inf is a mask; it must have total support."""
    n = len(logits)
    R = [[None if r == -float("inf") else mpf(r) for r in row] for row in logits]
    if n == 1:
        return [[mpf(1)]]
    spread = max(max(r for r in row if r is not None) - min(r for r in row if r is not None) for row in R)
    level = max(0, int(mp.ceil(mp.log(spread / 4, 2)))) if spread else 0
    b = [mpf(0)] * n
    for _ in range(5000):
        T = _softmax(R, b, mpf(2) ** -level)
        missing = mp.matrix([1 - mp.fsum(row[j] for row in T) for j in range(n - 1)])
        d = [*mp.lu_solve(_hessian(T), missing), mpf(0)]
        size = (max(d) - min(d)) / 2
        b = [x + y * min(1, 1 / size) if size else x for x, y in zip(b, d)]
        if level and size < 1:
            level -= 1
            b = [2 * x for x in b]
        elif not level and _settled(T, d):
            T = _softmax(R, b, mpf(1))
            assert all(abs(mp.fsum(row[j] for row in T) - 1) < mpf(10) ** -20 for j in range(n)), "no convergence"
            return T
    raise AssertionError("no convergence")


def gradient(T: Matrix, grads: list[list[float]]) -> Matrix:
    """D_ij = sum_k T_ij T_ik ((G_ij - G_ik) - (w_j - w_k)), the w for which columns sum to zero."""
    n = len(T)
    G = [[mpf(g) for g in row] for row in grads]
    if n == 1:
        return [[mpf(0)]]
    flow = [mp.fsum(t[j] * t[k] * (g[j] - g[k]) for t, g in zip(T, G) for k in range(n)) for j in range(n - 1)]
    w = [*mp.lu_solve(_hessian(T), mp.matrix(flow)), mpf(0)]
    return [
        [mp.fsum(t[j] * t[k] * ((g[j] - g[k]) - (w[j] - w[k])) for k in range(n)) for j in range(n)]
        for t, g in zip(T, G)
    ]
