"""The hyper-connections of transformers' models, computed by our operators, in place."""

from typing import Literal, TypeVar, get_args

from torch import nn

from .._checks import check_name
from .families import FAMILIES, mixins
from .sites import FOLLOWING, FORMULA, Following, Site
from .swapping import Accelerated, check_forward, swap, swap_back

Projection = Literal["truncated", "exact"]
Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model, projection: Projection = "truncated") -> Model:
    """Compute a model's hyper-connections by streammix's operators; in place, with its own parameters.

    Names, parameters and state dicts do not change: `save_pretrained` writes what it would have written. Outputs and
    gradients are those of the model to rounding. Numbers of rounds and eps are read now, not at every call. The write
    of one site and the read of the next are one pass over the streams, across layers too. `restore` takes it back.

    Args:
        model: of a family of transformers with hyper-connections of its own: deepseek_v4, glm5_next, hy_v4, hy_v4_vl,
            qwen4_exp, as far as the installed release has them; or a module that contains one.
        projection: "truncated": mixing matrices by the model's own rounds of Sinkhorn. "exact": by the projection onto
            doubly stochastic matrices, which the rounds approach; for families that mix.

    Returns:
        The model itself.

    Raises:
        ValueError: the model has no hyper-connections of these families, or does not mix where the projection is to be
            exact, or is accelerated already, or something else has replaced a forward; it is then left as it was.
    """
    check_name("projection", projection, get_args(Projection))
    if any(isinstance(module, Accelerated) for module in model.modules()):
        raise ValueError("model: it is accelerated already; streammix.hf.restore(model) takes that back first")
    table = mixins(projection == "exact")
    found = [(module, *table[type(module)]) for module in model.modules() if type(module) in table]
    if not found:
        names = ", ".join(family.name for family in FAMILIES)
        raise ValueError(
            f"model: {type(model).__name__} has no hyper-connections that are known here; accepted: the families"
            f" {names}; streammix.hf.add_streams gives streams to models without"
        )
    for module, family, _ in found:
        check_forward(module)
        if projection == "exact" and not family.mixes:
            raise ValueError(
                f"projection: got 'exact', but {family.name} does not mix its streams; accepted: 'truncated'"
            )
    # Made before anything changes, because numbers that no formula accepts raise here.
    formulas = [mixin.formula(module) if issubclass(mixin, Site) else None for module, _, mixin in found]
    for (module, _, mixin), formula in zip(found, formulas):
        swap(module, mixin)
        if formula is not None:
            module.__dict__[FORMULA] = formula
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            link(module)
    return model


def link(layers: nn.ModuleList) -> None:
    """Tell each layer the site that comes after it."""
    for layer, after in zip(layers, list(layers)[1:]):
        site = getattr(after, "attn_hc", None)
        if isinstance(layer, Accelerated) and isinstance(site, Site):
            layer.__dict__[FOLLOWING] = Following(after, site)


def decelerate(model: nn.Module) -> None:
    """Give every accelerated part its own class again."""
    for module in [m for m in model.modules() if isinstance(m, Accelerated)]:
        swap_back(module)
        for name in (FOLLOWING, FORMULA):
            module.__dict__.pop(name, None)
