"""The command line: help to work from, and one line for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import _streammix_command
import streammix as sm
from _streammix_command import HELP
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


@pytest.mark.parametrize("command", ["train", "compare", "sweep", "inspect", "sample", "bench site"])
def test_help_has_an_example_and_describes_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, *command.split(), "--help")
    assert code == 0
    assert f"Example: streammix {command}" in out
    if command == "train":
        for word in ("Model", "Training", "Machine", "--recipe", "mhc-sinkhorn", "--resume", "[default: 128]"):
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
    code, out, err = said(capsys, "train", "text.txt", "--recipe", "ihc", "--out", "runs/a", *TINY)
    assert (code, err) == (0, "")
    assert "ihc: validation loss" in out
    code, again, err = said(capsys, "train", "--resume", "--out", "runs/a")
    assert (code, err) == (0, "")
    assert again.splitlines()[-1] == out.splitlines()[-1]
    code, _, err = said(capsys, "train", "--resume", "--out", "runs/a", "--lr", "0.5")
    assert code == 2
    assert "--lr 0.5 (there: 0.003)" in err


def test_options_win_over_the_preset(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ["--preset", "smoke", "--recipe", "residual", "--steps", "3", "--context", "16", "--dim", "128"]
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
    "train text.txt --recipe mcc": "recipe is 'mcc'; accepted: residual, hc, hc-static, mhc",
    "train text.txt --streams 0": "--streams is 0",
    "train text.txt --dim 30 --heads 4": "--dim is 30 and --heads 4",
    "train text.txt --steps many": "--steps",
    "train text.txt --nonsense": "--nonsense",
    "train text.txt --preset huge": "accepted: demo, smoke",
    "train text.txt --out full": "not empty",
    "train text.txt --out text.txt": "is a file",
    "train text.txt --device cuda:x": "accepted: auto, cpu, cuda",
    "train --resume --out broken": "broken/config.json: not",
    "compare text.txt --recipes residual,mcc": "recipe is 'mcc'",
    "compare text.txt --recipes ,": "--recipes is empty",
    "compare text.txt --out full": "not empty",
    "compare nowhere.txt": "no such file or folder",
    "sweep text.txt --recipes residual,mcc": "recipe is 'mcc'",
    "sweep text.txt --recipes residual --seeds 0,a": "--seeds has 'a'; accepted: integers",
    "sweep text.txt --recipes residual --precisions ,": "--precisions is empty",
    "sweep text.txt --recipes residual --steps 0": "--steps is 0",
    "inspect nowhere": "nowhere: no such run or checkpoint",
    "inspect full": "neither a checkpoint nor a run",
    "bench --only everything": "no part 'everything'; accepted: accuracy, ",
    "bench --n 0": "integers >= 1",
    "bench --suite site --batch 8": "No such option: --batch",
    "bench digits --only speed": "No such option: --only",
    "bench --suite sites": "No such command 'sites'",
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
    from streammix.lab.training import checkpoint

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_durably", full)
    code, _, err = said(capsys, "train", "text.txt", "--recipe", "residual", "--out", "a", *TINY)
    assert code == 2
    assert err.startswith("error: a/checkpoints/")
    assert err.endswith(": No space left on device\n")
    assert list((folder / "a" / "checkpoints").iterdir()) == []


def test_compare_ends_with_a_table_and_the_report(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammix.lab import compare
    from streammix.lab.training import train

    here = lambda config, run: train.train(config, run, resume=True)  # noqa: E731 (no process of its own)
    monkeypatch.setattr(compare, "run_in_own_process", here)
    arguments = ["--recipes", "residual, hc", "--out", "runs/c", *TINY]
    code, out, err = said(capsys, "compare", "text.txt", *arguments)
    assert (code, err) == (0, "")
    assert "bigram baseline" in out
    report = Path(out.splitlines()[-1].removeprefix("Report: "))
    assert report.stat().st_size > 0
    assert (folder / "runs" / "c" / "hc" / "summary.json").exists()


def test_sweep_ends_with_tables_and_the_page(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammix.lab import compare
    from streammix.lab.training import train

    here = lambda config, run: train.train(config, run, resume=True)  # noqa: E731 (no process of its own)
    monkeypatch.setattr(compare, "run_in_own_process", here)
    code, out, err = said(capsys, "sweep", "text.txt", "--recipes", "residual", "--seeds", "0,1", "--out", "s", *TINY)
    assert (code, err) == (0, "")
    *_, figures, page = out.splitlines()
    assert figures == f"Figures: {Path('s/sweep.json')}, tables: {Path('s/sweep.md')}"
    assert "</html>" in Path(page.removeprefix("Page: ")).read_text(encoding="utf-8")


# --- the command itself, before torch is loaded -------------------------------------------------------------------


LIGHT = [sys.executable, "-X", "importtime", _streammix_command.__file__]


def light(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LIGHT, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_help_and_version_load_neither_torch_nor_the_package(option: str) -> None:
    done = light(option)
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "typer", "rich", "numpy", "streammix"}
    if option == "--version":
        assert done.stdout == f"streammix {sm.__version__}\n"


def test_the_light_help_says_what_the_commands_say() -> None:
    commands = {command.name or command.callback.__name__: command.callback for command in cli.app.registered_commands}
    told = {line.split()[0]: line.split(maxsplit=1)[1] for line in HELP.splitlines() if line.startswith("  ")}
    groups = {group.name: group.typer_instance.info.help for group in cli.app.registered_groups}
    assert told.keys() == commands.keys() | groups.keys()
    for name, callback in commands.items():
        assert told[name] == callback.__doc__.splitlines()[0]
    for name, help_text in groups.items():
        assert help_text.startswith(told[name])


def test_no_command_is_a_mistake() -> None:
    done = light()
    assert done.returncode == 2
    assert "compare" in done.stdout


def test_without_the_lab_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, _streammix_command.__file__, "train"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: the commands need typer: pip install 'streammix[lab]'\n"


def test_a_model_writes_text(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert said(capsys, "train", "text.txt", "--recipe", "xhc", "--out", "runs/a", *TINY)[0] == 0
    code, out, err = said(capsys, "sample", "runs/a", "--prompt", "some ", "--bytes", "30", "--seed", "3")
    assert (code, err) == (0, "")
    assert out.startswith("some ")
    assert said(capsys, "sample", "runs/a", "--prompt", "some ", "--bytes", "30", "--seed", "3")[1] == out
    assert said(capsys, "sample", "runs/a", "--prompt", "some ", "--bytes", "30", "--seed", "4")[1] != out
    likeliest = [said(capsys, "sample", "runs/a", "--temperature", "0", "--seed", seed)[1] for seed in "12"]
    assert likeliest[0] == likeliest[1]
    assert said(capsys, "sample", "runs/a", "--bytes", "0")[0] == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["bench"], ["bench", "projection"]),
        (["bench", "--n", "8"], ["bench", "projection", "--n", "8"]),
        (["bench", "--only", "step", "--suite", "site"], ["bench", "site", "--only", "step"]),
        (["bench", "site", "--n", "2"], ["bench", "site", "--n", "2"]),
        (["bench", "--help"], ["bench", "--help"]),
        (["train", "--suite", "x"], ["train", "--suite", "x"]),
    ],
)
def test_bench_as_it_was_called_before(before: list[str], after: list[str]) -> None:
    assert cli.with_a_suite(before) == after
