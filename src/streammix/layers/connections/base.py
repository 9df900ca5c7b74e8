"""The interface of a connection: how one branch is attached to a state of several streams."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from ... import functional, manifolds, recipes
from ..._checks import check_floating, check_integer
from ...manifolds import Manifold
from ...manifolds.base import Guarantees
from ...recipes import Recipe, Wiring
from ..activations import write_weights
from ..annealing import WriteMultiplier
from .branches import checked_branch, inputs_of

#: What passes from site to site: streams, fractions or segments (..., rows, width), and what a wiring adds to them; or
#: all that the sites so far have put out, which grows.
State = Tensor | tuple[Tensor, ...]
#: A branch's input (..., C), or several.
Inputs = Tensor | tuple[Tensor, ...]
Finish = Callable[[Tensor], Any]  # from the branch's output to the state after the site
Observer = Callable[["Connection", Tensor, tuple[Tensor, ...], Finish], Finish]

#: Every wiring by the name that recipes have for it; a class that names its wiring enters itself.
CLASSES: dict[str, type["Connection"]] = {}


class Connection(nn.Module):
    """One place where a branch is attached: read, branch, write. Each wiring is a subclass in a file of its own.

        class Mine(Connection, wiring=Wiring("mine", logits=("flattened",), endings=("mean",))): ...

    A subclass gives `build`, `begin`, `coefficients` and `ending`, and `read` and `write` where they are not those of
    streams as wide as a branch; or, where its order is another, `join` in place of coefficients, read and write.

    Args:
        branch: maps (..., C) to (..., C), its own normalisation included, without a residual of its own. Further
            arguments are passed on. May be None if only `connect` is used. One that takes several inputs (queries,
            keys and values, say) has their number as its attribute `branch_inputs`: it is called with as many
            tensors, which are the same one where the recipe reads once.
        dim: C, the width of a branch.
        streams: n, the number of streams, fractions or segments, >= 1.
        recipe: a name of `streammix.recipes.names()` or a Recipe, of this wiring.
        site: index of this site in the network, >= 0 (a Transformer block has two sites); it tells streams apart,
            because what a new site reads rotates with it.
        manifold: in place of the recipe's: a name of `streammix.manifolds.names()`, or a Manifold for n streams.
        dynamic: False makes logits static (parameters only); True or None leaves the recipe's choice.
        channel_dim: where a branch has its C channels: 1 for (B, C, H, W). States have them last all the same.
        activation: applied to the state after the write, as a ResNet's ReLU after the sum.
        sites: how many sites the network has; only recipes ask that change at a share of its depth, see Switch.

    Attributes:
        branch, dim, streams, site: as given.
        inputs: how many inputs the branch takes.
        recipe: the Recipe, as it is at this site.
        manifold: the set H_res lies in.
        observers: called at every use of the site, see `streammix.diagnostics.trace`.
        write_multiplier: what post is multiplied by, a number. It can be set where the recipe has a
            write_multiplier_end, see `streammix.anneal_write_multiplier`.

    Raises:
        TypeError: branch or activation is not callable.
        ValueError: an unknown name, or numbers that do not fit together. At the call: a state of another shape.

    Warns:
        UserWarning: branch is a function that holds modules with parameters, which are not the connection's own then.

    Call: site(state, *args, **kwargs) -> the new state, or (that, *further outputs of the branch).
    """

    wiring: ClassVar[Wiring]
    branch: Callable[..., Any] | None
    activation: Callable[[Tensor], Tensor] | None
    #: Why the site's maps cannot be shown as weights and matrices over n streams; "" where they can.
    unmapped: ClassVar[str] = ""
    #: Whether the state is a tuple.
    carries: ClassVar[bool] = False

    def __init_subclass__(cls, *, wiring: Wiring | None = None) -> None:
        super().__init_subclass__()
        if wiring is not None:
            cls.wiring = wiring
            CLASSES[wiring.name] = cls
            recipes.register(wiring)

    def __init__(
        self,
        branch: Callable[..., Any] | None,
        dim: int,
        streams: int = 4,
        recipe: str | Recipe = "mhc",
        *,
        site: int,
        manifold: str | Manifold | None = None,
        dynamic: bool | None = None,
        channel_dim: int = -1,
        activation: Callable[[Tensor], Tensor] | None = None,
        sites: int | None = None,
    ) -> None:
        super().__init__()
        check_integer("dim", dim, 1)
        check_integer("streams", streams, 1)
        check_integer("site", site, 0)
        if sites is not None:
            check_integer("sites", sites, site + 1)
        recipe = self.accepted(recipes.get(recipe) if isinstance(recipe, str) else recipe, dynamic)
        self.recipe = recipe.at(site, sites) if manifold is None else recipe
        self.dim, self.streams, self.site, self.channel_dim = dim, streams, site, channel_dim
        self.branch = checked_branch(branch)
        self.inputs = inputs_of(branch)
        if activation is not None and not callable(activation):
            raise TypeError(f"activation: got {type(activation).__name__}; accepted: a module, a function or None")
        self.activation = activation
        self.observers: list[Observer] = []
        self.annealed = None if self.recipe.write_multiplier_end is None else WriteMultiplier(self.recipe)
        self.build(manifold)

    @classmethod
    def accepted(cls, recipe: Recipe, dynamic: bool | None) -> Recipe:
        """The recipe, static if it is to be, or an error if it is for another wiring."""
        if recipe.connection != cls.wiring.name:
            raise ValueError(
                f"recipe: got {recipe.name!r}, whose connection is {recipe.connection!r}; {cls.__name__} accepts"
                f" those with {cls.wiring.name!r}; streammix.Stack accepts all"
            )
        if dynamic and recipe.logits == "static":
            raise ValueError(f"dynamic: recipe {recipe.name!r} makes static logits; choose a dynamic recipe")
        return replace(recipe, logits="static") if dynamic is False else recipe

    # --- what a wiring defines ----------------------------------------------------------------------------------

    def build(self, manifold: str | Manifold | None) -> None:
        """Make the manifold and the generators of logits, each at its start."""
        raise NotImplementedError

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        """The state before the first site."""
        raise NotImplementedError

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pre, post and H_res for this state, in float32 at least."""
        raise NotImplementedError

    def read(self, x: Tensor, pre: Tensor) -> Any:
        """The branch's input, or several: for streams as wide as a branch, their weighted sum."""
        return functional.read(x, pre)

    def write(self, x: Tensor, y: Float[Tensor, "*batch C"], post: Tensor, res: Tensor) -> Tensor:
        """The streams after the site, y being the branch's output, without what the wiring carries beside them."""
        return functional.write(x, y, post, res)

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        """A module that ends the state after the last site in (..., C), as `recipe.collapse` says."""
        raise NotImplementedError

    def ending_here(self) -> nn.Module:
        """`ending` where this site is the last, for wirings whose end depends on how many there are."""
        return self.ending(self.recipe, self.dim, self.streams)

    # --- what all have ------------------------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[int, int]:
        """The last two sizes of a state: how many rows it has, and their width."""
        return self.streams, self.dim

    @property
    def guarantees(self) -> Guarantees:
        """What holds for every H_res of this site, whatever the logits, to rounding."""
        manifold: Any = self.manifold
        return cast("Guarantees", manifold.guarantees)

    def state_sizes(self) -> tuple[tuple[int, ...], ...]:
        """The last sizes of each tensor in a state before this site, those of the tokens left out."""
        return (self.rows,)

    @property
    def fuses(self) -> bool:
        """Whether this site's write may be one operator with the next site's read, see layers/fused.py."""
        return False

    @property
    def rebuilds(self) -> bool:
        """Whether the state after this site can be made again from the branch's output, as `recompute` asks."""
        return False

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        u, finish = self.connect(*x) if isinstance(x, tuple) else self.connect(x)
        y, further = self.run_branch(u, args, kwargs)
        return (finish(y), *further) if further else finish(y)

    def maps(self, x: Tensor, *carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the site reads with, writes with and mixes by in this state, as `coefficients` has them."""
        return self.coefficients(x)

    @property
    def write_multiplier(self) -> float:
        return self.recipe.write_multiplier if self.annealed is None else self.annealed.multiplier.item()

    @write_multiplier.setter
    def write_multiplier(self, value: float) -> None:
        if self.annealed is None:
            raise ValueError(
                f"write_multiplier: recipe {self.recipe.name!r} has a constant one; accepted: recipes with a"
                " write_multiplier_end, such as motif-3"
            )
        self.annealed.set(value)

    @property
    def multiplier(self) -> Tensor | None:
        """The write multiplier of a site where it is not the recipe's constant."""
        return None if self.annealed is None else self.annealed.multiplier

    def write_weights(self, logits: Tensor) -> Tensor:
        """post, of its logits."""
        return write_weights(self.recipe, logits, self.multiplier)

    def connect(self, x: Tensor, *carried: Tensor) -> tuple[Any, Finish]:
        """The branch's input u, and a function from the branch's output y to the new state.

        u has its channels last, whatever `channel_dim` is, and so must y. Where the recipe makes several inputs for
        this site, u is the tuple of them.
        """
        u, finish = self.join(x, *carried)
        if self.activation is not None:
            finish = self.activated(finish)
        if self.observers:
            for observe in self.observers:
                finish = observe(self, x, carried, finish)
        return u, finish

    def join(self, x: Tensor, *carried: Tensor) -> tuple[Inputs, Finish]:
        """`connect` without activation and observers."""
        pre, post, res = self.coefficients(x)
        return self.read(x, pre), lambda y: self.write(x, y, post, res)

    def activated(self, finish: Finish) -> Finish:
        """finish, followed by the activation."""
        activation: Callable[[Tensor], Tensor] | None = self.activation
        assert activation is not None
        return lambda y: activation(finish(y))

    def run_branch(
        self, u: Inputs, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Float[Tensor, "*batch C"], tuple[Any, ...]]:
        """The branch's output for its input or inputs u, and what else it returned."""
        branch: Callable[..., Any] | None = self.branch
        if branch is None:
            raise TypeError(f"branch: this {type(self).__name__} was built with None; use connect(x)")
        last = self.channel_dim == -1
        read = u if isinstance(u, tuple) else (u,)
        placed = read if last else tuple(v.movedim(-1, self.channel_dim) for v in read)
        inputs = placed * self.inputs if len(placed) == 1 else placed
        output: Any = branch(*inputs, *args, **kwargs)
        y, *further = output if isinstance(output, tuple) and output else (output,)
        if not isinstance(y, Tensor):
            raise TypeError(
                f"branch: {type(branch).__name__} returned a {type(y).__name__}; accepted: a tensor, or a tuple whose"
                " first item is one"
            )
        return y if last else y.movedim(self.channel_dim, -1), tuple(further)

    def split(self, output: Any) -> tuple[State, tuple[Any, ...]]:
        """What the site's call returned, as the state and the branch's further outputs."""
        beside = isinstance(output[0], tuple) if self.carries else isinstance(output, tuple)
        return (output[0], output[1:]) if beside else (output, ())

    def streams_of(self, x: State) -> Tensor:
        """The streams, fractions or segments in a state."""
        return x if isinstance(x, Tensor) else x[0]

    def check(self, x: Tensor) -> None:
        """Raise unless this is a state (..., rows, width)."""
        rows, width = self.rows
        shape = x.shape
        if len(shape) < 2 or shape[-2] != rows or shape[-1] != width:
            raise ValueError(f"x: got shape {tuple(shape)}; accepted: (..., {rows}, {width}){hint(shape, rows, width)}")
        check_floating("x", x)

    def reset_parameters(self) -> None:
        """Set the connection's parameters to the recipe's start; the branch and the activation are left alone."""
        for name, part in self.named_children():
            if name not in ("branch", "activation"):
                reset: Callable[[], None] | None = getattr(part, "reset_parameters", None)
                if reset is not None:
                    reset()

    def extra_repr(self) -> str:
        return f"dim={self.dim}, streams={self.streams}, recipe={self.recipe.name!r}, site={self.site}"


def make(
    recipe: Recipe, branch: Callable[..., Any] | None, dim: int, streams: int, site: int, **options: Any
) -> Connection:
    """The site that this recipe's wiring asks for."""
    return CLASSES[recipe.connection](branch, dim, streams, recipe, site=site, **options)


def manifold_of(manifold: str | Manifold | None, recipe: Recipe, streams: int) -> Manifold:
    """The manifold given, or the recipe's."""
    if manifold is None:
        return manifolds.get(recipe.manifold, streams, **recipe.manifold_options)
    if isinstance(manifold, str):
        return manifolds.get(manifold, streams)
    if manifold.streams != streams:
        raise ValueError(f"manifold: got one for {manifold.streams} streams; accepted here: {streams} streams")
    return manifold


def unmixed(manifold: str | Manifold | None, recipe: Recipe, streams: int) -> Manifold:
    """The manifold of a wiring that does not mix: the identity, or ValueError for another."""
    chosen = manifold_of(manifold, recipe, streams)
    if chosen.num_logits:
        raise ValueError(
            f"manifold: got {type(chosen).__name__}; accepted: identity, because {recipe.connection} connections do not"
            " mix"
        )
    return chosen


def hint(shape: Sequence[int], rows: int, width: int) -> str:
    """What was probably meant by a state of the wrong shape."""
    if len(shape) and shape[-1] == width and rows in shape[:-1]:
        return f"; dimension {list(shape).index(rows)} has {rows} entries, but streams are next to last"
    if len(shape) and shape[-1] == width and shape[-2:-1] != (rows,):
        return f"; streammix.expand(x, {rows}) makes streams of a state (..., {width})"
    return ""
