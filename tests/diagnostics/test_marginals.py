import pytest
import torch

from streammix.diagnostics import marginals

MEASURES = [
    marginals.marginal_error,
    marginals.row_deviation,
    marginals.column_deviation,
    marginals.min_entry,
    marginals.orthogonality_error,
]


def test_by_hand():
    # Rows sum to 1, 1.5; columns to 0.5, 2.
    matrix = torch.tensor([[-0.5, 1.5], [1.0, 0.5]])
    assert marginals.marginal_error(matrix).item() == 0.5 + 0.5 + 1
    assert marginals.row_deviation(matrix).item() == 0.5
    assert marginals.column_deviation(matrix).item() == 1
    assert marginals.min_entry(matrix).item() == -0.5
    # MᵀM = [[1.25, -0.25], [-0.25, 2.5]]
    assert marginals.orthogonality_error(matrix).item() == 1.5


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_permutations_have_no_error(n, seed):
    permutation = torch.eye(n)[torch.randperm(n)]
    for measure in (marginals.marginal_error, marginals.row_deviation, marginals.orthogonality_error):
        assert measure(permutation).item() == 0


def test_rows_and_columns_are_not_mixed_up():
    columns_only = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert marginals.row_deviation(columns_only) == 1
    assert marginals.column_deviation(columns_only) == 0


def test_matches_brute_force(seed):
    matrices = torch.randn(20, 3, 3)
    for matrix, error in zip(matrices, marginals.marginal_error(matrices)):
        rows = matrix.double().tolist()
        expected = sum(abs(sum(row) - 1) for row in rows) + sum(abs(sum(column) - 1) for column in zip(*rows))
        assert error.item() == pytest.approx(expected)


def test_measures_the_matrix_and_not_the_sum():
    # In float32 the row sum would round to exactly one.
    tiny = 2.0**-30
    assert marginals.row_deviation(torch.tensor([[1.0, tiny], [0.0, 1.0]])).item() == tiny


@pytest.mark.parametrize("measure", MEASURES)
def test_shapes(measure):
    assert measure(torch.ones(3, 4)[..., None, None]).shape == (3, 4)
    assert measure(torch.ones(0, 4, 4)).shape == (0,)
    assert measure(torch.eye(3, dtype=torch.bfloat16)).dtype == torch.float64


@pytest.mark.refusal
@pytest.mark.parametrize("measure", MEASURES)
def test_bad_input(measure):
    with pytest.raises(ValueError, match=r"res: got shape \(2, 3\)"):
        measure(torch.ones(2, 3))
    with pytest.raises(ValueError, match="n >= 1"):
        measure(torch.ones(3, 0, 0))
    with pytest.raises(TypeError, match="bool"):
        measure(torch.ones(2, 2, dtype=torch.bool))
