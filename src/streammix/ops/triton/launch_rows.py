"""Sites whose streams make their weights of themselves, by the kernels of reads and of coefficients."""

from typing import Any

from torch import Tensor

from ..eager.rows import single_rows, weighed, weighed_backward
from ..eager.streams import moved_back
from . import launch_streams


def rows_site_read(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, norm_eps: float, tanh: bool, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *activations, dim = others
    P, r = launch_streams.coefficients(single_rows(x, dim), weight, norm_eps)
    pre, post, mix = weighed(P, scale, bias, tanh, *activations)
    return launch_streams.read(x, pre, dim), post, mix, P, r


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
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *activations, dim = others
    pre, _, _ = weighed(P, scale, bias, *activations)
    dx, dpre = launch_streams.read_backward(du, x, pre, dim)
    dP, dscale, dbias = weighed_backward(dpre, dpost, dmix, P, scale, bias, *activations)
    rows, dweight = launch_streams.coefficients_backward(dP, single_rows(x, dim), weight, P, r)
    return dx + moved_back(rows.squeeze(-2), dim), dweight, dscale, dbias
