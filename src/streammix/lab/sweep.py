"""Train every recipe with several seeds, in one precision or two, and put mean and spread of the results in tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streammix.lab.compare import compare
from streammix.lab.config import Config, choices
from streammix.lab.errors import LabError
from streammix.lab.files import replace_file, write_json
from streammix.lab.report.sweep_folder import NAME, PRECISIONS, place
from streammix.lab.report.sweep_page import write_sweep
from streammix.lab.sweep_tables import aggregate, markdown

MARKDOWN = "sweep.md"


def sweep(
    settings: Mapping[str, Any],
    names: Sequence[str],
    seeds: Sequence[str],
    precisions: Sequence[str],
    out: Path,
    *,
    fresh: bool = False,
) -> dict[str, Any]:
    """Compare `names` for each precision and seed in OUT/PRECISION/seed-SEED, and return what OUT/sweep.json holds;
    OUT/sweep.md has its tables, OUT/sweep.html those and plots. All three are brought up to date after each seed.

    Args:
        settings: of every run, as Config takes them.
        names: recipes; "all" stands for every one.
        seeds: integers, as text.
        precisions: "float32", "bf16".
        out: a folder.
        fresh: delete these runs and train again.

    Returns:
        {"recipes", "seeds", "precisions": what the sweep is of,
        "runs": [each run's summary, its "seed" and "precision"], "rows": [aggregate(...)],
        "failed": {"precision/seed/recipe": why}, "bigram_val_loss": {precision: nats a byte}}

    Raises:
        LabError: settings that are no Config; a folder that holds something else.
        KeyboardInterrupt: Ctrl-C; the run under way has written a checkpoint.
    """
    numbers = [as_seed(seed) for seed in dict.fromkeys(seeds)]
    for precision in precisions:
        if precision not in PRECISIONS:
            raise LabError(f"--precisions has {precision!r}; accepted: {', '.join(PRECISIONS)}")
    chosen = choices() if "all" in names else tuple(dict.fromkeys(names))
    for name in chosen:
        Config(**settings, recipe=name)  # every name is checked before any work
    kinds = list(dict.fromkeys(precisions))
    result: dict[str, Any] = {"recipes": list(chosen), "seeds": numbers, "precisions": kinds}
    result |= {"runs": [], "failed": {}, "bigram_val_loss": {}}
    for precision in kinds:
        for seed in numbers:
            config = Config(**settings, seed=seed, bf16=precision == "bf16")
            one = compare(config, chosen, place(out, precision, seed), fresh=fresh, keep_going=True)
            where = {"precision": precision, "seed": seed}
            result["runs"] += [where | summary for summary in one["runs"].values()]
            result["failed"] |= {f"{precision}/{seed}/{name}": why for name, why in one.get("failed", {}).items()}
            result["bigram_val_loss"][precision] = one["bigram_val_loss"]
            result["rows"] = aggregate(result)
            write_json(out / NAME, result)
            replace_file(out / MARKDOWN, markdown(result).encode())
            write_sweep(out)
    return result


def as_seed(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise LabError(f"--seeds has {word!r}; accepted: integers") from None
