"""Settings: what is refused, and the ways to files and command lines and back."""

import json
from pathlib import Path

import pytest

from streammix.lab.config import PRESETS, Config, choices, read_config
from streammix.lab.errors import LabError


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"dim": 0}, "--dim is 0; accepted: a number from 1 up"),
        ({"steps": -3}, "--steps is -3"),
        ({"eval_every": 0}, "--eval-every is 0"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"lr": float("inf")}, "--lr is inf"),
        ({"lr": 0.0}, "above zero"),
        ({"clip": 0.0}, "above zero"),
        ({"dim": 100, "heads": 3}, "--dim is 100 and --heads 3"),
        ({"dim": 12, "heads": 4}, "even width"),
        ({"device": "tpu"}, "--device is 'tpu'; accepted: auto, cpu, cuda"),
        ({"recipe": "mch"}, "recipe is 'mch'; accepted: residual, hc, "),
    ],
)
def test_bad_settings(bad: dict, message: str) -> None:
    with pytest.raises(LabError) as error:
        Config(**bad)
    assert message in str(error.value)


def test_connections_start_with_the_plain_residual() -> None:
    assert choices()[0] == "residual"
    assert {"hc", "mhc", "mhc-sinkhorn", "ihc"} < set(choices())


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid(preset: str) -> None:
    Config(**PRESETS[preset])


def test_file_and_back(tmp_path: Path) -> None:
    config = Config(text=("a", "b"), lr=0.1, bf16=True)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert read_config(tmp_path / "config.json") == config


def test_a_file_from_before_a_setting_means_what_it_meant(tmp_path: Path) -> None:
    config = Config(text=("a",), lr=0.1)
    older = {name: value for name, value in config.to_dict().items() if name not in ("start", "mlp_width", "qk_norm")}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize("content", ["{", "[]", '{"dim": 3}', "null"])
def test_bad_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(LabError, match=r"config\.json: not"):
        read_config(tmp_path / "config.json")


def test_differences_name_the_option_and_both_values() -> None:
    assert Config(lr=0.1, threads=2).differences(Config(lr=0.2), ignore=("threads",)) == ["--lr 0.1 (there: 0.2)"]


def test_arguments_say_every_setting() -> None:
    words = Config(text=("-odd name",), weight_decay=0.25, bf16=True).arguments()
    assert words[words.index("--weight-decay") + 1] == "0.25"
    assert "--bf16" in words
    assert words[-2:] == ["--", "-odd name"]
