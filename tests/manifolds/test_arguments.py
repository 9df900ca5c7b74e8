"""Wrong arguments raise one error that says what is accepted."""

import pytest
import torch

import streammix as sm
from streammix import manifolds as M


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: M.get("birkof", 4), r"'birkof'; accepted: birkhoff, sinkhorn"),
        (lambda: M.Birkhoff(4)(torch.zeros(2, 15)), r"\(2, 15\); Birkhoff\(streams=4\) accepts \(\.\.\., 16\)"),
        (lambda: M.Permutations(3)(torch.zeros(2, 7)), r"\(2, 7\); Permutations\(streams=3\) accepts \(\.\.\., 6\)"),
        (lambda: M.Identity(4)(torch.zeros(2, 1)), r"Identity\(streams=4\) accepts \(\.\.\., 0\)"),
        (lambda: M.Grassmann(4)(torch.zeros(2, 1)), r"Grassmann\(streams=4\) accepts \(\.\.\., 0\)"),
        (lambda: M.Stiefel(4)(torch.tensor(1.0)), r"\(\); Stiefel\(streams=4\) accepts \(\.\.\., 16\)"),
        (lambda: M.Sinkhorn(4, recipe="deepseek"), r"'deepseek'; accepted: mhc"),
        (lambda: M.Quaternion(3), r"streams: got 3; Quaternion accepts 4"),
        (lambda: M.PermutationMix(2), r"streams: got 2; PermutationMix accepts integers >= 3"),
        (lambda: M.Permutations(4, count=25), r"count: got 25; accepted: None or 1 \.\.\. 4! = 24"),
        (lambda: M.Permutations(4, count=0), r"count: got 0; accepted"),
        (lambda: M.Permutations(3, count=2, subset=[(0, 1, 2)]), r"count: got 2 beside a subset"),
        (
            lambda: M.Permutations(3, subset=[(0, 1, 2), (0, 0, 2)]),
            r"subset: got \(0, 0, 2\); accepted: perm.* 0 \.\.\. 2",
        ),
        (lambda: M.Permutations(3, subset=[(0, 2, 1)]), r"subset: .* the identity among them"),
        (lambda: M.Permutations(2, subset=[(0, 1), (0, 1)]), r"subset: .* distinct"),
        (lambda: M.Kronecker(6, factors=(2, 2)), r"factors: got \(2, 2\); accepted: .* product is streams = 6"),
        (lambda: M.Kronecker(6, factors=(6, 1)), r"factors: got \(6, 1\); accepted: integers >= 2"),
        (lambda: M.Kronecker(4, by="softmax"), r"by: got 'softmax'; accepted: permutations, birkhoff"),
        (lambda: M.Kronecker(6, by="closed"), r"'closed' with factors \(2, 3\); .* accepts factors of 2 only"),
        (lambda: M.Grassmann(4, rank=5), r"rank: got 5; accepted: None or 1 \.\.\. streams = 4"),
        (lambda: M.Grassmann(4, rank=0), r"rank: got 0"),
        (lambda: M.Orthostochastic(4, s=0), r"s: got 0; accepted: integers >= 1"),
        (lambda: M.Transportation(4, chart="tree"), r"chart: got 'tree'; accepted: sequential, recursive"),
        (lambda: M.Circulant(4, sites=2), r"sites: got 2; accepted: None or numbers above beta / 2 = 2\.0"),
        (lambda: M.Circulant(4, beta=0.0), r"beta: got 0\.0; accepted: positive"),
        (lambda: M.Stiefel(4, alpha=-1.0), r"alpha: got -1\.0; accepted: positive"),
        (lambda: M.Stiefel(4, iterations=0), r"iterations: got 0; accepted: None or integers >= 1"),
        (lambda: M.OneSided(4, sums="both"), r"sums: got 'both'; accepted: rows, columns"),
        (lambda: M.Exponential(4, generator="skew"), r"generator: got 'skew'; accepted: conservative, psd, diagonal"),
        (lambda: M.Exponential(4, dt=0), r"dt: got 0; accepted: finite numbers > 0"),
        (lambda: M.UnitDiagonal(4, bound=-1.0), r"bound: got -1\.0; accepted: None or finite numbers > 0"),
        (
            lambda: M.UnitDiagonal(4, static=True)(torch.zeros(2, 12)),
            r"UnitDiagonal\(streams=4\) accepts \(\.\.\., 0\)",
        ),
        (lambda: M.Contracted(4, gamma=0.0), r"gamma: got 0\.0; accepted: numbers above 0, up to 1"),
        (lambda: M.Contracted(4, gamma=1.5), r"gamma: got 1\.5; accepted"),
        (lambda: M.Contracted(4, by="sinkhorn"), r"by: got 'sinkhorn'; accepted: birkhoff, permutations"),
        (lambda: M.ImplicitSinkhorn(4, rounds=0), r"rounds: got 0; accepted: integers >= 1"),
        (lambda: sm.HyperConnection(None, 8, 3, "ohc", site=0), r"streams: got 3; Quaternion accepts 4"),
        (lambda: sm.HyperConnection(None, 8, 2, "perm-mix", site=0), r"streams: got 2; .*integers >= 3"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.refusal
@pytest.mark.parametrize("name", sm.manifolds.names())
@pytest.mark.parametrize("streams", [0, -1, 2.0, True])
def test_streams(name, streams):
    with pytest.raises(ValueError, match=r"streams: got .*accept.*"):
        sm.manifolds.get(name, streams)


@pytest.mark.refusal
@pytest.mark.parametrize("name", [name for name in sm.manifolds.names() if name != "unconstrained"])
def test_logits_must_be_floating_point(name):
    manifold = sm.manifolds.get(name, 4)
    with pytest.raises(TypeError, match=r"int64"):
        manifold(torch.zeros(2, manifold.num_logits, dtype=torch.int64))
