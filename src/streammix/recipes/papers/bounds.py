"""mHC's wiring with sets bounded in another way: one marginal, a flow, signed deviations, a contraction."""

from dataclasses import replace

from ..depth import Switch
from ..recipe import AuthorsStart, Recipe

OS_HC = Recipe(
    name="os-hc",
    source="osHC, One Marginal Is Enough: OpenReview 1BC0eYN2uS, Theorems 4.1 and 4.2",
    note="Second-hand: the paper could not be read. Rows of H_res sum to one, at every site. How it normalises is not"
    " known; here by a softmax. All else as in mhc. Of its four layouts two switch partway, where is not known:"
    " manifold_options={'sums': Switch('rows', 'columns', at=0.5)}, or the other way round.",
    manifold="one-sided",
    manifold_options={"sums": "rows"},
)

RECIPES = (
    OS_HC,
    replace(
        OS_HC,
        name="os-hc-columns",
        note="As os-hc, with columns of H_res that sum to one, at every site.",
        manifold_options={"sums": "columns"},
    ),
    Recipe(
        name="cghc",
        source="Continuous generalised HC: pjjajal/hyperconnections, ContinuousGenHyperConnections",
        note="Its default generator, and m = 1 segment to a branch; for others, connection='generalised'. Its default"
        " dt, which is made of the state, is held at 1 by a clamp. It has no gate on the mixing logits, here one as in"
        " mhc. H_res starts near the identity, reads and writes as in mhc; start='authors' is its code's, with reads of"
        " 1/n and R = 0, from where neither equal streams come apart nor R R' moves.",
        manifold="exponential",
        manifold_options={"generator": "conservative-psd"},
        norm_eps=None,
        authors=AuthorsStart(read="mean", write="zero", mix="zero"),
    ),
    Recipe(
        name="ito-hc",
        source="ITO-HC, Identity-Centered Tanh Off-Diagonal: OpenReview nKRfYmPtP2, abstract",
        note="Second-hand. H_res does not depend on the token, reads and writes do, as in mhc. The abstract does not"
        " state the bound; here it is 1/n, which keeps every H_res invertible.",
        manifold="unit-diagonal",
        manifold_options={"static": True},
    ),
    Recipe(
        name="cmhc",
        source="cmHC, A Geometric Contraction: OpenReview NH0KjaJepH; MindFormers HyperConnectionModule, enable_cmhc",
        note="The paper could not be read; formula, mixtures of permutations and the start of H_res are MindFormers'."
        " gamma is 0.8 in the first two layers, four sites, and 1 afterwards, as in the one training log found. Reads"
        " and writes as in mhc; MindFormers starts reads at sigmoid(0) and weights at N(0, 1e-4^2).",
        manifold="contracted",
        manifold_options={"gamma": Switch(0.8, 1.0, at=4), "by": "permutations"},
    ),
)
