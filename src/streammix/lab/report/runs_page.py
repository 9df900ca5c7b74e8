"""The report of many runs: curves with a band over seeds, learning rates, and the course of the maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from streammix.lab.config import RESIDUAL
from streammix.lab.errors import LabError
from streammix.lab.files import replace_file
from streammix.lab.report import plots_course, plots_seeds
from streammix.lab.report.about import settings, surroundings
from streammix.lab.report.clocks import clocks
from streammix.lab.report.course import Course, Diagnoses, course, groups
from streammix.lab.report.families import Family, Runs, bigram, read_runs
from streammix.lab.report.page import Plot, Section, page
from streammix.lab.report.style import Palette
from streammix.lab.report.table import ABSENT, Row, Table, minus
from streammix.lab.sweep_tables import spread, with_spread
from streammix.lab.training.diagnosis import read_diagnoses

BAND = "Line: mean over seeds; band: from the lowest seed to the highest."
HEADINGS = (
    ("Runs", "that differ in seed"),
    ("Learning rate", ""),
    ("Validation loss", "nats per byte"),
    ("vs residual", "of the same seeds"),
    ("Ended", "seeds"),
    ("Gradient norm", "median"),
    ("Speed", "tokens/s"),
)
RUN_HEADINGS = (("Run", ""), ("Learning rate", ""), ("Seed", ""), ("Validation loss", "nats per byte"))


def write_runs(folders: Sequence[Path], out: Path) -> Path:
    """Write a page on all runs in these folders, which needs no network and no other file, and return its path.

    Runs that are missing, unfinished or damaged are shown as far as they go, with a note of what was wrong.

    Args:
        folders: of runs, or folders that hold runs, as comparisons and sweeps do.
        out: an .html file to write, in an existing folder.

    Raises:
        LabError: a folder that does not exist or holds no run, or an `out` that cannot be written.
        OSError: the disk is full or not writable; an older page is untouched.
    """
    if out.suffix.lower() not in (".html", ".htm") or not out.absolute().parent.is_dir():
        raise LabError(f"--out is {out}; accepted: a file name that ends in .html, in a folder that exists")
    runs = read_runs(folders)
    if not runs.families:
        raise LabError(f"{folders[0]}: no run there has readable settings: {'; '.join(runs.notes)}")
    palette = Palette(family.name for family in runs.families)
    diagnoses = {family.name: [read_diagnoses(run.folder) for run in family.best.runs] for family in runs.families}
    made = course({name: next(filter(None, several), {}) for name, several in diagnoses.items()})
    sections = [results(runs, palette), training(runs, palette)]
    sections += courses(diagnoses, made, palette) if made else []
    text = page(
        "runs.html.j2",
        "Runs of hyper-connections",
        sections,
        palette,
        lead=[verdict(runs)],
        notes=notes(runs),
        about=surroundings({}, settings(runs.all())),
        clocks={"": clocks((family.name, family.best.runs) for family in runs.families)},
        course=made.data() if made else None,
        maps=groups(made, palette) if made else [],
        last=every_run(runs, palette),
    )
    replace_file(out, text.encode())
    return out


def notes(runs: Runs) -> list[str]:
    """What is unfinished or could not be read, and what is not to be compared."""
    open_ones = [run for run in runs.all() if run.state]
    count = sum(1 for _ in runs.all())
    said = [f"{len(open_ones)} of {count} runs have not ended; how far they came is below."] if open_ones else []
    texts = {run.summary.get("data_sha256") for run in runs.all() if run.summary}
    said += (
        ["The runs had different texts: losses on one are no measure of those on another."] if len(texts) > 1 else []
    )
    return said + runs.notes


def verdict(runs: Runs) -> str:
    """The outcome in a sentence, as text; families of which fewer seeds ended do not compete."""
    ended = [family for family in runs.families if family.best.losses()]
    if not ended:
        return "No run is finished yet."
    most = max(len(family.best.losses()) for family in ended)
    rivals = [family for family in ended if len(family.best.losses()) == most]
    best = min(rivals, key=lambda family: family.best.loss() or 0.0)
    losses = best.best.losses()
    loss = with_spread(best.best.loss(), spread(losses), ".4f")
    said = f"{best.name} has the lowest validation loss, {loss} nats per byte over {len(losses)} seed{'s' * (most > 1)}"
    return f"{said} at learning rate {best.best.lr:g}." if several_rates(runs) else f"{said}."


def several_rates(runs: Runs) -> bool:
    return any(len(family.series) > 1 for family in runs.families)


def results(runs: Runs, palette: Palette) -> Section:
    """A row for each family and learning rate, and loss against learning rate where there are several."""
    best = min((loss for family in runs.families if (loss := family.best.loss()) is not None), default=None)
    rows = []
    for family in runs.families:
        for one in family.series:
            losses, norms = one.losses(), [run.summary["grad_norm_median"] for run in one.runs if run.summary]
            speeds = [run.summary["tokens_per_s"] for run in one.runs if run.summary]
            over = differences(runs, family, one.lr)
            cells = [
                f"{one.lr:g}",
                with_spread(one.loss(), spread(losses), ".4f") if losses else ABSENT,
                with_spread(sum(over) / len(over), spread(over), "+.4f") if over else ABSENT,
                f"{len(losses)} of {len(one.runs)}",
                f"{sorted(norms)[len(norms) // 2]:.3f}" if norms else ABSENT,
                f"{sorted(speeds)[len(speeds) // 2]:,.0f}" if speeds else ABSENT,
            ]
            row = Row(family.name, [minus(cell) for cell in cells], palette.index(family.name))
            row.best = bool(losses) and one.loss() == best
            rows.append(row)
    plots = []
    if several_rates(runs):
        points = {
            family.name: [(one.lr, one.losses()) for one in family.series if one.losses()] for family in runs.families
        }
        plots.append(
            Plot(
                "Loss against learning rate",
                "Last validation loss at each learning rate: a flat line is easy to tune. Bars: from seed to seed.",
                plots_course.learning_rates(points, palette, bigram(runs)),
            )
        )
    return Section("Results", plots, "Mean ± standard deviation over the seeds that ended.", Table(HEADINGS, rows))


def differences(runs: Runs, family: Family, lr: float) -> list[float]:
    """Final losses less those of plain residuals with the same learning rate and seed, where both ended."""
    base = next((one for one in runs.families if one.name == RESIDUAL), None)
    if base is None or family is base:
        return []
    known = {
        run.config.seed: run.val_loss
        for one in base.series
        if one.lr == lr
        for run in one.runs
        if run.summary and run.config and run.val_loss is not None
    }
    mine = (run for one in family.series if one.lr == lr for run in one.runs if run.summary and run.config)
    pairs = [(run.val_loss, known.get(run.config.seed)) for run in mine if run.config]
    return [loss - base_loss for loss, base_loss in pairs if loss is not None and base_loss is not None]


def training(runs: Runs, palette: Palette) -> Section:
    """Losses and gradients by step, tokens or time."""
    seeds, baseline = runs.by_seed(), bigram(runs)
    plots = [
        Plot(
            "Validation loss",
            "Loss on held-out text: lower is better.",
            plots_seeds.val_loss(seeds, palette, baseline),
        )
    ]
    relative = plots_seeds.loss_difference(seeds, palette)
    if relative is not None:
        plots.append(
            Plot(
                "Validation loss, relative to the plain residual",
                "The same minus the plain residual's loss with that seed at that step: below zero is better.",
                relative,
            )
        )
    plots += [
        Plot(
            "Training loss",
            "Loss on the batches being learned, smoothed: lower is better.",
            plots_seeds.train_loss(seeds, palette, baseline),
        ),
        Plot(
            "Gradient norm",
            "Size of the gradient before clipping, smoothed: low and even is stable.",
            plots_seeds.grad_norm(seeds, palette),
        ),
    ]
    chosen = "Of each, the learning rate with the lowest loss. " if several_rates(runs) else ""
    return Section("How they trained", plots, chosen + BAND)


def courses(diagnoses: Mapping[str, Sequence[Diagnoses]], made: Course, palette: Palette) -> list[Section]:
    """What was measured while they trained, by step and by depth."""
    tokens = max(summary.tokens for all_of in made.at.values() for summary in all_of)
    known = {name: [one for one in several if one] for name, several in diagnoses.items()}
    by_step = [
        Plot(f"{what.title} while training", what.sentence, plots_course.by_step(known, palette, what))
        for what in plots_course.BY_STEP
    ]
    by_depth = [
        Plot(what.title, what.sentence, plots_course.by_depth(made, palette, what)) for what in plots_course.BY_DEPTH
    ]
    spectra = Plot(
        "Spectrum of the composite map",
        "Singular values after training, averaged over tokens: even ones keep what streams hold apart. Dotted: what"
        " free probability predicts from the sites' own, as if they were turned against each other at random.",
        plots_course.spectra(made, palette),
    )
    measured = f"Measured on {tokens:,} bytes of held-out text each time. {BAND}"
    return [
        Section("What the streams did while training", by_step, measured, thirds=True),
        Section(
            "Depth by depth",
            [*by_depth, spectra],
            "Of the first seed, at the step of the slider.",
            thirds=True,
            slider=True,
        ),
    ]


def every_run(runs: Runs, palette: Palette) -> Section:
    """All runs with their folders."""
    rows = []
    for family in runs.families:
        for run in family.runs():
            assert run.config is not None  # families are of runs with settings
            loss = ABSENT if run.val_loss is None else f"{run.val_loss:.4f}"
            cells = [f"{run.config.lr:g}", minus(str(run.config.seed)), loss]
            rows.append(Row(family.name, cells, palette.index(family.name), run.state, folder=str(run.folder)))
    text = "The folder is what streammix inspect and streammix sample take."
    return Section("Every run", text=text, table=Table(RUN_HEADINGS, rows, folders=True))
