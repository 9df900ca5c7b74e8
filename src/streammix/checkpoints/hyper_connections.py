"""The PyPI package hyper-connections: HyperConnections and both versions of its mHC, whose streams make their weights
each by itself."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..layers import HyperConnection
from ..layers.generators import PerStreamRMS
from ..manifolds import Sinkhorn, Unconstrained
from ..recipes import Recipe
from .maps import scalar, whole
from .source import Keys, Source

NORM_EPS = 1e-24  # |x| is at least 1e-12 in F.normalize


class HyperConnections(Source):
    """static_alpha (n, 1 + n), dynamic_alpha_fn (C, 1 + n): a read, and weights in every new stream;
    dynamic_alpha_scale () for both; static_beta (n), dynamic_beta_fn (C), dynamic_beta_scale (); norm.gamma (C), one
    less than the norm's gain. Streams end in their sum. Fractions, several input views and proposals have no
    counterpart."""

    name: ClassVar[str] = "hyper-connections"
    about: ClassVar[str] = "hyper-connections 0.4, HyperConnections"
    ending: ClassVar[Literal["", "sum", "mean", "head"]] = "sum"

    def recipe(self, *, tanh: bool = True) -> Recipe:  # type: ignore[override]
        return Recipe(
            name=self.name,
            source="PyPI hyper-connections 0.4.11, HyperConnections",
            note="Its formulas; it starts as the plain residual network.",
            manifold="unconstrained",
            logits="per-stream-rms-tanh" if tanh else "per-stream-rms",
            read="linear",
            write="linear",
            rotate="one-hot",
            norm_eps=NORM_EPS,
            collapse="sum",
        )

    def check(self, site: HyperConnection) -> None:
        if not isinstance(site.logits, PerStreamRMS):
            self.refuse(site, f"which makes its logits by {type(site.logits).__name__}")
        if not isinstance(site.manifold, Unconstrained) or (site.recipe.read, site.recipe.write) != (
            "linear",
            "linear",
        ):
            self.refuse(site, f"whose mixing is {site.manifold}")

    def keys(self, site: HyperConnection) -> Keys:
        n, dim = site.streams, site.dim
        return Keys(
            {
                "static_alpha": (n, 1 + n),
                "dynamic_alpha_fn": (dim, 1 + n),
                "dynamic_alpha_scale": (),
                "static_beta": (n,),
                "dynamic_beta_fn": (dim,),
                "dynamic_beta_scale": (),
                "norm.gamma": (dim,),
            },
            others=("branch.",),
        )

    def gates(self, given: Mapping[str, Tensor]) -> Tensor:
        """Of reads, writes and mixing."""
        alpha, beta = scalar(given["dynamic_alpha_scale"]), scalar(given["dynamic_beta_scale"])
        return torch.cat([alpha, beta, alpha])

    def scales(self, gate: Tensor) -> dict[str, Tensor]:
        """The inverse of `gates`."""
        if gate[0] != gate[2]:
            raise ValueError(
                f"site: got gates {gate[0].item()} on reads and {gate[2].item()} on mixing; source {self.name!r} has"
                " one for both and accepts equal ones"
            )
        return {"dynamic_alpha_scale": gate[0].clone(), "dynamic_beta_scale": gate[1].clone()}

    def read(self, site: HyperConnection, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        n, keys = site.streams, self.keys(site).required
        alpha, beta = given["dynamic_alpha_fn"].reshape(site.dim, 1 + n), given["dynamic_beta_fn"].reshape(site.dim, 1)
        weight = torch.cat([alpha[:, :1], beta, alpha[:, 1:]], -1) * (given["norm.gamma"] + 1).unsqueeze(-1)
        static = given["static_alpha"]
        bias = torch.cat([static[:, 0], given["static_beta"].flatten(), self.turned(site, static[:, 1:]).flatten()])
        assert set(keys) <= set(given)
        return {"logits.weight": weight.mT, "logits.bias": bias, "logits.gate": self.gates(given)}

    def write(self, site: HyperConnection) -> dict[str, Tensor]:
        n, logits, shapes = site.streams, site.logits, self.keys(site).required
        assert isinstance(logits, PerStreamRMS)
        weight, bias, gate = (whole(getattr(logits, name)) for name in ("weight", "bias", "gate"))
        read, write, mix = bias.split((n, n, n * n))
        static = torch.cat([read.unsqueeze(-1), self.turned(site, mix.view(n, n))], -1)
        made = {
            "static_alpha": static,
            "dynamic_alpha_fn": torch.cat([weight[:1], weight[2:]]).mT.contiguous(),
            "static_beta": write.clone(),
            "dynamic_beta_fn": weight[1].clone(),
            "norm.gamma": torch.zeros_like(weight[0]),
        }
        made = {name: value.reshape(shapes[name]) for name, value in made.items()}
        return {**made, **self.scales(gate)}

    def turned(self, site: HyperConnection, mix: Tensor) -> Tensor:
        """Mixing logits (n, n) between the package's orientation, from row to column, and the manifold's."""
        return mix if getattr(site.manifold, "transposed", False) else mix.mT


class ManifoldConstrained(HyperConnections):
    """As HyperConnections, but dynamic_alpha_fn (1, C, 1 + n), and pre_branch_scale (1), residual_scale (1) and
    h_post_scale () for reads, mixing and writes."""

    name: ClassVar[str] = "hyper-connections-mhc"
    about: ClassVar[str] = "hyper-connections 0.4, ManifoldConstrainedHyperConnections (top-level mHC)"

    def recipe(self, *, sinkhorn_iters: int = 20) -> Recipe:  # type: ignore[override]
        return Recipe(
            name=self.name,
            source="PyPI hyper-connections 0.4.11, ManifoldConstrainedHyperConnections",
            note="Its formulas; it starts as recipe mhc does, since its own start is not the plain residual network.",
            manifold="sinkhorn",
            manifold_options={"recipe": "lucidrains", "rounds": sinkhorn_iters},
            logits="per-stream-rms",
            norm_eps=NORM_EPS,
            collapse="sum",
        )

    def check(self, site: HyperConnection) -> None:
        logits = site.logits
        if not isinstance(logits, PerStreamRMS):
            self.refuse(site, f"which makes its logits by {type(logits).__name__}")
        elif logits.tanh or not isinstance(site.manifold, Sinkhorn) or site.recipe.read != "sigmoid":
            self.refuse(site, f"whose mixing is {site.manifold}{' with tanh' * logits.tanh}")

    def keys(self, site: HyperConnection) -> Keys:
        required = dict(super().keys(site).required)
        del required["dynamic_alpha_scale"], required["dynamic_beta_scale"]
        required |= {
            "dynamic_alpha_fn": (1, site.dim, 1 + site.streams),
            "pre_branch_scale": (1,),
            "residual_scale": (1,),
            "h_post_scale": (),
        }
        return Keys(required, others=("branch.", "residual_transform."))

    def gates(self, given: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([scalar(given[name]) for name in ("pre_branch_scale", "h_post_scale", "residual_scale")])

    def scales(self, gate: Tensor) -> dict[str, Tensor]:
        pre, post, res = gate.clone()
        return {"pre_branch_scale": pre.reshape(1), "residual_scale": res.reshape(1), "h_post_scale": post}


class SecondManifoldConstrained(ManifoldConstrained):
    """The same with static_beta (n, 1, 1) and dynamic_beta_fn (C, 1)."""

    name: ClassVar[str] = "hyper-connections-mhc-v2"
    about: ClassVar[str] = "hyper-connections 0.4, mHCv2"

    def keys(self, site: HyperConnection) -> Keys:
        keys = super().keys(site)
        beta = {"static_beta": (site.streams, 1, 1), "dynamic_beta_fn": (site.dim, 1)}
        return Keys({**keys.required, **beta}, others=keys.others)
