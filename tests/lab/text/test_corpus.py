"""The text: what is found, how it is split, cached and cut."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streammix.lab import text as texts
from streammix.lab.config import Config
from streammix.lab.errors import LabError


def content(corpus: texts.Corpus) -> bytes:
    return bytes(corpus.train) + bytes(corpus.val)


def test_every_byte_lands_in_one_part(text: Path) -> None:
    corpus = texts.load([str(text)])
    documents = [path.read_bytes() for path in sorted(text.iterdir())]
    assert sorted(content(corpus).split(b"\0")[:-1]) == sorted(documents)
    assert corpus.train.dtype == corpus.val.dtype == np.uint8
    assert corpus.files == 40


def test_whole_files_of_about_a_twentieth_are_held_out(text: Path) -> None:
    corpus = texts.load([str(text)])
    share = len(corpus.val) / len(content(corpus))
    assert 0.05 <= share <= 0.11
    held = bytes(corpus.val).split(b"\0")[:-1]
    assert corpus.held_out == f"{len(held)} of 40 files"
    assert all(document in [path.read_bytes() for path in text.iterdir()] for document in held)


def test_split_depends_on_names_not_on_place(text: Path, tmp_path: Path) -> None:
    first = texts.load([str(text)])
    moved = text.rename(tmp_path / "elsewhere")
    assert texts.load([str(moved)]).sha256 == first.sha256


def test_single_file_holds_out_its_tail(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_bytes(bytes(range(1, 101)) * 10)
    corpus = texts.load([str(path)])
    assert bytes(corpus.train) == path.read_bytes()[:950] + b"\0"
    assert bytes(corpus.val) == path.read_bytes()[950:] + b"\0"
    assert "last 5 %" in corpus.held_out


def test_tail_crosses_files_where_the_small_one_is_too_small(tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_bytes(b"a" * 10_000)
    (tmp_path / "small.txt").write_bytes(b"b" * 10)
    corpus = texts.load([str(tmp_path / "big.txt"), str(tmp_path / "small.txt")])
    assert len(corpus.train) == 10_010 - 500 + 1
    assert bytes(corpus.val) == b"a" * 490 + b"\0" + b"b" * 10 + b"\0"


def test_folders_skip_what_is_not_text_and_count_nothing_twice(text: Path) -> None:
    before = texts.load([str(text)]).sha256
    (text / "picture.png").write_bytes(b"\x89PNG\0\0")
    (text / ".hidden").write_text("hidden")
    (text / "__pycache__").mkdir()
    (text / "__pycache__" / "cached.txt").write_text("cached")
    (text / "broken.txt").symlink_to(text / "nowhere")
    assert texts.load([str(text)]).sha256 == before
    assert texts.load([str(text), str(text / "03.txt"), str(text)]).sha256 == before


def test_files_given_by_name_may_hold_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(bytes(range(256)) * 10)
    assert bytes(texts.load([str(tmp_path / "bytes")]).train[:256]) == bytes(range(256))


def test_cache_is_used_and_follows_changes(text: Path, cache: Path) -> None:
    first = texts.load([str(text)])
    made = {path: path.stat().st_mtime_ns for path in cache.rglob("*.bin")}
    assert texts.load([str(text)]).sha256 == first.sha256
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.bin")} == made
    (text / "00.txt").write_text("something else, longer than a line " * 30)
    assert texts.load([str(text)]).sha256 != first.sha256


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "meta.json"])
def test_damaged_cache_is_made_anew(name: str, text: Path, cache: Path) -> None:
    first = texts.load([str(text)])
    expected = content(first)
    (damaged,) = cache.rglob(name)
    damaged.write_bytes(damaged.read_bytes()[:-5])
    again = texts.load([str(text)])
    assert content(again) == expected
    assert again.sha256 == first.sha256


def test_interrupted_caching_leaves_nothing(text: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LabError, match=r"cannot be cached.*No space left.*STREAMMIX_CACHE"):
        texts.load([str(text)])
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_missing_file() -> None:
    with pytest.raises(LabError, match="no/such/file: no such file or folder"):
        texts.load(["no/such/file"])


def test_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no text files"):
        texts.load([str(tmp_path)])


def test_device_is_no_text() -> None:
    with pytest.raises(LabError, match="neither a file nor a folder"):
        texts.load([os.devnull])


def test_empty_text(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(LabError, match=r"text is empty.*empty\.txt"):
        texts.load([str(tmp_path / "empty.txt")])


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("secret" * 100)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything
        monkeypatch.setattr("builtins.open", refuse(path))
    with pytest.raises(LabError, match=r"secret\.txt: cannot be read \(Permission denied\)"):
        texts.load([str(path)])


def refuse(refused: Path) -> Callable[..., Any]:
    """An open() that may not open this file."""
    real = open

    def opener(path: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(path) == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    return opener


def test_text_shorter_than_a_window(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"a" * 1000)
    corpus = texts.load([str(tmp_path / "short.txt")])
    texts.require_length(corpus, 50)
    with pytest.raises(LabError, match="951 bytes to train on and 51 held out; --context 51 needs at least 52"):
        texts.require_length(corpus, 51)


def test_batch_is_a_function_of_seed_and_step(text: Path) -> None:
    corpus = texts.load([str(text)])
    config = Config(context=20, batch=7)
    inputs, targets = texts.train_batch(corpus, config, 3)
    again, _ = texts.train_batch(corpus, config, 3)
    other_step, _ = texts.train_batch(corpus, config, 4)
    other_seed, _ = texts.train_batch(corpus, Config(context=20, batch=7, seed=-1), 3)
    assert inputs.shape == targets.shape == (7, 20)
    assert inputs.equal(again)
    assert inputs[:, 1:].equal(targets[:, :-1])
    assert not inputs.equal(other_step)
    assert not inputs.equal(other_seed)


def test_windows_reach_both_ends(text: Path) -> None:
    """A text one byte longer than a window has one window; one byte more gives two, and both are drawn."""
    tokens = np.arange(22, dtype=np.uint8)
    corpus = texts.Corpus(tokens, tokens, "", 1, "", "")
    starts = {int(x[0, 0]) for x, _ in (texts.train_batch(corpus, Config(context=20, batch=1), s) for s in range(30))}
    assert starts == {0, 1}
    short = texts.Corpus(tokens[:21], tokens[:21], "", 1, "", "")
    _, targets = texts.train_batch(short, Config(context=20, batch=1), 0)
    assert targets[0, -1] == 20


def test_val_windows_are_fixed_spread_and_without_overlap() -> None:
    tokens = (np.arange(200) % 256).astype(np.uint8)
    corpus = texts.Corpus(tokens, tokens, "", 1, "", "")
    batches = list(texts.val_batches(corpus, Config(context=10, batch=3, eval_batches=2)))
    firsts = [int(first) for inputs, _ in batches for first in inputs[:, 0]]
    assert [len(inputs) for inputs, _ in batches] == [3, 3]
    assert firsts[0] == 0
    assert firsts[-1] == 189
    assert all(b - a >= 10 for a, b in pairwise(firsts))
    many = [len(inputs) for inputs, _ in texts.val_batches(corpus, Config(context=10, batch=3, eval_batches=100))]
    assert sum(many) == 19  # (200 - 1) // 10


def test_default_is_the_standard_library() -> None:
    corpus = texts.load()
    assert corpus.source == "Python standard library"
    assert len(corpus.train) > 5_000_000
    assert 0.04 < len(corpus.val) / len(corpus.train) < 0.11
    assert b"import " in bytes(corpus.val[:100_000])
    texts.require_length(corpus, 4096)
