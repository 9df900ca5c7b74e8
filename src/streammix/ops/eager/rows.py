"""A site whose streams make their weights of themselves, in plain PyTorch: the read and what the write will need.

    r_j = (mean x_j^2 + eps)^(-1/2),   P_j = r_j (W x_j),   m_j = scale o act(P_j) + bias_j
    pre_j = read(m_j0) + read_eps,   post_j = write_multiplier write(m_j1) + write_eps,   mix_j = (m_j2, m_j3, ...)
    u = sum_j pre_j x_j

act is tanh or the identity. W (`weight`) is (n + 2, C), `scale` (n + 2) and `bias` (n, n + 2), in the computing dtype.
"""

from typing import Any

import torch
from torch import Tensor

from . import streams
from .site import ACTIVATIONS, SLOPES, coefficients, coefficients_backward


def rows_site_read(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    norm_eps: float,
    tanh: bool,
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
    dim: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x (..., n, C) -> u (..., C), post (..., n), mix (..., n, n), row j of stream j, P (..., n, n + 2), r (..., n)."""
    P, r = coefficients(single_rows(x, dim), weight, norm_eps)
    pre, post, mix = weighed(P, scale, bias, tanh, read, write, read_eps, write_multiplier, write_eps)
    return streams.read(x, pre, dim), post, mix, P, r


def rows_site_read_backward(
    du: Tensor,
    dpost: Tensor,
    dmix: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    P: Tensor,
    r: Tensor,
    tanh: bool,
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
    dim: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dx, dweight, dscale, dbias."""
    activations = (tanh, read, write, read_eps, write_multiplier, write_eps)
    wide = x.to(weight.dtype)
    pre, _, _ = weighed(P, scale, bias, *activations)
    dx, dpre = streams.read_backward(du.to(weight.dtype), wide, pre, dim)
    dP, dscale, dbias = weighed_backward(dpre, dpost, dmix, P, scale, bias, *activations)
    rows, dweight = coefficients_backward(dP, single_rows(wide, dim), weight, P, r)
    return (dx + streams.moved_back(rows.squeeze(-2), dim)).to(x.dtype), dweight, dscale, dbias


def single_rows(x: Tensor, dim: int) -> Tensor:
    """(..., n, 1, C): each stream as a state of its own."""
    return streams.next_to_channels(x, dim).unsqueeze(-2)


def weighed(
    P: Tensor,
    scale: Tensor,
    bias: Tensor,
    tanh: bool,
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """pre (..., n), post (..., n) and mix (..., n, n)."""
    m = scale * (P.tanh() if tanh else P) + bias
    pre, post = ACTIVATIONS[read](m[..., 0]) + read_eps, write_multiplier * ACTIVATIONS[write](m[..., 1]) + write_eps
    return pre, post, m[..., 2:].contiguous()


def weighed_backward(
    dpre: Tensor,
    dpost: Tensor,
    dmix: Tensor,
    P: Tensor,
    scale: Tensor,
    bias: Tensor,
    tanh: bool,
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dP, dscale, dbias."""
    made: Any = P.tanh() if tanh else P
    m = scale * made + bias
    of_read, of_write = dpre * SLOPES[read](m[..., 0]), dpost * (write_multiplier * SLOPES[write](m[..., 1]))
    dm = torch.cat([of_read.unsqueeze(-1), of_write.unsqueeze(-1), dmix], -1)
    dP = dm * scale * (1 - made.square()) if tanh else dm * scale
    n, rows = bias.shape
    return dP, (dm * made).reshape(-1, rows).sum(0), dm.reshape(-1, n, rows).sum(0)
