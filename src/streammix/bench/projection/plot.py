"""The projection suite's pictures: cost a matrix of every contender, against n and against the logits' scale."""

from typing import Any

from streammix.bench import figure

from .measure import COPY, OURS

Rows = list[dict[str, Any]]

COLOURS = {OURS: figure.OURS, COPY: figure.FLOOR}


def _bars(ax: Any, rows: Rows) -> None:
    batch = max(row["batch"] for row in rows)
    family = rows[0]["family"]
    part = [row for row in rows if row["batch"] == batch and row["family"] == family]
    names = sorted({row["contender"] for row in part}, key=lambda name: -_ns(part, name, "forward+backward"))
    for k, name in enumerate(names):
        for which, offset, alpha in (("forward", 0.2, 0.55), ("forward+backward", -0.2, 1.0)):
            ns = _ns(part, name, which)
            ax.barh(k + offset, ns, height=0.38, color=_colour(name, k), alpha=alpha)
            ax.text(ns * 1.08, k + offset, f"{ns:,.0f}", va="center", fontsize=8)
    ax.set_yticks(range(len(names)), names)
    ax.set_xscale("log")
    ax.margins(x=0.15)
    ax.set_xlabel("nanoseconds a matrix (lower is better)")
    ax.set_title(
        f"{family}, n = {rows[0]['n']}, batch {batch:,}\nforward above (pale), forward + backward below", fontsize=10
    )


def _lines(ax: Any, rows: Rows) -> None:
    label = "n" if "n" in rows[0] else "scale"
    for k, name in enumerate(dict.fromkeys(row["contender"] for row in rows)):
        for which, style in (("forward", "--"), ("forward+backward", "-")):
            part = [row for row in rows if row["contender"] == name and row["pass"] == which]
            x, y = [row[label] for row in part], [row["ns_per_matrix"] for row in part]
            ax.plot(x, y, style, color=_colour(name, k), marker="o", markersize=3, label=f"{name}, {which}")
    ax.set_yscale("log")
    if label == "scale":
        ax.set_xscale("log")
    ax.set_xlabel({"n": "n, N(0,1) logits", "scale": "standard deviation of the logits, n = 4"}[label])
    ax.set_ylabel("nanoseconds a matrix")
    ax.legend(fontsize=8, frameon=False)


def _ns(rows: Rows, name: str, which: str) -> float:
    return float(next(row["ns_per_matrix"] for row in rows if row["contender"] == name and row["pass"] == which))


def _colour(name: str, k: int) -> str:
    return COLOURS.get(name, figure.OTHERS[k % len(figure.OTHERS)])


PANELS = {"speed": _bars, "sizes": _lines, "scales": _lines}
