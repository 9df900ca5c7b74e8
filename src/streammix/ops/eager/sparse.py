"""Reading all n streams of a token and updating k of them (xHC) in plain PyTorch; the active ones are s_0 < s_1 < ...

    read:   u = sum_j pre_j x_j,   a_i = x_{s_i}
    write:  out_j = x_j, but out_{s_i} = sum_j res_ij x_{s_j} + sum_b post_ib v_b

Sums are in float32 at least; u, a and out come in the dtype of the streams x. Both maps are multilinear in x, v and
their weights, which gives the derivatives.
"""

from torch import Tensor

from . import streams


def sparse_read(x: Tensor, pre: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., n, C), pre (..., n), index (..., k), int64 -> u (..., C), a (..., k, C)."""
    return streams.read(x, pre), x.gather(-2, rows(index, x))


def sparse_read_backward(du: Tensor, da: Tensor, x: Tensor, pre: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """du (..., C), da (..., k, C) -> dx_j = pre_j du, and da_i more where j = s_i; dpre_j = <du, x_j>."""
    dx, dpre = streams.read_backward(du, x, pre)
    return dx.scatter_add(-2, rows(index, x), da), dpre


def sparse_write(x: Tensor, basis: Tensor, post: Tensor, res: Tensor, index: Tensor) -> Tensor:
    """x (..., n, C), basis v (..., b, C), post (..., k, b), res (..., k, k), index (..., k) -> (..., n, C)."""
    at = rows(index, x)
    new = res @ x.gather(-2, at).to(res.dtype) + post @ basis
    return x.scatter(-2, at, new.to(x.dtype))


def sparse_write_backward(
    grad: Tensor, x: Tensor, basis: Tensor, post: Tensor, res: Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """grad (..., n, C), g_i being that of s_i -> dx = grad, but dx_{s_j} = sum_i res_ij g_i; dv_b = sum_i post_ib g_i,
    dpost_ib = <g_i, v_b>, dres_ij = <g_i, x_{s_j}>."""
    at = rows(index, x)
    g, active = (t.gather(-2, at).to(res.dtype) for t in (grad, x))
    dx = grad.scatter(-2, at, (res.mT @ g).to(x.dtype))
    return dx, post.mT @ g, g @ basis.mT, g @ active.mT


def rows(index: Tensor, x: Tensor) -> Tensor:
    """index (..., k) -> (..., k, C), as `gather` and `scatter` take it."""
    return index.unsqueeze(-1).expand(*index.shape, x.shape[-1])
