"""What both versions of the package's mHC share: gates, proposals and the constraint on the mixing."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..._checks import check_integer
from . import norm
from .dynamic import spread
from .one_pass import RowWeights, in_order
from .site import Site, beside_identity

Constraint = Callable[[Tensor], Tensor]


class Constrained(Site):
    """The arguments that ManifoldConstrainedHyperConnections has in both versions.

    Args:
        num_residual_streams: s.
        dim: D.
        branch: what to wrap, if it is to be wrapped; see `Wrapped` for the other two uses.
        layer_index: place in the network; a new connection reads stream layer_index mod s most. None draws one.
        dropout: on the residuals after the write.
        residual_transform: applied to the residuals before all else, as a block that changes their width needs it.
        add_branch_out_to_residual: False returns the branch's output in place of residuals.
        num_input_views: v, how many weighted sums the branch gets, on an axis before the batch if more than one.
        depth_residual_fn: of the branch's output spread over the streams and the mixed residuals; their sum.
        num_fracs: f, how many parts each stream is cut into.
        sinkhorn_iters: rounds of Sinkhorn.
        log_domain_sinkhorn: whether by logarithms.
        residual_mix_constraint_fn: any map from logits (p, ..., s f, s f) to weights, in Sinkhorn's place; entry [i, j]
            is the weight of row i in the new row j.
        forward_method_names: methods of the branch that the connection has too.
        num_dynamic_alpha_proposals: p, how many sets of weights are made and averaged.

    Raises:
        ValueError: numbers that do not fit together, or names of methods; at the call, tensors of another shape.
    """

    residual_mix_constraint_fn: Constraint
    static_alpha: nn.Parameter
    dynamic_alpha_fn: nn.Parameter
    pre_branch_scale: nn.Parameter
    residual_scale: nn.Parameter
    static_beta: nn.Parameter
    dynamic_beta_fn: nn.Parameter
    h_post_scale: nn.Parameter

    def alpha_parameters(self, reads: Tensor, proposals: int) -> None:
        """The norm and alpha's parameters, from the start of the reads (R, v f)."""
        check_integer("num_dynamic_alpha_proposals", proposals, 1)
        rows, columns = reads.shape
        d = self.dim // self.num_fracs
        self.norm = norm.RMSNorm(d)
        self.num_dynamic_alpha_proposals, self.has_dynamic_alpha_proposals = proposals, proposals > 1
        self.start("static_alpha", beside_identity(reads))
        self.start("dynamic_alpha_fn", 0.0, (proposals, d, columns + rows))
        self.start("pre_branch_scale", 1e-2, (1,))
        self.start("residual_scale", 1e-2, (1,))

    def beta_parameters(self, static: tuple[int, ...], dynamic: tuple[int, ...]) -> None:
        """Beta's parameters in these shapes."""
        self.start("static_beta", 1.0, static)
        self.start("dynamic_beta_fn", 0.0, dynamic)
        self.start("h_post_scale", 1e-2)

    def constrain(self, given: Constraint | None, own: Constraint) -> None:
        """Set the constraint: the one given, or its own."""
        self.residual_mix_constraint_fn = own if given is None else given

    def after(self, dropout: float, residual_transform: nn.Module | None, names: tuple[str, ...]) -> None:
        """What comes around the connection itself."""
        self.dropout = nn.Dropout(dropout)
        self.residual_transform = nn.Identity() if residual_transform is None else residual_transform
        self.forward_method_names = names
        self.forward_methods(names)

    def row_weights(self) -> RowWeights | None:
        if not self.one_each or self.has_dynamic_alpha_proposals:
            return None
        of_mix = self.residual_scale, self.num_residual_streams
        return RowWeights(
            in_order(self.dynamic_alpha_fn[0], self.dynamic_beta_fn.flatten()),
            spread((self.pre_branch_scale, 1), (self.h_post_scale, 1), of_mix),
            in_order(self.static_alpha, self.static_beta.flatten()),
            tanh=False,
            sigmoid=True,
        )

    def mixing(self, made: Tensor) -> Tensor:
        return self.residual_mix_constraint_fn(made.unsqueeze(0)).squeeze(0).mT

    def projected(self, x: Tensor, norm_input: Tensor) -> tuple[Tensor, Tensor | None]:
        """The dynamic parts of alpha (..., R, p, columns) and beta (..., R, f), of norm_input, which is as x."""
        p, _, columns = self.dynamic_alpha_fn.shape
        f, reads = self.num_fracs, self.num_input_views * self.num_fracs
        weight = self.dynamic_alpha_fn.transpose(0, 1).flatten(1)
        if self.add_branch_out_to_residual:
            weight = torch.cat([weight, self.dynamic_beta_fn.reshape(-1, f)], -1)
        made = norm.projected(norm_input, self.norm.gamma, weight, self.rows_dim)
        scale = spread((self.pre_branch_scale, reads), (self.residual_scale, columns - reads)).to(made.dtype)
        alpha = made[..., : p * columns].unflatten(-1, (p, columns)) * scale
        if not self.add_branch_out_to_residual:
            return alpha, None
        return alpha, made[..., p * columns :] * self.h_post_scale.to(made.dtype)

    def constrained(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """alpha (..., R, p, v f + R) -> pre (..., v f, R), res (..., R, R)."""
        reads = self.num_input_views * self.num_fracs
        alpha = alpha.movedim(-2, 0)
        pre = averaged(alpha[..., :reads].sigmoid())
        return pre.mT, averaged(self.residual_mix_constraint_fn(alpha[..., reads:])).mT


def averaged(proposals: Tensor) -> Tensor:
    """The mean over the first dimension."""
    return proposals.squeeze(0) if proposals.shape[0] == 1 else proposals.mean(0)
