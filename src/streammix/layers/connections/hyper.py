"""Hyper-connections: n streams of a branch's width, each site by itself."""

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ... import functional
from ..._checks import check_dense
from ...manifolds import Manifold
from ...ops import ACTIVATION_CODES, Operators, mixes, operators_for
from ...recipes import Recipe, Wiring
from .. import generators, initialisation
from ..activations import read_weights, scaled
from ..generators import Flattened, Start
from ..streams import Collapse, expand
from .base import Connection, Finish, State, manifold_of

LOGITS = ("static", "flattened", "per-stream", "per-stream-rms", "per-stream-rms-tanh", "cp")


class Opened(NamedTuple):
    """A site between its read and its write."""

    x: Float[Tensor, "*batch n C"]
    u: Float[Tensor, "*batch C"]
    post: Float[Tensor, "*batch n"]
    res: Float[Tensor, "*batch n n"]

    def finish(self, y: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch n C"]:
        """The streams after the site, y being its branch's output."""
        return functional.write(self.x, y, self.post, self.res)


class HyperConnection(
    Connection, wiring=Wiring("hyper", logits=LOGITS, endings=("sum", "mean", "head"), authors_start=True, anneals=True)
):
    """Reads the streams, runs a branch, mixes the streams and writes the branch's output to each (mHC Eq. 3).

        u = sum_j pre_j x_j,   y = branch(u),   out_i = sum_j H_res[i, j] x_j + post_i y

    pre, post and H_res are made per token from the streams themselves, in float32 at least, as the recipe says.
    GeneralisedConnection with one segment to a branch is the same mathematics; this is its fast case.

    Args:
        branch: maps (..., C) to (..., C), its own normalisation included, without a residual of its own. Further
            arguments are passed on; if it returns a tuple, the first item is written and the others are returned beside
            the streams. May be None if only `connect` is used.
        dim: C, the width of a stream.
        streams: n, the number of streams, >= 1.
        recipe: a name of `streammix.recipes.names()`, or a Recipe; of connection "hyper" (`Stack` builds the others).
        site: index of this site in the network (a Transformer block has two); the initial read rotates with it.
        manifold, dynamic, channel_dim, activation, sites: see Connection.

    Raises, Warns: see Connection. At the call: ValueError for streams that are not (..., n, C).

    Call: site(x, *args, **kwargs) with x (..., n, C) -> (..., n, C), or (that, *extra outputs of the branch).
    """

    def build(self, manifold: str | Manifold | None) -> None:
        n, r = self.streams, self.recipe
        self.manifold = manifold_of(manifold, r, n)
        transposed = bool(getattr(self.manifold, "transposed", False))
        sizes = (n, n, self.manifold.num_logits)
        self.logits = generators.make(r, self.dim, n, sizes, self.start(), transposed=transposed)
        activations = ACTIVATION_CODES[r.read], ACTIVATION_CODES[r.write]
        scale = (r.write_multiplier, r.write_eps) if self.annealed is None else (1.0, 0.0)
        self.weights_settings = (*activations, r.read_eps, *scale)

    def start(self) -> Start:
        """Where the generator starts."""
        n = self.streams
        with torch.device("cpu"):
            return initialisation.start(self.recipe, n, self.site, self.manifold.identity_logits(), n * self.dim)

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        check_width(x, self.dim)
        return expand(x, self.streams)

    def coefficients(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        """pre (..., n), post (..., n) and H_res (..., n, n) for these streams, in float32 at least."""
        self.check(x)
        pre, post, res = self.logits(x)
        return read_weights(self.recipe, pre), self.write_weights(post), self.manifold(res)

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return Collapse(dim, streams, recipe)

    # --- the same in fewer passes over the streams --------------------------------------------------------------

    def join(self, x: Tensor, *carried: Tensor) -> tuple[Float[Tensor, "*batch C"], Finish]:
        x, u, post, res = self.open(x)
        return u, lambda y: self.write(x, y, post, res)

    def open(self, x: Float[Tensor, "*batch n C"]) -> Opened:
        """The site up to its branch, by one operator where that serves it."""
        arguments = self._operands(x)
        if arguments is None:
            pre, post, res = self.coefficients(x)
            return Opened(x, self.read(x, pre), post, res)
        self.check(x)
        operators = operators_for(x, self.streams)
        if rule := self._mixing_rule(x):
            u, post, res, *_ = operators.mixed_site_read(x, *arguments, *rule)
        else:
            u, post, mix, *_ = operators.site_read(x, *arguments)
            res = self._mixing(mix, operators)
        return Opened(x, u, self.posts(post, res), res)

    def open_after(self, before: Opened, y: Tensor, hooks: AbstractContextManager[Any] | None = None) -> Opened:
        """`open` of the streams that the branch output y leaves at the site before: the same numbers in one pass.

        hooks: active around the operator that saves the streams, if it is that operator.
        """
        x, u, post, res = before
        arguments = self._operands(x)
        if y.dtype != x.dtype and torch.promote_types(x.dtype, y.dtype) == x.dtype:
            y = y.to(x.dtype)
        if arguments is None or y.shape != u.shape or y.dtype != x.dtype:
            return self.open(self.write(x, y, post, res))
        operators = operators_for(x, self.streams)
        if not torch.is_grad_enabled() and (manifold := self._projection()):
            x, u, post, res = operators.next_site(x, y, post, res, *arguments, manifold.tol)
            return Opened(x, u, self.posts(post, res), res)
        rule = self._mixing_rule(x)
        operator = operators.write_mixed_site_read if rule else operators.write_site_read
        if rule:
            arguments = (*arguments, *rule)
        if hooks is None:
            x, u, post, mix, *_ = operator(x, y, post, res, *arguments)
        else:
            with hooks:
                x, u, post, mix, *_ = operator(x, y, post, res, *arguments)
        res = mix if rule else self._mixing(mix, operators)
        return Opened(x, u, self.posts(post, res), res)

    def posts(self, made: Float[Tensor, "*batch n"], res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
        """post, of what the operators on whole sites made of the write logits by `weights_settings`."""
        return made if self.annealed is None else scaled(self.recipe, made, self.multiplier)

    @property
    def fuses(self) -> bool:
        """Whether nothing watches or wraps the site: no subclass, observer, hook, compiled call or replaced method."""
        return self._unwatched(HyperConnection)

    def _unwatched(self, kind: type) -> bool:
        if type(self) is not kind or self.observers or self.activation is not None:
            return False
        own = self.__dict__
        replaced = self._compiled_call_impl is not None or "forward" in own or "connect" in own
        return not replaced and not watched(self)  # FSDP watches, for one

    @property
    def rebuilds(self) -> bool:
        return type(self.logits) is Flattened and self.activation is None

    def _operands(self, x: Tensor) -> tuple[Any, ...] | None:
        """What the operators on whole sites take after the state; None where they do not serve this site or state."""
        logits = self._modules["logits"]  # as in Flattened.operands
        if type(logits) is not Flattened or watched(logits):
            return None
        operands = logits.operands(x)
        return None if operands is None else (*operands, *self.weights_settings)

    def _mixing_rule(self, x: Tensor) -> tuple[Any, ...] | None:
        """The manifold as the operators on whole sites take it, where the backend makes its matrices in the kernel of
        their logits."""
        if x.is_cpu:  # where no backend does
            return None
        manifold: Any = self._modules["manifold"]
        rule: tuple[Any, ...] | None = None if watched(manifold) else manifold.mixing_rule
        return rule if rule and mixes(x, self.streams) else None

    def _mixing(self, logits: Tensor, operators: Operators) -> Tensor:
        """H_res, of logits that came from one of the operators."""
        if manifold := self._projection():
            n = self.streams
            return operators.birkhoff(logits.view(*logits.shape[:-1], n, n), manifold.tol)
        return self.manifold(logits)

    def _projection(self) -> Manifold | None:
        """The manifold, where the operator of the exact projection may stand in for it."""
        manifold: Any = self._modules["manifold"]
        return manifold if manifold.projects and not watched(manifold) else None


def check_width(x: Tensor, *accepted: int) -> None:
    """Raise ValueError unless x is (..., C) with one of the accepted widths, and TypeError unless it is dense."""
    check_dense("x", x)
    if x.ndim < 1 or x.shape[-1] not in accepted:
        shapes = " or ".join(f"(..., {width})" for width in accepted)
        raise ValueError(f"x: got shape {tuple(x.shape)}; accepted: {shapes}")


def watched(module: nn.Module) -> bool:
    """Whether hooks, or a forward of the module's own, ask for it to be called as a module.

    Loaders that offload parameters replace the forward by one that fetches them first.
    """
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in module.__dict__
