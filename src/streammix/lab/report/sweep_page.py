"""A sweep's page: the verdict, each precision's table and curves over seeds, and every run with its folder."""

from pathlib import Path

from streammix.lab.files import replace_file
from streammix.lab.report import plots_seeds
from streammix.lab.report.about import about_sweep
from streammix.lab.report.clocks import clocks
from streammix.lab.report.course import Diagnoses, course, groups
from streammix.lab.report.page import Plot, Section, page
from streammix.lab.report.plots_seeds import by_recipe
from streammix.lab.report.runs_page import courses
from streammix.lab.report.style import Palette
from streammix.lab.report.sweep_folder import Sweep, read_sweep
from streammix.lab.report.sweep_results import counts, headline, run_table, verdict
from streammix.lab.training.diagnosis import read_diagnoses

PAGE = "sweep.html"
BAND = "Line: mean over seeds; band: from the lowest seed to the highest."


def write_sweep(out: Path) -> Path:
    """Write OUT/sweep.html, which needs no network and no other file, and return its path.

    Runs that are missing, unfinished or damaged are shown as far as they go, with a note of what was wrong.

    Raises:
        LabError: the folder does not exist or holds no run.
        OSError: the disk is full or not writable; an older page is untouched.
    """
    sweep = read_sweep(out)
    palette = Palette(sweep.recipes)
    diagnoses = read_courses(sweep)
    made = course({name: next(filter(None, several), {}) for name, several in diagnoses.items()})
    sections = [section(sweep, precision, palette) for precision in sweep.precisions]
    text = page(
        "runs.html.j2",
        "Hyper-connections over seeds",
        [*sections, *(courses(diagnoses, made, palette) if made else [])],
        palette,
        lead=[verdict(sweep, precision) for precision in sweep.precisions],
        notes=notes(sweep),
        about=about_sweep(sweep),
        clocks={precision: clocks(by_recipe(sweep.of(precision))) for precision in sweep.precisions},
        course=made.data() if made else None,
        maps=groups(made, palette) if made else [],
        last=every_run(sweep, palette),
    )
    path = Path(out) / PAGE
    replace_file(path, text.encode())
    return path


def notes(sweep: Sweep) -> list[str]:
    """What is unfinished or could not be read."""
    states = [run.state for run in sweep.runs()]
    open_ones = sum(map(bool, states))
    said = [f"{open_ones} of {len(states)} runs have not ended; how far they came is below."] if open_ones else []
    return said + sweep.notes


def section(sweep: Sweep, precision: str, palette: Palette) -> Section:
    """One precision's table and curves."""
    return Section(
        precision, plots(sweep, precision, palette), counts(sweep, precision), headline(sweep, precision, palette)
    )


def read_courses(sweep: Sweep) -> dict[str, list[Diagnoses]]:
    """What each recipe's runs logged of their sites, with the first precision."""
    several = by_recipe(sweep.of(sweep.precisions[0]))
    return {name: [read_diagnoses(run.folder) for run in runs] for name, runs in several}


def plots(sweep: Sweep, precision: str, palette: Palette) -> list[Plot]:
    """Losses and gradients by step, tokens or time."""
    seeds, bigram = sweep.of(precision), sweep.bigram(precision)
    made = [
        Plot(
            f"Validation loss, {precision}",
            f"Loss on held-out text: lower is better. {BAND}",
            plots_seeds.val_loss(seeds, palette, bigram),
        )
    ]
    relative = plots_seeds.loss_difference(seeds, palette)
    if relative is not None:
        made.append(
            Plot(
                f"Validation loss, {precision}, relative to the plain residual",
                f"The same minus the plain residual's loss with that seed at that step: below zero is better. {BAND}",
                relative,
            )
        )
    made += [
        Plot(
            f"Training loss, {precision}",
            f"Loss on the batches being learned, smoothed: lower is better. {BAND}",
            plots_seeds.train_loss(seeds, palette, bigram),
        ),
        Plot(
            f"Gradient norm, {precision}",
            f"Size of the gradient before clipping, smoothed: low and even is stable. {BAND}",
            plots_seeds.grad_norm(seeds, palette),
        ),
    ]
    for plot in made:
        plot.clock = precision
    return made


def every_run(sweep: Sweep, palette: Palette) -> Section:
    """All runs with their folders."""
    text = "The folder is what streammix inspect and streammix sample take."
    return Section("Every run", text=text, table=run_table(sweep, palette))
