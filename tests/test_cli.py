"""The command line: help to work from, and one line for every mistake."""

from pathlib import Path

import pytest

from streammix import cli

TINY = ["--dim=16", "--layers=1", "--heads=2", "--context=16", "--batch=2", "--steps=4", "--warmup=1"]
TINY += ["--eval-batches=2", "--threads=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some words to learn from, " * 400)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("command", ["train", "compare", "sweep", "inspect", "bench"])
def test_help_has_an_example_and_describes_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, command, "--help")
    assert code == 0
    assert f"Example: streammix {command}" in out
    if command == "train":
        for word in ("Model", "Training", "Machine", "--connection", "mhc-sinkhorn", "--resume", "[default: 128]"):
            assert word in out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "--help")
    assert all(command in out for command in ("train", "compare", "sweep", "inspect", "bench"))


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys)
    assert code == 2
    assert "compare" in out
    assert err == ""


def test_train_then_resume_with_the_run_s_own_settings(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = said(capsys, "train", "text.txt", "--connection", "ihc", "--out", "runs/a", *TINY)
    assert (code, err) == (0, "")
    assert "ihc: validation loss" in out
    code, again, err = said(capsys, "train", "--resume", "--out", "runs/a")
    assert (code, err) == (0, "")
    assert again.splitlines()[-1] == out.splitlines()[-1]
    code, _, err = said(capsys, "train", "--resume", "--out", "runs/a", "--lr", "0.5")
    assert code == 2
    assert "--lr 0.5 (there: 0.003)" in err


def test_options_win_over_the_preset(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ["--preset", "smoke", "--connection", "residual", "--steps", "3", "--context", "16", "--dim", "128"]
    code, _, err = said(capsys, "train", "text.txt", "--out", "a", *arguments)
    assert (code, err) == (0, "")
    from streammix.lab.config import PRESETS, read_config

    config = read_config(folder / "a" / "config.json")
    assert (config.steps, config.context, config.dim) == (3, 16, 128)  # 128 is the default, and was asked for
    assert config.layers == PRESETS["smoke"]["layers"]


MISTAKES = {
    "train nowhere.txt": "nowhere.txt: no such file or folder",
    "train empty.txt": "the text is empty",
    "train text.txt --context 5000": "too short",
    "train text.txt --connection mcc": "connection is 'mcc'; accepted: residual, hc, hc-static, mhc",
    "train text.txt --streams 0": "--streams is 0",
    "train text.txt --dim 30 --heads 4": "--dim is 30 and --heads 4",
    "train text.txt --steps many": "--steps",
    "train text.txt --nonsense": "--nonsense",
    "train text.txt --preset huge": "accepted: demo, smoke",
    "train text.txt --out full": "not empty",
    "train text.txt --out text.txt": "is a file",
    "train text.txt --device cuda:x": "accepted: auto, cpu, cuda",
    "train --resume --out broken": "broken/config.json: not",
    "compare text.txt --connections residual,mcc": "connection is 'mcc'",
    "compare text.txt --connections ,": "--connections is empty",
    "compare text.txt --out full": "not empty",
    "compare nowhere.txt": "no such file or folder",
    "sweep text.txt --connections residual,mcc": "connection is 'mcc'",
    "sweep text.txt --connections residual --seeds 0,a": "--seeds has 'a'; accepted: integers",
    "sweep text.txt --connections residual --precisions ,": "--precisions is empty",
    "sweep text.txt --connections residual --steps 0": "--steps is 0",
    "inspect nowhere": "nowhere: no such run or checkpoint",
    "inspect full": "neither a checkpoint nor a run",
    "bench --only everything": "no part 'everything'; accepted: accuracy, ",
    "bench --n 0": "integers >= 1",
    "bench --suite site --batch 8": "--batch: suite 'site' does not take it",
    "bench --suite sites": "accepted: projection, digits, site",
    "nonsense": "nonsense",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.txt").touch()
    for name in ("full", "broken"):
        (folder / name).mkdir()
    (folder / "full" / "photo.jpg").write_bytes(b"photo")
    (folder / "broken" / "config.json").write_text("{")
    before = {path for path in folder.rglob("*") if "cache" not in path.parts}
    code, out, err = said(capsys, *line.split())
    assert code == 2
    assert err.startswith("error: ")
    assert MISTAKES[line] in err
    assert err.count("\n") == 1
    assert out == ""
    assert {path for path in folder.rglob("*") if "cache" not in path.parts} == before


def test_full_disk_is_a_mistake_too(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammix.lab import checkpoint

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_durably", full)
    code, _, err = said(capsys, "train", "text.txt", "--connection", "residual", "--out", "a", *TINY)
    assert code == 2
    assert err.startswith("error: a/checkpoints/")
    assert err.endswith(": No space left on device\n")
    assert list((folder / "a" / "checkpoints").iterdir()) == []


def test_compare_ends_with_a_table_and_the_report(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammix.lab import compare, train

    here = lambda config, run: train.train(config, run, resume=True)  # noqa: E731 (no process of its own)
    monkeypatch.setattr(compare, "run_in_own_process", here)
    arguments = ["--connections", "residual, hc", "--out", "runs/c", *TINY]
    code, out, err = said(capsys, "compare", "text.txt", *arguments)
    assert (code, err) == (0, "")
    assert "bigram baseline" in out
    report = Path(out.splitlines()[-1].removeprefix("Report: "))
    assert report.stat().st_size > 0
    assert (folder / "runs" / "c" / "hc" / "summary.json").exists()
