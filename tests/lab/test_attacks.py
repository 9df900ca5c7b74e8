"""What goes wrong around a run: ignored signals, vanished readers, other processes, and folders from someone else."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from streammix import cli
from streammix.lab import text as texts
from streammix.lab.compare import compare
from streammix.lab.config import Config, from_dict, read_config
from streammix.lab.errors import LabError
from streammix.lab.files import locked, read_json, write_json
from streammix.lab.report import write_report
from streammix.lab.training import checkpoint
from streammix.lab.training.metrics import read_metrics
from streammix.lab.training.train import train

COMMAND = [sys.executable, "-m", "streammix.cli"]


def train_command(config: Config, run: Path) -> list[str]:
    return [*COMMAND, "train", "--out", str(run), *config.arguments()]


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# --- signals and readers ----------------------------------------------------------------------------------------


def test_nohup_keeps_a_run_from_a_hangup(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Through the command line's own main, which sets handlers."""
    config, run = Config(**tiny | {"steps": 400, "eval_every": 400, "checkpoint_every": 400}), tmp_path / "run"
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with running(train_command(config, run), preexec_fn=ignore) as process:
        wait_for(lambda: (run / "metrics.jsonl").exists() and len(read_metrics(run)) > 5)
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 0
    assert read_json(run / "summary.json")["steps"] == 400


@pytest.mark.parametrize("reader", ["closed", "full"])
def test_output_that_nobody_reads_does_not_end_a_run(reader: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    config, run = Config(**tiny | {"steps": 60, "eval_every": 2}), tmp_path / "run"
    if reader == "full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full" if reader == "full" else os.devnull, "w") as full:
        process = subprocess.Popen(
            train_command(config, run),
            stdout=full if reader == "full" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if process.stdout is not None:
            process.stdout.readline()
            process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(120) == 0, said
    assert "progress cannot be shown any more" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert read_json(run / "summary.json")["steps"] == 60


def test_an_orphan_writes_a_checkpoint_and_ends(tiny: dict[str, Any], tmp_path: Path) -> None:
    """compare is killed; the run that it started ends by itself, and can be taken up again."""
    settings = tiny | {"steps": 100_000, "checkpoint_every": 100_000, "eval_every": 100_000}
    config, out = Config(**settings), tmp_path / "out"
    command = [*COMMAND, "compare", "--out", str(out), "--recipes", "residual"]
    words = config.arguments()
    at = words.index("--recipe")
    with running([*command, *words[:at], *words[at + 2 :]]) as process:
        run = out / "residual"
        wait_for(lambda: (run / "metrics.jsonl").exists() and len(read_metrics(run)) > 5)
        process.kill()
        wait_for(lambda: checkpoint.steps(run) and free(run))
    assert checkpoint.latest(run)[0] is not None


def free(run: Path) -> bool:
    with locked(run / ".lock", wait=False) as held:
        return held


# --- the text and its cache -------------------------------------------------------------------------------------


def test_processes_share_a_cold_cache(tiny: dict[str, Any], tmp_path: Path, cache: Path) -> None:
    """Two texts and two readers of each, at once: every one of them trains."""
    texts = []
    for name in ("a", "b"):
        texts.append(tmp_path / f"{name}.txt")
        texts[-1].write_bytes(f"{name} text of some length. ".encode() * 400_000)
    script = "import sys; from streammix.lab import text; print(text.load([sys.argv[1]]).sha256)"
    commands = [[sys.executable, "-c", script, str(text)] for text in texts for _ in range(2)]
    processes = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert len(set(said)) == 2
    assert len([path for path in cache.iterdir() if path.name.startswith("text-")]) == 2


def test_an_altered_cache_is_made_again(text: Path, cache: Path) -> None:
    first = texts.load([str(text)])
    expected, sha256 = bytes(first.train), first.sha256
    (damaged,) = cache.rglob("train.bin")
    content = bytearray(damaged.read_bytes())
    content[10:20] = b"x" * 10
    damaged.write_bytes(content)
    again = texts.load([str(text)])
    assert bytes(again.train) == expected
    assert again.sha256 == sha256


def test_a_cache_that_is_cut_while_it_is_read_ends_in_a_message(tiny: dict[str, Any], cache: Path) -> None:
    """A process that had the file mapped into its memory would be killed by SIGBUS."""
    config = Config(**tiny)
    corpus = texts.load(config.text)
    texts.train_batch(corpus, config, 1)
    (path,) = cache.rglob("train.bin")
    os.truncate(path, 1)
    with pytest.raises(LabError, match=r"train\.bin: has become shorter while it was in use"):
        texts.train_batch(corpus, config, 2)
    assert len(texts.load(config.text).train) == len(corpus.train)  # it is made again


def test_private_text_stays_private(tmp_path: Path, cache: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a private text " * 100)
    secret.chmod(0o600)
    texts.load([str(secret)])
    for path in cache.rglob("*"):
        if path.name != ".lock":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_links_among_leftovers_do_no_harm(text: Path, cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").write_text("kept")
    cache.mkdir()
    (cache / ".scratch-a").symlink_to(target)
    texts.load([str(text)])
    assert (target / "kept").read_text() == "kept"
    assert not (cache / ".scratch-a").is_symlink()


def test_file_names_need_not_be_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(5):
        with open(os.fsencode(folder) + b"/\xff%d.txt" % i, "wb") as file:
            file.write(b"some words " * 50)
    corpus = texts.load([str(folder)])
    assert corpus.files == 5
    one = texts.load([os.fsdecode(os.fsencode(folder) + b"/\xff1.txt")])
    one.source.encode()


def test_one_byte_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(b"a")
    with pytest.raises(LabError, match="the text is one byte long"):
        texts.load([str(tmp_path / "one.txt")])


# --- folders from someone else ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
def test_links_in_a_runs_folder_are_not_followed(name: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    config, run, victim = Config(**tiny), tmp_path / "run", tmp_path / "victim"
    train(config, run)
    (run / "summary.json").unlink()
    victim.write_text("precious\n")
    (run / name).unlink()
    (run / name).symlink_to(victim)
    with pytest.raises(LabError, match=rf"{name}: is a link"):
        train(config, run, resume=True)
    assert victim.read_text() == "precious\n"


@pytest.fixture
def stopped(tiny: dict[str, Any], tmp_path: Path) -> tuple[Config, Path]:
    """A run that stopped after step 8, as if before its end."""
    config, run = Config(**tiny | {"steps": 8}), tmp_path / "run"
    train(config, run)
    (run / "summary.json").unlink()
    return config, run


def resign(path: Path, **changes: Any) -> None:
    """Alter a checkpoint's state and sign the result, as a tool would."""
    state = read_json(path / "state.json")
    state["config"] |= changes.pop("config", {})
    state |= changes
    write_json(path / "state.json", state | {"sha256": checkpoint.digest(state)})


@pytest.mark.parametrize("changes", [{"dim": 16384}, {"layers": 20000}, {"context": 1, "dim": 1024, "heads": 1}])
def test_a_checkpoint_takes_no_memory_before_its_shapes_are_compared(
    changes: dict[str, int], stopped: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.steps(stopped[1])[-1]
    resign(path, config=changes)
    largest = 0
    empty = torch.empty

    def noted(*size: Any, **options: Any) -> torch.Tensor:
        nonlocal largest
        made = empty(*size, **options)
        largest = max(largest, 0 if made.is_meta else made.numel())
        return made

    monkeypatch.setattr(torch, "empty", noted)
    began = time.monotonic()
    with pytest.raises(LabError, match="corrupt checkpoint"):
        checkpoint.load_model(path)
    assert largest < 10**6
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("damage", [b"garbage", b"\xff\xfe\x00", b'{"step": [],', b"[" * 100_000])
def test_a_damaged_line_of_the_measurements_is_left_out(
    damage: bytes, stopped: tuple[Config, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = stopped
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    lines[middle] = damage + lines[middle][7:]
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    summary = train(config, run, resume=True)
    assert summary["steps"] == 8
    assert "1 damaged lines are left out" in capsys.readouterr().out
    assert len(read_metrics(run)) == len(lines) - 1


def test_measurements_that_are_gone_are_said_to_be(stopped: tuple[Config, Path]) -> None:
    config, run = stopped
    (run / "metrics.jsonl").unlink()
    with pytest.raises(LabError, match="its measurements are gone"):
        train(config, run, resume=True)


@pytest.mark.parametrize("field", [{"lr": 0.5}, {"seed": 7}, {"batch": 3}])
def test_an_edited_config_does_not_go_on_from_other_settings(
    field: dict[str, Any], stopped: tuple[Config, Path]
) -> None:
    run = stopped[1]
    write_json(run / "config.json", read_json(run / "config.json") | field)
    with pytest.raises(LabError, match=rf"the checkpoint there has other settings: --{next(iter(field))}"):
        train(read_config(run / "config.json"), run, resume=True)


def test_an_edited_step_is_noticed(stopped: tuple[Config, Path]) -> None:
    path = checkpoint.steps(stopped[1])[-1]
    state = read_json(path / "state.json")
    write_json(path / "state.json", state | {"step": 15})
    with pytest.raises(LabError, match="corrupt checkpoint"):
        checkpoint.read(path)
    resign(path, step=15)
    with pytest.raises(LabError, match="it is of step 15"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", "20"), ("layers", 2.5), ("text", None), ("text", [1]), ("bf16", 1), ("seed", 2**70)),
        *(("threads", 10**5), ("batch", 10**11), ("dim", 10**9), ("lr", 10**400), ("recipe", ["mhc"])),
        ("streams", True),
    ],
)
def test_a_config_of_wrong_kinds_is_refused(name: str, value: Any, tiny: dict[str, Any]) -> None:
    values = Config(**tiny).to_dict() | {name: value}
    with pytest.raises(LabError, match=rf"config\.json: .*{name}.* accepted"):
        from_dict(values, Path("config.json"))


def test_json_of_any_depth_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(LabError, match="not valid JSON"):
        read_json(path)
    assert json.loads("[]") == []
    assert cli.run(["inspect", str(tmp_path)]) == 2


# --- comparisons ------------------------------------------------------------------------------------------------


def test_a_foreign_summary_is_not_believed(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {name: value for name, value in tiny.items() if name != "recipe"}
    out, other = tmp_path / "out", tmp_path / "other"
    compare(Config(**settings), ["residual"], out)
    train(Config(**tiny | {"steps": 4}), other)
    (out / "residual").rename(tmp_path / "away")
    other.rename(out / "residual")
    with pytest.raises(LabError, match=r"none of this comparison; it differs in: --steps 12 \(there: 4\)"):
        compare(Config(**settings), ["residual"], out)


@pytest.mark.parametrize("change", [{"val_loss": "low"}, {"steps": None}, {"recipe": 3}])
def test_a_damaged_summary_is_named(change: dict[str, Any], tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {name: value for name, value in tiny.items() if name != "recipe"}
    out = tmp_path / "out"
    compare(Config(**settings), ["residual"], out)
    path = out / "residual" / "summary.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(LabError, match=r"summary\.json: not a run's summary"):
        compare(Config(**settings), ["residual"], out)


def test_fresh_leaves_a_run_under_way_alone(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {name: value for name, value in tiny.items() if name != "recipe"}
    out = tmp_path / "out"
    compare(Config(**settings), ["residual", "hc"], out)
    before = (out / "residual" / "metrics.jsonl").read_bytes()
    with (
        locked(out / "hc" / ".lock", wait=False),
        pytest.raises(LabError, match=r"hc: another process is training here; --fresh would delete"),
    ):
        compare(Config(**settings), ["residual", "hc"], out, fresh=True)
    assert (out / "residual" / "metrics.jsonl").read_bytes() == before
    assert (out / "compare.json").exists()


# --- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(["--seed", str(2**70)], ["--threads", "100000"], ["--batch", str(10**11)], ["--dim", str(10**9)]),
        ["--dim", "1000000", "--heads", "1", "--layers", "1000"],
    ],
)
def test_nonsense_ends_in_one_line(words: list[str], text: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "train", str(text), "--out", str(tmp_path / "run"), "--steps", "1", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_terminal_of_ascii_is_enough(tiny: dict[str, Any], tmp_path: Path) -> None:
    train(Config(**tiny | {"recipe": "mhc"}), tmp_path / "run")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    command = [*COMMAND, "inspect", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    done.stdout.decode("ascii")


# --- a power cut ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files are told apart by /proc")
def test_what_a_checkpoint_names_has_reached_the_disk(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, its folder and the measurements before it are synced before the rename that makes a checkpoint."""
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        events.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        events.append(("rename", str(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    run = tmp_path / "run"
    train(Config(**tiny | {"steps": 4}), run)
    path = str(run / "checkpoints" / "step-000004")
    at = events.index(("rename", path))
    before = [where for event, where in events[:at] if event == "fsync"]
    scratch = {where for where in before if "step-000004" in where}
    assert {Path(where).name for where in scratch} >= {"weights.safetensors", "optimizer.safetensors"}
    assert any(Path(where).name.startswith(".scratch-state.json") for where in scratch)
    assert any(Path(where).parent == run / "checkpoints" for where in scratch)  # the folder itself
    assert str(run / "metrics.jsonl") in before
    assert ("fsync", str(run / "checkpoints")) in events[at:]  # the rename


# --- reports ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"runs": []},
        {"bigram_val_loss": "low"},
        {"bigram_val_loss": 10**400},
        {"data": None},
        {"data": {"files": [[[]]]}},
        {"runs": {"../../etc": None}},
        {"runs": {"residual": {"val_loss": "x"}}},
        {"runs": {"residual": 3}},
    ],
)
def test_a_report_over_nonsense_says_what_is_wrong(
    change: dict[str, Any], tiny: dict[str, Any], tmp_path: Path
) -> None:
    settings = {name: value for name, value in tiny.items() if name != "recipe"}
    out = tmp_path / "out"
    compare(Config(**settings), ["residual"], out)
    write_json(out / "compare.json", read_json(out / "compare.json") | change)
    page = write_report(out).read_text()
    if change != {"data": None}:
        assert "compare.json: " in page


def test_names_cannot_close_the_pages_script(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {name: value for name, value in tiny.items() if name != "recipe"}
    out = tmp_path / "out"
    compare(Config(**settings), ["residual"], out)
    for name in ("<!--<script>", "a <b", '" onclick="x'):
        shutil.copytree(out / "residual", out / name)
    page = write_report(out).read_text()
    assert "<!--<script>" not in page
    start = page.index('type="application/json"')
    assert "<" not in page[page.index(">", start) + 1 : page.index("</script>", start)]
    assert ' onclick="x' not in page
