"""Each source's state of one site, drawn at random, and its forward pass written out in float64.

Nothing here is computed by streammix. x is (tokens, n, C); a formula returns the streams after the branch u -> sin(u).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

C, EPS = 5, 1e-6
State = dict[str, Tensor]


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64)


# --- what mixes -------------------------------------------------------------------------------------------------


def deepseek_comb(logits: Tensor, rounds: int, eps: float = EPS) -> Tensor:
    K = logits.softmax(-1) + eps
    K = K / (K.sum(-2, keepdim=True) + eps)
    for _ in range(rounds - 1):
        K = K / (K.sum(-1, keepdim=True) + eps)
        K = K / (K.sum(-2, keepdim=True) + eps)
    return K


def rows_then_columns(logits: Tensor, rounds: int, least: float) -> Tensor:
    K = (logits - logits.amax(-1, keepdim=True)).exp()
    for _ in range(rounds):
        K = K / K.sum(-1, keepdim=True).clamp(min=least)
        K = K / K.sum(-2, keepdim=True).clamp(min=least)
    return K


def columns_then_rows(logits: Tensor, rounds: int) -> Tensor:
    K = (logits - logits.amax(-2, keepdim=True)).exp()
    for _ in range(rounds):
        K = K / K.sum(-2, keepdim=True)
        K = K / K.sum(-1, keepdim=True)
    return K


def all_permutations(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)[torch.tensor(list(itertools.permutations(range(n))))]


def sequential(t: Tensor) -> Tensor:
    """(..., n - 1, n - 1) -> (..., n, n), entry by entry."""
    n = t.shape[-1] + 1
    r = [torch.ones(t.shape[:-2], dtype=t.dtype) for _ in range(n)]
    c = [torch.ones(t.shape[:-2], dtype=t.dtype) for _ in range(n)]
    rows = []
    for i in range(n - 1):
        row = []
        for j in range(n - 1):
            L = torch.maximum(r[i] - sum(c[j + 1 :]), c[j] - sum(r[i + 1 :])).clamp(min=0)
            X = L + (torch.minimum(r[i], c[j]) - L) * t[..., i, j].sigmoid()
            r[i], c[j] = r[i] - X, c[j] - X
            row.append(X)
        c[-1] = c[-1] - r[i]
        rows.append(torch.stack([*row, r[i]], -1))
    return torch.stack([*rows, torch.stack(c, -1)], -2)


def recursive_of_four(t: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 4, 4): block mass, its splits over rows and columns, then four 2 x 2 problems."""
    theta = iter(t.flatten(-2).unbind(-1))

    def choose(L: Tensor, U: Tensor) -> Tensor:
        return L + (U - L).clamp(min=0) * next(theta).sigmoid()

    one = torch.ones(t.shape[:-2], dtype=t.dtype)

    def halved(m: Tensor) -> list[Tensor]:  # over two unit capacities
        first = choose((m - 1).clamp(min=0), torch.minimum(m, one))
        return [first, m - first]

    def leaf(r: list[Tensor], c: list[Tensor]) -> Tensor:
        L = torch.maximum(r[0] - c[1], c[0] - r[1]).clamp(min=0)
        x = choose(L, torch.minimum(r[0], c[0]))
        return torch.stack([x, r[0] - x, c[0] - x, r[1] - c[0] + x], -1).unflatten(-1, (2, 2))

    m11 = choose(0 * one, 2 * one)
    m12 = m21 = 2 - m11
    a, gamma, u, s = halved(m11), halved(m21), halved(m11), halved(m12)
    rest = [[1 - value for value in part] for part in (a, u, gamma, s)]
    b, v, d, e = rest
    A, B, D, E = leaf(a, u), leaf(b, s), leaf(gamma, v), leaf(d, e)
    return torch.cat([torch.cat([A, B], -1), torch.cat([D, E], -1)], -2)


def spectral(z: Tensor, n: int, gamma_u: Tensor, gamma_v: Tensor) -> Tensor:
    m = n - 1
    k = m * (m - 1) // 2
    z = z.tanh()
    rotations = []
    for gamma, entries in ((gamma_u, z[..., :k]), (gamma_v, z[..., k : 2 * k])):
        A = torch.zeros(*z.shape[:-1], m, m, dtype=z.dtype)
        i, j = torch.triu_indices(m, m, 1)
        A[..., i, j] = gamma * entries
        A = A - A.mT
        rotations.append(torch.linalg.solve(torch.eye(m) + A, torch.eye(m) - A))
    U, V = rotations
    basis = torch.zeros(n, m, dtype=z.dtype)
    for i in range(1, n):
        basis[:i, i - 1] = 1 / math.sqrt(i * (i + 1))
        basis[i, i - 1] = -i / math.sqrt(i * (i + 1))
    return 1 / n + basis @ (U * z[..., 2 * k :].unsqueeze(-2) @ V.mT) @ basis.mT


# --- a site -----------------------------------------------------------------------------------------------------


def normalised(x: Tensor, eps: float = EPS) -> Tensor:
    flat = x.flatten(-2)
    return flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + eps)


def ended(x: Tensor, pre: Tensor, post: Tensor, M: Tensor, transposed: bool) -> Tensor:
    u = (pre.unsqueeze(-1) * x).sum(-2)
    mixed = torch.einsum("tij,tic->tjc" if transposed else "tij,tjc->tic", M, x)
    return mixed + post.unsqueeze(-1) * u.sin().unsqueeze(-2)


def deepseek_state(n: int) -> State:
    rows = n * (n + 2)
    return {"fn": draw(rows, n * C, scale=0.5), "base": draw(rows), "scale": draw(3)}


def deepseek(s: State, x: Tensor, *, post_mult: float = 2.0, rounds: int = 20) -> Tensor:
    n = x.shape[-2]
    w = normalised(x) * s.get("norm_weight", 1.0) @ s["fn"].mT
    pre = (w[:, :n] * s["scale"][0] + s["base"][:n]).sigmoid() + EPS
    post = post_mult * (w[:, n : 2 * n] * s["scale"][1] + s["base"][n : 2 * n]).sigmoid()
    comb = deepseek_comb((w[:, 2 * n :] * s["scale"][2] + s["base"][2 * n :]).unflatten(-1, (n, n)), rounds)
    return ended(x, pre, post, comb, transposed=True)


def tile_kernels_state(n: int) -> State:
    return {**deepseek_state(n), "norm_weight": draw(n * C)}


def tile_kernels(s: State, x: Tensor) -> Tensor:
    return deepseek(s, x, post_mult=1.0, rounds=10)


def liger_state(n: int) -> State:
    rows = n * (n + 2)
    gates = {f"alpha_{name}": draw() for name in ("pre", "post", "res")}
    return {"phi": draw(n * C, rows, scale=0.5), "b": draw(rows), **gates}


def liger(s: State, x: Tensor) -> Tensor:
    n = x.shape[-2]
    w, b = normalised(x) @ s["phi"], s["b"]
    pre = (s["alpha_pre"] * w[:, :n] + b[:n]).sigmoid()
    post = 2 * (s["alpha_post"] * w[:, n : 2 * n] + b[n : 2 * n]).sigmoid()
    h = deepseek_comb((s["alpha_res"] * w[:, 2 * n :] + b[2 * n :]).unflatten(-1, (n, n)), 20)
    return ended(x, pre, post, h, transposed=False)


def engine_state(n: int) -> State:
    return {"phi": draw(24, 4 * C, scale=0.5), "alpha": draw(3), "beta": draw(1, 24), "norm_weight": draw(4 * C)}


def engine(s: State, x: Tensor) -> Tensor:
    """Its state is (..., C, n), the stream last."""
    last = x.mT
    flat = last.flatten(-2)
    flat = flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + torch.finfo(flat.dtype).eps)
    w, beta = flat * s.get("norm_weight", 1.0) @ s["phi"].mT, s["beta"][0]
    pre = (w[:, :4] * s["alpha"][0] + beta[:4]).sigmoid()
    post = 2 * (w[:, 4:8] * s["alpha"][1] + beta[4:8]).sigmoid()
    H = rows_then_columns((w[:, 8:] * s["alpha"][2] + beta[8:]).unflatten(-1, (4, 4)), 20, 0.0)
    u = (last * pre.unsqueeze(-2)).sum(-1)
    return (last @ H + u.sin().unsqueeze(-1) * post.unsqueeze(-2)).mT


def megatron_state(n: int) -> State:
    rows = n * (n + 2)
    gates = {f"alpha_{name}": draw(1) for name in ("pre", "post", "res")}
    return {"mapping_proj.weight": draw(rows, n * C, scale=0.5), "bias": draw(rows), **gates}


def megatron(s: State, x: Tensor, *, transposed: bool = False) -> Tensor:
    n, flat = x.shape[-2], x.flatten(-2)
    r = 1 / (flat.norm(dim=-1, keepdim=True) / math.sqrt(n * C) + 1e-6)
    gates = torch.cat([s[f"alpha_{g}"].expand(k) for g, k in (("pre", n), ("post", n), ("res", n * n))])
    h = r * (flat @ s["mapping_proj.weight"].mT) * gates + s["bias"]
    logits = h[:, 2 * n :].unflatten(-1, (n, n))
    H = deepseek_comb(logits, 20) if transposed else rows_then_columns(logits, 20, 1e-6)
    pre = h[:, :n].sigmoid() + (1e-6 if transposed else 0.0)
    return ended(x, pre, 2 * h[:, n : 2 * n].sigmoid(), H, transposed)


def lucidrains_hc_state(n: int) -> State:
    return {
        "static_alpha": draw(n, 1 + n),
        "dynamic_alpha_fn": draw(C, 1 + n),
        "dynamic_alpha_scale": draw(),
        "static_beta": draw(n),
        "dynamic_beta_fn": draw(C),
        "dynamic_beta_scale": draw(),
        "norm.gamma": draw(C),
    }


def lucidrains_hc(s: State, x: Tensor) -> Tensor:
    z = F.normalize(x, dim=-1) * math.sqrt(C) * (s["norm.gamma"] + 1)
    alpha = (z @ s["dynamic_alpha_fn"]).tanh() * s["dynamic_alpha_scale"] + s["static_alpha"]
    beta = (z @ s["dynamic_beta_fn"]).tanh() * s["dynamic_beta_scale"] + s["static_beta"]
    return ended(x, alpha[..., 0], beta, alpha[..., 1:], transposed=True)


def lucidrains_mhc_state(n: int) -> State:
    return {
        "static_alpha": draw(n, 1 + n),
        "dynamic_alpha_fn": draw(1, C, 1 + n),
        "pre_branch_scale": draw(1),
        "residual_scale": draw(1),
        "static_beta": draw(n),
        "dynamic_beta_fn": draw(C),
        "h_post_scale": draw(),
        "norm.gamma": draw(C),
    }


def lucidrains_v2_state(n: int) -> State:
    s = lucidrains_mhc_state(n)
    return {**s, "static_beta": s["static_beta"].view(n, 1, 1), "dynamic_beta_fn": s["dynamic_beta_fn"].view(C, 1)}


def lucidrains_mhc(s: State, x: Tensor) -> Tensor:
    z = F.normalize(x, dim=-1) * math.sqrt(C) * (s["norm.gamma"] + 1)
    w = z @ s["dynamic_alpha_fn"][0]
    pre = (w[..., 0] * s["pre_branch_scale"] + s["static_alpha"][:, 0]).sigmoid()
    H = columns_then_rows(w[..., 1:] * s["residual_scale"] + s["static_alpha"][:, 1:], 20)
    beta = z @ s["dynamic_beta_fn"].flatten() * s["h_post_scale"] + s["static_beta"].flatten()
    return ended(x, pre, 2 * beta.sigmoid(), H, transposed=True)


def lite_state(n: int, logits: int) -> State:
    return {
        "static_alpha": draw(n + logits),
        "dynamic_alpha_fn": draw(n * C, n + logits, scale=0.5),
        "pre_branch_scale": draw(1),
        "residual_scale": draw(1),
        "static_beta": draw(n),
        "dynamic_beta_fn": draw(n * C, n, scale=0.5),
        "h_post_scale": draw(),
        "norm.gamma": draw(n * C),
    }


def gained(s: State, x: Tensor) -> Tensor:
    flat = x.flatten(-2)
    return F.normalize(flat, dim=-1) * math.sqrt(flat.shape[-1]) * (s["norm.gamma"] + 1)


def lite(s: State, x: Tensor, matrix: Callable[[Tensor, int], Tensor]) -> Tensor:
    n, z = x.shape[-2], gained(s, x)
    w = z @ s["dynamic_alpha_fn"]
    pre = (s["pre_branch_scale"] * w[:, :n] + s["static_alpha"][:n]).sigmoid()
    M = matrix(s["residual_scale"] * w[:, n:] + s["static_alpha"][n:], n)
    beta = (z @ s["dynamic_beta_fn"]) * s["h_post_scale"] + s["static_beta"]
    return ended(x, pre, 2 * beta.sigmoid(), M, transposed=True)


def mhc_lite(s: State, x: Tensor) -> Tensor:
    return lite(s, x, lambda z, n: torch.einsum("tk,kij->tij", z.softmax(-1), all_permutations(n)))


def kromhc(s: State, x: Tensor) -> Tensor:
    def matrix(z: Tensor, n: int) -> Tensor:
        out = torch.ones(len(z), 1, 1, dtype=z.dtype)
        for pair in z.split(2, -1):
            p, q = pair.softmax(-1).unbind(-1)
            U = torch.stack([p, q, q, p], -1).unflatten(-1, (2, 2))
            out = torch.stack([torch.kron(a, b) for a, b in zip(out, U)])
        return out

    return lite(s, x, matrix)


def tbp_state(n: int) -> State:
    s = lite_state(n, 0)
    alpha = {"static_alpha": draw(n, 1 + n), "dynamic_alpha_fn": draw(n * C, n * (1 + n), scale=0.5)}
    return {**s, **alpha, "delta_logit": draw()}


def tbp(s: State, x: Tensor, chart: Callable[[Tensor], Tensor] = sequential) -> Tensor:
    n, z = x.shape[-2], gained(s, x)
    w = (z @ s["dynamic_alpha_fn"]).unflatten(-1, (n, 1 + n))
    pre = (w[..., 0] * s["pre_branch_scale"] + s["static_alpha"][:, 0]).sigmoid()
    t = w[..., 1:] * s["residual_scale"] + s["static_alpha"][:, 1:]
    delta = s["delta_logit"].sigmoid()
    X = (1 - delta) * chart(t[:, : n - 1, : n - 1]) + delta / n
    beta = (z @ s["dynamic_beta_fn"]) * s["h_post_scale"] + s["static_beta"]
    return ended(x, pre, 2 * beta.sigmoid(), X, transposed=True)


def shc_state(n: int) -> State:
    m = (n - 1) ** 2
    scales = {f"residual_{name}": draw(1) for name in ("rot_scale_u", "rot_scale_v", "val_scale")}
    return {
        "to_alpha_pre.weight": draw(n, n * C, scale=0.5),
        "static_alpha_pre": draw(n, 1),
        "to_alpha_residual.weight": draw(m, n * C, scale=0.5),
        "static_alpha_residual": draw(m),
        "to_beta.weight": draw(n, n * C, scale=0.5),
        "static_beta": draw(n),
        "pre_branch_scale": draw(1),
        "h_post_scale": draw(),
        **scales,
        "gamma_u": draw(1),
        "gamma_v": draw(1),
        "norm.gamma": draw(n * C),
        "J": torch.full((n, n), 1 / n),
    }


def shc(s: State, x: Tensor) -> Tensor:
    n, z = x.shape[-2], gained(s, x)
    k = (n - 1) * (n - 2) // 2
    pre = ((z @ s["to_alpha_pre.weight"].mT) * s["pre_branch_scale"] + s["static_alpha_pre"].flatten()).sigmoid()
    of_parts = (("rot_scale_u", k), ("rot_scale_v", k), ("val_scale", n - 1))
    scale = torch.cat([s[f"residual_{name}"].expand(count) for name, count in of_parts])
    logits = (z @ s["to_alpha_residual.weight"].mT) * scale + s["static_alpha_residual"]
    H = spectral(logits, n, s["gamma_u"], s["gamma_v"])
    beta = (z @ s["to_beta.weight"].mT) * s["h_post_scale"] + s["static_beta"]
    return ended(x, pre, 2 * beta.sigmoid(), H, transposed=True)


@dataclass
class Formula:
    """A source's state for n streams, and what it makes of x with it; ns: the numbers of streams it has."""

    state: Callable[[int], State]
    run: Callable[[State, Tensor], Tensor]
    ns: tuple[int, ...] = (1, 2, 3, 4)
    tolerance: float = 1e-12


FORMULAS = {
    "deepseek-v4": Formula(deepseek_state, deepseek),
    "deepseek-v4-hf": Formula(deepseek_state, deepseek),
    "tile-kernels": Formula(tile_kernels_state, tile_kernels),
    "liger": Formula(liger_state, liger),
    "transformer-engine": Formula(engine_state, engine, (4,)),
    # Its norm adds 1e-6 to the root instead of 1e-12 under it.
    "megatron": Formula(megatron_state, megatron, tolerance=3e-5),
    "megatron-transposed": Formula(megatron_state, lambda s, x: megatron(s, x, transposed=True), tolerance=3e-5),
    "hyper-connections": Formula(lucidrains_hc_state, lucidrains_hc),
    "hyper-connections-mhc": Formula(lucidrains_mhc_state, lucidrains_mhc),
    "hyper-connections-mhc-v2": Formula(lucidrains_v2_state, lucidrains_mhc),
    "mhc-lite": Formula(lambda n: lite_state(n, math.factorial(n)), mhc_lite),
    "kromhc": Formula(lambda n: lite_state(n, 2 * (n.bit_length() - 1)), kromhc, (2, 4, 8)),
    "shc": Formula(shc_state, shc, (2, 3, 4, 6)),
    "tbp": Formula(tbp_state, tbp, (2, 3, 4, 5)),
    "rtbp": Formula(tbp_state, lambda s, x: tbp(s, x, recursive_of_four), (4,)),
}
