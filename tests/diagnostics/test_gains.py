import math

import pytest
import torch

from streammix.diagnostics import gains

SHEAR = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
SWAP = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
SIGNED = torch.tensor([[3.0, -3.0], [1.0, 1.0]])


def brute_product(mixes: list[torch.Tensor]) -> torch.Tensor:
    """H_b ... H_a entry by entry, later sites on the left."""
    product = torch.eye(len(mixes[0]), dtype=mixes[0].dtype)
    for mix in mixes:
        n = len(mix)
        product = torch.tensor(
            [[sum(float(mix[i, k] * product[k, j]) for k in range(n)) for j in range(n)] for i in range(n)],
            dtype=mix.dtype,
        )
    return product


def test_gains_of_one_matrix_by_hand():
    assert gains.forward_gain(SHEAR) == 3
    assert gains.backward_gain(SHEAR) == 3
    assert gains.forward_gain(torch.tensor([[0.5, 0.5], [0.5, 0.5]])) == 1
    lopsided = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert (gains.forward_gain(lopsided), gains.backward_gain(lopsided)) == (2, 1)


def test_signs_cancel_in_gains_and_not_in_norms():
    assert (gains.forward_gain(SIGNED), gains.forward_norm(SIGNED)) == (2, 6)
    assert (gains.backward_gain(SIGNED), gains.backward_norm(SIGNED)) == (4, 4)


def test_gains_take_a_negative_sum_by_its_size():
    assert gains.forward_gain(-SHEAR) == 3


def test_norms_are_the_induced_ones(seed):
    matrices = torch.randn(50, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(gains.forward_norm(matrices), torch.linalg.matrix_norm(matrices, math.inf))
    torch.testing.assert_close(gains.backward_norm(matrices), torch.linalg.matrix_norm(matrices, 1))


def test_later_sites_multiply_from_the_left():
    forward = list(gains.products([SHEAR, SWAP]))
    assert torch.equal(forward[0], SHEAR)
    assert torch.equal(forward[1], torch.tensor([[0.0, 1.0], [1.0, 2.0]]))
    backward = list(gains.products([SHEAR, SWAP], backward=True))
    assert torch.equal(backward[0], SWAP)
    assert torch.equal(backward[1], forward[1])


def test_products_match_brute_force(seed):
    mixes = list(torch.randn(5, 3, 3, dtype=torch.float64))
    for depth, product in enumerate(gains.products(mixes), start=1):
        torch.testing.assert_close(product, brute_product(mixes[:depth]))
    for depth, product in enumerate(gains.products(mixes, backward=True), start=1):
        torch.testing.assert_close(product, brute_product(mixes[-depth:]))


def test_gains_by_depth_average_the_tokens_gains(seed):
    sites, tokens, n = 4, 6, 3
    mixes = [torch.randn(2, 3, n, n, dtype=torch.float64) for _ in range(sites)]
    result = gains.gains_by_depth(mixes)
    flat = [mix.reshape(tokens, n, n) for mix in mixes]
    for site in range(sites):
        ahead = [brute_product([mix[t] for mix in flat[: site + 1]]) for t in range(tokens)]
        behind = [brute_product([mix[t] for mix in flat[site:]]) for t in range(tokens)]
        expected = {
            "forward": [max(abs(sum(row)) for row in p.tolist()) for p in ahead],
            "backward": [max(abs(sum(column)) for column in p.T.tolist()) for p in behind],
            "forward_norm": [max(sum(map(abs, row)) for row in p.tolist()) for p in ahead],
            "backward_norm": [max(sum(map(abs, column)) for column in p.T.tolist()) for p in behind],
            "complement": [float(torch.linalg.matrix_norm(p - 1 / n, 2)) for p in ahead],
            "sigma_min": [float(torch.linalg.matrix_norm(p, -2)) for p in ahead],
            "single_forward": [max(abs(sum(row)) for row in flat[site][t].tolist()) for t in range(tokens)],
            "single_backward": [max(abs(sum(c)) for c in flat[site][t].T.tolist()) for t in range(tokens)],
        }
        for name, values in expected.items():
            assert getattr(result, name)[site].item() == pytest.approx(sum(values) / tokens), (name, site)


def test_doubly_stochastic_stacks_gain_exactly_one():
    mixes = [torch.tensor([[0.75, 0.25], [0.25, 0.75]])] * 3
    result = gains.gains_by_depth(mixes)
    for name in ("forward", "backward", "forward_norm", "backward_norm"):
        assert getattr(result, name).tolist() == [1, 1, 1]
    # The difference of the streams is an eigenvector with value 0.75 - 0.25.
    assert result.complement.tolist() == pytest.approx([0.5, 0.25, 0.125])
    assert result.sigma_min.tolist() == pytest.approx([0.5, 0.25, 0.125])


@pytest.mark.parametrize("n", [2, 3, 8])
def test_complement_gain_ends(n):
    assert gains.complement_gain(torch.eye(n)).item() == pytest.approx(1)
    assert gains.complement_gain(torch.full((n, n), 1 / n)).item() == pytest.approx(0, abs=1e-6)


def test_one_stream():
    result = gains.gains_by_depth([torch.full((3, 1, 1), 2.0), torch.full((3, 1, 1), 0.25)])
    assert result.forward.tolist() == [2, 0.5]
    assert result.backward.tolist() == [0.5, 0.25]
    assert result.complement.tolist() == [1, 0.5]


def test_one_site():
    result = gains.gains_by_depth([SHEAR])
    assert result.forward.shape == (1,)
    assert result.forward == result.backward == 3


def test_half_precision_is_multiplied_in_float32():
    mix = torch.tensor([[0.1]], dtype=torch.bfloat16)
    *_, last = gains.products([mix] * 8)
    assert last.dtype == torch.float32
    assert last.item() == pytest.approx(mix.item() ** 8)


def test_a_matrix_that_is_not_finite_spoils_itself_only():
    matrices = torch.stack([torch.eye(2), torch.full((2, 2), math.nan)])
    values = gains.complement_gain(matrices)
    assert values[0].item() == pytest.approx(1)
    assert values[1].isnan()


def test_shapes_of_no_tokens():
    assert gains.forward_gain(torch.ones(0, 4, 4)).shape == (0,)
    assert gains.complement_gain(torch.ones(0, 4, 4)).shape == (0,)
    with pytest.raises(ValueError, match=r"\(0, 4, 4\).*at least one token"):
        gains.gains_by_depth([torch.ones(0, 4, 4)])


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("mixes", "error", "message"),
    [
        ([], ValueError, "no sites"),
        ([torch.ones(3, 2, 2), torch.ones(4, 2, 2)], ValueError, r"mixes\[1\]: got \(4, 2, 2\)"),
        ([torch.ones(3, 2, 3)], ValueError, r"mixes\[0\]: got shape \(3, 2, 3\); accepted: \(\.\.\., n, n\)"),
        ([torch.ones(3)], ValueError, r"\(3,\).*\(\.\.\., n, n\)"),
        ([torch.ones(2, 2, dtype=torch.int64)], TypeError, "int64.*float32"),
        ([[[1.0]]], TypeError, r"mixes\[0\]: got list"),
    ],
)
def test_bad_input(mixes, error, message):
    with pytest.raises(error, match=message):
        gains.gains_by_depth(mixes)
