"""What changes the inputs of branches: a read for each of them."""

from ..recipe import Recipe

RECIPES = (
    Recipe(
        name="dsr",
        source="Decoupled Semantic Routing: OpenReview ItHTmPjvIb, its abstract",
        note="Second-hand: the abstract alone could be read, which says that queries, keys and values each get a"
        " mixture of mHC's streams of their own. Here a branch that takes k inputs, by its attribute branch_inputs,"
        " gets k reads; all else is mhc, and so is a site whose branch has one input. Reads start alike, as in mhc."
        " The abstract finds static mixtures no worse than dynamic ones: connection_options={'static_reads': True}, or"
        " dynamic=False for H_res and writes, too.",
        connection="decoupled",
        manifold="birkhoff",
    ),
)
