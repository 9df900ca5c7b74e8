"""All manifolds side by side, n = 4: what they promise, where they start, what they cost.

    python tools/manifolds.py                        print the table
    python tools/manifolds.py docs/manifolds.md      renew the page's table and docs/images/manifolds.svg

sigma_2 is the second singular value of H at identity_logits(), and of its 96th power: the share of a difference between
streams that 96 sites leave. Times are of building H forward and backward for 1024 tokens, float32, one thread; the
contenders take turns and the median counts.
"""

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import streammix as sm
from streammix.bench.timing import interleaved

N, SITES, TOKENS = 4, 96, 1024

ROWS = {
    "birkhoff": ({}, "doubly stochastic, exact entropic projection", "mHC, Newton"),
    "sinkhorn": ({}, "20 Sinkhorn rounds", "mHC"),
    "implicit-sinkhorn": ({}, "20 Sinkhorn rounds, implicit gradient", "JPmHC"),
    "permutations": ({}, "mixtures of all permutations", "mHC-lite"),
    "permutation-mix": ({}, "mixtures of six permutations", "JPmHC"),
    "kronecker": ({}, "Kronecker products of doubly stochastic factors", "KromHC"),
    "orthostochastic": ({"s": 2}, "block norms of rotations of n s", "go-mHC"),
    "transportation": ({}, "doubly stochastic, entry by entry", "TBP-mHC"),
    "transportation, recursive": ({"chart": "recursive"}, "doubly stochastic, block by block", "RTBP"),
    "circulant": ({}, "mixtures of cyclic shifts", "C-mHC"),
    "circulant, sites=24": ({"sites": 24}, "the same, leaking from the identity", "C-mHC"),
    "contracted": ({}, "gamma P + (1 - gamma) J, gamma = 0.8", "cmHC"),
    "one-sided": ({}, "stochastic rows, by softmax", "osHC"),
    "one-sided, columns": ({"sums": "columns"}, "stochastic columns", "osHC"),
    "spectral-sphere": ({}, "J + complement of norm < 1", "sHC"),
    "isometric": ({}, "J + rotation of the complement", "IsoHC"),
    "stiefel": ({}, "rotations, exact Cayley map", "JPmHC"),
    "stiefel, iterations=2": ({"iterations": 2}, "rotations for small logits only", "JPmHC"),
    "quaternion": ({}, "rotations of four streams", "oHC"),
    "exponential": ({}, "exp(S - R R'), S skew", "CGHC"),
    "exponential, conservative": ({"generator": "conservative"}, "exp(S), all rotations", "CGHC"),
    "grassmann": ({}, "projectors of rank n / 2, static", "JPmHC"),
    "unit-diagonal": ({}, "I + signed entries up to 1/n", "ITO-HC"),
    "identity": ({}, "I", "iHC"),
    "unconstrained": ({}, "any matrix", "HC"),
}


def manifold(row: str) -> sm.manifolds.Manifold:
    return sm.manifolds.get(row.partition(",")[0], N, **ROWS[row][0])


def build(row: str) -> Callable[[], object]:
    """Forward and backward for TOKENS tokens."""
    maker = manifold(row)
    logits = torch.randn(TOKENS, maker.num_logits, requires_grad=True)
    G = torch.randn(TOKENS, N, N)
    inputs = [logits, *maker.parameters()]
    if row == "identity":  # nothing depends on anything
        return lambda: maker(logits)
    return lambda: torch.autograd.grad(maker(logits), inputs, G, allow_unused=True)


def table() -> str:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    times = interleaved({row: build(row) for row in ROWS})
    lines = [
        "| manifold | set | from | rows | columns | >= 0 | norm <= 1 | orthogonal | logits | sigma_2 at the start"
        f" | after {SITES} sites | µs |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, (_, what, source) in ROWS.items():
        m = manifold(row)
        held = vars(m.guarantees).values()
        H = m(m.identity_logits().double())
        sigma, power = (torch.linalg.svdvals(P)[1].item() for P in (H, torch.linalg.matrix_power(H, SITES)))
        cells = [f"`{row}`", what, source, *("yes" if yes else "" for yes in held), str(m.num_logits)]
        cells += [f"{sigma:.5f}", f"{power:.3f}", f"{1e6 * times[row].median:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(path: Path) -> None:
    """A typical H of each: logits N(0, 2^2), one scale of colours from -1 to 1."""
    from matplotlib.figure import Figure

    torch.manual_seed(3)
    rows = [row for row in ROWS if row not in ("identity", "unconstrained", "stiefel, iterations=2")]
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    for axes, row in itertools.zip_longest(figure.subplots(-(-len(rows) // 8), 8).flat, rows):
        if row is None:
            axes.set_axis_off()
            continue
        m = manifold(row)
        axes.imshow(m(2 * torch.randn(m.num_logits)).detach(), vmin=-1, vmax=1, cmap="RdBu_r")
        axes.set_title(row.replace(", ", "\n"), fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    text = table()
    if len(sys.argv) == 1:
        print(text)
    else:
        page = Path(sys.argv[1])
        old = page.read_text()
        new = re.sub(r"(<!-- table -->\n).*?(\n<!-- /table -->)", lambda m: m[1] + text + m[2], old, flags=re.S)
        page.write_text(new)
        picture(page.parent / "images" / "manifolds.svg")
