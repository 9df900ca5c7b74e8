"""What a few seeds say about a difference: its mean and Student's interval, or that they cannot tell."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.95

Verdict = Literal["lower", "higher", "can't tell"]


@dataclass(frozen=True)
class Difference:
    """The mean difference of pairs and its interval.

    count: how many pairs there are.
    low, high: the ends of the interval; None where one pair or none has no spread.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies below zero or above it; "can't tell" where it holds zero or there is none."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "can't tell"
        return "lower" if self.high < 0 else "higher"


def paired(mine: Mapping[int, float], theirs: Mapping[int, float], level: float = LEVEL) -> Difference | None:
    """mine - theirs over the seeds that both have; None where they share none.

        mean d +- t s / sqrt(k),   d_i = mine_i - theirs_i,   t the quantile (1 + level) / 2 of Student's t, k - 1 dof

    Runs of one seed start from the same weights and see the same batches: what both owe to these leaves the difference.

    Args:
        mine, theirs: a number for each seed.
        level: of the interval, in (0, 1).
    """
    differences = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    if not differences:
        return None
    count, mean = len(differences), statistics.fmean(differences)
    if count == 1:
        return Difference(mean, None, None, count)
    half = student_quantile((1 + level) / 2, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, count)


def student_quantile(p: float, dof: int) -> float:
    """The t with P(T <= t) = p for Student's t with `dof` degrees of freedom, to rounding.

    Args:
        p: in (0, 1).
        dof: an integer >= 1.

    Raises:
        ValueError: a number out of range.
    """
    if not 0 < p < 1:
        raise ValueError(f"p: got {p!r}; accepted: numbers between 0 and 1")
    if dof < 1:
        raise ValueError(f"dof: got {dof!r}; accepted: integers >= 1")
    if p < 0.5:
        return -student_quantile(1 - p, dof)
    low, high = 0.0, math.pi / 2  # of theta = atan(t / sqrt(dof))
    while low < (middle := (low + high) / 2) < high:
        if central(middle, dof) < 2 * p - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan(middle)


def central(theta: float, dof: int) -> float:
    """P(|T| <= sqrt(dof) tan theta) for Student's t: a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4).

    odd dof:   2/pi (theta + sin cos (1 + 2/3 cos^2 + 2*4/(3*5) cos^4 + ... up to cos^(dof - 3)))
    even dof:  sin (1 + 1/2 cos^2 + 1*3/(2*4) cos^4 + ... up to cos^(dof - 2))
    """
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = dof % 2
    term = total = 1.0
    for k in range(2 + odd, dof - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (theta + (sine * cosine * total if dof > 1 else 0.0))
