import itertools
import math

import pytest
import torch

from streammix.diagnostics import contraction, marginals, singular_values

SIGNED = torch.tensor([[3.0, -3.0], [1.0, 1.0]])


def test_dobrushin_by_hand_and_by_brute_force(seed):
    assert contraction.dobrushin(torch.eye(3)) == 1
    assert contraction.dobrushin(torch.full((3, 3), 1 / 3)) == 0
    for matrix in torch.rand(10, 4, 4, dtype=torch.float64):
        pairs = itertools.combinations(matrix.tolist(), 2)
        expected = max(sum(abs(a - b) for a, b in zip(one, other)) / 2 for one, other in pairs)
        assert contraction.dobrushin(matrix).item() == pytest.approx(expected)


def test_dobrushin_bounds_what_differences_survive(seed):
    a, b = torch.rand(2, 50, 4, 4, dtype=torch.float64).softmax(-1)
    tau = contraction.dobrushin
    assert (tau(a @ b) <= tau(a) * tau(b) + 1e-15).all()
    assert (tau(a) <= 1 - 4 * a.amin((-2, -1)) + 1e-15).all()
    x = torch.randn(50, 4, dtype=torch.float64)
    spread = lambda v: v.amax(-1) - v.amin(-1)  # noqa: E731
    assert (spread((a @ x[..., None])[..., 0]) <= tau(a) * spread(x) + 1e-14).all()


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_basis_is_orthonormal_and_begins_with_the_mean(n):
    basis = contraction.difference_basis(n)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-15)
    assert basis[:, 0].tolist() == pytest.approx([1 / math.sqrt(n)] * n)


def test_the_blocks_say_where_mean_and_differences_go(seed):
    res, m, d = torch.randn(4, 4, dtype=torch.float64), 0.7, torch.randn(4, dtype=torch.float64)
    d -= d.mean()
    a, b, c, D = contraction.block_form(res)
    U = contraction.difference_basis(4)[:, 1:]
    moved = res @ (m + d)
    assert moved.mean().item() == pytest.approx((a * m + b @ (U.mT @ d) / 2).item())
    torch.testing.assert_close(moved - moved.mean(), U @ (D @ (U.mT @ d) + 2 * c * m))


def test_doubly_stochastic_blocks_are_apart(seed):
    mixed = sum(weight * torch.eye(4, dtype=torch.float64)[torch.randperm(4)] for weight in (0.5, 0.3, 0.2))
    a, b, c, D = contraction.block_form(mixed)
    assert a.item() == pytest.approx(1)
    assert b.abs().max() < 1e-15
    assert c.abs().max() < 1e-15
    gains = singular_values(mixed - 0.25)
    torch.testing.assert_close(singular_values(D), gains[:3], rtol=0, atol=1e-15)


def test_relative_range(seed):
    logits = 20 * torch.randn(8, 4, 4, dtype=torch.float64)
    nu = contraction.relative_range(logits.exp())
    torch.testing.assert_close(-nu.log(), contraction.log_range(logits))
    assert contraction.relative_range(torch.tensor([[0.0, 2.0], [8.0, 0.0]])) == 0.25
    assert contraction.relative_range(torch.zeros(2, 2)).isnan()
    assert contraction.log_range(torch.tensor([[0.0, 500.0], [-500.0, 0.0]])) == 1000


def test_sums_of_rows_and_columns():
    matrix = torch.tensor([[-0.5, 1.5], [1.0, 0.5]])
    assert marginals.row_sums(matrix).tolist() == [1, 1.5]
    assert marginals.column_sums(matrix).tolist() == [0.5, 2]
    assert (marginals.row_mae(matrix), marginals.column_mae(matrix)) == (0.25, 0.75)


@pytest.mark.parametrize("measure", [contraction.dobrushin, contraction.log_range, contraction.relative_range])
def test_shapes_and_dtypes(measure, seed):
    assert measure(torch.rand(2, 0, 3, 3)).shape == (2, 0)
    assert measure(torch.ones(1, 1)).shape == ()
    assert measure(torch.rand(5, 3, 3, dtype=torch.bfloat16)).dtype == torch.float32
    strided = torch.rand(3, 3, 5)
    assert torch.equal(measure(strided.movedim(-1, 0)), measure(strided.movedim(-1, 0).contiguous()))


@pytest.mark.refusal
@pytest.mark.parametrize("measure", [contraction.dobrushin, contraction.block_form, contraction.log_range])
def test_bad_input(measure):
    with pytest.raises(ValueError, match=r"got shape \(2, 3\); accepted: \(\.\.\., n, n\)"):
        measure(torch.ones(2, 3))
    with pytest.raises(TypeError, match="int64"):
        measure(torch.ones(2, 2, dtype=torch.int64))
