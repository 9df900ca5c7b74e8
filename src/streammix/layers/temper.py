"""TEMPER: logits from the whole state through tensors of low rank."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..functional import full_precision
from ..manifolds.precision import parameter_dtype
from ..ops.eager.site import inverse_rms
from .coefficients import Coefficients, Logits, eps_of_norm


class CP(Coefficients):
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
    ) -> None:
        super().__init__()
        if num_logits != streams**2:
            raise ValueError(
                f"manifold: got one with {num_logits} logits; CP generators make n^2 = {streams**2} mixing logits"
            )
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank: got {rank!r}; accepted: integers >= 1")
        self.streams, self.rank, self.norm_eps, self.frozen_gate = streams, rank, norm_eps, frozen_gate
        dtype = parameter_dtype()
        self.stream = nn.Parameter(torch.empty(streams, 3 * rank, dtype=dtype))
        self.channel = nn.Parameter(torch.empty(dim, 3 * rank, dtype=dtype))
        self.out = nn.Parameter(torch.empty(4, streams, rank, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(streams**2 + 2 * streams, dtype=dtype))
        self.gate = nn.Parameter(torch.empty(3 if frozen_gate is None else 2, dtype=dtype))

    def forward(self, x: Float[Tensor, "*batch n C"]) -> Logits:
        n, dtype = self.streams, torch.promote_types(self.channel.dtype, x.dtype)
        with full_precision(x):
            wide = x.to(dtype)
            r = inverse_rms(wide.flatten(-2), eps_of_norm(self.norm_eps, dtype)).unsqueeze(-1)
            t = (wide @ self.channel.to(dtype) * self.stream.to(dtype)).sum(-2) * r
            t_read, t_write, t_res = t.split(self.rank, -1)
            C_read, C_write, C_res, D_res = self.out.to(dtype)
            read_bias, write_bias, res_bias = self.bias.to(dtype).split((n, n, n * n))
            gate_read, gate_write, gate_res = (*self.gate.to(dtype), self.frozen_gate)[:3]
            return (
                gate_read * (t_read @ C_read.mT) + read_bias,
                gate_write * (t_write @ C_write.mT) + write_bias,
                gate_res * ((t_res.unsqueeze(-2) * C_res) @ D_res.mT).flatten(-2) + res_bias,
            )

    def reset_parameters(self, bias: Tensor, weight_std: float, gate: float) -> None:
        """Factors such that t_r has unit size, D too, and C of size weight_std; at zero C still has a gradient."""
        n, C = self.streams, len(self.channel)
        with torch.no_grad():
            self.stream.normal_(std=n**-0.5)
            self.channel.normal_(std=C**-0.5)
            self.out.normal_(std=weight_std) if weight_std else self.out.zero_()
            self.out[3].normal_()
            self.bias.copy_(bias)
            self.gate.fill_(gate)

    def extra_repr(self) -> str:
        return f"streams={self.streams}, rank={self.rank}"
