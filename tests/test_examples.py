"""The examples run, in a small setting, and show what they say they show."""

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ROUNDING = 1e-5  # float32, logits of size one
SETTINGS = {
    "vit_digits": {"epochs": 4},
    "resnet_digits": {"epochs": 2},
    "gpt_moved_over": {"steps": 30},
    "ddp": {"steps": 30},
    "accelerate_deepseek": {"hidden": 64, "rounds": 3},
}


@pytest.fixture
def results(request, monkeypatch) -> dict[str, float]:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(request.param).main(**SETTINGS[request.param])


@pytest.mark.parametrize("results", ["vit_digits", "resnet_digits"], indirect=True)
def test_image_models_start_as_the_plain_ones_and_learn_the_digits(results):
    assert results.pop("difference") < ROUNDING
    for name, accuracy in results.items():
        assert accuracy > 0.4, name  # one in ten is chance


@pytest.mark.parametrize("results", ["gpt_moved_over"], indirect=True)
def test_a_gpt_that_is_moved_over_gives_the_same_logits_and_trains_on(results):
    assert results["difference"] < ROUNDING
    assert results["after"] < results["before"]


@pytest.mark.parametrize("results", ["ddp"], indirect=True)
def test_two_processes_learn_and_keep_equal_parameters(results):
    assert results["difference"] == 0
    assert results["last"] < results["first"] / 2


@pytest.mark.parametrize("results", ["accelerate_deepseek"], indirect=True)
def test_an_accelerated_model_trains_as_the_model_does(results):
    assert results["streammix"] == pytest.approx(results["transformers"], abs=1e-4)


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SETTINGS)
