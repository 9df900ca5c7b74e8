"""What a recipe is: a manifold, a wiring, how its logits are made, the activations and the initialisation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from .. import manifolds
from .._checks import check_integer, check_name, check_number
from .depth import Switch
from .wirings import wiring_of

Logits = Literal[
    "static",
    "flattened",
    "per-stream",
    "per-stream-rms",
    "per-stream-rms-tanh",
    "cp",
    "low-rank",
    "query",
    "dense",
]
Activation = Literal["linear", "sigmoid", "twice-sigmoid"]


@dataclass(frozen=True, kw_only=True)
class AuthorsStart:
    """The initial values of the authors' code, for start "authors".

    read: biases of the read logits. "rotating": at site k +1 for stream k mod n, -1 for the others. "mean":
        -log(n - 1), a weight of sigmoid = 1/n each.
    write: biases of the write logits, "rotating" or "zero".
    mix: the logits of H_res, the manifold's identity_logits or "zero".
    weights: standard deviation of the projection's weights, times sqrt(n C); None: the recipe's weight_std as it is.
    """

    read: Literal["rotating", "mean"] = "rotating"
    write: Literal["rotating", "zero"] = "rotating"
    mix: Literal["identity", "zero"] = "identity"
    weights: float | None = 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One published configuration of a hyper-connection. Change fields with dataclasses.replace.

    The defaults are mHC's (arXiv 2512.24880). A recipe checks its fields and their combination when it is made.

    name: what `streammix.Stack(recipe=...)` takes, and HyperConnection if connection is "hyper".
    source: paper or code, with equation numbers.
    note: what the source leaves open and what is chosen here.
    connection: the layout of the state, and how a site is wired. "hyper": n streams of a branch's width, each site by
        itself (`HyperConnection`). The others need a `Stack`. "frac": one state cut into n fractions. "generalised": n
        segments, m of which make a branch's width. "sparse": n streams of which a site updates a few. "single-pass":
        n streams, the read weights made at one site being used at the next. "gated": n streams that are read by gates
        for every channel and not mixed. "decoupled": as "hyper", with a read for each input of a branch. "multi-gate":
        n streams that are read by attention and moved towards a branch's output. "depth-attention" and "dense": all
        outputs so far, or all states between blocks, read by attention or by weighted sums. "grouped": n streams that
        are not mixed, the weights of a group of sites being made at its first. "equilibrium": "hyper" with writes that
        are made with H_res. "multi-head": n streams of which each group of channels is read, written and mixed apart.
        "uncoupled": n streams of which each group of channels is read apart, and each stream written in directions of
        its own.
    connection_options: further arguments of "generalised" (segments: m), "sparse" (active, fixed, temporal, time_axis),
        "decoupled" (inputs, static_reads), "multi-gate" (gate, depth), "depth-attention" (block), "dense" (block,
        inputs, multiway, norms), "grouped" (group, common), "multi-head" and "uncoupled" (heads: h), explained by the
        connections in `streammix.layers`.
    streams: how many streams, fractions or segments a Stack has if not told: the source's number.
    manifold, manifold_options: the feasible set of H_res, see `streammix.manifolds.get`. An option that changes along
        the depth is a Switch.
    logits: how they are made from the state. "static": parameters only. "flattened": gate * (RMSNorm(vec x) phi) + bias
        (mHC Eq. 7). "per-stream": gate * tanh(LayerNorm(x) W) + bias, W shared by the streams (HC Eq. 10-12); in
        "frac" and "generalised" connections the same for each segment. "per-stream-rms": gate * (x / rms(x) W) + bias,
        with tanh around the product in "per-stream-rms-tanh" (the package hyper-connections). "cp": as flattened, phi
        a tensor of CP rank `rank` (TEMPER). "low-rank": for every channel, through a bottleneck of `rank` (Gated
        Residual). "query": a learned vector times each normalised stream or output. "dense": one hidden layer on the
        last state (MUDDFormer).
    rank: of each of the three tensors, with logits "cp"; of the bottleneck, with "low-rank"; of the write-back, with
        connection "uncoupled".
    read, write: activation of the read and write logits.
    read_eps: added to the read weights after the activation: pre = read(logits) + read_eps.
    write_multiplier, write_eps: post = write_multiplier write(logits) + write_eps. Liger and TileKernels multiply a
        "sigmoid" by their post_mult (2.0) and post_mult_value (1.0; DeepSeek-V4 passes 2.0); Hy4 in transformers
        multiplies by 2 and adds its hc_eps. "twice-sigmoid" is "sigmoid" times 2.
    write_multiplier_end: what write_multiplier is annealed to in training, see `streammix.anneal_write_multiplier`
        (Motif 3); None: it is a constant.
    start: "identity": read weights sum to one, write weights are one and H_res is (nearly) the identity, so that a new
        model equals the plain residual one. "zero": all biases zero. "authors": as `authors` says, which is not the
        plain residual network; for connections "hyper" and "single-pass", and for "multi-gate", whose gates then have
        their published bias.
    authors: how the code of the recipe's authors starts, where it is another start than those two.
    rotate: with start "identity", how strongly site k starts by reading stream k mod n: "one-hot" (only it), "soft"
        (sigmoid(1) = 0.73 of the weight). Never uniformly: streams that start identical and symmetric stay so.
    mix_start: the logits of H_res with start "identity": the manifold's identity_logits, or "zero" as some papers have
        it. Under any H_res whose rows sum to one equal streams stay so: a new model still equals the plain one. A
        number is where the logits off the diagonal start, those on it being 0, for manifolds of n x n logits
        (`manifolds.entrywise()`): -8 is their "identity", 0 their "zero".
    freeze_mix_gate: with flattened logits, the gate on those of H_res stays at `gate` instead of being learned.
    weight_std: standard deviation of the projection's initial weights.
    gate: initial value of the scalar gates on the dynamic part.
    norm_eps: eps of the normalisation of the state, added to the mean square. None, with flattened and CP logits:
        torch's default for rms_norm, the computing dtype's eps.
    collapse: how streams end, see `streammix.Collapse`; "concatenate" for "frac"; "carried", by the read weights that
        the last site made, for "single-pass"; "gated", "pooled", "attended" and "dense", by one more read, for "gated",
        "multi-gate", "depth-attention" and "dense".
    """

    name: str
    source: str
    note: str
    connection: str = "hyper"
    connection_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    streams: int = 4
    manifold: str
    manifold_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    logits: Logits = "flattened"
    rank: int = 2
    read: Activation = "sigmoid"
    write: Activation = "twice-sigmoid"
    read_eps: float = 0.0
    write_multiplier: float = 1.0
    write_multiplier_end: float | None = None
    write_eps: float = 0.0
    start: Literal["identity", "zero", "authors"] = "identity"
    authors: AuthorsStart | None = None
    rotate: Literal["one-hot", "soft"] = "soft"
    mix_start: Literal["identity", "zero"] | float | int = "identity"
    freeze_mix_gate: bool = False
    weight_std: float = 0.0
    gate: float = 0.01
    norm_eps: float | None = 1e-6
    collapse: str = "mean"

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a name that is not accepted, or a combination that no layer could build; it names the field.
        """
        check_vocabulary(self)
        wiring = wiring_of(self.connection)
        check_name("logits", self.logits, wiring.logits, f"{self.connection} connections")
        check_name("collapse", self.collapse, wiring.endings, f"{self.connection} connections")
        wiring.check_options(self.connection_options)
        manifolds.check(self.manifold, self.manifold_options)
        if self.start == "authors" and (self.authors is None or not wiring.authors_start):
            raise ValueError(
                f"start: got 'authors'; recipe {self.name!r} has no start of its authors' own; accepted: identity, zero"
            )
        if self.write_multiplier_end is not None and not wiring.anneals:
            raise ValueError(
                f"write_multiplier_end: got {self.write_multiplier_end!r}; {self.connection} connections accept None"
            )
        by_stream = self.logits.startswith("per-stream")
        if self.norm_eps is None and (wiring.layer_norm or by_stream):
            norm = "LayerNorm" if wiring.layer_norm or self.logits == "per-stream" else "norm of each stream"
            raise ValueError(
                f"norm_eps: got None; {self.connection} connections with {self.logits} logits take a {norm} and"
                " accept finite numbers >= 0"
            )
        if self.freeze_mix_gate and by_stream:
            raise ValueError(
                f"freeze_mix_gate: got True with {self.logits} logits, whose gates are all learned;"
                " accepted with it: logits flattened, cp, static"
            )

    def at(self, site: int, sites: int | None = None) -> "Recipe":
        """The recipe of one site, the one of this index among so many: each Switch as it is there.

        Raises:
            ValueError: an option switches at a share of the depth, and the number of sites is not given.
        """
        changes = {}
        for name, option in self.manifold_options.items():
            if isinstance(option, Switch):
                try:
                    changes[name] = option.value(site, sites)
                except ValueError as error:
                    raise ValueError(f"{error} (recipe {self.name!r}, manifold_options[{name!r}])") from None
        return replace(self, manifold_options={**self.manifold_options, **changes}) if changes else self


def check_vocabulary(recipe: Recipe) -> None:
    """Raise ValueError unless each field holds a value of its own kind."""
    if not isinstance(recipe.name, str) or not recipe.name:
        raise ValueError(f"name: got {recipe.name!r}; accepted: a word")
    check_name("read", recipe.read, get_args(Activation))
    check_name("write", recipe.write, get_args(Activation))
    check_name("start", recipe.start, ("identity", "zero", "authors"))
    check_name("rotate", recipe.rotate, ("one-hot", "soft"))
    check_mix_start(recipe)
    check_integer("streams", recipe.streams, 1)
    check_integer("rank", recipe.rank, 1)
    if not isinstance(recipe.freeze_mix_gate, bool):
        raise ValueError(f"freeze_mix_gate: got {recipe.freeze_mix_gate!r}; accepted: True, False")
    if recipe.norm_eps is not None:
        check_number("norm_eps", recipe.norm_eps, "finite numbers >= 0 or None")
    check_number("read_eps", recipe.read_eps, "finite numbers >= 0")
    check_number("write_eps", recipe.write_eps, "finite numbers >= 0")
    check_number("write_multiplier", recipe.write_multiplier, "finite numbers > 0", zero=False)
    if recipe.write_multiplier_end is not None:
        check_number("write_multiplier_end", recipe.write_multiplier_end, "finite numbers > 0 or None", zero=False)
    check_number("weight_std", recipe.weight_std, "finite numbers >= 0")
    check_number("gate", abs(recipe.gate) if isinstance(recipe.gate, float | int) else recipe.gate, "finite numbers")


def check_mix_start(recipe: Recipe) -> None:
    """Raise ValueError unless H_res can start where the recipe says."""
    value = recipe.mix_start
    if isinstance(value, bool) or not isinstance(value, int | float):
        if value not in ("identity", "zero"):
            raise ValueError(f"mix_start: got {value!r}; accepted: identity, zero, finite numbers")
        return
    if not math.isfinite(value):
        raise ValueError(f"mix_start: got {value!r}; accepted: identity, zero, finite numbers")
    if recipe.manifold not in manifolds.entrywise() or recipe.start != "identity":
        raise ValueError(
            f"mix_start: got {value!r} with manifold {recipe.manifold!r} and start {recipe.start!r}; numbers are"
            f" accepted with {', '.join(manifolds.entrywise())} and start 'identity'"
        )
