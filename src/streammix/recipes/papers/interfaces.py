"""mHC with other reads and writes: by groups of channels or of sites, in other directions, or annealed."""

from ..recipe import Recipe

RECIPES = (
    Recipe(
        name="motif-3",
        source="Motif 3: arXiv 2608.09119, mHC with an annealed write multiplier",
        note="post = m sigmoid(l), m going from mHC's 2 to 1 in pretraining, because at that depth and scale 2 let"
        " outliers of the activations add up. Second-hand: the report itself was not read. The course is not known:"
        " here `streammix.anneal_write_multiplier(model, progress)` is linear in the progress it is given, which the"
        " lab's trainings raise from 0 at the first step to 1 at the last. All else as in mhc, exact projection"
        " included.",
        manifold="birkhoff",
        write="sigmoid",
        write_multiplier=2.0,
        write_multiplier_end=1.0,
    ),
    Recipe(
        name="simple-hc",
        source="SimpleHC: OpenReview i2WyUVJUJ2",
        note="H_res = I, and the gates of a group of layers share one access to the streams. Second-hand: no formula"
        " was read. It is taken to mean that the first site of a group makes the read and write weights of all its"
        " sites, each site having rows of its own; connection_options={'common': True} gives them one pre and one post."
        " How many layers make a group is not known: 4 sites, two blocks, here. All else as in ihc.",
        connection="grouped",
        connection_options={"group": 4},
        manifold="identity",
    ),
    Recipe(
        name="uhc",
        source="uHC: OpenReview Qnj7Lf8Bz2",
        note="4 groups of channels, each read by sigmoids made of its own slice; a write-back of rank 8 for every"
        " stream; H_res as in mhc, whose exact projection replaces Sinkhorn. Second-hand: what is normed (each slice,"
        " here), where post stands (before both parts of the write, here) and how the write-back starts (A random, B"
        " zero, here) are not known. All else as in mhc.",
        connection="uncoupled",
        connection_options={"heads": 4},
        manifold="birkhoff",
        rank=8,
    ),
    Recipe(
        name="ehc",
        source="eHC, Equilibrium Updates for Residual Learning: OpenReview RBTdbBBvdL",
        note="Writes are g 1 + (I - P) q, P = H_res being doubly stochastic; with P = 11'/n, I - P takes the mean off."
        " Second-hand: of the paper, the abstract's formula. How g and q are made is not known: here of mHC's n write"
        " logits, one for g and one for each dimension of q, both linear, because the abstract has them one to one with"
        " signed writes. H_res starts at logits of 0 / -2, 0.71 on its diagonal: nearer the identity (I - P) q would"
        " vanish, and the streams stay copies. All else as in mhc.",
        connection="equilibrium",
        manifold="birkhoff",
        write="linear",
        mix_start=-2.0,
    ),
    Recipe(
        name="multi-head-mhc",
        source="Multi-head mHC: marcoshernanz/multi-head-mhc, REPORT.md, design A with global predictors",
        note="4 heads. Its Sinkhorn of 20 rounds with eps is replaced by the exact projection, its eps on reads by"
        " none. It starts near the plain residual network, with reads of sigmoid(+-2) and 4 on the diagonal of H_res;"
        " here every head starts as mhc does. Its author finds heads worth their parameters and no more.",
        connection="multi-head",
        connection_options={"heads": 4},
        manifold="birkhoff",
    ),
)
