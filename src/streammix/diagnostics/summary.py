"""All measures of a trace in one small record, as a training run logs it again and again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import check_integer
from . import contraction, marginals, usage
from .free import free_product
from .gains import GainsByDepth, gains_by_depth, products
from .spectra import effective_rank, singular_values
from .tracing import Site, Trace

DOUBLY_STOCHASTIC = 1e-2  # how far a sum of a row or column is from one at most, the worst averaged over tokens
#: Of H_res, per token; see the function of that name.
OF_MIX: dict[str, Callable[[Tensor], Tensor]] = {
    "row_deviation": marginals.row_deviation,
    "column_deviation": marginals.column_deviation,
    "row_mae": marginals.row_mae,
    "column_mae": marginals.column_mae,
    "marginal_error": marginals.marginal_error,
    "orthogonality_error": marginals.orthogonality_error,
    "identity_drift": usage.identity_drift,
    "cross_stream_weight": usage.cross_stream_weight,
    "dobrushin": contraction.dobrushin,
}
#: Of read and write weights, with "_read" or "_write" after the name.
OF_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "effective": usage.effective_streams,
    "entropy": usage.entropy_streams,
    "dominant": usage.dominant_share,
}
#: Of the state after a site, where it is known.
OF_STATE: dict[str, Callable[[Tensor], Tensor]] = {
    "dominant_signal": usage.dominant_signal,
    "stream_cosine": usage.stream_cosine,
    "stream_cosine_centred": lambda x: usage.stream_cosine(x, centred=True),
    "difference_energy": usage.difference_energy,
    "difference_share": lambda x: usage.difference_energy(x, relative=True),
}


@dataclass
class Summary:
    """Every measure of a model's sites, averaged over tokens; tensors are float64, on the CPU, one row a site."""

    sites: list[str]
    """The sites' names by depth."""
    tokens: int
    """How many were averaged over."""
    read: Float[Tensor, "sites n"]
    write: Float[Tensor, "sites n"]
    mix: Float[Tensor, "sites n n"]
    typical: Float[Tensor, "sites n n"]
    """Median of every entry of H_res over tokens; of orthogonal matrices an average says nothing (arXiv 2609.02672)."""
    measures: dict[str, Float[Tensor, " sites"]]
    """By name: OF_MIX, OF_STATE, "effective_read" and the like; "marginal_error_max" is the worst token's and
    "min_entry" the least of all. With the trace's logits "log_range" and "log_range_max"."""
    gains: GainsByDepth
    spectra: Float[Tensor, "sites n"]
    """Singular values of H_l, the k-th largest of each token averaged."""
    composite: Float[Tensor, "sites n"]
    """The same of P_{1:l}."""
    rank: Float[Tensor, " sites"]
    """effective_rank of P_{1:l}."""

    def predicted(self) -> Float[Tensor, " n"]:
        """What `free_product` makes of `spectra`, to compare with the last row of `composite` (arXiv 2602.18308).

        Where all rows and columns sum to one, to DOUBLY_STOCHASTIC, the streams' mean is a singular vector that all
        sites share, with the value one; the prediction is then of the others. NaN where a spectrum is not finite, or
        all zero.
        """
        sums = torch.stack([self.measures["row_deviation"], self.measures["column_deviation"]])
        shared = 1 if bool((sums < DOUBLY_STOCHASTIC).all()) else 0
        found = torch.ones(self.spectra.shape[-1], dtype=torch.float64)
        rest = self.spectra[:, shared:]
        if rest.shape[-1]:
            usable = bool(rest.isfinite().all() and (rest.amax(-1) > 0).all())
            found[shared:] = free_product(list(rest)).quantiles(rest.shape[-1]) if usable else torch.nan
        return found


@torch.no_grad()
def summarize(trace: Trace, *, tokens: int | None = None) -> Summary:
    """Every measure of what a trace recorded, by site.

        with torch.no_grad(), sm.diagnostics.trace(model, states=True) as trace:
            model(batch)
        summary = sm.diagnostics.summarize(trace, tokens=256)

    Args:
        trace: of one or more runs; with states, use of the streams is measured too.
        tokens: at most that many, evenly spread over those recorded; None: all of them.

    Raises:
        ValueError: nothing was recorded, no tokens, or sites that differ in their number of streams.
    """
    if tokens is not None:
        check_integer("tokens", tokens, 1)
    sites = [thinned(site, tokens) for site in trace.sites()]
    mixes = [site.res.cpu().double() for site in sites]  # where decompositions of small matrices are quickest
    composites = [singular_values(product) for product in products(mixes)]
    return Summary(
        sites=[site.name for site in sites],
        tokens=len(sites[0].res),
        read=rows(site.pre.cpu().double().mean(0) for site in sites),
        write=rows(site.post.cpu().double().mean(0) for site in sites),
        mix=rows(mix.mean(0) for mix in mixes),
        typical=rows(mix.median(0).values for mix in mixes),
        measures=measures(sites),
        gains=gains_by_depth(mixes),
        spectra=rows(singular_values(mix).mean(0) for mix in mixes),
        composite=rows(values.mean(0) for values in composites),
        rank=rows(effective_rank(values).mean() for values in composites),
    )


def measures(sites: Sequence[Site]) -> dict[str, Float[Tensor, " sites"]]:
    """Name -> one number a site."""
    each = [measure_site(site) for site in sites]
    shared = [name for name in each[0] if all(name in one for one in each)]
    return {name: rows(one[name] for one in each) for name in shared}


def measure_site(site: Site) -> dict[str, Float[Tensor, ""]]:
    """Name -> mean over the site's tokens, or the extreme that the name says."""
    per_token = {name: measure(site.res) for name, measure in OF_MIX.items()}
    for name, measure in OF_WEIGHTS.items():
        per_token |= {f"{name}_read": measure(site.pre), f"{name}_write": measure(site.post)}
    if site.state is not None:
        per_token |= {name: measure(site.state) for name, measure in OF_STATE.items()}
    if site.logits is not None:
        per_token["log_range"] = contraction.log_range(site.logits)
    found = {name: values.double().mean() for name, values in per_token.items()}
    found |= {f"{name}_max": per_token[name].max() for name in ("marginal_error", "log_range") if name in per_token}
    return found | {"min_entry": marginals.min_entry(site.res).min()}


def thinned(site: Site, tokens: int | None) -> Site:
    """The site with at most that many of its tokens, evenly spread."""
    count = len(site.res)
    if tokens is None or count <= tokens:
        return site
    at = torch.arange(tokens, device=site.res.device) * count // tokens
    state, logits = (None if t is None else t[at] for t in (site.state, site.logits))
    return Site(site.name, site.pre[at], site.post[at], site.res[at], state=state, logits=logits)


def rows(values: Iterable[Tensor]) -> Tensor:
    return torch.stack([value.double().cpu() for value in values])
