"""Other wirings: fractions, segments, sparse updates, one pass; and other generators."""

from dataclasses import replace

from ..recipe import Recipe
from .hyper import DEEPSEEK_V4

RECIPES = (
    Recipe(
        name="frac",
        source="Frac-Connections, dynamic: arXiv 2503.14125",
        note="As published; the static form is dataclasses.replace(recipe, logits='static'). The paper has no "
        "constraint on the mixing of fractions; any manifold with n^2 logits can take the place of `unconstrained`.",
        connection="frac",
        manifold="unconstrained",
        logits="per-stream",
        read="linear",
        write="linear",
        rotate="one-hot",
        norm_eps=1e-5,
        collapse="concatenate",
    ),
    Recipe(
        name="ghc",
        source="Virtual Width Networks, generalised HC, static: arXiv 2511.11238",
        note="8 segments, 4 of them a branch's width: twice the width. In the paper the over-wide state comes from an "
        "over-wide embedding and ends in a learned reduction; here segment i starts as segment i mod m of the state "
        "(or the state comes over-wide) and the copies of a segment end in their mean. Reads start at one copy of "
        "each segment, which rotates with the site; one writing to every copy; H_res = I.",
        connection="generalised",
        connection_options={"segments": 4},
        streams=8,
        manifold="unconstrained",
        logits="static",
        read="linear",
        write="linear",
        rotate="one-hot",
    ),
    Recipe(
        name="dghc",
        source="Virtual Width Networks, generalised HC, dynamic: arXiv 2511.11238",
        note="As ghc; the scales S on the dynamic part are two scalars that start at 0.01, as in HC.",
        connection="generalised",
        connection_options={"segments": 4},
        streams=8,
        manifold="unconstrained",
        logits="per-stream",
        read="linear",
        write="linear",
        rotate="one-hot",
        norm_eps=1e-5,
    ),
    Recipe(
        name="xhc",
        source="xHC: arXiv 2607.14530",
        note="16 streams, 4 active: 2 fixed and the router's best 2, as published. The start is left open. To start as "
        "the plain residual network, every stream starts as active/n of the state (the paper copies it whole), reads "
        "are 1/active each and the writes to a site's active streams sum to active. Active streams are in the order of "
        "their index; the fixed ones are the first. Every active stream's write is scaled by its score. Router weights "
        "are random and tiny, so that tokens are routed apart while their scores agree to 1e-5; filters start at zero. "
        "Even sites are taken for attention (no filters), odd ones for MLPs.",
        connection="sparse",
        streams=16,
        manifold="sinkhorn",
        manifold_options={"recipe": "mhc", "rounds": 20},
        collapse="sum",
    ),
    Recipe(
        name="gated-residual",
        source="Gated Residual, Qwen3.8-Next; transformers 5.24.0 Qwen4ExpTextGatedResidual",
        note="H_res = I. A site reads the normalised streams through a sigmoid gate for every channel, made in a"
        " bottleneck of 320, and writes by twice sigmoids; a last read ends the streams. Weights N(0, 0.02^2) as in the"
        " model, which are all that tells the streams apart. Branches have no norm of their own there. It does not"
        " start as the plain residual network.",
        connection="gated",
        manifold="identity",
        logits="low-rank",
        rank=320,
        start="zero",
        weight_std=0.02,
        collapse="gated",
    ),
    Recipe(
        name="temper",
        source="TEMPER, CP generators: arXiv 2608.07851",
        note="Rank 2, the paper's best, for each of the three generators. The exact projection replaces its Sinkhorn "
        "rounds. It leaves the start open: factors on the output side are zero, the others random; biases and reads as "
        "in mhc. Its Tucker and tensor-train forms are not here.",
        manifold="birkhoff",
        logits="cp",
    ),
    replace(
        DEEPSEEK_V4,
        name="deepseek-v4.1",
        source="DeepSeek-V4.1-Flash, single-pass mHC: the inference code released with its weights, as the pull"
        " request NVIDIA-NeMo/Automodel#3855 describes and reimplements it",
        note="Second-hand: neither that code nor the model's report was read, and transformers has no deepseek_v41 up"
        " to 5.24.0. deepseek-v4 with another wiring: the read weights made at a site are used at the next, the first"
        " site reads stream 0, the last site's read weights end the streams. Norm eps 1e-20. For checkpoints, as "
        "deepseek-v4: it does not start as the plain residual network.",
        connection="single-pass",
        norm_eps=1e-20,
        collapse="carried",
    ),
)
