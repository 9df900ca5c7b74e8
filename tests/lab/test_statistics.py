"""Intervals of differences, against printed tables and another implementation."""

import statistics

import numpy as np
import pytest

from streammix.lab.statistics import Difference, paired, student_quantile

scipy_stats = pytest.importorskip("scipy.stats")

# Student's t as printed in statistical tables, to three decimals.
TABLE = [
    *((0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776), (0.975, 9, 2.262)),
    *((0.975, 30, 2.042), (0.95, 5, 2.015), (0.995, 7, 3.499), (0.9, 120, 1.289)),
]


@pytest.mark.parametrize(("p", "dof", "printed"), TABLE)
def test_quantiles_are_those_of_printed_tables(p: float, dof: int, printed: float) -> None:
    assert student_quantile(p, dof) == pytest.approx(printed, abs=5e-4)
    assert student_quantile(1 - p, dof) == pytest.approx(-printed, abs=5e-4)


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 5, 6, 7, 24, 25, 400])
@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.975, 0.999, 0.025])
def test_quantiles_are_those_of_another_implementation(p: float, dof: int) -> None:
    assert student_quantile(p, dof) == pytest.approx(float(scipy_stats.t.ppf(p, dof)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("p", "dof"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_quantiles_out_of_range_are_refused(p: float, dof: int) -> None:
    with pytest.raises(ValueError, match="accepted"):
        student_quantile(p, dof)


def test_the_interval_is_that_of_a_paired_t_test(seed: int) -> None:
    draw = np.random.default_rng(seed)
    theirs = {k: float(v) for k, v in enumerate(draw.normal(3, 1, 7))}
    mine = {k: theirs[k] + float(draw.normal(-0.1, 0.2)) for k in (0, 2, 3, 5, 6)} | {99: 0.0}
    found = paired(mine, theirs)
    assert found is not None
    assert found.count == 5
    expected = scipy_stats.ttest_rel([mine[k] for k in (0, 2, 3, 5, 6)], [theirs[k] for k in (0, 2, 3, 5, 6)])
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (found.verdict == "can't tell") == (expected.pvalue >= 0.05)
    assert found.mean == pytest.approx(statistics.fmean(mine[k] - theirs[k] for k in (0, 2, 3, 5, 6)))


def test_intervals_hold_the_truth_as_often_as_they_say(seed: int) -> None:
    """Of 2000 intervals at 80 %, 1600 +- 18 hold the true difference; six standard deviations are allowed."""
    draw = np.random.default_rng(seed)
    held = 0
    for _ in range(2000):
        mine = {k: float(v) for k, v in enumerate(draw.normal(0.3, 1, 4))}
        found = paired(mine, dict.fromkeys(range(4), 0.0), level=0.8)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.3 <= found.high
    assert abs(held - 1600) <= 6 * 18


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Difference(-1.0, -2.0, -0.5, 3), "lower"),
        (Difference(1.0, 0.5, 1.5, 3), "higher"),
        (Difference(1.0, -0.5, 2.5, 3), "can't tell"),
        (Difference(0.0, 0.0, 0.0, 3), "can't tell"),
        (Difference(-1.0, None, None, 1), "can't tell"),
    ],
)
def test_what_cannot_be_told_is_not_told(difference: Difference, verdict: str) -> None:
    assert difference.verdict == verdict


def test_one_seed_has_no_interval_and_no_shared_seed_no_difference() -> None:
    assert paired({1: 2.0}, {1: 1.5}) == Difference(0.5, None, None, 1)
    assert paired({1: 2.0}, {2: 1.5}) is None
