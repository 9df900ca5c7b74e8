"""Other libraries' kernels for the same work, measured where they are installed.

Names and arguments are those of fla-core 0.6.0, liger-kernel 0.8.5 and mHC-proj 0.1.0.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

ROUNDS = 20


def projections(n: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name -> map of logits (..., n, n) to matrices."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    if n <= 8 and installed("fla"):
        found["fla sinkhorn-20"] = partial(import_module("fla.ops.utils.sinkhorn").sinkhorn, num_iters=ROUNDS)
    if n == 4 and installed("mhc_proj"):
        found["mHC-proj"] = import_module("mhc_proj").MHCProjectionN4()
    return found


def sites() -> dict[str, Callable[..., Any]]:
    """Name -> all that lies between two branches, with the arguments and outputs of the plain site, but that the
    projection's weight is (n C, rows)."""
    if not installed("liger_kernel"):
        return {}
    return {"Liger": partial(liger_site, import_module("liger_kernel.transformers.functional"))}


def liger_site(
    liger: Any,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Liger's write, its coefficients with 20 Sinkhorn rounds, and its read: three calls of theirs."""
    state = liger.liger_mhc_post_res(x, y, post, res)
    pre, next_post, H = liger.liger_mhc_coeffs(state, weight, bias, *gate.unbind(), tmax=ROUNDS)
    return state, liger.liger_mhc_pre(state, pre), next_post, H


def transposed(inputs: list[Tensor]) -> list[Tensor]:
    """The inputs of a site with the projection's weight as Liger takes it: (n C, rows), in the type of the streams."""
    weight = inputs[4].detach().mT.to(inputs[0].dtype).contiguous()
    return [*inputs[:4], weight.requires_grad_(), *inputs[5:]]


def installed(package: str) -> bool:
    return torch.cuda.is_available() and find_spec(package) is not None
