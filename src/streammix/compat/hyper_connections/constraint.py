"""The constraints that the package knows for the mixing of streams."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...functional import sinkhorn


def l1norm(t: Tensor, dim: int) -> Tensor:
    """t over the sum of its absolute values along dim, that sum at least 1e-12."""
    return F.normalize(t, p=1, dim=dim)


def sinkhorn_knopps(log_alpha: Tensor, iters: int = 20) -> Tensor:
    """(..., s, t) -> (..., s, t): exp, then `iters` times columns (dim -2) and rows (dim -1) divided by their sums.

    Computed in float32 at least and returned in log_alpha's dtype. Square matrices are taken by `streammix.sinkhorn`,
    whose gradient is that of these rounds.
    """
    if iters < 1 or log_alpha.shape[-2] != log_alpha.shape[-1]:
        wide = log_alpha.to(torch.promote_types(log_alpha.dtype, torch.float32))
        alpha = (wide - wide.amax(-2, keepdim=True).detach()).exp()
        for _ in range(iters):
            alpha = l1norm(l1norm(alpha, -2), -1)
        return alpha.to(log_alpha.dtype)
    return sinkhorn(log_alpha, rounds=iters, recipe="lucidrains").to(log_alpha.dtype)


def log_domain_sinkhorn_knopps(log_alpha: Tensor, iters: int = 20) -> Tensor:
    """`sinkhorn_knopps` by logarithms: nothing underflows, whatever the logits' range."""
    if iters < 1 or log_alpha.shape[-2] != log_alpha.shape[-1]:
        wide = log_alpha.to(torch.promote_types(log_alpha.dtype, torch.float32))
        for _ in range(iters):
            wide = wide.log_softmax(-2).log_softmax(-1)
        return wide.exp().to(log_alpha.dtype)
    return sinkhorn(log_alpha, rounds=iters, recipe="mhc").to(log_alpha.dtype)
