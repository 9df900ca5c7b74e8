"""Sites and heads of transformers' models, computed by our operators from the modules' own parameters."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import recipes
from ..layers.borrowed import OBSERVERS, SiteFormula, formula_of, head
from ..layers.connections.hyper import Opened, watched
from .swapping import Accelerated

#: Where a site holds its `SiteFormula`.
FORMULA = "_streammix_formula"


class Site(Accelerated):
    """A hyper-connection with parameters fn (rows, n C), base (rows) and scale (3 or 2)."""

    def formula(self: Any) -> SiteFormula:
        """By the module's own numbers, which it has before its class is exchanged too."""
        raise NotImplementedError

    def open(self: Any, x: Tensor) -> Opened:
        return self.__dict__[FORMULA].open(x, self.fn, self.base, self.scale)

    def open_after(self: Any, before: Opened, y: Tensor) -> Opened:
        return self.__dict__[FORMULA].open_after(before, y, self.fn, self.base, self.scale)


class MixingSite(Site):
    """DeepSeek-V4's and GLM-5.3's: the model's own call, which gives post, comb (applied transposed) and u."""

    def forward(self, hidden_streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, u, post, res = self.open(hidden_streams)
        return post, res.mT, u


class TruncatedSite(MixingSite):
    """With the model's own number of Sinkhorn rounds and eps."""

    def formula(self: Any) -> SiteFormula:
        numbers = {"rounds": self.hc_sinkhorn_iters, "eps": self.hc_eps, "norm_eps": self.input_norm.eps}
        return formula_of("deepseek-v4", self.hc_mult, **numbers)


class ExactSite(MixingSite):
    """With the exact projection in place of the rounds."""

    def formula(self: Any) -> SiteFormula:
        recipe = recipes.get("deepseek-v4")
        exact = replace(recipe, manifold="birkhoff", manifold_options={"transposed": True})
        return formula_of(exact, self.hc_mult, eps=self.hc_eps, norm_eps=self.input_norm.eps)


class IndependentSite(Site):
    """Hy4's, which does not mix: the model's own call gives post and the input u."""

    def formula(self: Any) -> SiteFormula:
        recipe = replace(recipes.get("hy4"), write_multiplier=self.hc_post_magnitude)
        return formula_of(recipe, self.hc_mult, eps=self.hc_eps, norm_eps=self.input_norm.eps)

    def forward(self, hidden_streams: Tensor) -> tuple[Tensor, Tensor]:
        _, u, post, _ = self.open(hidden_streams)
        return post, u


class Head(Accelerated):
    """The gated end of the streams, DeepSeek-V4's and Hy4's."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return head(x, self.hc_fn, self.hc_base, self.hc_scale, norm_eps=self.input_norm.eps, eps=self.eps)


# --- sites in a row -------------------------------------------------------------------------------------------------


def opened(site: Any, x: Tensor) -> Opened:
    """A site up to its branch; what the layer before has computed already, if it has."""
    ahead = None if torch.compiler.is_compiling() else x.__dict__.pop(AHEAD, None)
    if ahead is not None and ahead.site is site and ahead.version == version(x):
        return Opened(x, ahead.u, ahead.post, ahead.res)
    return site.open(x) if direct(site) else through_call(site, x)


def opened_after(site: Any, before: Opened, y: Tensor) -> Opened:
    """The same of the streams that the branch output y leaves."""
    return site.open_after(before, y) if direct(site) else through_call(site, before.finish(y))


def direct(site: nn.Module) -> bool:
    """Whether nothing watches, wraps or replaces the site, so that it need not be called as a module."""
    return isinstance(site, Site) and not watched(site)


def through_call(site: Any, x: Tensor) -> Opened:
    """A site that something watches or wraps, by its own call."""
    output = site(x)
    if len(output) == 3:
        post, comb, u = output
        return Opened(x, u, post, comb.mT)
    post, u = output
    eye = torch.eye(x.shape[-2], dtype=post.dtype, device=x.device)
    return Opened(x, u, post, eye.expand(*post.shape, x.shape[-2]))


#: Where streams carry what the layer that wrote them has computed for the next one.
AHEAD = "_streammix_ahead"


class Ahead(NamedTuple):
    """A site opened by the layer before, without its streams: a tensor that held itself would never be freed."""

    site: nn.Module
    version: int
    u: Tensor
    post: Tensor
    res: Tensor


def version(x: Tensor) -> int:
    """How often the tensor was changed in place, if it counts that."""
    return -1 if x.is_inference() else x._version


class Following(NamedTuple):
    """The layer after this one, and its first site. A tuple, so that the layer does not own them."""

    layer: nn.Module
    site: Any


def written(layer: Any, last: Opened, y: Tensor) -> Tensor:
    """The streams after a layer, y being the output of its last branch; with the next layer's site opened on the way.

    Where that layer is not called with these streams, the work is lost and nothing else.
    """
    following: Following | None = layer.__dict__.get(FOLLOWING)
    if following is None or not may_look_ahead(layer, following, last.x):
        return last.finish(y)
    x, u, post, res = following.site.open_after(last, y)
    setattr(x, AHEAD, Ahead(following.site, version(x), u, post, res))
    return x


#: Where a layer holds its `Following`.
FOLLOWING = "_streammix_following"


def may_look_ahead(layer: Any, following: Following, x: Tensor) -> bool:
    """Whether the next layer's parameters are there, and nothing stands between the two layers.

    Loaders that move, gather or shard parameters when a layer is called have hooks before it, or replace its forward. A
    checkpointed layer hands on nothing but its output.
    """
    after, site = following
    if OBSERVERS:  # which see a site's write by itself
        return False
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if (layer.gradient_checkpointing and layer.training) or "forward" in after.__dict__ or not direct(site):
        return False
    fn = site.fn
    return not after._forward_pre_hooks and type(fn) is nn.Parameter and fn.device == x.device
