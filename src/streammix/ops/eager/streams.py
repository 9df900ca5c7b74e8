"""Reading from and writing to the streams in plain PyTorch. Both maps are multilinear, which gives their derivatives.

    read:   u = sum_j pre_j x_j
    write:  out_i = sum_j res_ij x_j + post_i y                      (mHC Eq. 3; arXiv 2512.24880)

Products are summed in float32 at least and returned in the dtype of the streams x. Shapes are those for dim = -2; other
dims, see operators/streams.py, are moved there and back.
"""

import torch
from torch import Tensor


def read(x: Tensor, pre: Tensor, dim: int = -2) -> Tensor:
    """x (..., n, C), pre (..., n) -> u (..., C)."""
    x_, pre_ = _widened(next_to_channels(x, dim), pre)
    return (pre_.unsqueeze(-2) @ x_).squeeze(-2).to(x.dtype)


def read_backward(grad: Tensor, x: Tensor, pre: Tensor, dim: int = -2) -> tuple[Tensor, Tensor]:
    """grad (..., C) -> dx_j = pre_j grad, dpre_j = <grad, x_j>."""
    grad_, x_, pre_ = _widened(grad, next_to_channels(x, dim), pre)
    dx = pre_.unsqueeze(-1) * grad_.unsqueeze(-2)
    dpre = (x_ @ grad_.unsqueeze(-1)).squeeze(-1)
    return moved_back(dx.to(x.dtype), dim), dpre.to(pre.dtype)


def write(x: Tensor, y: Tensor, post: Tensor, res: Tensor, dim: int = -2) -> Tensor:
    """x (..., n, C), y (..., C), post (..., n), res (..., n, n) -> (..., n, C)."""
    x_, y_, post_, res_ = _widened(next_to_channels(x, dim), y, post, res)
    return moved_back((res_ @ x_ + post_.unsqueeze(-1) * y_.unsqueeze(-2)).to(x.dtype), dim)


def write_backward(
    grad: Tensor, x: Tensor, y: Tensor, post: Tensor, res: Tensor, dim: int = -2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """grad (..., n, C) -> dx_j = sum_i res_ij grad_i, dy = sum_i post_i grad_i, dpost_i = <grad_i, y>,
    dres_ij = <grad_i, x_j>."""
    states = (next_to_channels(t, dim) for t in (grad, x))
    grad_, x_, y_, post_, res_ = _widened(*states, y, post, res)
    dx = res_.mT @ grad_
    dy = (post_.unsqueeze(-2) @ grad_).squeeze(-2)
    dpost = (grad_ @ y_.unsqueeze(-1)).squeeze(-1)
    dres = grad_ @ x_.mT
    return moved_back(dx.to(x.dtype), dim), dy.to(y.dtype), dpost.to(post.dtype), dres.to(res.dtype)


def next_to_channels(x: Tensor, dim: int) -> Tensor:
    """(..., n, *tokens, C) -> (..., *tokens, n, C)."""
    return x if dim == -2 else x.movedim(dim, -2)


def moved_back(x: Tensor, dim: int) -> Tensor:
    """(..., *tokens, n, C) -> (..., n, *tokens, C), contiguous as the operators' outputs are."""
    return x if dim == -2 else x.movedim(-2, dim).contiguous()


def _widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In the common dtype, and contiguous: torch multiplies batches of strided matrices one by one."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype).contiguous() for tensor in tensors)
