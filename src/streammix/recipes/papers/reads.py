"""What changes the reads of branches: one for each input, attention over streams or over all outputs, dense sums."""

from dataclasses import replace

from ..recipe import AuthorsStart, Recipe

ATTENTION_RESIDUALS = Recipe(
    name="attnres",
    source="Attention Residuals, full: arXiv 2603.15031, as Kimi K3's report, arXiv 2607.24653, repeats it in Eq. 8-9",
    note="Every branch is a layer. Queries start at zero, the mean of all sources: the plain residual network's input"
    " over their number, which a branch's own norm takes away. The weight of the norm of keys is absorbed in the query,"
    " C parameters a site where the source has 2 C; site 0, with one source, has none. The norm's eps is not stated.",
    connection="depth-attention",
    streams=1,
    manifold="identity",
    logits="query",
    read="linear",
    write="linear",
    start="zero",
    collapse="attended",
)

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
    Recipe(
        name="mgr",
        source="Multi-Gate Residuals, independent gates: arXiv 2605.23259, Eq. 1 and 14, as others quote them",
        note="Second-hand: the paper's text could not be read beyond its introduction. H_res = diag(1 - post). Streams"
        " begin as the first state and the first n - 1 outputs. Vectors start at zero, gates at 0.047, the paper's for"
        " 21 gated sites: connection_options={'depth': L} is its rule for L sites, {'gate': 'competitive'} its other"
        " gate. It does not start as the plain residual network, nor can it: states are averages, not sums.",
        connection="multi-gate",
        manifold="identity",
        logits="query",
        read="linear",
        write="sigmoid",
        start="authors",
        authors=AuthorsStart(),
        collapse="pooled",
    ),
    ATTENTION_RESIDUALS,
    replace(
        ATTENTION_RESIDUALS,
        name="attnres-block",
        source="Attention Residuals, block: arXiv 2603.15031, as Kimi K3's report, arXiv 2607.24653, repeats it in"
        " Eq. 10",
        note="As attnres over blocks of 6 branches, three Transformer blocks, as in the paper's Kimi Linear 48B; Kimi"
        " K3 has 24. A block's sum so far is a source, too. The mean of all sources is the plain residual network's"
        " input over their number here as well.",
        connection_options={"block": 6},
    ),
    Recipe(
        name="muddformer",
        source="MUDDFormer, multiway dynamic dense connections: arXiv 2502.12170, Eq. 5-8 and App. B",
        note="A block is an attention and an MLP: 2 branches, see connection_options. {'norms': True} has the norms"
        " around the sums by which the paper trains deep and narrow models (PrePostDANorm). Its widths of FFNs, which"
        " grow with depth, and the wider hidden layer of its code's last sum are not here. The branches' own norm"
        " serves queries, keys and values; the paper has one for each.",
        connection="dense",
        streams=1,
        manifold="identity",
        logits="dense",
        read="linear",
        write="linear",
        collapse="dense",
    ),
)
