"""The rules of truncated Sinkhorn-Knopp by each published implementation, and the numbers that kernels take of them.

A recipe is a start (logits -> positive matrix) and a number of rounds, each dividing by the sums along two axes. The
orientation is the source's own: `transposed` says that the source applies the transpose of the matrix.
"""

from dataclasses import dataclass, replace
from typing import Literal

ROWS, COLUMNS = -1, -2  # the axis summed over
STARTS: tuple[Literal["log", "exp", "softmax"], ...] = ("log", "exp", "softmax")  # by their number in the kernels


@dataclass(frozen=True)
class SinkhornRecipe:
    """How one published implementation runs Sinkhorn-Knopp.

    start: "softmax": softmax over rows, + eps, counted as the first row normalisation;
        "exp": exp(logits - their maximum along the first axis of a round);
        "log": the whole first round in the log domain, then exp. Equal to exp(logits) and a first round in exact
        arithmetic; no overflow, and no row or column can vanish afterwards.
    axes: the order within a round.
    guard: how a sum s enters the division: s + eps ("add"), max(s, eps) ("clamp"), as it is (None, without an eps).
    transposed: the source applies the transpose of its matrix to the streams.
    """

    start: Literal["softmax", "exp", "log"]
    axes: tuple[int, int]
    eps: float = 0.0
    guard: Literal["add", "clamp"] | None = None
    transposed: bool = False
    source: str = ""

    @property
    def numbers(self) -> tuple[int, bool, float]:
        """What the operators take: the start's place in STARTS, whether a round ends on the columns, eps."""
        return STARTS.index(self.start), self.axes[-1] == COLUMNS, self.eps

    def schedule(self, rounds: int) -> tuple[int, ...]:
        """The axes divided by after the start."""
        done = {"softmax": 1, "exp": 0, "log": 2}[self.start]
        return (self.axes * rounds)[done:]


RECIPES: dict[str, SinkhornRecipe] = {
    "mhc": SinkhornRecipe("log", (COLUMNS, ROWS), source="arXiv 2512.24880, Eq. 9"),
    "deepseek-v4": SinkhornRecipe(
        "softmax", (ROWS, COLUMNS), 1e-6, "add", transposed=True, source="DeepSeek-V4 inference code, TileKernels"
    ),
    "liger": SinkhornRecipe("softmax", (ROWS, COLUMNS), 1e-6, "add", source="Liger-Kernel 0.8.5, liger_mhc_coeffs"),
    "megatron": SinkhornRecipe("exp", (ROWS, COLUMNS), 1e-6, "clamp", source="Megatron-LM, HyperConnectionModule"),
    "transformer-engine": SinkhornRecipe(
        "log", (ROWS, COLUMNS), transposed=True, source="TransformerEngine 2.20, mhc_fused_sinkhorn"
    ),
    "lucidrains": SinkhornRecipe(
        "exp", (COLUMNS, ROWS), 1e-12, "clamp", transposed=True, source="hyper-connections 0.4.11"
    ),
}


#: The least eps but 0: float32 overflows where it is divided by much less.
LEAST_EPS = 1e-20


def check(recipe: str, eps: float | None) -> None:
    """Refuse an unknown recipe, and an eps that it does not take."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe: no Sinkhorn recipe is called {recipe!r}; accepted: {', '.join(RECIPES)}")
    if eps is None:
        return
    own, guard = RECIPES[recipe].eps, RECIPES[recipe].guard
    if guard is None:
        raise ValueError(f"eps: got {eps!r}, but recipe {recipe!r} has none; accepted: None")
    if isinstance(eps, (int, float)) and ((guard == "add" and eps == 0) or LEAST_EPS <= eps <= 1):
        return
    zero, what = ("0 or ", "adds it to sums") if guard == "add" else ("", "clamps sums to it")
    raise ValueError(f"eps: got {eps!r}; recipe {recipe!r}, which {what}, accepts None ({own}), {zero}{LEAST_EPS} to 1")


def rule_of(recipe: str, eps: float | None) -> SinkhornRecipe:
    """The recipe with another eps. Where 0 is added, the first round is that in the log domain: the same numbers,
    and no row or column can vanish.

    Raises:
        ValueError: an unknown recipe, or an eps that it does not take.
    """
    check(recipe, eps)
    rule = RECIPES[recipe]
    if eps is None:
        return rule
    return replace(rule, eps=float(eps)) if eps else replace(rule, start="log", eps=0.0, guard=None)


def from_numbers(start: int, columns_last: bool, eps: float) -> SinkhornRecipe:
    """The rule that `numbers` stand for."""
    axes = (ROWS, COLUMNS) if columns_last else (COLUMNS, ROWS)
    guards: tuple[Literal["add", "clamp"] | None, ...] = (None, "clamp", "add")
    return SinkhornRecipe(STARTS[start], axes, eps, guards[start])
