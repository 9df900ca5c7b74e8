"""The papers' settings as data: a manifold, how its logits are made, the activations and the initialisation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Connection = Literal["hyper", "frac", "generalised", "sparse", "single-pass"]
Logits = Literal["static", "flattened", "per-stream", "cp"]
Activation = Literal["linear", "sigmoid", "twice-sigmoid"]
Ending = Literal["sum", "mean", "head", "concatenate", "carried"]


@dataclass(frozen=True, kw_only=True)
class AuthorsStart:
    """The initial values of the authors' code, for start "authors".

    read: biases of the read logits. "rotating": at site k +1 for stream k mod n, -1 for the others. "mean":
        -log(n - 1), a weight of sigmoid = 1/n each.
    write: biases of the write logits, "rotating" or "zero".
    mix: the logits of H_res, the manifold's identity_logits or "zero".
    weights: standard deviation of the projection's weights, times sqrt(n C).
    """

    read: Literal["rotating", "mean"] = "rotating"
    write: Literal["rotating", "zero"] = "rotating"
    mix: Literal["identity", "zero"] = "identity"
    weights: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One published configuration of a hyper-connection. Change fields with dataclasses.replace.

    name: what `streammix.Stack(recipe=...)` takes, and HyperConnection if connection is "hyper".
    source: paper or code, with equation numbers.
    note: what the source leaves open and what is chosen here.
    connection: the layout of the state, and how a site is wired. "hyper": n streams of a branch's width, each site by
        itself (`HyperConnection`). The others need a `Stack`. "frac": one state cut into n fractions. "generalised": n
        segments, m of which make a branch's width. "sparse": n streams of which a site updates a few. "single-pass":
        n streams, the read weights made at one site being used at the next.
    connection_options: further arguments of "generalised" (segments: m) and of "sparse" (active, fixed, temporal,
        time_axis), explained by GeneralisedConnection and SparseConnection in `streammix.layers`.
    streams: how many streams, fractions or segments a Stack has if not told: the source's number.
    manifold, manifold_options: the feasible set of H_res, see `streammix.manifolds.get`.
    logits: how they are made from the state. "static": parameters only. "flattened": gate * (RMSNorm(vec x) phi) + bias
        (mHC Eq. 7). "per-stream": gate * tanh(LayerNorm(x) W) + bias, W shared by the streams (HC Eq. 10-12); in
        "frac" and "generalised" connections the same for each segment. "cp": as flattened, phi a tensor of CP rank
        `rank` (TEMPER).
    rank: of each of the three tensors, with logits "cp".
    read, write: activation of the read and write logits.
    read_eps: added to the read weights after the activation: pre = read(logits) + read_eps.
    write_multiplier, write_eps: post = write_multiplier write(logits) + write_eps. Liger and TileKernels multiply a
        "sigmoid" by their post_mult (2.0) and post_mult_value (1.0; DeepSeek-V4 passes 2.0); Hy4 in transformers
        multiplies by 2 and adds its hc_eps. "twice-sigmoid" is "sigmoid" times 2.
    start: "identity": read weights sum to one, write weights are one and H_res is (nearly) the identity, so that a new
        model equals the plain residual one. "zero": all biases zero. "authors": as `authors` says, which is not the
        plain residual network; for connections "hyper" and "single-pass".
    authors: how the code of the recipe's authors starts, where it is another start than those two.
    rotate: with start "identity", how strongly site k starts by reading stream k mod n: "one-hot" (only it), "soft"
        (sigmoid(1) = 0.73 of the weight). Never uniformly: streams that start identical and symmetric stay so.
    mix_start: the logits of H_res with start "identity": the manifold's identity_logits, or "zero" as some papers have
        it. Under any H_res whose rows sum to one equal streams stay so: a new model still equals the plain one.
    freeze_mix_gate: with flattened logits, the gate on those of H_res stays at `gate` instead of being learned.
    weight_std: standard deviation of the projection's initial weights.
    gate: initial value of the scalar gates on the dynamic part.
    norm_eps: eps of the normalisation of the state, added to the mean square. None, with flattened and CP logits:
        torch's default for rms_norm, the computing dtype's eps.
    collapse: how streams end, see `streammix.Collapse`; "concatenate" for "frac"; "carried", by the read weights that
        the last site made, for "single-pass".
    """

    name: str
    source: str
    note: str
    connection: Connection = "hyper"
    connection_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    streams: int = 4
    manifold: str
    manifold_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    logits: Logits
    rank: int = 2
    read: Activation
    write: Activation
    read_eps: float = 0.0
    write_multiplier: float = 1.0
    write_eps: float = 0.0
    start: Literal["identity", "zero", "authors"] = "identity"
    authors: AuthorsStart | None = None
    rotate: Literal["one-hot", "soft"] = "soft"
    mix_start: Literal["identity", "zero"] = "identity"
    freeze_mix_gate: bool = False
    weight_std: float = 0.0
    gate: float = 0.01
    norm_eps: float | None = 1e-6
    collapse: Ending = "mean"

    def __post_init__(self) -> None:
        if self.norm_eps is not None:
            _check_number("norm_eps", self.norm_eps, "finite numbers >= 0 or None")
        _check_number("read_eps", self.read_eps, "finite numbers >= 0")
        _check_number("write_eps", self.write_eps, "finite numbers >= 0")
        if self.start == "authors" and (self.authors is None or self.connection not in ("hyper", "single-pass")):
            raise ValueError(
                f"start: got 'authors'; recipe {self.name!r} has no start of its authors' own; accepted: identity, zero"
            )
        _check_number("write_multiplier", self.write_multiplier, "finite numbers > 0", zero=False)


def _check_number(name: str, value: Any, accepted: str, *, zero: bool = True) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}: got {value!r}; accepted: {accepted}")


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
        note="The released formulas to rounding, for checkpoints: eps on reads and in Sinkhorn, gates 1, weights "
        "N(0, 0.02^2), biases zero. It does not start as the plain residual network.",
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

#: What the constrained recipes after mHC share: its generator, activations and rotating reads.
_AS_MHC: dict[str, Any] = {"logits": "flattened", "read": "sigmoid", "write": "twice-sigmoid"}

#: What the code of mHC-lite and of those built on it shares: norm and start.
_AS_MHC_LITE: dict[str, Any] = {**_AS_MHC, "norm_eps": None, "authors": AuthorsStart()}
_AS_TBP: dict[str, Any] = {**_AS_MHC_LITE, "authors": AuthorsStart(mix="zero")}

_CONSTRAINED = (
    Recipe(
        name="mhc-lite",
        source="mHC-lite: arXiv 2601.05732, Eq. 4-5, and its code",
        note="All n! permutations up to n = 6, a seeded sample beyond. The norm's eps is torch's"
        " default for rms_norm; its code normalises by F.normalize, the same to rounding. H_res starts as in its code"
        " (0 / -8), reads and writes as in mhc; start='authors' is its code's, which has biases of +1 for the read and"
        " the write of stream k mod n and -1 for the others. Its code ends streams in their sum.",
        manifold="permutations",
        **_AS_MHC_LITE,
    ),
    Recipe(
        name="kromhc",
        source="KromHC: arXiv 2601.21579, Sec. 4, and its code",
        note="Factors are the primes of n, each a mixture of permutations, under one gate as published; its code takes"
        " powers of two only. Norm, starts and end as in mhc-lite.",
        manifold="kronecker",
        **_AS_MHC_LITE,
    ),
    Recipe(
        name="go-mhc",
        source="go-mHC: arXiv 2604.02309, Sec. 3, s = 2",
        note="Its language model's initialisation is not published, and zero logits would never learn: they start "
        "small. Reads and writes as in mhc.",
        manifold="orthostochastic",
        manifold_options={"s": 2},
        **_AS_MHC,
    ),
    Recipe(
        name="tbp",
        source="TBP-mHC: arXiv 2605.21724, sequential chart, and its code",
        note="H_res starts near the identity, reads and writes as in mhc. Its code, start='authors', starts at zero"
        " mixing logits, where sigma_2 = 0.41 at n = 4, with reads and writes as in mhc-lite's; mix_start='zero' is"
        " that with equal writes, from which the streams hardly come apart. Minorised, (1 - d) H + d 11'/n with d"
        " learned, at first sigmoid(-8) = 0.0003, as its layers are by default. (n - 1)^2 logits where its code makes"
        " n^2 and uses as many. Norm and end as in mhc-lite.",
        manifold="transportation",
        manifold_options={"minorised": True},
        **_AS_TBP,
    ),
    Recipe(
        name="rtbp",
        source="RTBP: arXiv 2605.21724, recursive chart, and its code",
        note="As tbp. RTBP2N for n a power of two, RTBP for other n, as `streammix.manifolds.Transportation` has it."
        " Its code's start at zero mixing logits is 11'/n for n a power of two: it erases every difference between"
        " streams, and with equal writes, mix_start='zero', they stay copies.",
        manifold="transportation",
        manifold_options={"chart": "recursive", "minorised": True},
        **_AS_TBP,
    ),
    Recipe(
        name="c-mhc",
        source="C-mHC: contactsebi/circulant-hyper-connections, leaky, beta = 4",
        note="The leak beta / (2 sites) is that of 24 sites: set manifold_options={'sites': ...} to your network's. "
        "H_res starts at zero logits as published, a uniform leak; reads start as in mhc, weights at zero. start="
        "'authors' is its code's: reads of 1/n, weights N(0, 0.02^2 / (n C)). A gate a group instead of one.",
        manifold="circulant",
        manifold_options={"sites": 24},
        mix_start="zero",
        authors=AuthorsStart(read="mean", write="zero", mix="zero", weights=0.02),
        **_AS_MHC,
    ),
    Recipe(
        name="shc",
        source="sHC: arXiv 2603.20896, and its code",
        note="Its code has one gate each for the three groups of mixing logits, here one for all. H_res starts as in "
        "its code, reads and writes as in mhc. Norm, start='authors' and end as in mhc-lite.",
        manifold="spectral-sphere",
        **_AS_MHC_LITE,
    ),
    Recipe(
        name="isohc",
        source="The sigma = 1 member of sHC (arXiv 2603.20896); no paper of its own",
        note="Rotations that keep the mean of the streams. The gate on its logits is frozen, as oHC advises for "
        "orthogonal mixing; all else as in mhc.",
        manifold="isometric",
        freeze_mix_gate=True,
        **_AS_MHC,
    ),
    Recipe(
        name="ohc",
        source="oHC: arXiv 2609.02672, quaternion form",
        note="n = 4 only. The gate on the mixing logits is frozen as published. Eight logits where the paper uses 8 of"
        " mHC's 16 channels; reads and writes as in mhc.",
        manifold="quaternion",
        freeze_mix_gate=True,
        **_AS_MHC,
    ),
    Recipe(
        name="jpmhc-cayley",
        source="JPmHC: arXiv 2602.18308, Sec. 3 and App. I",
        note="The exact Cayley map replaces two steps of its iteration (manifold_options={'iterations': 2} is the "
        "paper). The paper makes reads and writes from n x n softmaxes without stating their temperature or start, and"
        " takes a LayerNorm; here reads and writes are as in mhc.",
        manifold="stiefel",
        **_AS_MHC,
    ),
    Recipe(
        name="jpmhc-grassmann",
        source="JPmHC: arXiv 2602.18308, App. J",
        note="H_res is a static projector of rank n / 2, never near the identity; it keeps equal streams, so a new "
        "model still equals the plain residual one. Trained by the model's optimizer, not the paper's own. Reads and "
        "writes as in mhc: half the published parameters, see 'Parameters against the papers'.",
        manifold="grassmann",
        **_AS_MHC,
    ),
    Recipe(
        name="jpmhc-sinkhorn",
        source="JPmHC: arXiv 2602.18308, App. B and C",
        note="The gradient is solved for exactly instead of by 4 n Gauss-Seidel steps. The paper leaves the start "
        "open: as in mhc.",
        manifold="implicit-sinkhorn",
        **_AS_MHC,
    ),
    Recipe(
        name="perm-mix",
        source="JPmHC: arXiv 2602.18308, Perm-Mix",
        note="n >= 3. Six fixed permutations; which one its seed 42 drew is not stated. The start is left open: H_res "
        "as in mhc-lite, reads and writes as in mhc.",
        manifold="permutation-mix",
        **_AS_MHC,
    ),
)

_BEYOND_ONE_LAYOUT = (
    Recipe(
        name="frac",
        source="Frac-Connections, dynamic: arXiv 2503.14125",
        note="As published; the static form is dataclasses.replace(recipe, logits='static'). The paper has no "
        "constraint on the mixing of fractions; any manifold with n^2 logits can take the place of `unconstrained`.",
        connection="frac",
        manifold="unconstrained",
        logits="per-stream",
        read="linear",
        write="linear",
        rotate="one-hot",
        norm_eps=1e-5,
        collapse="concatenate",
    ),
    Recipe(
        name="ghc",
        source="Virtual Width Networks, generalised HC, static: arXiv 2511.11238",
        note="8 segments, 4 of them a branch's width: twice the width. In the paper the over-wide state comes from an "
        "over-wide embedding and ends in a learned reduction; here segment i starts as segment i mod m of the state "
        "(or the state comes over-wide) and the copies of a segment end in their mean. Reads start at one copy of "
        "each segment, which rotates with the site; one writing to every copy; H_res = I.",
        connection="generalised",
        connection_options={"segments": 4},
        streams=8,
        manifold="unconstrained",
        logits="static",
        read="linear",
        write="linear",
        rotate="one-hot",
    ),
    Recipe(
        name="dghc",
        source="Virtual Width Networks, generalised HC, dynamic: arXiv 2511.11238",
        note="As ghc; the scales S on the dynamic part are two scalars that start at 0.01, as in HC.",
        connection="generalised",
        connection_options={"segments": 4},
        streams=8,
        manifold="unconstrained",
        logits="per-stream",
        read="linear",
        write="linear",
        rotate="one-hot",
        norm_eps=1e-5,
    ),
    Recipe(
        name="xhc",
        source="xHC: arXiv 2607.14530",
        note="16 streams, 4 active: 2 fixed and the router's best 2, as published. The start is left open. To start as "
        "the plain residual network, every stream starts as active/n of the state (the paper copies it whole), reads "
        "are 1/active each and the writes to a site's active streams sum to active. Active streams are in the order of "
        "their index; the fixed ones are the first. Every active stream's write is scaled by its score. Router weights "
        "are random and tiny, so that tokens are routed apart while their scores agree to 1e-5; filters start at zero. "
        "Even sites are taken for attention (no filters), odd ones for MLPs.",
        connection="sparse",
        streams=16,
        manifold="sinkhorn",
        manifold_options={"recipe": "mhc", "rounds": 20},
        collapse="sum",
        **_AS_MHC,
    ),
    Recipe(
        name="temper",
        source="TEMPER, CP generators: arXiv 2608.07851",
        note="Rank 2, the paper's best, for each of the three generators. The exact projection replaces its Sinkhorn "
        "rounds. It leaves the start open: factors on the output side are zero, the others random; biases and reads as "
        "in mhc. Its Tucker and tensor-train forms are not here.",
        manifold="birkhoff",
        logits="cp",
        read="sigmoid",
        write="twice-sigmoid",
    ),
    Recipe(
        name="deepseek-v4.1",
        source="DeepSeek-V4.1-Flash, single-pass mHC: the inference code released with its weights, as the pull"
        " request NVIDIA-NeMo/Automodel#3855 describes and reimplements it",
        note="Second-hand: neither that code nor the model's report was read, and transformers has no deepseek_v41 up"
        " to 5.24.0. deepseek-v4 with another wiring: the read weights made at a site are used at the next, the first"
        " site reads stream 0, the last site's read weights end the streams. Norm eps 1e-20. For checkpoints, as "
        "deepseek-v4: it does not start as the plain residual network.",
        connection="single-pass",
        manifold="sinkhorn",
        manifold_options={"recipe": "deepseek-v4", "rounds": 20},
        logits="flattened",
        read="sigmoid",
        write="twice-sigmoid",
        read_eps=1e-6,
        start="zero",
        weight_std=0.02,
        gate=1.0,
        norm_eps=1e-20,
        collapse="carried",
    ),
)

_BY_NAME = {recipe.name: recipe for recipe in (*_RECIPES, *_CONSTRAINED, *_BEYOND_ONE_LAYOUT)}


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
