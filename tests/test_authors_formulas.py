"""The recipes against their authors' formulas (authors.py), token by token: a site's coefficients, reads and writes."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from authors import (
    RTBP,
    Matrix,
    Vector,
    c_mhc,
    cghc,
    contracted,
    deepseek,
    go_mhc,
    grassmann,
    identity,
    ito_hc,
    jpmhc_cayley,
    jpmhc_sinkhorn,
    kromhc,
    mhc,
    mhc_lite,
    minorised,
    mixture,
    ohc,
    os_hc,
    projected,
    shc,
    sigmoid,
    tbp,
    transpose,
)

import streammix as sm
from streammix.recipes import Switch

C = 3
TOLERANCE = 1e-12
BACKENDS = ["eager", "auto"]


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
    "motif-3": (4, Form(), projected),
    "mhc-sinkhorn": (4, Form(norm_eps=1e-20), mhc),
    "ihc": (4, Form(), lambda z: identity(4)),
    "deepseek-v4": (4, Form(read_eps=1e-6), lambda z: transpose(deepseek(z))),
    "mhc-lite": (4, LITE, mhc_lite(4)),
    "go-mhc": (4, Form(), lambda z: go_mhc(z, 4)),
    "c-mhc": (4, Form(), c_mhc),
    "ohc": (4, Form(mix_gate=0.01), ohc),
    "jpmhc-cayley": (4, Form(), lambda z: jpmhc_cayley(z, None)),
    "jpmhc-sinkhorn": (4, Form(), jpmhc_sinkhorn),
    "os-hc": (4, Form(), lambda z: os_hc(z, "rows")),
    "os-hc-columns": (4, Form(), lambda z: os_hc(z, "columns")),
    "cghc": (4, LITE, lambda z: cghc(z, 4, "conservative-psd")),
    "cmhc": (4, Form(), lambda z: contracted(mhc_lite(4)(z), 0.8)),  # at site 1
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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "bound"), [(2, 0.5), (4, 0.25), (5, 0.2)])
def test_ito_hc(n, bound, backend, seed):
    site = site_of("ito-hc", n)
    entries = site.manifold.entries.tolist()
    check(site, Form(), lambda z: ito_hc(entries, n, bound), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cmhc_with_the_exact_projection(backend, seed):
    recipe = dataclasses.replace(sm.recipes.get("cmhc"), manifold_options={"gamma": 0.6})
    check(site_of(recipe), Form(), lambda z: contracted(projected(z), 0.6), backend)


#: Recipes that change along the depth: what is changed of them, and H at site k of six.
ALONG_THE_DEPTH = {
    ("os-hc", Switch("rows", "columns", at=0.5)): lambda z, k: os_hc(z, "rows" if k < 3 else "columns"),
    ("os-hc", Switch("columns", "rows", at=2)): lambda z, k: os_hc(z, "columns" if k < 2 else "rows"),
    ("cmhc", None): lambda z, k: contracted(mhc_lite(4)(z), 0.8 if k < 4 else 1.0),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("case", ALONG_THE_DEPTH, ids=str)
def test_a_stack_that_changes_along_the_depth(case, grad, seed):
    name, sums = case
    recipe = sm.recipes.get(name)
    recipe = dataclasses.replace(recipe, manifold_options={"sums": sums}) if sums else recipe
    stack = randomised(sm.Stack([branch] * 6, C, recipe=recipe))
    x = torch.randn(2, C, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        out = stack(x)
    for t, token in enumerate(x.tolist()):
        streams = [token] * 4
        for k, site in enumerate(stack.sites):
            pre, post, H = coefficients(streams, site, Form(), lambda z, k=k: ALONG_THE_DEPTH[case](z, k))
            streams = written_streams(streams, read_streams(streams, pre), post, H)
        close(out[t], [sum(stream[c] for stream in streams) / 4 for c in range(C)])


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
