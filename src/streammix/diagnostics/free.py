"""Free probability's prediction of the singular values of a product, from those of its factors.

If the factors' squared singular values have the distributions μ_1 ... μ_L and the factors are free of each other, which
large independent matrices in random position approach, the product's have μ = μ_1 ⊠ ... ⊠ μ_L, whose S-transform is the
product of theirs (Voiculescu 1987; for Jacobians of networks, Pennington, Schoenholz and Ganguli, arXiv 1711.04735;
for hyper-connections JPmHC, arXiv 2602.18308, by scalar free probability):

    ψ_l(u) = ∫ u t / (1 - u t) dμ_l(t),    S_l(w) = (1 + w) / w · ψ_l⁻¹(w),    S = S_1 ··· S_L

So with w = ψ(z) and u_l = ψ_l⁻¹(w) one equation is left for each z, and ψ gives the density ρ of μ at x = 1/z:

    Σ_l log u_l + (L - 1) (log(1 + w) - log w) = log z,      ρ(x) = Im (1 + ψ(1/x)) / (π x),  x -> x - i0

It is solved by Newton's method from the negative axis, where everything is real, around to the positive one, as far as
an angle of one step of the grid of log x, by which the result is smoothed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .._checks import check_floating, check_integer

POINTS = 400
TURNS = 100  # steps from the negative axis to the positive one
CORRECTIONS = 2  # of Newton's method in each
TOLERANCE = 1e-6  # of the logarithms
FAR = 33.0  # |logit| of the shares at which the negative axis is tabulated: 1 - share is a float64 still
ALIKE = 1e-6  # a range of log x that is one number: in less, the angle would be lost in rounding
LEAST = 12.0  # with zeros among the singular values, how far below the largest, in log x, the others are followed


class Prediction(NamedTuple):
    """A distribution of singular values, in float64; what is missing of a mass of one lies at zero."""

    values: Float[Tensor, " points"]
    """Singular values, ascending."""
    density: Float[Tensor, " points"]
    """By the logarithm of the singular value: ∫ density d log(values) = 1 - zeros."""
    below: Float[Tensor, " points"]
    """The distribution function: the share of singular values up to each one."""
    zeros: float
    """The share of singular values that are zero."""

    def quantiles(self, count: int) -> Float[Tensor, " count"]:
        """Of `count` singular values, largest first, what each is expected to be: quantiles (k - 1/2) / count."""
        check_integer("count", count, 1)
        return self.at((torch.arange(count, 0, -1, dtype=torch.float64) - 0.5) / count)

    def at(self, levels: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Quantiles at levels in (0, 1)."""
        right = torch.searchsorted(self.below, levels).clamp(1, len(self.below) - 1)
        low, high = self.below[right - 1], self.below[right]
        share = ((levels - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
        logs = self.values.log()
        found = (logs[right - 1] + share * (logs[right] - logs[right - 1])).exp()
        return torch.where(levels <= self.zeros, 0, found)


def free_product(spectra: Sequence[Float[Tensor, " _"]]) -> Prediction:
    """The distribution of the singular values of H_L ··· H_1 if the factors are free, see the module.

        predicted = sm.diagnostics.free_product([site.mean(0) for site in spectra]).quantiles(4)

    It is exact for L large independent matrices in random position and to be compared with what is measured: matrices
    that share a singular vector, as doubly stochastic ones share the mean's, are not free, so their block of
    differences (`block_form`) is what to ask about.

    Args:
        spectra: one tensor of singular values a factor, each with as much weight as the others; they may differ in
            number. The order of the factors does not matter.

    Raises:
        TypeError: a spectrum is not a floating tensor.
        ValueError: no factors, a spectrum of another shape or with a value that is negative or not finite, or one whose
            values are all zero.
        ArithmeticError: Newton's method did not arrive.
    """
    factors = [checked(f"spectra[{i}]", one) for i, one in enumerate(spectra)]
    if not factors:
        raise ValueError("spectra: got no factors; accepted: one tensor of singular values a factor")
    scale = sum(2 * float(one.max().log()) for one in factors)  # numbers of any size become numbers up to one
    law = Factors.of([(one / one.max()).square() for one in factors])
    low, high = law.bounds()
    if high - low < ALIKE:
        value = math.exp((scale + high) / 2)
        values, density, below = torch.tensor([[value, value], [0, 0], [law.zeros, 1]], dtype=torch.float64)
        return Prediction(values, density, below, law.zeros)

    step = (high - low) / (POINTS - 20)
    log_x = torch.linspace(low - 10 * step, high + 10 * step, POINTS, dtype=torch.float64)
    psi = law.psi(-log_x, angle=min(step, 0.5))
    density = (psi.imag / math.pi).clamp(min=0)  # by log x: x ρ(x)
    below = torch.cumulative_trapezoid(density, log_x)
    below = torch.cat([below.new_zeros(1), below]) / below[-1]
    share = 1 - law.zeros
    density = 2 * share * density / torch.trapezoid(density, log_x)
    return Prediction(((scale + log_x) / 2).exp(), density, law.zeros + share * below, law.zeros)


class Factors(NamedTuple):
    """The distributions μ_l: weights at points t, the largest of which is one; rows end in weights of zero.

    Factors that are alike are one row, with their count.
    """

    t: Float[Tensor, "factors 1 k"]
    weight: Float[Tensor, "factors 1 k"]
    times: Float[Tensor, "factors 1"]
    zeros: float
    """The largest weight at t = 0, which is the product's too."""

    @classmethod
    def of(cls, points: Sequence[Float[Tensor, " _"]]) -> "Factors":
        def rows(several: Sequence[Tensor]) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(list(several), batch_first=True)[:, None]

        alike: dict[tuple[float, ...], int] = {}
        for one in points:
            values = tuple(one.sort().values.tolist())
            alike[values] = alike.get(values, 0) + 1
        unlike = [torch.tensor(values, dtype=torch.float64) for values in alike]
        times = torch.tensor(list(alike.values()), dtype=torch.float64)[:, None]
        zeros = max(float((one == 0).double().mean()) for one in unlike)
        return cls(rows(unlike), rows([torch.full_like(one, 1 / len(one)) for one in unlike]), times, zeros)

    @property
    def total(self) -> float:
        """L."""
        return float(self.times.sum())

    def bounds(self) -> tuple[float, float]:
        """Where log x can be: between the products of the extremes, and near the products of the means of t and 1/t,
        from which a free product's ends are away by no more than a factor of order L (Kargin, arXiv math/0703200)."""
        few = 6 + math.log(self.total)
        high = min(0.0, float((self.times * (self.weight * self.t).sum(-1).log()).sum()) + few)
        if self.zeros:
            return high - LEAST, high
        there = torch.where(self.weight > 0, self.t, 1)
        inverse = float((self.times * (self.weight / there).sum(-1).log()).sum())
        return max(float((self.times * there.amin(-1).log()).sum()), -inverse - few), high

    def transform(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """ψ_l(u_l) and its derivative, u (factors, points)."""
        inverse = 1 / (1 - u[..., None] * self.t)
        part = self.weight * self.t * inverse
        return u * part.sum(-1), (part * inverse).sum(-1)

    def gap(self, log_u: Tensor, plus: Tensor) -> Tensor:
        """Σ log u_l + (L - 1) (log(1 + w) - log w), `plus` being that difference."""
        return (self.times * log_u).sum(0) + (self.total - 1) * plus

    def on_the_negative_axis(self, log_radius: Float[Tensor, " points"]) -> tuple[Tensor, Tensor]:
        """w and log(-u) at z = -exp(log_radius), by a table of them; to few digits, which Newton's method completes."""
        logit = torch.linspace(-FAR, FAR, 3 * POINTS, dtype=torch.float64)
        w = -(1 - self.zeros) * logit.sigmoid()
        log_u = self.real_inverse(w)
        log_one = (self.zeros + (1 - self.zeros) * (-logit).sigmoid()).log()
        table = self.gap(log_u, log_one - (-w).log())
        right = torch.searchsorted(table, log_radius).clamp(1, len(table) - 1)
        share = ((log_radius - table[right - 1]) / (table[right] - table[right - 1])).clamp(0, 1)
        logit = logit[right - 1] + share * (logit[right] - logit[right - 1])
        return -(1 - self.zeros) * logit.sigmoid(), log_u[:, right - 1] + share * (
            log_u[:, right] - log_u[:, right - 1]
        )

    def real_inverse(self, w: Float[Tensor, " points"]) -> Float[Tensor, "factors points"]:
        """log(-u) with ψ_l(u) = w, by bisection: ψ falls from 0 to -(the share of t > 0) as u goes to -∞."""
        low, high = (torch.full((len(self.t), len(w)), end, dtype=w.dtype) for end in (-700.0, 700.0))
        for _ in range(70):
            middle = (low + high) / 2
            ut = middle.exp()[..., None] * self.t
            above = -(self.weight * torch.where(ut.isinf(), 1, ut / (1 + ut))).sum(-1) > w
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    def psi(self, log_radius: Float[Tensor, " points"], angle: float) -> Complex[Tensor, " points"]:
        """ψ(z) of the product at z = exp(log_radius + i angle), followed there from the negative axis.

        Where steps were too wide to stay on the way, narrower ones are tried.
        """
        error = math.nan
        for turns in (TURNS, 4 * TURNS, 16 * TURNS):
            w, error = self.followed(log_radius, angle, turns)
            if error < TOLERANCE:
                return w
        raise ArithmeticError(f"free_product: Newton's method left an error of {error:.1e} (allowed: {TOLERANCE:g})")

    def followed(
        self, log_radius: Float[Tensor, " points"], angle: float, turns: int
    ) -> tuple[Complex[Tensor, " points"], float]:
        """ψ(z) by so many steps, and how far Newton's method was from it in the end."""
        start, log_u = self.on_the_negative_axis(log_radius)
        w, u = start.to(torch.complex128), -log_u.exp().to(torch.complex128)
        repeats, error = self.total - 1, math.inf
        for turn in range(turns + 1):
            turned = math.pi * (angle / math.pi) ** (turn / turns)
            target = torch.complex(log_radius, torch.full_like(log_radius, turned))
            for _ in range(CORRECTIONS + 9 * (turn in (0, turns))):
                values, slopes = self.transform(u)
                rest = w - values
                gap = self.gap(u.log(), -(w / (1 + w)).log()) - target
                by_w = self.times / (u * slopes)
                step = -(gap + (rest * by_w).sum(0)) / (by_w.sum(0) - repeats / (w * (1 + w)))
                u, w = upper(u + (rest + step) / slopes), upper(w + step)
                error = (gap.abs() + (rest / (1 + w)).abs().amax(0)).max().item()
        return w, error


def upper(z: Complex[Tensor, "..."]) -> Complex[Tensor, "..."]:
    """Reflected into the upper half plane, where ψ and its inverses map it to itself."""
    return torch.complex(z.real, z.imag.abs())


def checked(name: str, values: Tensor) -> Float[Tensor, " _"]:
    check_floating(name, values)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: got shape {tuple(values.shape)}; accepted: (k,) with k >= 1")
    values = values.detach().cpu().double()
    if not (values.isfinite().all() and (values >= 0).all()) or values.max() == 0:
        raise ValueError(f"{name}: got {values.tolist()}; accepted: finite numbers >= 0, one of them above zero")
    return values
