"""The report: one HTML page that says how a comparison's recipes trained and what they learned."""

from pathlib import Path

from streammix.lab.files import replace_file
from streammix.lab.maps import Maps
from streammix.lab.report import plots_sites, plots_training
from streammix.lab.report.about import about
from streammix.lab.report.clocks import clocks
from streammix.lab.report.comparison import Comparison, read_comparison
from streammix.lab.report.page import Plot, Section, page
from streammix.lab.report.style import Palette
from streammix.lab.report.table import headline, verdict
from streammix.lab.report.tiles import tiles

NAME = "report.html"


def write_report(compare_dir: Path) -> Path:
    """Write COMPARE_DIR/report.html, which needs no network and no other file, and return its path.

    Runs that are missing, unfinished or damaged are shown as far as they go, with a note of what was wrong.

    Raises:
        LabError: the folder does not exist or holds no run.
        OSError: the disk is full or not writable; an older report is untouched.
    """
    comparison = read_comparison(compare_dir)
    palette = Palette(run.name for run in comparison.runs)
    maps = {run.name: run.maps for run in comparison.runs if run.maps is not None}
    text = page(
        "report.html.j2",
        "Hyper-connections compared",
        [training(comparison, palette), *(map_sections(maps, palette) if maps else [])],
        palette,
        lead=[verdict(comparison)],
        notes=notes(comparison),
        headline=headline(comparison, palette),
        maps=[tiles(name, one, palette) for name, one in maps.items()],
        about=about(comparison),
        clocks={"": clocks((run.name, [run]) for run in comparison.runs)},
    )
    path = Path(compare_dir) / NAME
    replace_file(path, text.encode())
    return path


def notes(comparison: Comparison) -> list[str]:
    """What is unfinished or could not be read."""
    said = [*comparison.notes]
    for run in comparison.runs:
        said += [f"{run.name}: {run.state}"] if run.state else []
        said += [f"{run.name}: {note}" for note in run.notes]
    return said


def training(comparison: Comparison, palette: Palette) -> Section:
    """Losses and gradients by step."""
    plots = [
        Plot(
            "Validation loss",
            "Loss on held-out text: lower is better. The dotted line is a model that only counts byte pairs.",
            plots_training.val_loss(comparison, palette),
        )
    ]
    difference = plots_training.loss_difference(comparison, palette)
    if difference is not None:
        plots.append(
            Plot(
                "Validation loss, relative to the plain residual",
                "The same minus the plain residual's loss at that step: below zero is better.",
                difference,
            )
        )
    plots += [
        Plot(
            "Training loss",
            "Loss on the batches being learned, smoothed: lower is better; "
            "far below the validation loss it would mean learning by heart.",
            plots_training.train_loss(comparison, palette),
        ),
        Plot(
            "Gradient norm",
            "Size of the gradient before clipping, smoothed (log scale): low and even is stable, "
            "growth and jumps are not.",
            plots_training.grad_norm(comparison, palette),
        ),
    ]
    return Section("How they trained", plots)


def map_sections(maps: dict[str, Maps], palette: Palette) -> list[Section]:
    """Gains, exactness and stream use, on held-out text."""
    tokens = max(one.tokens for one in maps.values())
    measured = f"Measured on {tokens:,} bytes of held-out text, with each run's last weights."
    stability = Section(
        "How stable the streams are",
        [
            Plot(
                "Forward gain by depth",
                "Largest row sum of the mixing matrices' product up to site l: how much a signal may grow "
                "on its way in. One is ideal; dotted: signs ignored, where that differs.",
                plots_sites.forward_gain(maps, palette),
            ),
            Plot(
                "Backward gain by depth",
                "Largest column sum of the product from site l on: how much a gradient may grow on its way "
                "back to site l. One is ideal; dotted: signs ignored, where that differs.",
                plots_sites.backward_gain(maps, palette),
            ),
            Plot(
                "Survival of differences",
                "How much of what distinguishes the streams can outlive the mixing up to site l: 1 keeps it, "
                "0 averages the streams into one, more than 1 amplifies it.",
                plots_sites.complement_gain(maps, palette),
            ),
            Plot(
                "Marginal error of the mixing matrices",
                "How far rows and columns are from summing to one, in all (log scale): lower is closer to "
                "doubly stochastic. Line: mean over tokens; dash: the worst token.",
                plots_sites.marginal_error(maps, palette),
            ),
        ],
        text=measured,
    )
    use = Section(
        "How the streams are used",
        [
            Plot(
                "Streams read",
                "How many streams a site's input effectively draws on: 1 is a single one, the top all alike.",
                plots_sites.streams_read(maps, palette),
            ),
            Plot(
                "Streams written",
                "How many streams a site's output effectively goes to, counted in the same way.",
                plots_sites.streams_written(maps, palette),
            ),
            Plot(
                "Likeness of the streams",
                "Mean cosine between two streams after each site: 1 is copies, lower is more diverse.",
                plots_sites.stream_cosine(maps, palette),
            ),
        ],
        thirds=True,
    )
    return [stability, use]
