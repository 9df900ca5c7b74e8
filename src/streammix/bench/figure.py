"""What the suites' pictures share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]

OURS, FLOOR = "#0072b2", "#888888"
OTHERS = ("#d55e00", "#cc79a7", "#009e73", "#e69f00", "#56b4e9")


def draw(panels: Sequence[tuple[Callable[[Any, Rows], None], Rows]], path: Path) -> None:
    """Draw panels side by side, in the format of path's suffix: .svg, .png or .pdf.

    Args:
        panels: functions of matplotlib Axes and rows, each with its rows.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.2), squeeze=False, layout="constrained")
    for ax, (panel, rows) in zip(axes[0], panels):
        panel(ax, rows)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        ax.set_axisbelow(True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    # tight: a label may be wider than its axes
    figure.savefig(path, facecolor="white", bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def bars(ax: Any, values: dict[str, float], colours: dict[str, str], form: str) -> None:
    """One horizontal bar a name, the first on top, each with its number in the format `form`."""
    for place, (name, value) in enumerate(values.items()):
        ax.barh(-place, value, height=0.7, color=colours[name])
        ax.text(value, -place, f" {value:{form}}", va="center", fontsize=8)
    ax.set_yticks([-place for place in range(len(values))], list(values))
    ax.margins(x=0.15)
