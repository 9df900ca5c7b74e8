"""The settings of one training run: a dataclass, which the command line and the run's config.json mirror."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streammix import manifolds, recipes
from streammix.lab.errors import LabError
from streammix.lab.files import read_json

RESIDUAL = "residual"


def setting(default: Any, panel: str, text: str) -> Any:
    """A field with the heading and the help text under which the command line shows it."""
    return dataclasses.field(default=default, metadata={"panel": panel, "help": text})


@dataclass(frozen=True)
class Config:
    """All that decides a run's result, apart from the text's own bytes. The defaults are the demo's.

    Raises:
        LabError: a value is out of range or a name unknown; says what came and what is accepted.
    """

    text: tuple[str, ...] = ()
    recipe: str = setting("mhc", "Model", f"How blocks are joined: {RESIDUAL}, {', '.join(recipes.names())}.")
    streams: int | None = setting(None, "Model", "Parallel streams n; if not given, as many as the recipe has.")
    manifold: str | None = setting(None, "Model", "The set of H_res, in place of the recipe's.")
    start: float | None = setting(None, "Model", "Logits of H_res off the diagonal at first (recipes: -8).")
    rounds: int | None = setting(None, "Model", "Sinkhorn's rounds, in place of the manifold's.")
    dim: int = setting(128, "Model", "Width C of one stream.")
    layers: int = setting(4, "Model", "Transformer blocks; each has two sites, attention and MLP.")
    heads: int = setting(4, "Model", "Attention heads.")
    mlp_width: int | None = setting(None, "Model", "Hidden units of an MLP; if not given, 8/3 of dim.")
    qk_norm: bool = setting(False, "Model", "Normalise queries and keys (RMSNorm) before they meet.")
    context: int = setting(256, "Model", "Bytes, or tokens, that the model sees at once.")
    vocabulary: int | None = setting(None, "Model", "Tokens there are; if not given, as the text has: 256 of bytes.")
    batch: int = setting(4, "Training", "Windows of text in one step.")
    steps: int = setting(240, "Training", "Optimizer steps.")
    lr: float = setting(3e-3, "Training", "Peak learning rate; a cosine takes it down to a tenth.")
    warmup: int = setting(20, "Training", "Steps over which the learning rate rises from zero.")
    weight_decay: float = setting(0.1, "Training", "AdamW's, on matrices only.")
    clip: float = setting(1.0, "Training", "Largest gradient norm; a longer gradient is scaled down.")
    seed: int = setting(0, "Training", "Of the initial weights and the order of the text.")
    bf16: bool = setting(False, "Machine", "Run the branches in bfloat16 (autocast).")
    device: str = setting("auto", "Machine", "cpu, cuda, or auto: cuda where there is one.")
    windows: int | None = setting(None, "Machine", "Windows in one pass; a batch is several, whose gradients add up.")
    threads: int = setting(0, "Machine", "CPU threads; 0 lets torch choose.")
    eval_every: int = setting(30, "Output", "Steps between measurements of the validation loss.")
    eval_batches: int = setting(16, "Output", "Batches of held-out text in one measurement.")
    checkpoint_every: int = setting(60, "Output", "Steps between checkpoints; the last two are kept.")
    diagnose_every: int = setting(
        50, "Output", "Steps between measurements of the sites' maps and streams; 0 for none."
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_kind(field, getattr(self, field.name))
        for name, value in self.to_dict().items():
            if name in LIMITS and value is not None and not LIMITS[name][0] <= value <= LIMITS[name][1]:
                lowest, highest = LIMITS[name]
                raise LabError(f"{option(name)} is {value}; accepted: a number from {lowest:g} up to {highest:g}")
        if self.lr == 0 or self.clip == 0:
            raise LabError(f"--lr is {self.lr} and --clip {self.clip}; accepted: numbers above zero")
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise LabError(
                f"--dim is {self.dim} and --heads {self.heads}; accepted: a dim that divides into heads of even width"
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise LabError(f"--device is {self.device!r}; accepted: auto, cpu, cuda")
        if self.manifold is not None and self.manifold not in manifolds.names():
            raise LabError(f"--manifold is {self.manifold!r}; accepted: {', '.join(manifolds.names())}")
        if self.recipe not in choices():
            raise LabError(f"recipe is {self.recipe!r}; accepted: {', '.join(choices())}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"text": list(self.text)}

    def joined_by(self, recipe: str) -> "Config":
        """This config with another recipe; plain residuals take nothing that is about streams."""
        if recipe == RESIDUAL:
            return dataclasses.replace(self, recipe=recipe, streams=None, manifold=None, start=None, rounds=None)
        return dataclasses.replace(self, recipe=recipe)

    def differences(self, other: "Config", ignore: tuple[str, ...] = ()) -> list[str]:
        """The settings in which two configs differ, each as `--name this (other)`."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [
            f"{option(name)} {mine[name]} (there: {theirs[name]})"
            for name in mine
            if name not in ignore and mine[name] != theirs[name]
        ]

    def arguments(self) -> list[str]:
        """This config as arguments of `streammix train`."""
        words = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is bool:
                words.append(option(field.name) if value else option(f"no-{field.name}"))
            elif field.name != "text" and value is not None:
                words += [option(field.name), str(value)]
        return [*words, "--", *self.text]


# Settings that say something about streams, of which plain residuals have none.
OF_STREAMS = ("streams", "manifold", "start", "rounds")

# Settings that came after runs had been written without them; None or False is what those did.
LATER = frozenset(("start", "rounds", "mlp_width", "qk_norm", "vocabulary", "windows"))

# The least and the largest number that each setting takes. The largest are far beyond use: they keep nonsense from
# reaching the allocator, the random generator (64 bits) and the thread pool, which end the process.
LIMITS: dict[str, tuple[float, float]] = dict.fromkeys(
    ("streams", "dim", "layers", "heads", "context", "batch", "mlp_width", "rounds", "windows"), (1, 10**6)
)
LIMITS |= dict.fromkeys(("steps", "eval_every", "eval_batches", "checkpoint_every"), (1, 10**9))
LIMITS |= {"warmup": (0, 10**9), "diagnose_every": (0, 10**9), "threads": (0, 1024), "seed": (-(2**63), 2**64 - 1)}
LIMITS |= {"vocabulary": (2, 2**32)}
LIMITS |= {"start": (-1e4, 1e4)}
LIMITS |= dict.fromkeys(("lr", "weight_decay", "clip"), (0, 1e300))


def check_kind(field: "dataclasses.Field[Any]", value: Any) -> None:
    """Raise LabError unless a value, from a file say, is of its field's type."""
    kinds: dict[Any, tuple[type, ...]] = {
        float: (float, int),
        int: (int,),
        int | None: (int, type(None)),
        float | None: (float, int, type(None)),
        bool: (bool,),
        str: (str,),
        str | None: (str, type(None)),
        tuple[str, ...]: (tuple,),
    }
    accepted = kinds[field.type]
    wrong = not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted)
    if wrong or (isinstance(value, tuple) and not all(isinstance(word, str) for word in value)):
        name = "text" if field.name == "text" else option(field.name)
        raise LabError(f"{name} is {value!r}; accepted: {getattr(field.type, '__name__', field.type)}")


# Presets change the defaults; options given on the command line win over them.
PRESETS: dict[str, dict[str, Any]] = {
    "demo": {},
    "smoke": {"dim": 32, "layers": 2, "heads": 2, "context": 64, "steps": 40, "warmup": 5}
    | {"eval_every": 10, "checkpoint_every": 20, "diagnose_every": 10},
    "sweep": {"steps": 200, "eval_every": 50},
}


def choices() -> tuple[str, ...]:
    """Every value `recipe` can take."""
    return (RESIDUAL, *recipes.names())


def option(name: str) -> str:
    """The command-line option of a setting."""
    return "--" + name.replace("_", "-")


def from_dict(values: Mapping[str, Any], where: Path) -> Config:
    """The config that `Config.to_dict` wrote to the file `where`."""
    known = {field.name for field in dataclasses.fields(Config)}
    if not isinstance(values, Mapping) or not known - LATER <= set(values) <= known:
        odd = sorted((known - LATER - set(values)) | (set(values) - known)) if isinstance(values, Mapping) else values
        raise LabError(f"{where}: not a config of this version of streammix (missing or unknown: {odd})")
    text = values["text"]
    try:
        return Config(**{**values, "text": tuple(text) if isinstance(text, list) else text})
    except LabError as error:
        raise LabError(f"{where}: {error}") from None


def read_config(path: Path) -> Config:
    return from_dict(read_json(path), path)
