"""Hyper-connections, mHC and what is run at scale."""

from dataclasses import replace

from ..recipe import AuthorsStart, Recipe

DEEPSEEK_V4 = Recipe(
    name="deepseek-v4",
    source="DeepSeek-V4 inference code, hc_pre and hc_post; transformers DeepseekV4HyperConnection",
    note="The released formulas to rounding, for checkpoints: eps on reads and in Sinkhorn, gates 1, weights "
    "N(0, 0.02^2), biases zero. It does not start as the plain residual network.",
    manifold="sinkhorn",
    manifold_options={"recipe": "deepseek-v4", "rounds": 20},
    read_eps=1e-6,
    start="zero",
    weight_std=0.02,
    gate=1.0,
    collapse="head",
)

RECIPES = (
    Recipe(
        name="hc",
        source="Hyper-Connections, dynamic: arXiv 2409.19606, Eq. 10-13 and Alg. 2",
        note="As published. The paper also multiplies initial weights of every branch's output projection by sqrt(n), "
        "which is the model's to do.",
        manifold="unconstrained",
        logits="per-stream",
        read="linear",
        write="linear",
        rotate="one-hot",
        norm_eps=1e-5,
        collapse="sum",
    ),
    Recipe(
        name="hc-static",
        source="Hyper-Connections, static: arXiv 2409.19606, Eq. 2-5",
        note="As published.",
        manifold="unconstrained",
        logits="static",
        read="linear",
        write="linear",
        rotate="one-hot",
        collapse="sum",
    ),
    Recipe(
        name="mhc",
        source="Manifold-Constrained HC: arXiv 2512.24880, Eq. 7-9, with the exact projection of arXiv 2606.07574",
        note="The exact projection replaces 20 Sinkhorn rounds. The paper leaves initial biases and weights open: here "
        "biases 0 / -8 for H_res, +1 for the read of stream k mod n as in mHC-lite's code, the other reads such that "
        "they sum to one, writes 2 sigmoid(0) = 1, weights zero. Streams end in their mean.",
        manifold="birkhoff",
    ),
    Recipe(
        name="mhc-sinkhorn",
        source="Manifold-Constrained HC: arXiv 2512.24880, Eq. 7-9",
        note="To the letter, 20 rounds and norm eps 1e-20 included; what the paper leaves open as in mhc.",
        manifold="sinkhorn",
        manifold_options={"recipe": "mhc", "rounds": 20},
        norm_eps=1e-20,
    ),
    Recipe(
        name="ihc",
        source="Identity HC: arXiv 2607.28611 (Chimera)",
        note="H_res = I. The paper starts with uniform reads 1/n, which need another symmetry break; reads as in mhc.",
        manifold="identity",
    ),
    DEEPSEEK_V4,
    replace(
        DEEPSEEK_V4,
        name="glm-5.3",
        source="GLM-5.3-Flash; transformers 5.24.0 Glm5NextTextHyperConnection and Glm5NextTextHyperHead",
        note="As deepseek-v4, with two differences: streams end in their plain mean, and the norm's eps is the model's"
        " rms_norm_eps, 1e-5. For checkpoints: it does not start as the plain residual network.",
        norm_eps=1e-5,
        collapse="mean",
    ),
    Recipe(
        name="hy4",
        source="Hy4, independent hyper-connections; transformers 5.24.0 HYV4HyperConnection and HYV4HyperHead",
        note="H_res = I. Reads are sigmoids, writes twice sigmoids (hc_magnitude 2), both with eps; the end is a gated"
        " head. It starts as Hy4 does: reads and head at 1/n, writes at one, gates 0.01, weights N(0, 0.006^2), which"
        " are all that tells the streams apart. The norm's eps is the model's rms_norm_eps, 1e-5.",
        manifold="identity",
        write="sigmoid",
        write_multiplier=2.0,
        read_eps=1e-6,
        write_eps=1e-6,
        start="authors",
        authors=AuthorsStart(read="mean", write="zero", mix="zero", weights=None),
        weight_std=0.006,
        gate=0.01,
        norm_eps=1e-5,
        collapse="head",
    ),
)
