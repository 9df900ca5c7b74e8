"""Predictions of free probability against closed forms and against products of large random matrices."""

import math

import pytest
import torch

from streammix.diagnostics import Prediction, free_product

CASES = {
    "two alike": [[1.0, 0.5]] * 2,
    "eight of four": [[1.0, 0.9, 0.7, 0.5]] * 8,
    "each another": [[1.0, 0.2], [2.0, 1.0, 0.5, 0.1], [1.0, 0.99, 0.98, 0.97]],
    "near orthogonal": [[1.0, 0.999, 0.999, 0.998]] * 16,
    "hardly apart": [[1.0, 1 - 2e-6, 1 - 5e-6, 1 - 9e-6]] * 3,
    "with zeros": [[1.0, 1.0, 0.5, 0.0], [1.0, 1.0, 0.7, 0.4]],
    "tiny": [[1e-20, 3e-21]] * 3,
}


def haar(n: int) -> torch.Tensor:
    q, r = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    return q * r.diagonal().sign()


def simulated(spectra: list[list[float]], n: int = 400) -> torch.Tensor:
    """Singular values of the product of n x n matrices with these singular values, turned at random."""
    product = torch.eye(n, dtype=torch.float64)
    for values in spectra:
        scaled = torch.tensor(values, dtype=torch.float64).repeat_interleave(n // len(values))
        product = haar(n) * scaled @ (haar(n) @ product)
    return torch.linalg.svdvals(product)


@pytest.mark.parametrize("spectra", CASES.values(), ids=CASES)
def test_products_of_haar_random_matrices_are_as_predicted(spectra, seed):
    predicted = free_product([torch.tensor(values, dtype=torch.float64) for values in spectra]).quantiles(8)
    found = simulated(spectra).reshape(8, -1).median(-1).values
    zero = found < 1e-10 * found[0]
    assert torch.equal(predicted == 0, zero)
    # The spread of one draw of 400 is of the order 1/400 of the whole, in the logarithm.
    whole = (found[~zero][0] / found[~zero][-1]).log()
    assert (predicted[~zero].log() - found[~zero].log()).abs().max() <= 0.02 * whole


def test_two_projections_in_random_position():
    """μ = (δ_0 + δ_1) / 2 twice: half of the singular values are zero, the squares of the others have the arcsine law,
    whose distribution function is (2/π) asin(√x)."""
    found = free_product([torch.tensor([1.0, 0.0])] * 2)
    assert found.zeros == 0.5
    levels = torch.tensor([0.6, 0.7, 0.8, 0.9], dtype=torch.float64)
    expected = (math.pi / 2 * (levels - 0.5) / 0.5).sin()
    # The result is smoothed over a step of the grid of log x, which is 0.03 here: half of that in the singular value.
    torch.testing.assert_close(found.at(levels), expected, rtol=0, atol=0.015)


def test_moments_are_those_of_the_free_product():
    """E x = ∏ E t_l,  Var x / (E x)² = Σ Var t_l / (E t_l)², for squares x and t, by expanding S."""
    spectra = [torch.tensor([1.0, 0.5]).double(), torch.tensor([2.0, 1.0, 1.0, 0.3]).double()]
    found = free_product(spectra)
    log, x = found.values.log(), found.values.square()
    mean = torch.trapezoid(found.density * x, log)
    variance = torch.trapezoid(found.density * x.square(), log) - mean.square()
    squares = [values.square() for values in spectra]
    assert mean.item() == pytest.approx(math.prod(t.mean().item() for t in squares), rel=0.01)
    relative = sum((t.var(correction=0) / t.mean().square()).item() for t in squares)
    assert (variance / mean.square()).item() == pytest.approx(relative, rel=0.03)


def test_orthogonal_factors_stay_orthogonal():
    found = free_product([torch.full((4,), 2.0)] * 3)
    assert found.quantiles(5).tolist() == pytest.approx([8] * 5)


def test_one_factor_is_itself():
    values = torch.tensor([1.0, 0.9, 0.7, 0.5])
    assert free_product([values]).quantiles(4).tolist() == pytest.approx(values.tolist(), abs=0.01)


def test_many_factors(seed):
    found = free_product([torch.tensor([1.0, 0.9, 0.7, 0.5])] * 64)
    assert found.quantiles(1).log().item() == pytest.approx(64 * math.log(0.9 * 0.7 * 0.5) / 4, rel=0.03)


def test_a_distribution_is_one():
    found = free_product([torch.rand(5) + 0.1 for _ in range(4)])
    assert isinstance(found, Prediction)
    assert torch.trapezoid(found.density, found.values.log()).item() == pytest.approx(1)
    assert (found.below.diff() >= 0).all()
    assert (found.values.diff() > 0).all()
    assert (found.below[0], found.below[-1]) == (0, pytest.approx(1))


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("spectra", "error", "message"),
    [
        ([], ValueError, "no factors"),
        ([torch.ones(2, 2)], ValueError, r"spectra\[0\]: got shape \(2, 2\)"),
        ([torch.ones(2), torch.tensor([1.0, -1.0])], ValueError, r"spectra\[1\]: got \[1.0, -1.0\]"),
        ([torch.tensor([1.0, math.nan])], ValueError, "finite"),
        ([torch.zeros(3)], ValueError, "above zero"),
        ([[1.0]], TypeError, "got list"),
    ],
)
def test_bad_input(spectra, error, message):
    with pytest.raises(error, match=message):
        free_product(spectra)
