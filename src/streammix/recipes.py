"""The papers' settings as data: a manifold, how its logits are made, the activations and the initialisation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Logits = Literal["static", "flattened", "per-stream"]
Activation = Literal["linear", "sigmoid", "twice-sigmoid"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One published configuration of a hyper-connection. Change fields with dataclasses.replace.

    name: what `streammix.HyperConnection(recipe=...)` takes.
    source: paper or code, with equation numbers.
    note: what the source leaves open and what is chosen here.
    manifold, manifold_options: the feasible set of H_res, see `streammix.manifolds.get`.
    logits: how they are made from the state. "static": parameters only. "flattened": gate * (RMSNorm(vec x) phi) + bias
        (mHC Eq. 7). "per-stream": gate * tanh(LayerNorm(x) W) + bias, W shared by the streams (HC Eq. 10-12).
    read, write: activation of the read and write logits.
    read_eps: added to the read weights after the activation.
    start: "identity": read weights sum to one, write weights are one and H_res is (nearly) the identity, so that a new
        model equals the plain residual one. "zero": all biases zero.
    rotate: with start "identity", how strongly site k starts by reading stream k mod n: "one-hot" (only it), "soft"
        (sigmoid(1) = 0.73 of the weight). Never uniformly: streams that start identical and symmetric stay so.
    weight_std: standard deviation of the projection's initial weights.
    gate: initial value of the scalar gates on the dynamic part.
    norm_eps: eps of the normalisation of the state.
    collapse: how streams end, see `streammix.Collapse`.
    """

    name: str
    source: str
    note: str
    manifold: str
    manifold_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    logits: Logits
    read: Activation
    write: Activation
    read_eps: float = 0.0
    start: Literal["identity", "zero"] = "identity"
    rotate: Literal["one-hot", "soft"] = "soft"
    weight_std: float = 0.0
    gate: float = 0.01
    norm_eps: float = 1e-6
    collapse: Literal["sum", "mean", "head"] = "mean"


_RECIPES = (
    Recipe(
        name="hc",
        source="Hyper-Connections, dynamic: arXiv 2409.19606, Eq. 10-13 and Alg. 2",
        note="As published. The paper also multiplies initial weights of every branch's output projection by sqrt(n), "
        "which is the model's to do.",
        manifold="unconstrained",
        logits="per-stream",
        read="linear",
        write="linear",
        rotate="one-hot",
        norm_eps=1e-5,
        collapse="sum",
    ),
    Recipe(
        name="hc-static",
        source="Hyper-Connections, static: arXiv 2409.19606, Eq. 2-5",
        note="As published.",
        manifold="unconstrained",
        logits="static",
        read="linear",
        write="linear",
        rotate="one-hot",
        collapse="sum",
    ),
    Recipe(
        name="mhc",
        source="Manifold-Constrained HC: arXiv 2512.24880, Eq. 7-9, with the exact projection of arXiv 2606.07574",
        note="The exact projection replaces 20 Sinkhorn rounds. The paper leaves initial biases and weights open: here "
        "biases 0 / -8 for H_res, +1 for the read of stream k mod n as in mHC-lite's code, the other reads such that "
        "they sum to one, writes 2 sigmoid(0) = 1, weights zero. Streams end in their mean.",
        manifold="birkhoff",
        logits="flattened",
        read="sigmoid",
        write="twice-sigmoid",
    ),
    Recipe(
        name="mhc-sinkhorn",
        source="Manifold-Constrained HC: arXiv 2512.24880, Eq. 7-9",
        note="To the letter, 20 rounds and norm eps 1e-20 included; what the paper leaves open as in mhc.",
        manifold="sinkhorn",
        manifold_options={"recipe": "mhc", "rounds": 20},
        logits="flattened",
        read="sigmoid",
        write="twice-sigmoid",
        norm_eps=1e-20,
    ),
    Recipe(
        name="ihc",
        source="Identity HC: arXiv 2607.28611 (Chimera)",
        note="H_res = I. The paper starts with uniform reads 1/n, which need another symmetry break; reads as in mhc.",
        manifold="identity",
        logits="flattened",
        read="sigmoid",
        write="twice-sigmoid",
    ),
    Recipe(
        name="deepseek-v4",
        source="DeepSeek-V4 inference code, hc_pre and hc_post; transformers DeepseekV4HyperConnection",
        note="Bit-faithful, for checkpoints: eps on reads and in Sinkhorn, gates 1, weights N(0, 0.02^2), biases zero. "
        "It does not start as the plain residual network.",
        manifold="sinkhorn",
        manifold_options={"recipe": "deepseek-v4", "rounds": 20},
        logits="flattened",
        read="sigmoid",
        write="twice-sigmoid",
        read_eps=1e-6,
        start="zero",
        weight_std=0.02,
        gate=1.0,
        collapse="head",
    ),
)

_BY_NAME = {recipe.name: recipe for recipe in _RECIPES}


def names() -> tuple[str, ...]:
    """The names of all recipes."""
    return tuple(_BY_NAME)


def get(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: no recipe has this name; the message lists those that exist.
    """
    if name not in _BY_NAME:
        raise ValueError(f"recipe: none is called {name!r}; accepted: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
