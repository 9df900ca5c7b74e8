"""The recipes of the papers, by what they change: the matrix alone, or the wiring and the generators too."""

from . import bounds, constrained, hyper, interfaces, layouts, reads

ALL = (
    *hyper.RECIPES,
    *constrained.RECIPES,
    *bounds.RECIPES,
    *layouts.RECIPES,
    *reads.RECIPES,
    *interfaces.RECIPES,
)
