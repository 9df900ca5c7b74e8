import itertools
import math

import pytest
import torch

from streammix.diagnostics import usage


@pytest.mark.parametrize(
    ("weights", "ratio", "entropy", "dominant"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4, 4, 0.25),
        ([0.0, 3.0, 0.0, 0.0], 1, 1, 1),
        ([2.0, 2.0, 0.0], 2, 2, 0.5),
        ([3.0, 1.0], 16 / 10, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), 0.75),
        ([3.0, -1.0], 1.6, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), 0.75),
        ([5.0], 1, 1, 1),
        ([0.0, 0.0], 0, 0, 0),
    ],
)
def test_weights_by_hand(weights, ratio, entropy, dominant):
    weights = torch.tensor(weights)
    assert usage.effective_streams(weights).item() == pytest.approx(ratio)
    assert usage.entropy_streams(weights).item() == pytest.approx(entropy)
    assert usage.dominant_share(weights).item() == pytest.approx(dominant)


def test_effective_streams_do_not_depend_on_scale_or_order(seed):
    weights = torch.rand(30, 5, dtype=torch.float64)
    changed = 17 * weights[:, torch.randperm(5)]
    for measure in (usage.effective_streams, usage.entropy_streams, usage.dominant_share):
        torch.testing.assert_close(measure(changed), measure(weights))
    assert (usage.effective_streams(weights) >= 1).all()
    assert (usage.entropy_streams(weights) >= usage.effective_streams(weights) - 1e-12).all()  # Rényi's order
    assert (usage.entropy_streams(weights) <= 5).all()


def brute_cosine(x: torch.Tensor) -> float:
    pairs = list(itertools.combinations(x.double(), 2))
    return sum(float(a @ b / (a.norm() * b.norm())) for a, b in pairs) / len(pairs)


def test_stream_cosine_matches_brute_force(seed):
    x = torch.randn(10, 4, 6)
    for token, raw, centred in zip(x, usage.stream_cosine(x), usage.stream_cosine(x, centred=True)):
        assert raw.item() == pytest.approx(brute_cosine(token), abs=1e-6)
        assert centred.item() == pytest.approx(brute_cosine(token - token.mean(0)), abs=1e-6)


def test_stream_cosine_ends():
    alike = torch.tensor([1.0, -2.0, 3.0]).expand(4, 3)
    assert usage.stream_cosine(alike).item() == pytest.approx(1)
    assert usage.stream_cosine(torch.eye(3)).item() == pytest.approx(0)
    assert usage.stream_cosine(torch.eye(3), centred=True).item() == pytest.approx(-1 / 2)
    assert usage.stream_cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).item() == pytest.approx(-1)


def test_a_zero_stream_counts_as_unlike():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert usage.stream_cosine(x).item() == pytest.approx(1 / 3)
    assert usage.stream_cosine(torch.zeros(3, 2)).item() == 0


def test_one_stream_has_no_pairs():
    assert usage.stream_cosine(torch.ones(5, 1, 8)).isnan().all()
    assert usage.difference_energy(torch.ones(5, 1, 8)).tolist() == [0] * 5


def test_energies_by_hand():
    x = torch.tensor([[3.0, 0.0], [1.0, 4.0]])  # mean (2, 2): differences ±(1, -2)
    assert usage.difference_energy(x).item() == 10
    assert usage.difference_energy(x, relative=True).item() == pytest.approx(10 / 26)
    assert usage.dominant_signal(x).item() == pytest.approx(17 / 26)
    assert usage.difference_energy(torch.zeros(2, 2), relative=True).item() == 0


def test_mixing_by_hand():
    mix = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    assert usage.identity_drift(mix).item() == pytest.approx(math.sqrt(0.0625 * 2 + 0.25 * 2))
    assert usage.cross_stream_weight(mix).item() == pytest.approx(1 - 1.25 / 2)
    assert usage.identity_drift(torch.eye(4)).item() == 0
    assert usage.cross_stream_weight(torch.eye(4)).item() == 0
    assert usage.cross_stream_weight(torch.full((4, 4), 0.25)).item() == 0.75
    assert usage.identity_drift(torch.ones(1, 1)).item() == 0


def test_half_precision_is_measured_in_float32():
    x = torch.full((2, 4, 256), 100.0, dtype=torch.float16)  # the sum of squares overflows float16
    assert usage.dominant_signal(x).tolist() == [0.25, 0.25]
    assert usage.effective_streams(torch.ones(4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.refusal
@pytest.mark.parametrize(
    "measure",
    [
        usage.effective_streams,
        usage.entropy_streams,
        usage.dominant_share,
        usage.dominant_signal,
        usage.stream_cosine,
        usage.difference_energy,
        usage.identity_drift,
        usage.cross_stream_weight,
    ],
)
def test_bad_input(measure):
    with pytest.raises(TypeError, match="int64"):
        measure(torch.ones(3, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(\).*accepted: \(\.\.\., n"):
        measure(torch.tensor(1.0))
    assert measure(torch.ones(0, 4, 4)).shape[0] == 0
