import math

import pytest
import torch
from traced_networks import DIM, STREAMS, Stacked

import streammix as sm
from streammix.diagnostics import spectra


def test_effective_rank_counts_directions():
    assert spectra.effective_rank(torch.ones(5)).item() == pytest.approx(5)
    assert spectra.effective_rank(torch.tensor([3.0, 0, 0])).item() == 1
    assert spectra.effective_rank(torch.zeros(3)).item() == 0
    p = [0.5, 0.3, 0.2]
    expected = math.exp(-sum(x * math.log(x) for x in p))
    assert spectra.effective_rank(7 * torch.tensor(p)).item() == pytest.approx(expected)


def test_collapsed_share():
    values = torch.tensor([[1.0, 0.5, 1e-4, 0.0], [1e-9, 1e-9, 1e-9, 1e-9]])
    assert spectra.collapsed_share(values).tolist() == [0.5, 0]
    assert spectra.collapsed_share(values, threshold=0.6).tolist() == [0.75, 0]
    assert spectra.collapsed_share(torch.tensor([1.0, math.nan])).isnan()


def test_a_matrix_that_is_not_finite_spoils_itself_only():
    values = spectra.singular_values(torch.stack([2 * torch.eye(2), torch.full((2, 2), math.inf)]))
    assert values[0].tolist() == [2, 2]
    assert values[1].isnan().all()


def test_the_jacobian_of_a_linear_map_is_its_matrix(seed):
    matrix = torch.randn(6, 6, dtype=torch.float64)
    found = spectra.jacobian_spectrum(lambda x: (matrix @ x.flatten()).reshape(2, 3), torch.randn(2, 3).double())
    torch.testing.assert_close(found, torch.linalg.svdvals(matrix))


def test_the_jacobian_of_a_stack_by_finite_differences(seed):
    stack = Stacked().double().stack
    state = stack.begin(torch.randn(DIM, dtype=torch.float64))
    step, columns = 1e-6, []
    for k in range(state.numel()):
        nudge = torch.zeros(state.numel(), dtype=torch.float64)
        nudge[k] = step
        nudge = nudge.reshape(state.shape)
        with torch.no_grad():
            columns.append((stack.run(state + nudge) - stack.run(state - nudge)).flatten() / (2 * step))
    found = sm.diagnostics.jacobian_spectrum(stack.run, state)
    assert found.shape == (STREAMS * DIM,)
    torch.testing.assert_close(found, torch.linalg.svdvals(torch.stack(columns, 1)), rtol=0, atol=1e-7)


@pytest.mark.refusal
def test_bad_input():
    with pytest.raises(TypeError, match="returned a tuple"):
        spectra.jacobian_spectrum(lambda x: (x, x), torch.ones(2))
    with pytest.raises(TypeError, match="int64"):
        spectra.jacobian_spectrum(lambda x: x, torch.ones(2, dtype=torch.int64))
