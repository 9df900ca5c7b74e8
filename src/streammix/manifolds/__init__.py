"""Feasible sets for the mixing matrix H_res, one file a set."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from .._checks import check_called
from .base import Guarantees, Manifold
from .birkhoff import Birkhoff
from .circulant import Circulant
from .contracted import Contracted
from .exponential import Exponential
from .grassmann import Grassmann
from .identity import Identity
from .implicit_sinkhorn import ImplicitSinkhorn
from .isometric import Isometric
from .kronecker import Kronecker
from .one_sided import OneSided
from .orthostochastic import Orthostochastic
from .permutation_mix import PermutationMix
from .permutations import Permutations
from .quaternion import Quaternion
from .sinkhorn import Sinkhorn
from .spectral_sphere import SpectralSphere
from .stiefel import Stiefel
from .transportation import Transportation
from .unconstrained import Unconstrained
from .unit_diagonal import UnitDiagonal

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
    "contracted": Contracted,
    "one-sided": OneSided,
    "spectral-sphere": SpectralSphere,
    "isometric": Isometric,
    "stiefel": Stiefel,
    "quaternion": Quaternion,
    "exponential": Exponential,
    "grassmann": Grassmann,
    "unit-diagonal": UnitDiagonal,
    "identity": Identity,
    "unconstrained": Unconstrained,
}


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_BY_NAME)


def entrywise() -> tuple[str, ...]:
    """The names of those whose logits are entries of an n x n matrix; see Manifold."""
    return tuple(name for name, make in _BY_NAME.items() if getattr(make, "entrywise", False))


def get(name: str, streams: int, **options: Any) -> Manifold:
    """The manifold of this name for so many streams; options go to its constructor.

    Raises:
        ValueError: no manifold has this name, or its constructor refuses the arguments.
    """
    check(name, options)
    return _BY_NAME[name](streams, **options)


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError unless a manifold has this name and its constructor takes these options."""
    check_called("manifold", name, _BY_NAME)
    accepted = [option for option in signature(_BY_NAME[name]).parameters if option != "streams"]
    for option in options:
        if option not in accepted:
            raise ValueError(f"manifold_options: got {option!r}; accepted by {name!r}: {', '.join(accepted) or 'none'}")


__all__ = [
    "Birkhoff",
    "Circulant",
    "Contracted",
    "Exponential",
    "Grassmann",
    "Guarantees",
    "Identity",
    "ImplicitSinkhorn",
    "Isometric",
    "Kronecker",
    "Manifold",
    "OneSided",
    "Orthostochastic",
    "PermutationMix",
    "Permutations",
    "Quaternion",
    "Sinkhorn",
    "SpectralSphere",
    "Stiefel",
    "Transportation",
    "Unconstrained",
    "UnitDiagonal",
    "check",
    "entrywise",
    "get",
    "names",
]
