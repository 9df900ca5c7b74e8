"""`streammix inspect` on real, tiny runs."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.report.terminal import inspect_checkpoint
from streammix.lab.report.tiles import short
from streammix.lab.training.checkpoint import load_model, steps
from streammix.lab.training.train import train


@pytest.fixture
def trained(tiny, tmp_path):
    """Train a recipe in its own folder, which is returned."""

    def run(recipe: str, streams: int | None = None) -> Path:
        folder = tmp_path / recipe
        config = Config(**tiny | {"recipe": recipe, "streams": streams, "steps": 4})
        train(config, folder, console=Console(quiet=True))
        return folder

    return run


def seen(path: Path, out: Path | None = None, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    inspect_checkpoint(path, out, console)
    return console.export_text()


def test_numbers_are_the_models(trained):
    run = trained("hc-static")
    said = seen(run)
    model, _ = load_model(run)
    pre, _, res = model.stack.sites[0].coefficients(torch.zeros(1, 4, 16))
    lines = said.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("1  "))
    assert "".join(f"{short(value):>4}" for value in pre[0].tolist()) in lines[first]
    for i, row in enumerate(res[0].tolist()):
        assert "".join(f"{short(value):>4}" for value in row) in lines[first + 1 + i]
        assert "".join(f"{0:>5}" for _ in row) in lines[first + 1 + i]  # static: no spread over tokens
    drifts = [float(line.split()[-1]) for line in lines if " drift " in line]
    states = [site.coefficients(torch.zeros(1, 4, 16))[2][0] for site in model.stack.sites]
    expected = [torch.linalg.matrix_norm(state - torch.eye(4)).item() for state in states]
    assert drifts == pytest.approx(expected, rel=0.06)  # two digits are shown
    assert "Composite gain by depth" in said


def test_a_run_and_its_checkpoint_say_the_same_within_eighty_columns(trained):
    run = trained("mhc")
    assert seen(run) == seen(steps(run)[-1])
    assert max(len(line.rstrip()) for line in seen(run).splitlines()) <= 80
    assert "…" not in seen(run)


@pytest.mark.parametrize("streams", [1, 2, 6])
def test_other_numbers_of_streams(trained, streams):
    said = seen(trained("mhc", streams))
    assert f"of {streams}" in said
    assert "…" not in said


def test_a_plain_residual_has_nothing_to_inspect(trained, tmp_path):
    run = trained("residual")
    assert "no read, write or mix maps" in seen(run).replace("\n", " ")
    with pytest.raises(LabError, match="residual model has no maps"):
        seen(run, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(("recipe", "said"), [("frac", "frac connections"), ("xhc", "sparse connections")])
def test_other_layouts_say_that_there_is_nothing_to_inspect(trained, tmp_path, recipe, said):
    run = trained(recipe)
    lines = seen(run).splitlines()
    assert len(lines) == 1
    assert f"no read, write or mix maps to inspect; the maps of {said}" in lines[0]
    with pytest.raises(LabError, match=f"is not written: the maps of {said}"):
        seen(run, tmp_path / "page.html")


def test_single_pass_wiring_is_inspected_as_others_are(trained):
    said = seen(trained("deepseek-v4.1"))
    assert "Composite gain by depth" in said
    assert "reads  1.0 of 4" in said  # the first site reads stream 0 alone


def test_a_page_of_one_model(trained, tmp_path):
    out = tmp_path / "maps.html"
    assert "maps.html" in seen(trained("mhc"), out, width=400)
    page = out.read_text(encoding="utf-8")
    assert page.count('class="tile"') == 4
    assert page.count("data-plot=") == 7
    assert "What mhc learned" in page


def test_a_corrupt_checkpoint(trained):
    run = trained("mhc")
    (weights,) = steps(run)[-1].glob("weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(LabError, match="corrupt checkpoint"):
        seen(steps(run)[-1])


@pytest.mark.parametrize(
    ("out", "message"), [("maps.png", r"ends in \.html"), ("missing/maps.html", "missing: no such folder")]
)
def test_bad_out_is_refused_before_any_work(tmp_path, out, message):
    with pytest.raises(LabError, match=message):
        inspect_checkpoint(tmp_path / "never-looked-at", tmp_path / out)


def test_not_a_run(tmp_path):
    with pytest.raises(LabError, match="no such run"):
        seen(tmp_path / "missing")
    with pytest.raises(LabError, match="neither a checkpoint nor a run"):
        seen(tmp_path)
