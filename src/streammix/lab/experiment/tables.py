"""What an experiment found: each arm at its own best learning rate, and its difference to others over paired seeds."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from streammix.lab.experiment.plan import Case, Experiment, describe
from streammix.lab.experiment.results import FINISHED, losses_of
from streammix.lab.statistics import Difference, paired


def summarise(experiment: Experiment, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The experiment's table as data.

    Returns:
        {"title", "about", "seeds", "tuning_seeds", "compared_with", "runs": how many there are in all, "ended",
        "diverged", "rows": one a case: {"group", "arm", "recipe", "streams", "parameters", "lr": that of the lowest
        mean validation loss over the tuning seeds, None until all of these have ended, "lr_at": "lowest" or "highest"
        where it is an end of several tried, "seeds": those that ended at that rate, "diverged", "val_loss": the mean
        over them, "val_loss_spread": their standard deviation, "difference": {arm: {"mean", "low", "high": the 95 %
        interval, "seeds", "verdict"}}, "by_lr": {rate: {"val_loss", "seeds", "diverged"}}}}
    """
    losses = losses_of(results)
    rows = [row(experiment, case, losses, results) for case in experiment.cases]
    chosen = {(case.group, case.label): finite(at_best(experiment, case, losses)) for case in experiment.cases}
    for case, one in zip(experiment.cases, rows):
        for other in experiment.compared_with:
            reference = experiment.reference(case, other)
            if reference is not None:
                difference = paired(chosen[case.group, case.label], chosen[case.group, reference.label])
                if difference is not None:
                    one["difference"][other] = as_dict(difference)
    return {
        "title": experiment.title,
        "about": experiment.about,
        "seeds": list(experiment.seeds),
        "tuning_seeds": list(experiment.tuning),
        "compared_with": list(experiment.compared_with),
        "runs": experiment.count(),
        "ended": len(results),
        "diverged": sum(result["status"] != FINISHED for result in results.values()),
        "rows": rows,
    }


def row(
    experiment: Experiment, case: Case, losses: Mapping[str, float], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    own = experiment.losses(case, losses)
    lr = case.best_lr(own, experiment.tuning)
    at_lr = at_best(experiment, case, losses)
    values = list(finite(at_lr).values())
    any_result = next((results[key] for key in keys(experiment, case) if "parameters" in results.get(key, {})), {})
    return {
        "group": case.group,
        "arm": case.label,
        "recipe": case.config.recipe,
        "streams": any_result.get("streams"),
        "parameters": any_result.get("parameters"),
        "tokens_per_s": any_result.get("tokens_per_s"),
        "lr": lr,
        "lr_at": end_of(case.lrs, lr),
        "seeds": sorted(at_lr),
        "diverged": len(at_lr) - len(values),
        "val_loss": statistics.fmean(values) if values else None,
        "val_loss_spread": statistics.stdev(values) if len(values) > 1 else None,
        "difference": {},
        "by_lr": {describe(rate): at_rate(own, rate) for rate in case.lrs},
    }


def keys(experiment: Experiment, case: Case) -> list[str]:
    return [case.run(lr, seed).key for lr in case.lrs for seed in experiment.seeds]


def at_best(experiment: Experiment, case: Case, losses: Mapping[str, float]) -> dict[int, float]:
    """Loss by seed at the case's best learning rate; nothing until that is known."""
    own = experiment.losses(case, losses)
    lr = case.best_lr(own, experiment.tuning)
    return {} if lr is None else {seed: loss for (rate, seed), loss in own.items() if rate == lr}


def at_rate(own: Mapping[tuple[float, int], float], rate: float) -> dict[str, Any]:
    values = [loss for (lr, _), loss in own.items() if lr == rate]
    ended = [loss for loss in values if loss < float("inf")]
    mean = statistics.fmean(ended) if ended else None
    return {"val_loss": mean, "seeds": len(values), "diverged": len(values) - len(ended)}


def finite(losses: Mapping[int, float]) -> dict[int, float]:
    return {seed: loss for seed, loss in losses.items() if loss < float("inf")}


def end_of(rates: Sequence[float], lr: float | None) -> str | None:
    """Which end of the learning rates that were tried the best one is, if it is one: a better one may lie beyond."""
    if lr is None or len(rates) == 1:
        return None
    return {min(rates): "lowest", max(rates): "highest"}.get(lr)


def as_dict(difference: Difference) -> dict[str, Any]:
    return {
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "seeds": difference.count,
        "verdict": difference.verdict,
    }
