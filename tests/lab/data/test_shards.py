"""Data shards: every kind of file comes to the same tokens, nothing is half-written, and nothing is believed unseen."""

import gzip
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streammix.lab import text as texts
from streammix.lab.config import Config
from streammix.lab.data import making
from streammix.lab.data.codec import codec
from streammix.lab.data.documents import Unit, documents, units_of
from streammix.lab.data.making import make_shards
from streammix.lab.data.shard import blocks
from streammix.lab.errors import LabError
from streammix.lab.sample import sample
from streammix.lab.text.shards import dtype_of, open_folder
from streammix.lab.training.train import train

STORIES = [f"Story {i}: " + "the cat sat on the mat and the dog é slept. " * (1 + i % 7) for i in range(120)]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are made in this process, because starting others takes seconds each time."""
    monkeypatch.setattr(making, "ProcessPoolExecutor", InProcess)


class InProcess:
    """An executor that works at once."""

    def __init__(self, workers: int, context: Any, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
        before = signal.getsignal(signal.SIGINT)
        initializer(*initargs)
        signal.signal(signal.SIGINT, before)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **options: Any) -> None:
        pass


def jsonl(stories: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({field: story, "n": 1}) + "\n" for story in stories).encode()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 280 tokens, trained on the stories."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(STORIES, vocab_size=280, special_tokens=["<|endoftext|>"], show_progress=False)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def write(kind: str, path: Path) -> Path:
    """The stories in a file of some kind."""
    content = jsonl(STORIES)
    path = path.with_name(path.name + kind)
    if kind == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"text": STORIES, "n": [1] * len(STORIES)}), path)
        return path
    if kind.endswith(".gz"):
        content = gzip.compress(content[:900]) + gzip.compress(content[900:])  # two members, as cat makes them
    if kind.endswith(".zst"):
        compressor = pytest.importorskip("zstandard").ZstdCompressor()
        content = compressor.compress(content[:900]) + compressor.compress(content[900:])
    path.write_bytes(content)
    return path


def pieces(part: bytes) -> list[bytes]:
    return part.split(b"\0")[:-1]


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".ndjson.zst", ".parquet"])
def test_every_kind_of_file_comes_to_the_same_documents(kind: str, tmp_path: Path) -> None:
    corpus = make_shards([write(kind, tmp_path / "stories")], tmp_path / "out")
    train, val = pieces(bytes(corpus.train)), pieces(bytes(corpus.val))
    assert sorted(train + val) == sorted(story.encode() for story in STORIES)
    assert len(val) == len(STORIES) / 20
    assert corpus.bytes == (sum(map(len, train)), sum(map(len, val)))
    assert corpus.vocabulary == 256


def test_text_is_kept_byte_by_byte_in_blocks(tmp_path: Path) -> None:
    content = "".join(f"line {i} with é\n" for i in range(4000))
    (tmp_path / "book.txt").write_text(content)
    corpus = make_shards([tmp_path / "book.txt"], tmp_path / "out")
    train, val = bytes(corpus.train), bytes(corpus.val)
    assert sorted((train + val).replace(b"\0", b"").splitlines()) == sorted(content.encode().splitlines())
    assert 0.03 < len(val) / len(train) < 0.08
    for piece in pieces(train) + pieces(val):
        assert piece.decode() in content


@pytest.mark.parametrize("kind", [".jsonl", ".txt"])
@pytest.mark.parametrize("largest", [1, 7, 100, 1000])
def test_ranges_of_a_file_hold_every_line_once(kind: str, largest: int, tmp_path: Path) -> None:
    path = tmp_path / f"lines{kind}"
    lines = ["one", "", "a longer line é of text", "x" * 150, "last without an end"]
    content = jsonl(lines).rstrip(b"\n") if kind == ".jsonl" else "\n".join(lines).encode()
    path.write_bytes(content)
    found = ["".join(document) for unit in units_of(path, "text", largest) for document in documents(unit)]
    if kind == ".jsonl":
        assert found == lines
    else:
        assert "".join(found).encode() == content


def test_a_tokenizer_s_tokens_give_the_text_back(tokenizer: Path, tmp_path: Path) -> None:
    path = write(".jsonl", tmp_path / "stories")
    corpus = make_shards([path], tmp_path / "out", tokenizer=str(tokenizer))
    made = codec(str(tokenizer))
    assert made.separator == 0
    assert corpus.vocabulary == made.vocabulary == 280
    assert corpus.train.dtype == np.uint16
    found = []
    for part in (corpus.train, corpus.val):
        ends = np.flatnonzero(part[:] == made.separator)
        assert ends[-1] == len(part) - 1
        found += [made.decode(piece[:-1].tolist()) for piece in np.split(part[:], ends + 1)[:-1]]
    assert sorted(made.decode(made.encode([story])[0].tolist()) for story in STORIES) == sorted(found)
    assert corpus.tokens_per_byte == len(corpus.val) / corpus.bytes[1]


def test_a_run_takes_the_vocabulary_of_its_data(tokenizer: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    make_shards([write(".jsonl", tmp_path / "stories")], tmp_path / "out", tokenizer=str(tokenizer))
    config = Config(**tiny | {"text": (str(tmp_path / "out"),), "steps": 4})
    summary = train(config, tmp_path / "run")
    corpus = open_folder(tmp_path / "out")
    assert summary["bits_per_byte"] == pytest.approx(summary["val_loss"] * corpus.tokens_per_byte / np.log(2))
    assert summary["parameters"] - train(Config(**tiny | {"steps": 4}), tmp_path / "other")["parameters"] == 2 * 24 * 16
    assert train(config, tmp_path / "run", resume=True) == summary
    said = sample(tmp_path / "run", "the cat", count=5, seed=1)
    assert said.startswith("the cat")
    with pytest.raises(LabError, match="--vocabulary is 256; accepted: 280"):
        train(Config(**tiny | {"text": (str(tmp_path / "out"),), "vocabulary": 256}), tmp_path / "third")


def test_bits_per_byte_of_bytes_are_those_of_the_loss(tiny: dict[str, Any], tmp_path: Path) -> None:
    summary = train(Config(**tiny | {"steps": 2}), tmp_path / "run")
    assert summary["bits_per_byte"] == pytest.approx(summary["val_loss"] / np.log(2))


def test_data_sets_are_streamed_through_the_same_interface(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jsonl").write_bytes(jsonl(STORIES[40 * i : 40 * i + 40]))
    corpus = make_shards([], tmp_path / "out", dataset=str(folder), dataset_options={"split": "train"})
    assert sorted(pieces(bytes(corpus.train) + bytes(corpus.val))) == sorted(story.encode() for story in STORIES)
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 3
    with pytest.raises(LabError, match="datasets cannot load it"):
        make_shards([], tmp_path / "none", dataset=str(tmp_path / "nowhere"), dataset_options={"split": "train"})


def test_finished_shards_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The third of four fails; a second run makes that and the last, and comes to what an undisturbed one does."""
    monkeypatch.setattr(making, "SMALLEST_SHARD", 1)
    files = [tmp_path / f"{i}.jsonl" for i in range(4)]
    for i, path in enumerate(files):
        path.write_bytes(jsonl(STORIES[30 * i : 30 * i + 30]))
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:-20])
    with pytest.raises(LabError, match=r"2\.jsonl, byte \d+: not valid JSON"):
        make_shards(files, tmp_path / "out")
    with pytest.raises(LabError, match="not finished"):
        texts.load([str(tmp_path / "out")])
    assert not list((tmp_path / "out" / "shards").glob(".scratch*"))
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()}
    assert made
    files[2].write_bytes(whole)
    told: list[str] = []
    corpus = make_shards(files, tmp_path / "out", tell=told.append)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()}
    assert made.items() <= after.items()
    undisturbed = make_shards(files, tmp_path / "other")
    assert bytes(corpus.train) == bytes(undisturbed.train)
    assert corpus.sha256 == undisturbed.sha256


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"text\0more", r"a\.txt: not text"),
        ("a.txt", b"word\n" * 2000 + b"\xff\xfe\n", r"a\.txt, byte 10000: not text \(no UTF-8\)"),
        ("a.txt", b"word\n" * 2000 + b"\0\n", r"a\.txt, byte 10000: not text \(a zero byte\)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, byte 14: not valid JSON"),
        ("a.jsonl", b'{"body": "a"}\n', r"a\.jsonl, byte 0: no text under 'text' \(there: body\); --field"),
        ("a.jsonl", b'["a"]\n', r"a\.jsonl, byte 0: no text under 'text' \(there: list\)"),
        ("a.jsonl.gz", gzip.compress(jsonl(STORIES))[:-300], r"a\.jsonl\.gz: not whole gz data"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: not whole gz data"),
        ("a.jsonl.zst", b"no zstd", r"a\.jsonl\.zst: not whole zst data"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl, byte 0: not text \(half of a surrogate pair\)"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: not a whole Parquet file"),
        ("a.parquet.gz", b"", r"a\.parquet\.gz: Parquet compresses itself"),
    ],
)
def test_what_is_no_text_is_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabError, match=message):
        make_shards([tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()
    assert not list((tmp_path / "out").glob("shards/*"))


def test_a_cut_zstandard_file_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    compressor = pytest.importorskip("zstandard").ZstdCompressor()
    content = compressor.compress(b"some words\n" * 9000)
    (tmp_path / "a.txt.zst").write_bytes(content + content)
    assert sum(make_shards([tmp_path / "a.txt.zst"], tmp_path / "out").bytes) == 2 * 11 * 9000
    for size in (len(content) + 5, len(content) - 3, 2 * len(content) - 1):
        (tmp_path / "b.txt.zst").write_bytes((content + content)[:size])
        with pytest.raises(LabError, match=r"b\.txt\.zst: not whole zst data"):
            make_shards([tmp_path / "b.txt.zst"], tmp_path / "other")


def test_another_tokenizer_does_not_get_into_the_same_folder(tokenizer: Path, tmp_path: Path) -> None:
    path = write(".jsonl", tmp_path / "stories")
    make_shards([path], tmp_path / "out")
    with pytest.raises(LabError, match=r"holds shards made otherwise: tokenizer .*tokenizer.json.*bytes"):
        make_shards([path], tmp_path / "out", tokenizer=str(tokenizer))
    with pytest.raises(LabError, match="is a folder of data shards; accepted: such a folder alone"):
        texts.load([str(tmp_path / "out"), str(path)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"train\.bin: is missing"),
        ("cut", r"train\.bin: has \d+ bytes; \d+ were written"),
        ("altered", r"train\.bin: is damaged"),
        ("index", r"index\.json: is damaged"),
        ("format", r"index\.json: format is 99; this version reads 1"),
    ],
)
def test_damaged_data_are_noticed(damage: str, message: str, tmp_path: Path) -> None:
    make_shards([write(".jsonl", tmp_path / "stories")], tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("train.bin")
    index = tmp_path / "out" / "index.json"
    content = bytearray(path.read_bytes())
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(content[:-1])
        case "altered":
            content[50] ^= 1
            path.write_bytes(content)
        case "index":
            index.write_text(index.read_text().replace('"files": 1', '"files": 2'))
        case "format":
            index.write_text(index.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(LabError, match=message):
        texts.load([str(tmp_path / "out")])


def test_contents_are_hashed_once_and_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streammix.lab.text import shards

    hashed: list[Path] = []
    whole = shards.hash_file
    monkeypatch.setattr(shards, "hash_file", lambda path: hashed.append(path) or whole(path))
    make_shards([write(".jsonl", tmp_path / "stories")], tmp_path / "out")
    assert len(hashed) == 2
    open_folder(tmp_path / "out")
    assert len(hashed) == 2
    open_folder(tmp_path / "out", verify=True)
    assert len(hashed) == 4


def test_data_that_are_cut_under_a_run_end_it_by_a_message(tmp_path: Path, tiny: dict[str, Any]) -> None:
    corpus = make_shards([write(".jsonl", tmp_path / "stories")], tmp_path / "out")
    config = Config(**tiny)
    texts.train_batch(corpus, config, 1)
    (path,) = (tmp_path / "out").rglob("train.bin")
    os.truncate(path, 10)
    with pytest.raises(LabError, match=r"train\.bin: has become shorter while it was in use"):
        texts.train_batch(corpus, config, 1)


def test_short_data_are_said_to_be(tmp_path: Path, tiny: dict[str, Any]) -> None:
    (tmp_path / "a.txt").write_text("one line")
    with pytest.raises(LabError, match="the text is too short: nothing of it is"):
        make_shards([tmp_path / "a.txt"], tmp_path / "out")
    make_shards([write(".jsonl", tmp_path / "stories")], tmp_path / "other")
    with pytest.raises(LabError, match=r"the text is too short: .* --context 100000 needs at least"):
        train(Config(**tiny | {"text": (str(tmp_path / "other"),), "context": 100_000}), tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "none.json"}, "--tokenizer is 'none.json'; accepted: bytes, or a tokenizer.json"),
        ({"separator": "<eos>"}, "--separator is '<eos>'; accepted with bytes: none"),
        ({"workers": 0}, "--workers is 0; accepted"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=message):
        make_shards([write(".jsonl", tmp_path / "stories")], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(LabError, match=r"t\.json: not a tokenizer"):
        codec(str(tmp_path / "t.json"))


def test_dtypes_are_as_narrow_as_they_can_be() -> None:
    assert [dtype_of(n) for n in (2, 256, 257, 65536, 65537)] == ["uint8", "uint8", "uint16", "uint16", "uint32"]


def test_long_lines_are_cut(tmp_path: Path) -> None:
    assert list(blocks(iter(["abcdefg"]), 3)) == ["abc", "def", "g"]
    assert list(blocks(iter(["ab\n", "cd\n", "e"]), 4)) == ["ab\ncd\n", "e"]


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    with pytest.raises(LabError, match=r"this needs zstandard: pip install 'streammix\[data\]'"):
        list(documents(Unit(str(tmp_path / "a.jsonl.zst"), 0, 0, "text")))


def test_processes_share_the_work_and_a_killed_one_loses_no_finished_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real processes: the parent is killed once a shard is there; the rest is made by the next one."""
    import subprocess
    import sys

    for i in range(6):
        (tmp_path / f"{i}.txt").write_text("some words of text\n" * 60_000)
    script = (
        "import sys; from pathlib import Path; from streammix.lab.data.making import make_shards\n"
        "if __name__ == '__main__':\n"
        "    make_shards([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]), workers=2)\n"
    )
    (tmp_path / "make.py").write_text(script)
    files = [str(tmp_path / f"{i}.txt") for i in range(6)]
    command = [sys.executable, str(tmp_path / "make.py"), str(tmp_path / "out"), *files]
    process = subprocess.Popen(command)
    end = time.monotonic() + 200
    while not list((tmp_path / "out").glob("shards/0*/shard.json")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(0.5)
    finished = {p.parent.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shards/0*/shard.json")}
    monkeypatch.setattr(making, "ProcessPoolExecutor", InProcess)
    corpus = make_shards([Path(file) for file in files], tmp_path / "out")
    after = {p.parent.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shards/0*/shard.json")}
    assert finished.items() <= after.items()
    assert sum(corpus.bytes) == 6 * 60_000 * 19
