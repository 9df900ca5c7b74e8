"""Feasible sets for the mixing matrix H_res, one file a set."""

from collections.abc import Callable
from typing import Any

from .base import Guarantees, Manifold
from .birkhoff import Birkhoff
from .circulant import Circulant
from .grassmann import Grassmann
from .identity import Identity
from .implicit_sinkhorn import ImplicitSinkhorn
from .isometric import Isometric
from .kronecker import Kronecker
from .orthostochastic import Orthostochastic
from .permutation_mix import PermutationMix
from .permutations import Permutations
from .quaternion import Quaternion
from .sinkhorn import Sinkhorn
from .spectral_sphere import SpectralSphere
from .stiefel import Stiefel
from .transportation import Transportation
from .unconstrained import Unconstrained

_BY_NAME: dict[str, Callable[..., Manifold]] = {
    "birkhoff": Birkhoff,
    "sinkhorn": Sinkhorn,
    "implicit-sinkhorn": ImplicitSinkhorn,
    "permutations": Permutations,
    "permutation-mix": PermutationMix,
    "kronecker": Kronecker,
    "orthostochastic": Orthostochastic,
    "transportation": Transportation,
    "circulant": Circulant,
    "spectral-sphere": SpectralSphere,
    "isometric": Isometric,
    "stiefel": Stiefel,
    "quaternion": Quaternion,
    "grassmann": Grassmann,
    "identity": Identity,
    "unconstrained": Unconstrained,
}


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_BY_NAME)


def get(name: str, streams: int, **options: Any) -> Manifold:
    """The manifold of this name for so many streams; options go to its constructor.

    Raises:
        ValueError: no manifold has this name, or its constructor refuses the arguments.
    """
    if name not in _BY_NAME:
        raise ValueError(f"manifold: none is called {name!r}; accepted: {', '.join(_BY_NAME)}")
    return _BY_NAME[name](streams, **options)


__all__ = [
    "Birkhoff",
    "Circulant",
    "Grassmann",
    "Guarantees",
    "Identity",
    "ImplicitSinkhorn",
    "Isometric",
    "Kronecker",
    "Manifold",
    "Orthostochastic",
    "PermutationMix",
    "Permutations",
    "Quaternion",
    "Sinkhorn",
    "SpectralSphere",
    "Stiefel",
    "Transportation",
    "Unconstrained",
    "get",
    "names",
]
