"""Where streams begin and end."""

import math
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from .. import recipes
from .._checks import check_dense, check_integer, check_name
from ..functional import read
from ..recipes import Recipe
from .generators import Flattened, Start

How = Literal["sum", "mean", "head"]


def expand(x: Float[Tensor, "*batch C"], streams: int) -> Float[Tensor, "*batch n C"]:
    """Start n streams as copies of a state: (..., C) -> (..., n, C)   (HC, arXiv 2409.19606, Sec. 2).

    Raises:
        TypeError: x is not dense.
        ValueError: x is a scalar or streams < 1.
    """
    check_dense("x", x)
    if x.ndim < 1:
        raise ValueError("x: got a scalar; accepted: (..., C)")
    check_integer("streams", streams, 1)
    return x.unsqueeze(-2).expand(*x.shape[:-1], streams, x.shape[-1]).contiguous()


class Collapse(nn.Module):
    """End the streams in one state: (..., n, C) -> (..., C).

        sum:   sum_j x_j                       (HC)
        mean:  (1/n) sum_j x_j
        head:  sum_j (sigmoid(gate (vec(x) phi_j) / rms(vec x) + b_j) + eps) x_j      (DeepSeek-V4's hc_head)

    Args:
        dim: C.
        streams: n.
        recipe: a name of `streammix.recipes.names()` or a Recipe, whose ending is taken: that of the sites' recipe.
        how: "sum", "mean" or "head", in place of the recipe's ending.
        norm_eps, read_eps: eps of the head's norm (None as in a recipe) and of its weights. If not given: the recipe's
            if it is one of a model with a head (hy4, say), else DeepSeek-V4's.

    Raises:
        ValueError: how is none of the three, or the recipe ends otherwise. At the call: streams that are not
            (..., n, C).
        TypeError: at the call, streams that are not dense.
    """

    def __init__(
        self,
        dim: int,
        streams: int = 4,
        recipe: str | Recipe = "mhc",
        *,
        how: How | None = None,
        norm_eps: float | Literal["recipe"] | None = "recipe",
        read_eps: float | Literal["recipe"] = "recipe",
    ) -> None:
        super().__init__()
        check_integer("dim", dim, 1)
        check_integer("streams", streams, 1)
        if how is not None:
            check_name("how", how, get_args(How))
        recipe = recipes.get(recipe) if isinstance(recipe, str) else recipe
        ending = how or recipe.collapse
        if ending not in get_args(How):
            raise ValueError(
                f"recipe: got {recipe.name!r}, whose streams end in {ending!r}; Collapse accepts recipes that end in"
                f" {', '.join(get_args(How))}; streammix.Stack accepts all"
            )
        # A recipe that was given a head by dataclasses.replace has DeepSeek-V4's.
        published = recipe.collapse == "head" and recipe.start != "identity"
        of = recipe if published else recipes.get("deepseek-v4")
        self.read_eps = of.read_eps if read_eps == "recipe" else read_eps
        self.dim, self.streams, self.how = dim, streams, ending
        self.head: Flattened | None = None
        if ending == "head":
            eps = of.norm_eps if norm_eps == "recipe" else norm_eps
            self.head = Flattened(dim, streams, (streams,), eps, start=head_start(of, streams))

    def reset_parameters(self) -> None:
        """Set the head's parameters to their start."""
        if self.head is not None:
            self.head.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch C"]:
        check_dense("x", x)
        if x.ndim < 2 or x.shape[-2:] != (self.streams, self.dim):
            raise ValueError(f"x: got shape {tuple(x.shape)}; accepted: (..., {self.streams}, {self.dim})")
        if self.head is not None:
            (logits,) = self.head(x)
            return read(x, logits.sigmoid() + self.read_eps)
        return x.sum(-2) if self.how == "sum" else x.mean(-2)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, streams={self.streams}, how={self.how!r}"


def head_start(recipe: Recipe, streams: int) -> Start:
    """Where a head starts: DeepSeek-V4's at zero biases, Hy4's at weights of 1/n each; weights and gate as a site's."""
    mean = recipe.authors is not None and recipe.authors.read == "mean"
    bias = -math.log(streams - 1) if mean and streams > 1 else 0.0
    return Start(bias=(bias,) * streams, weight_std=recipe.weight_std, gate=recipe.gate)
