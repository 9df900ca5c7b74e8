"""What a user calls on tensors: projections of mixing matrices, and the maps between streams and branches."""

import torch
from jaxtyping import Float
from torch import Tensor

from . import ops
from ._checks import check_floating, check_shape, check_square, check_streams_at
from ._precision import autocast_enabled, computing_dtype
from .ops.sinkhorn_rules import rule_of


def birkhoff(logits: Float[Tensor, "*batch n n"], *, tol: float | None = None) -> Float[Tensor, "*batch n n"]:
    """Project logits onto the Birkhoff polytope: the exact limit of Sinkhorn-Knopp on exp(logits).

        T = argmin over doubly stochastic T of  sum_ij T_ij (log T_ij - logits_ij)

    Newton's method on the dual (arXiv 2606.07574) with a homotopy in the temperature, its steps found from flows
    between columns: exact for logits of any size, small entries too. In float32 every entry above 1e-12 is right to
    2e-5 of itself (1e-7 typically) and the gradient to 5e-5 of its own largest entry; in float64 both to 1e-12. The
    gradient is the implicit derivative at the solution; only T is kept for it. T does not change when a constant is
    added to a row or a column of the logits.

    A logit of -inf is a mask: its entry and its gradient are exactly zero.

    Args:
        logits: (..., n, n), n >= 1, any strides, floating point.
        tol: stop when the next step would leave sum_j |column sum_j - 1| at most this (rows always sum to one); one
            Sinkhorn pass follows. Default, and least: 2 n eps of the computing dtype.

    Returns:
        (..., n, n) of the logits' dtype: float64 is computed in float64, everything else in float32. Under autocast
        float16 and bfloat16 logits give a float32 matrix. A matrix with a NaN or +inf among its logits is NaN, and one
        whose mask no doubly stochastic matrix has (some entry that is not masked lies on no permutation); no other is.

    Raises:
        TypeError: logits are not a floating point tensor.
        ValueError: the last two dimensions differ or are empty; tol is not positive.
    """
    check_square("logits", logits)
    if tol is not None and not tol > 0:
        raise ValueError(f"tol: got {tol}; accepted: None or a positive number")
    if logits.dtype in _WIDE:
        return ops.birkhoff(logits, tol)
    wide, result = _widen(logits)
    return ops.birkhoff(wide, tol).to(result)


def transport(
    logits: Float[Tensor, "*batch m n"], rows: Float[Tensor, "*#batch m"], columns: Float[Tensor, "*#batch n"]
) -> Float[Tensor, "*batch m n"]:
    """Project logits onto a transportation polytope: the exact limit of Sinkhorn's scaling of exp(logits) to marginals.

        T = argmin over T >= 0 with T 1 = rows, T' 1 = columns of  sum_ij T_ij (log T_ij - logits_ij)

    Newton's method on the dual of min(m, n) - 1 dimensions, as `birkhoff`'s (arXiv 2606.07574, whose outlook this is),
    generalised to any positive marginals; our own derivation, in docs/transport.md. In float32 every entry above 1e-12
    of min(row, column) is right to 2e-5 of itself (5e-7 typically), and sums to 1e-6 of themselves. Gradients of
    logits, rows and columns are the implicit derivative at the solution; only T is kept for it.

    A logit of -inf is a mask: its entry and its gradient are exactly zero. Columns are scaled to the sum of the rows
    where the two differ by rounding (1e-5 of it); the gradients are those of that map, so that sum_j columns_j
    (gradient of columns)_j = 0.

    Args:
        logits: (..., m, n), m, n >= 1, any strides, floating point.
        rows: (..., m), positive; leading dimensions broadcast against those of the logits, and theirs against these.
        columns: (..., n), the same.

    Returns:
        (..., m, n) of the logits' dtype; computed in float64 where any argument is float64, else in float32. Under
        autocast float16 and bfloat16 logits give a float32 matrix. A matrix is NaN, and no other, where a logit is NaN
        or +inf, a marginal is not positive and finite, sums of rows and columns differ by more than 1e-5 of them, or
        its mask leaves no matrix with these sums.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: an empty matrix, or shapes that do not match.
    """
    check_floating("logits", logits)
    if logits.ndim < 2 or 0 in logits.shape[-2:]:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}; accepted: (..., m, n) with m, n >= 1")
    m, n = logits.shape[-2:]
    for name, marginal, size in (("rows", rows, m), ("columns", columns, n)):
        check_floating(name, marginal)
        if marginal.ndim < 1 or marginal.shape[-1] != size:
            raise ValueError(f"{name}: got shape {tuple(marginal.shape)}; accepted with these logits: (..., {size})")
    shapes = logits.shape[:-2], rows.shape[:-1], columns.shape[:-1]
    try:
        batch = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        said = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(
            f"logits, rows, columns: got leading dimensions {said}; accepted: those that broadcast"
        ) from None
    result = torch.float32 if autocast_enabled(logits) and logits.dtype not in _WIDE else logits.dtype
    wide = torch.float64 if torch.float64 in (logits.dtype, rows.dtype, columns.dtype) else torch.float32
    T = ops.transport(
        logits.to(wide).expand(*batch, m, n), rows.to(wide).expand(*batch, m), columns.to(wide).expand(*batch, n)
    )
    return T.to(result)


def sinkhorn(
    logits: Float[Tensor, "*batch n n"], *, rounds: int = 20, recipe: str = "mhc", eps: float | None = None
) -> Float[Tensor, "*batch n n"]:
    """Truncated Sinkhorn-Knopp by a published implementation's formula, the same to rounding, with its exact gradient.

    | recipe | start | a round | eps | applied as |
    |---|---|---|---|---|
    | mhc (arXiv 2512.24880, Eq. 9) | exp | columns, rows | none | H x |
    | deepseek-v4 | softmax of rows + eps = first row pass | rows, columns | 1e-6 added | H' x |
    | liger | as deepseek-v4 | rows, columns | 1e-6 added | H x |
    | megatron | exp(logits - row maximum) | rows, columns | sums at least 1e-6 | H x |
    | transformer-engine | exp | rows, columns | none | H' x |
    | lucidrains | exp(logits - column maximum) | columns, rows | sums at least 1e-12 | H' x |

    The matrix comes in the source's own orientation; `streammix.manifolds.Sinkhorn` transposes it where the source
    applies H' x, so that `streammix.write` can take it.

    Where the numbers' range decides: starts marked exp take their first round by differences from maxima, so that
    logits of any size give what exact arithmetic gives; entries which that round leaves below the dtype's range are
    zero. With clamped sums a column (megatron) or row (lucidrains) that is e^-87 of the others in float32 hangs on the
    subnormal numbers e^x is rounded to, which are computed and divided as the source's formula does in float32; below
    e^-104 it is zero, as there. Float64 logits give the formula's value in float64. A clamped sum has no derivative.

    Args:
        logits: (..., n, n), floating point; computed and returned in dtypes as `birkhoff` does.
        rounds: how many rounds, >= 1.
        recipe: a name of the table.
        eps: the recipe's eps; None: that of the table. From 1e-20 to 1; 0 too where it is added, which makes
            deepseek-v4 and liger what transformer-engine is.

    Raises:
        TypeError: logits are not a floating point tensor.
        ValueError: a wrong shape, rounds < 1, an unknown recipe, an eps for a recipe without one or out of its range.
    """
    check_square("logits", logits)
    if rounds < 1:
        raise ValueError(f"rounds: got {rounds}; accepted: integers >= 1")
    rule = rule_of(recipe, eps)
    if logits.dtype in _WIDE:
        return ops.sinkhorn(logits, rounds, rule)
    wide, result = _widen(logits)
    return ops.sinkhorn(wide, rounds, rule).to(result)


def read(x: Float[Tensor, "..."], pre: Float[Tensor, "*#batch n"], *, dim: int = -2) -> Float[Tensor, "..."]:
    """Read the streams: u = sum_j pre[..., j] x[..., j, :]   (mHC Eq. 3, arXiv 2512.24880).

    Args:
        x: (..., n, C) streams.
        pre: (..., n) read weights; leading dimensions broadcast against those of x. Keep them in float32 at least.
        dim: the dimension of the streams, if it is another than the next to last: x is (..., n, *tokens, C), and all
            else has those dimensions without n, pre (..., *tokens, n). The CPU's kernels take it as it lies.

    Returns:
        (..., C) of x's dtype, summed in float32 at least.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: shapes do not match, or x has no such dimension before its last.
    """
    batch, n, _, dim = check_streams_at(x, dim)
    check_shape("pre", pre, batch, (n,))
    if pre.dtype != (wide := computing_dtype(x.dtype)):
        pre = pre.to(wide)
    if pre.shape[:-1] != batch:
        pre = pre.expand(*batch, n)
    return ops.read(x, pre, dim)


def write(
    x: Float[Tensor, "..."],
    y: Float[Tensor, "..."],
    post: Float[Tensor, "*#batch n"],
    res: Float[Tensor, "*#batch n n"],
    *,
    dim: int = -2,
) -> Float[Tensor, "..."]:
    """Mix the streams and add a branch's output: out_i = sum_j res[..., i, j] x_j + post[..., i] y   (mHC Eq. 3).

    Args:
        x: (..., n, C) streams.
        y: (..., C) output of the branch.
        post: (..., n) write weights.
        res: (..., n, n) mixing matrices H_res, row i giving output stream i.
        dim: the dimension of the streams in x and in the result, as in `read`.
        Leading dimensions of y, post and res broadcast against those of x. Keep post and res in float32 at least.

    Returns:
        (..., n, C) of x's dtype, summed in float32 at least.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: shapes do not match, or x has no such dimension before its last.
    """
    batch, n, C, dim = check_streams_at(x, dim)
    check_shape("y", y, batch, (C,))
    check_shape("post", post, batch, (n,))
    check_shape("res", res, batch, (n, n))
    state = x.dtype
    if y.dtype != state:  # a narrower y is widened; a wider one is rounded with the sum, not before
        common = torch.promote_types(state, y.dtype)
        x, y = x.to(common), y.to(common)
    wide = computing_dtype(x.dtype)
    post, res = (t if t.dtype == wide else t.to(wide) for t in (post, res))
    if not y.shape[:-1] == post.shape[:-1] == res.shape[:-2] == batch:
        y, post, res = y.expand(*batch, C), post.expand(*batch, n), res.expand(*batch, n, n)
    out = ops.write(x, y, post, res, dim)
    return out if out.dtype == state else out.to(state)


_WIDE = (torch.float32, torch.float64)


def _widen(logits: Tensor) -> tuple[Tensor, torch.dtype]:
    """Half-precision logits as the operator takes them, and the dtype of the result.

    Operators compute half precision in float32 by themselves. Where a gradient is to come, they are given float32 all
    the same, so that the matrix saved for it is not rounded.
    """
    result = torch.float32 if autocast_enabled(logits) else logits.dtype
    inference = result == logits.dtype and not (torch.is_grad_enabled() and logits.requires_grad)
    return logits if inference else logits.float(), result
