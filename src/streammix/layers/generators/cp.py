"""TEMPER: logits from the whole state through tensors of low rank."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ... import ops
from ..._checks import check_integer
from ..._parameters import assign, assign_normal, parameter_dtype
from ..._precision import full_precision
from ...ops.eager.site import inverse_rms
from .base import Generator, Start
from .flattened import eps_of_norm, one_pass


class CP(Generator):
    """mHC's generator with tensors of CP rank R in place of matrices (TEMPER, arXiv 2608.07851).

    With z = x / rms(vec x), each of read, write and res having factors of its own:

        t_r = sum_{s, c} z[s, c] A[s, r] B[c, r]                            r = 0 .. R - 1
        read_i = gate sum_r t_r C[i, r] + b,    write likewise,    res_ij = gate sum_r t_r C[i, r] D[j, r] + b

    which is the contraction of z with W[s, c, i, j] = sum_r A[s, r] B[c, r] C[i, r] D[j, r].

    Args:
        dim: C.
        streams: n.
        num_logits: of the manifold; it must be n^2.
        rank: R.
        norm_eps: added to the mean square; None as in Flattened.
        frozen_gate: the gate on res, if it is to be this constant instead of a parameter.
        start: see Start; weight_std is that of C, whose other factors make t_r and D of unit size.

    Parameters:
        stream (n, 3 R): A, and channel (C, 3 R): B, of read, write and res side by side; out (4, n, R): C of read,
        write and res, and D; bias (n^2 + 2n); gate (3, or 2 if one is frozen).

    Raises:
        ValueError: num_logits is not n^2 or rank < 1.
    """

    def __init__(
        self,
        dim: int,
        streams: int,
        num_logits: int,
        rank: int,
        norm_eps: float | None,
        *,
        frozen_gate: float | None = None,
        start: Start,
    ) -> None:
        super().__init__()
        if num_logits != streams**2:
            raise ValueError(
                f"manifold: got one with {num_logits} logits; CP generators make n^2 = {streams**2} mixing logits"
            )
        check_integer("rank", rank, 1)
        self.streams, self.rank, self.norm_eps, self.frozen_gate = streams, rank, norm_eps, frozen_gate
        self.start = start
        dtype = parameter_dtype()
        self.stream = nn.Parameter(torch.empty(streams, 3 * rank, dtype=dtype))
        self.channel = nn.Parameter(torch.empty(dim, 3 * rank, dtype=dtype))
        self.out = nn.Parameter(torch.empty(4, streams, rank, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(streams**2 + 2 * streams, dtype=dtype))
        self.gate = nn.Parameter(torch.empty(3 if frozen_gate is None else 2, dtype=dtype))
        self.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch n C"]) -> tuple[Tensor, Tensor, Tensor]:
        n, dtype = self.streams, torch.promote_types(self.channel.dtype, x.dtype)
        with full_precision(x):
            t = self._contracted(x, dtype)
            t_read, t_write, t_res = t.split(self.rank, -1)
            C_read, C_write, C_res, D_res = self.out.to(dtype)
            read_bias, write_bias, res_bias = self.bias.to(dtype).split((n, n, n * n))
            gate_read, gate_write, gate_res = (*self.gate.to(dtype), self.frozen_gate)[:3]
            return (
                gate_read * (t_read @ C_read.mT) + read_bias,
                gate_write * (t_write @ C_write.mT) + write_bias,
                gate_res * ((t_res.unsqueeze(-2) * C_res) @ D_res.mT).flatten(-2) + res_bias,
            )

    def _contracted(self, x: Float[Tensor, "*batch n C"], dtype: torch.dtype) -> Float[Tensor, "*batch factors"]:
        """t of read, write and res side by side."""
        norm_eps = eps_of_norm(self.norm_eps, dtype)
        stream, channel = self.stream.to(dtype), self.channel.to(dtype)
        if one_pass(x, dtype):  # A and B as one matrix: small, and the state is passed over once
            return ops.coefficients(x, (stream.mT.unsqueeze(-1) * channel.mT.unsqueeze(-2)).flatten(-2), norm_eps)[0]
        wide = x.to(dtype)
        return (wide @ channel * stream).sum(-2) * inverse_rms(wide.flatten(-2), norm_eps).unsqueeze(-1)

    def reset_parameters(self) -> None:
        """Factors such that t_r has unit size, D too, and C of size weight_std; at zero C still has a gradient."""
        assign_normal(self.stream, self.streams**-0.5)
        assign_normal(self.channel, len(self.channel) ** -0.5)
        std = torch.tensor([*[self.start.weight_std] * 3, 1.0], device="cpu")
        assign_normal(self.out, std[:, None, None].expand(self.out.shape))
        assign(self.bias, self.start.bias)
        assign(self.gate, self.start.gate)

    def extra_repr(self) -> str:
        return f"streams={self.streams}, rank={self.rank}"
