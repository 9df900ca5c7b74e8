"""From logits to read and write weights, as a recipe says."""

from torch import Tensor

from ..recipes import Activation, Recipe


def read_weights(recipe: Recipe, logits: Tensor) -> Tensor:
    """pre = read(logits) + read_eps."""
    weights = activate(recipe.read, logits)
    return weights + recipe.read_eps if recipe.read_eps else weights


def write_weights(recipe: Recipe, logits: Tensor, multiplier: Tensor | None = None) -> Tensor:
    """post = write_multiplier write(logits) + write_eps; multiplier: in place of the recipe's."""
    return scaled(recipe, activate(recipe.write, logits), multiplier)


def scaled(recipe: Recipe, weights: Tensor, multiplier: Tensor | None) -> Tensor:
    """write_multiplier weights + write_eps; multiplier: in place of the recipe's."""
    if multiplier is not None:
        weights = weights * multiplier
    elif recipe.write_multiplier != 1:
        weights = weights * recipe.write_multiplier
    return weights + recipe.write_eps if recipe.write_eps else weights


def activate(activation: Activation, logits: Tensor) -> Tensor:
    match activation:
        case "linear":
            return logits
        case "sigmoid":
            return logits.sigmoid()
        case "twice-sigmoid":
            return 2 * logits.sigmoid()
