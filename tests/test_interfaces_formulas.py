"""Recipes with other reads and writes, written out token by token in Python's own float64 arithmetic."""

import dataclasses
import math

import pytest
import torch
from authors import Matrix, Vector, identity, projected, sigmoid
from test_authors_formulas import BACKENDS, branch, close, randomised, read_streams
from torch import nn

import streammix as sm

N, C, H = 4, 6, 3
W = C // H


def projection(v: Vector, weight: Matrix, bias: Vector, gates: Vector) -> Vector:
    """gate (v phi') / rms(v) + b, a gate for every row."""
    rms = math.sqrt(sum(a * a for a in v) / len(v) + 1e-6)
    return [g * sum(a * w for a, w in zip(v, row)) / rms + b for row, b, g in zip(weight, bias, gates, strict=True)]


def output(u: Vector) -> Vector:
    """What `branch` makes of u."""
    return [math.tanh(a) + 0.5 * u[(c + 1) % len(u)] for c, a in enumerate(u)]


def mixed(M: Matrix, x: Matrix) -> Matrix:
    return [[sum(m * stream[c] for m, stream in zip(row, x)) for c in range(len(x[0]))] for row in M]


def added(x: Matrix, post: Vector, y: Vector) -> Matrix:
    return [[a + p * b for a, b in zip(stream, y)] for stream, p in zip(x, post, strict=True)]


def every(gates: Vector, sizes: list[int]) -> Vector:
    return [gate for gate, size in zip(gates, sizes, strict=True) for _ in range(size)]


def flat(x: Matrix) -> Vector:
    return [a for stream in x for a in stream]


def site_of(recipe: str | sm.recipes.Recipe, connection: type[sm.layers.Connection], streams: int = N):
    return randomised(connection(branch, C, streams, recipe, site=1))


def tokens(shape: tuple[int, ...]) -> torch.Tensor:
    x = torch.randn(4, *shape, dtype=torch.float64)
    x[1] *= 1e-3  # where the norm's eps is to be seen
    return x


# --- eHC: post = g 1 + (I - P) q --------------------------------------------------------------------------------------


def helmert(n: int) -> Matrix:
    """An orthonormal basis, column by column, of the vectors that sum to zero."""
    columns = [[*[1.0] * i, -float(i), *[0.0] * (n - i - 1)] for i in range(1, n)]
    return [[a / math.sqrt(i * (i + 1)) for a in column] for i, column in enumerate(columns, start=1)]


def ehc(x: Matrix, site: sm.layers.EquilibriumConnection) -> tuple[Vector, Vector, Matrix, Vector]:
    """pre, post, P and q of one token."""
    n, logits = len(x), site.logits
    weight, bias, gate = logits.weight.tolist(), logits.bias.tolist(), logits.gate.tolist()
    z = projection(flat(x), weight, bias, every(gate, [n, n, n * n]))
    P = projected(z[2 * n :])
    g, coordinates = z[n], z[n + 1 : 2 * n]
    q = [sum(d * column[i] for d, column in zip(coordinates, helmert(n))) for i in range(n)]
    post = [g + q[i] - sum(P[i][j] * q[j] for j in range(n)) for i in range(n)]
    return [sigmoid(a) for a in z[:n]], post, P, q


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("streams", [1, 2, 4, 5])
def test_ehc(streams, backend, seed):
    site = site_of("ehc", sm.layers.EquilibriumConnection, streams)
    x = tokens((streams, C))
    with sm.backend(backend):
        made, out = site.coefficients(x), site(x)
    for t, token in enumerate(x.tolist()):
        pre, post, P, _ = ehc(token, site)
        for actual, expected in zip(made, (pre, post, P), strict=True):
            close(actual[t], expected)
        close(out[t], added(mixed(P, token), post, output(read_streams(token, pre))))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grad", [True, False])
def test_ehc_in_one_pass_from_site_to_site(grad, backend, seed):
    stack = randomised(sm.Stack([branch] * 3, C, recipe="ehc"))
    x = torch.randn(2, C, dtype=torch.float64)
    with sm.backend(backend), torch.set_grad_enabled(grad):
        out = stack(x)
    for t, token in enumerate(x.tolist()):
        streams = [token] * N
        for site in stack:
            pre, post, P, _ = ehc(streams, site)
            streams = added(mixed(P, streams), post, output(read_streams(streams, pre)))
        close(out[t], [sum(stream[c] for stream in streams) / N for c in range(C)])


def test_ehc_relaxes_differences_towards_its_target(seed):
    """out - q y = P (x - q y) + g y 1, and the mean of the streams grows by g y alone."""
    site = site_of("ehc", sm.layers.EquilibriumConnection)
    x = torch.randn(5, N, C, dtype=torch.float64)
    u, finish = site.connect(x)
    out, y = finish(site.branch(u)), site.branch(u)
    g = site.logits(x)[1][:, :1]
    for t, token in enumerate(x.tolist()):
        _, _, P, q = ehc(token, site)
        target = torch.tensor(q, dtype=torch.float64).unsqueeze(-1) * y[t]
        close(out[t] - target, (torch.tensor(P, dtype=torch.float64) @ (x[t] - target) + g[t] * y[t]).tolist())
    torch.testing.assert_close(out.mean(-2), x.mean(-2) + g * y, rtol=0, atol=1e-12)


def test_ehcs_write_logits_are_one_to_one_with_signed_writes(seed):
    site = site_of("ehc", sm.layers.EquilibriumConnection)
    P = sm.birkhoff(torch.randn(N, N, dtype=torch.float64))
    logits, other = torch.randn(2, N, dtype=torch.float64)
    jacobian = torch.stack([site.posts(row, P) for row in torch.eye(N, dtype=torch.float64)], -1)
    assert torch.linalg.cond(jacobian) < 1e3
    torch.testing.assert_close(jacobian @ logits, site.posts(logits, P))
    torch.testing.assert_close(site.posts(torch.linalg.solve(jacobian, other), P), other)


# --- multi-head mHC and uHC: groups of channels -----------------------------------------------------------------------


def heads(x: list[Matrix]) -> Vector:
    """vec x, in the order of the parameters: head by head, stream by stream."""
    return [a for head in x for stream in head for a in stream]


def joined(parts: list[Vector]) -> Vector:
    return [a for part in parts for a in part]


@pytest.mark.parametrize("backend", BACKENDS)
def test_multi_head_mhc(backend, seed):
    recipe = dataclasses.replace(sm.recipes.get("multi-head-mhc"), connection_options={"heads": H})
    site = site_of(recipe, sm.layers.MultiHeadConnection)
    weight, bias, gate = site.logits.weight.tolist(), site.logits.bias.tolist(), site.logits.gate.tolist()
    x = tokens((H, N, W))
    with sm.backend(backend):
        made, out = site.coefficients(x), site(x)
    for t, token in enumerate(x.tolist()):
        z = projection(heads(token), weight, bias, every(gate, [H * N, H * N, H * N * N]))
        pre = [[sigmoid(a) for a in z[g * N : (g + 1) * N]] for g in range(H)]
        post = [[2 * sigmoid(a) for a in z[(H + g) * N : (H + g + 1) * N]] for g in range(H)]
        res = [projected(z[2 * H * N + g * N * N : 2 * H * N + (g + 1) * N * N]) for g in range(H)]
        for actual, expected in zip(made, (pre, post, res), strict=True):
            close(actual[t], expected)
        y = output(joined([read_streams(token[g], pre[g]) for g in range(H)]))
        close(out[t], [added(mixed(res[g], token[g]), post[g], y[g * W : (g + 1) * W]) for g in range(H)])


def test_one_head_is_mhc(seed):
    recipe = dataclasses.replace(sm.recipes.get("multi-head-mhc"), connection_options={"heads": 1})
    parts = [nn.Linear(C, C).double() for _ in range(3)]
    ours, mhc = sm.Stack(parts, C, recipe=recipe).double(), sm.Stack(parts, C).double()
    randomised(mhc)
    ours.load_state_dict(mhc.state_dict())
    x = torch.randn(2, 5, C, dtype=torch.float64)
    torch.testing.assert_close(ours(x), mhc(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_uhc(backend, seed):
    recipe = dataclasses.replace(sm.recipes.get("uhc"), connection_options={"heads": H}, rank=2)
    site = site_of(recipe, sm.layers.UncoupledConnection)
    A, B = site.write_back.down.tolist(), site.write_back.up.tolist()
    reads = [part.tolist() for part in (site.reads.weight, site.reads.bias, site.reads.gate)]
    weight, bias, gate = site.logits.weight.tolist(), site.logits.bias.tolist(), site.logits.gate.tolist()
    x = tokens((H, N, W))
    with sm.backend(backend):
        made, out = site.coefficients(x), site(x)
    for t, token in enumerate(x.tolist()):
        pre = []
        for g in range(H):
            z = projection(flat(token[g]), reads[0][g], reads[1][g * N : (g + 1) * N], reads[2] * N)
            pre.append([sigmoid(a) for a in z])
        z = projection(heads(token), weight, bias, every(gate, [N, N * N]))
        post, res = [2 * sigmoid(a) for a in z[:N]], projected(z[N:])
        for actual, expected in zip(made, (pre, [post] * H, [res] * H), strict=True):
            close(actual[t], expected)
        y = output(joined([read_streams(token[g], pre[g]) for g in range(H)]))
        low = [[sum(a * b for a, b in zip(row, y)) for row in A_i] for A_i in A]
        own = [
            [y[c] + sum(b * a for b, a in zip(B_i[c], low_i)) for c in range(C)]
            for B_i, low_i in zip(B, low, strict=True)
        ]
        expected = []
        for g in range(H):
            mix = mixed(res, token[g])
            expected.append([[mix[i][c] + post[i] * own[i][g * W + c] for c in range(W)] for i in range(N)])
        close(out[t], expected)


def test_a_group_of_uhc_is_read_by_its_own_slice(seed):
    recipe = dataclasses.replace(sm.recipes.get("uhc"), connection_options={"heads": H})
    site = site_of(recipe, sm.layers.UncoupledConnection)
    x = torch.randn(5, H, N, W, dtype=torch.float64)
    other = x.clone()
    other[:, 1] += 1
    before, after = site.coefficients(x), site.coefficients(other)
    same = [torch.equal(before[0][:, g], after[0][:, g]) for g in range(H)]
    assert same == [True, False, True]
    assert not torch.equal(before[1], after[1])  # writes are made of the whole state


# --- SimpleHC: gates of a group of sites ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize(("group", "sites"), [(1, 3), (2, 5), (4, 4), (8, 3)])
def test_simple_hc(group, sites, common, backend, seed):
    recipe = dataclasses.replace(sm.recipes.get("simple-hc"), connection_options={"group": group, "common": common})
    stack = randomised(sm.Stack([branch] * sites, C, recipe=recipe))
    x = torch.randn(2, C, dtype=torch.float64)
    with sm.backend(backend):
        out = stack(x)
    rows = 1 if common else group
    for t, token in enumerate(x.tolist()):
        streams = [token] * N
        for k in range(sites):
            if k % group == 0:
                logits = stack[k].logits
                weight, bias, gate = logits.weight.tolist(), logits.bias.tolist(), logits.gate.tolist()
                z = projection(flat(streams), weight, bias, every(gate, [rows * N, rows * N]))
            row = 0 if common else k % group
            pre = [sigmoid(a) for a in z[row * N : (row + 1) * N]]
            post = [2 * sigmoid(a) for a in z[(rows + row) * N : (rows + row + 1) * N]]
            streams = added(mixed(identity(N), streams), post, output(read_streams(streams, pre)))
        close(out[t], [sum(stream[c] for stream in streams) / N for c in range(C)])


def test_a_group_of_one_site_is_ihc(seed):
    recipe = dataclasses.replace(sm.recipes.get("simple-hc"), connection_options={"group": 1})
    parts = [nn.Linear(C, C) for _ in range(3)]
    ours, ihc = sm.Stack(parts, C, recipe=recipe), sm.Stack(parts, C, recipe="ihc")
    for a, b in zip(ours.state_dict().items(), ihc.state_dict().items(), strict=True):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1])
    randomised(ihc)
    ours.double().load_state_dict(ihc.state_dict())
    x = torch.randn(2, 5, C, dtype=torch.float64)
    torch.testing.assert_close(ours(x), ihc(x), rtol=0, atol=1e-12)


# --- parameters -------------------------------------------------------------------------------------------------------


def count(recipe: str, dim: int, sites: int) -> int:
    return sum(p.numel() for p in sm.Stack([nn.Identity()] * sites, dim, recipe=recipe).parameters())


def test_parameter_counts():
    C, n, r, h = 64, 4, 8, 4
    mhc = (2 * n + n * n) * (n * C + 1) + 3
    assert count("mhc", C, 1) == count("motif-3", C, 1) == count("ehc", C, 1) == mhc
    assert count("uhc", C, 1) == mhc + (h - 1) * n + 2 * n * C * r  # biases of the groups, and the write-back
    assert count("multi-head-mhc", C, 1) == h * (2 * n + n * n) * (n * C + 1) + 3
    assert count("simple-hc", C, 4) == 4 * 2 * n * (n * C + 1) + 2
    assert count("simple-hc", C, 8) == 2 * count("simple-hc", C, 4)
