"""From logits to read and write weights, as a recipe says."""

from torch import Tensor

from ..recipes import Activation, Recipe


def read_weights(recipe: Recipe, logits: Tensor) -> Tensor:
    """pre = read(logits) + read_eps."""
    weights = activate(recipe.read, logits)
    return weights + recipe.read_eps if recipe.read_eps else weights


def write_weights(recipe: Recipe, logits: Tensor) -> Tensor:
    """post = write_multiplier write(logits) + write_eps."""
    weights = activate(recipe.write, logits)
    weights = weights * recipe.write_multiplier if recipe.write_multiplier != 1 else weights
    return weights + recipe.write_eps if recipe.write_eps else weights


def activate(activation: Activation, logits: Tensor) -> Tensor:
    match activation:
        case "linear":
            return logits
        case "sigmoid":
            return logits.sigmoid()
        case "twice-sigmoid":
            return 2 * logits.sigmoid()
