"""SimpleHC: streams that are not mixed, and gates that a group of sites makes at once."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..._checks import check_integer
from ...manifolds import Identity, Manifold
from ...recipes import Recipe, Wiring
from .. import generators, initialisation
from ..activations import activate, read_weights, scaled
from ..generators import Generator, Start
from ..streams import Collapse, expand
from .base import Connection, Finish, State, manifold_of
from .hyper import check_width


class GroupedConnection(
    Connection,
    wiring=Wiring(
        "grouped",
        logits=("static", "flattened"),
        endings=("sum", "mean", "head"),
        optional=("group", "common"),
        anneals=True,
    ),
):
    """A site of a group, whose first site makes the read and write weights of all from the streams it finds (SimpleHC,
    OpenReview i2WyUVJUJ2).

        u = sum_j pre_j x_j,   y = branch(u),   out_i = x_i + post_i y

    The weights are made once a group, because making them passes over all n C numbers of the state. They travel with
    the streams from site to site, so that the first site alone has parameters: nothing is shared between modules, and
    state dicts, copies and shards are those of any model.

    Args:
        streams: n.
        recipe: of connection "grouped", whose manifold is "identity". Its connection_options may give:
            group: how many sites make a group, in the order of their index. 4 if left out.
            common: whether the sites of a group also have one pre and one post; if not, each has rows of its own in
                the first one's generator. False if left out.
        The others are Connection's.

    Call: site(x, *args, **kwargs) for the first site of a group and site((x, weights), ...) for the others, with x
    (..., n, C) and weights (..., 1 or group, 2n) -> (x, weights), or x alone after the last of a group.
    """

    def build(self, manifold: str | Manifold | None) -> None:
        options, n = self.recipe.connection_options, self.streams
        self.group, common = options.get("group", 4), options.get("common", False)
        check_integer("group", self.group, 1)
        if not isinstance(common, bool):
            raise ValueError(f"common: got {common!r}; accepted: True, False")
        self.manifold = manifold_of(manifold, self.recipe, n)
        if not isinstance(self.manifold, Identity):
            given = type(self.manifold).__name__
            raise ValueError(f"manifold: got {given}; accepted: identity, because grouped connections do not mix")
        self.place = self.site % self.group
        self.row = 0 if common else self.place
        # Sites that read by the same weights must be told apart from those of the next group, not from each other.
        sites = (self.site // self.group,) if common else range(self.site, self.site + self.group)
        self.rows_made = len(sites)
        self.logits: Generator | None = None
        if self.place == 0:
            # The last group of logits, whose gate a recipe may freeze, is no mix here.
            recipe = replace(self.recipe, freeze_mix_gate=False)
            self.logits = generators.make(recipe, self.dim, n, self.sizes, self.start(sites))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many read and write logits a group has."""
        size = self.rows_made * self.streams
        return size, size

    def start(self, sites: Any) -> Start:
        """Reads of all sites, then writes."""
        with torch.device("cpu"):
            mix = self.manifold.identity_logits()
            biases = [initialisation.biases(self.recipe, self.streams, site, mix).view(2, -1) for site in sites]
            return Start.at(torch.stack(biases, 1).flatten(), self.recipe.weight_std, self.recipe.gate)

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        check_width(x, self.dim)
        return expand(x, self.streams)

    def weights(self, x: Tensor, carried: tuple[Tensor, ...]) -> Float[Tensor, "*batch rows two_n"]:
        """pre and post of every site of the group, post without its multiplier: made here, or carried from where they
        were made."""
        self.check(x)
        if self.logits is None:
            shape = (self.rows_made, 2 * self.streams)
            if not carried or carried[0].shape[-2:] != shape:
                raise ValueError(
                    f"x: got {'a tensor' if not carried else f'weights of shape {tuple(carried[0].shape)}'}; site"
                    f" {self.site} is number {self.place} of its group of {self.group}, and accepts (streams, weights)"
                    f" with weights (..., {shape[0]}, {shape[1]}), as the site before returns them"
                )
            return carried[0]
        rows = (self.rows_made, self.streams)
        read, write = self.logits(x)
        read, write = read.unflatten(-1, rows), write.unflatten(-1, rows)
        return torch.cat([read_weights(self.recipe, read), activate(self.recipe.write, write)], -1)

    def state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return (self.rows,) if self.place == 0 else (self.rows, (self.rows_made, 2 * self.streams))

    def maps(self, x: Tensor, *carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.own(self.weights(x, carried))

    def own(
        self, weights: Float[Tensor, "*batch rows two_n"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        """This site's pre, post and H_res = I, of the group's weights."""
        pre, post = weights[..., self.row, :].split(self.streams, -1)
        return pre, scaled(self.recipe, post, self.multiplier), self.manifold(pre[..., :0])

    def coefficients(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        """pre, post and the identity, for the first site of a group; others have them by `maps`, given the weights."""
        return self.maps(x)

    def join(self, x: Float[Tensor, "*batch n C"], *carried: Tensor) -> tuple[Float[Tensor, "*batch C"], Finish]:
        weights = self.weights(x, carried)
        pre, post, res = self.own(weights)

        def finish(y: Tensor) -> State:
            out = self.write(x, y, post, res)
            return out if self.last else (out, weights)

        return self.read(x, pre), finish

    @property
    def last(self) -> bool:
        """Whether the next site begins a group."""
        return self.place == self.group - 1

    def activated(self, finish: Finish) -> Finish:
        if self.last:
            return super().activated(finish)
        assert self.activation is not None
        activation = self.activation

        def finished(y: Tensor) -> State:
            x, weights = finish(y)
            return activation(x), weights

        return finished

    def split(self, output: Any) -> tuple[State, tuple[Any, ...]]:
        if self.last or isinstance(output[0], tuple):
            return super().split(output)
        return output, ()

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return CollapseGrouped(dim, streams, recipe)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group={self.group}"


class CollapseGrouped(Collapse):
    """Ends streams as Collapse does, also after a group that has not all its sites."""

    def forward(self, x: State) -> Float[Tensor, "*batch C"]:  # type: ignore[override]
        return super().forward(x if isinstance(x, Tensor) else x[0])
