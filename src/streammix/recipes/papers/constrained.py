"""mHC's wiring with other sets for H_res."""

from typing import Any

from ..recipe import AuthorsStart, Recipe

#: What the code of mHC-lite and of those built on it shares: norm and start.
AS_MHC_LITE: dict[str, Any] = {"norm_eps": None, "authors": AuthorsStart()}
AS_TBP: dict[str, Any] = {**AS_MHC_LITE, "authors": AuthorsStart(mix="zero")}

RECIPES = (
    Recipe(
        name="mhc-lite",
        source="mHC-lite: arXiv 2601.05732, Eq. 4-5, and its code",
        note="All n! permutations up to n = 6, a seeded sample beyond. The norm's eps is torch's"
        " default for rms_norm; its code normalises by F.normalize, the same to rounding. H_res starts as in its code"
        " (0 / -8), reads and writes as in mhc; start='authors' is its code's, which has biases of +1 for the read and"
        " the write of stream k mod n and -1 for the others. Its code ends streams in their sum.",
        manifold="permutations",
        **AS_MHC_LITE,
    ),
    Recipe(
        name="kromhc",
        source="KromHC: arXiv 2601.21579, Sec. 4, and its code",
        note="Factors are the primes of n, each a mixture of permutations, under one gate as published; its code takes"
        " powers of two only. Norm, starts and end as in mhc-lite.",
        manifold="kronecker",
        **AS_MHC_LITE,
    ),
    Recipe(
        name="go-mhc",
        source="go-mHC: arXiv 2604.02309, Sec. 3, s = 2",
        note="Its language model's initialisation is not published, and zero logits would never learn: they start "
        "small. Reads and writes as in mhc.",
        manifold="orthostochastic",
        manifold_options={"s": 2},
    ),
    Recipe(
        name="tbp",
        source="TBP-mHC: arXiv 2605.21724, sequential chart, and its code",
        note="H_res starts near the identity, reads and writes as in mhc. Its code, start='authors', starts at zero"
        " mixing logits, where sigma_2 = 0.41 at n = 4, with reads and writes as in mhc-lite's; mix_start='zero' is"
        " that with equal writes, from which the streams hardly come apart. Minorised, (1 - d) H + d 11'/n with d"
        " learned, at first sigmoid(-8) = 0.0003, as its layers are by default. (n - 1)^2 logits where its code makes"
        " n^2 and uses as many. Norm and end as in mhc-lite.",
        manifold="transportation",
        manifold_options={"minorised": True},
        **AS_TBP,
    ),
    Recipe(
        name="rtbp",
        source="RTBP: arXiv 2605.21724, recursive chart, and its code",
        note="As tbp. RTBP2N for n a power of two, RTBP for other n, as `streammix.manifolds.Transportation` has it."
        " Its code's start at zero mixing logits is 11'/n for n a power of two: it erases every difference between"
        " streams, and with equal writes, mix_start='zero', they stay copies.",
        manifold="transportation",
        manifold_options={"chart": "recursive", "minorised": True},
        **AS_TBP,
    ),
    Recipe(
        name="c-mhc",
        source="C-mHC: contactsebi/circulant-hyper-connections, leaky, beta = 4",
        note="The leak beta / (2 sites) is that of 24 sites: set manifold_options={'sites': ...} to your network's. "
        "H_res starts at zero logits as published, a uniform leak; reads start as in mhc, weights at zero. start="
        "'authors' is its code's: reads of 1/n, weights N(0, 0.02^2 / (n C)). A gate a group instead of one.",
        manifold="circulant",
        manifold_options={"sites": 24},
        mix_start="zero",
        authors=AuthorsStart(read="mean", write="zero", mix="zero", weights=0.02),
    ),
    Recipe(
        name="shc",
        source="sHC: arXiv 2603.20896, and its code",
        note="Its code has one gate each for the three groups of mixing logits, here one for all. H_res starts as in "
        "its code, reads and writes as in mhc. Norm, start='authors' and end as in mhc-lite.",
        manifold="spectral-sphere",
        **AS_MHC_LITE,
    ),
    Recipe(
        name="isohc",
        source="The sigma = 1 member of sHC (arXiv 2603.20896); no paper of its own",
        note="Rotations that keep the mean of the streams. The gate on its logits is frozen, as oHC advises for "
        "orthogonal mixing; all else as in mhc.",
        manifold="isometric",
        freeze_mix_gate=True,
    ),
    Recipe(
        name="ohc",
        source="oHC: arXiv 2609.02672, quaternion form",
        note="n = 4 only. The gate on the mixing logits is frozen as published. Eight logits where the paper uses 8 of"
        " mHC's 16 channels; reads and writes as in mhc.",
        manifold="quaternion",
        freeze_mix_gate=True,
    ),
    Recipe(
        name="jpmhc-cayley",
        source="JPmHC: arXiv 2602.18308, Sec. 3 and App. I",
        note="The exact Cayley map replaces two steps of its iteration (manifold_options={'iterations': 2} is the "
        "paper). The paper makes reads and writes from n x n softmaxes without stating their temperature or start, and"
        " takes a LayerNorm; here reads and writes are as in mhc.",
        manifold="stiefel",
    ),
    Recipe(
        name="jpmhc-grassmann",
        source="JPmHC: arXiv 2602.18308, App. J",
        note="H_res is a static projector of rank n / 2, never near the identity; it keeps equal streams, so a new "
        "model still equals the plain residual one. Trained by the model's optimizer, not the paper's own. Reads and "
        "writes as in mhc: half the published parameters, see 'Parameters against the papers'.",
        manifold="grassmann",
    ),
    Recipe(
        name="jpmhc-sinkhorn",
        source="JPmHC: arXiv 2602.18308, App. B and C",
        note="The gradient is solved for exactly instead of by 4 n Gauss-Seidel steps. The paper leaves the start "
        "open: as in mhc.",
        manifold="implicit-sinkhorn",
    ),
    Recipe(
        name="perm-mix",
        source="JPmHC: arXiv 2602.18308, Perm-Mix",
        note="n >= 3. Six fixed permutations; which one its seed 42 drew is not stated. The start is left open: H_res "
        "as in mhc-lite, reads and writes as in mhc.",
        manifold="permutation-mix",
    ),
)
