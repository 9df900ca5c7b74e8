import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

import streammix as sm


def test_the_published_names_are_there():
    assert {
        *(
            "hc",
            "hc-static",
            "mhc",
            "mhc-sinkhorn",
            "ihc",
            "deepseek-v4",
            "mhc-lite",
            "kromhc",
            "go-mhc",
            "tbp",
            "rtbp",
        ),
        *("c-mhc", "shc", "isohc", "ohc", "jpmhc-cayley", "jpmhc-grassmann", "jpmhc-sinkhorn", "perm-mix"),
        *("frac", "ghc", "dghc", "xhc", "temper", "deepseek-v4.1"),
        *("glm-5.3", "hy4", "gated-residual"),
        *("os-hc", "os-hc-columns", "cghc", "ito-hc", "cmhc"),
        *("dsr", "mgr", "attnres", "attnres-block", "muddformer"),
        *("motif-3", "simple-hc", "uhc", "ehc", "multi-head-mhc"),
    } <= set(sm.recipes.names())


@pytest.mark.parametrize("name", sm.recipes.names())
def test_a_recipe_is_data(name):
    recipe = sm.recipes.get(name)
    assert recipe.name == name
    assert recipe.source
    assert recipe.note
    assert name in repr(recipe)
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe
    assert dataclasses.replace(recipe, gate=0.5).gate == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.gate = 1.0


def test_published_starts():
    """c-mhc starts at zero mixing logits; tbp and rtbp do when asked to, else near the identity as the others."""
    assert [name for name in sm.recipes.names() if sm.recipes.get(name).mix_start == "zero"] == ["c-mhc"]
    for name in ("tbp", "rtbp", "c-mhc"):
        recipe = sm.recipes.get(name)
        zero = sm.HyperConnection(None, 8, 4, dataclasses.replace(recipe, mix_start="zero"), site=0)
        assert not zero.logits.bias[8:].any()
        near = sm.HyperConnection(None, 8, 4, dataclasses.replace(recipe, mix_start="identity"), site=0)
        assert near.logits.bias[8:].tolist() == near.manifold.identity_logits().tolist()
        assert near.logits.bias[:8].tolist() == zero.logits.bias[:8].tolist()


@pytest.mark.parametrize("name", ["mhc", "mhc-sinkhorn", "jpmhc-sinkhorn"])
@pytest.mark.parametrize("value", [-8.0, -2.0, 0])
def test_h_res_starts_where_a_recipe_says(name, value, seed):
    """Diagonal logits 0, others as told, everything else as ever; H_res is then the set's matrix of those logits."""
    recipe = dataclasses.replace(sm.recipes.get(name), mix_start=value)
    told = sm.HyperConnection(None, 8, 4, recipe, site=1)
    usual = sm.HyperConnection(None, 8, 4, name, site=1)
    logits = value * (1 - torch.eye(4))
    assert told.logits.bias[8:].reshape(4, 4).tolist() == logits.tolist()
    assert told.logits.bias[:8].tolist() == usual.logits.bias[:8].tolist()
    weight = torch.tensor(value).exp() / (1 + 3 * torch.tensor(value).exp())
    H = told.coefficients(torch.randn(5, 4, 8))[2]
    torch.testing.assert_close(H[:, 0, 1], weight.expand(5), rtol=1e-5, atol=0)
    if value == -8:
        assert told.logits.bias.tolist() == usual.logits.bias.tolist()


@pytest.mark.parametrize("name", ["mhc-lite", "kromhc", "shc", "tbp", "rtbp"])
@pytest.mark.parametrize(("streams", "site"), [(4, 0), (4, 6), (2, 1)])
def test_the_start_of_mhc_lites_code_and_of_those_built_on_it(name, streams, site):
    recipe = dataclasses.replace(sm.recipes.get(name), start="authors")
    assert recipe.norm_eps is None
    own = sm.HyperConnection(None, 8, streams, recipe, site=site)
    biases = torch.full((streams,), -1.0)
    biases[site % streams] = 1
    read, write, mix = own.logits.bias.split([streams, streams, own.manifold.num_logits])
    assert torch.equal(read, biases)
    assert torch.equal(write, biases)
    zero = torch.zeros_like(mix)
    assert torch.equal(mix, zero if "tbp" in name else own.manifold.identity_logits())
    assert not own.logits.weight.any()
    assert own.logits.gate.tolist() == [pytest.approx(0.01)] * 3


def test_the_start_of_c_mhcs_code(seed):
    site = sm.HyperConnection(None, 600, 4, dataclasses.replace(sm.recipes.get("c-mhc"), start="authors"), site=0)
    pre, post, _ = site.coefficients(torch.zeros(4, 600))
    torch.testing.assert_close(pre, torch.full((4,), 0.25))
    torch.testing.assert_close(post, torch.ones(4))
    assert site.logits.weight.std().item() == pytest.approx(0.02 / 2400**0.5, rel=0.05)
    assert not site.logits.bias[8:].any()


@pytest.mark.parametrize("name", ["mhc", "deepseek-v4", "xhc", "frac"])
def test_a_recipe_without_an_authors_start(name):
    with pytest.raises(ValueError, match=rf"start: got 'authors'; recipe '{name}' has no .*accepted: identity, zero"):
        dataclasses.replace(sm.recipes.get(name), start="authors")


def test_a_recipe_pickled_before_its_newer_fields_has_their_defaults():
    state = dict(vars(sm.recipes.get("mhc")))
    for field in ("write_multiplier", "write_eps", "authors"):
        del state[field]
    old = object.__new__(sm.recipes.Recipe)
    old.__dict__.update(state)
    assert pickle.loads(pickle.dumps(old)) == sm.recipes.get("mhc")


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("norm_eps", -1e-6, "finite numbers >= 0 or None"),
        ("norm_eps", float("nan"), "finite numbers >= 0 or None"),
        ("read_eps", None, "finite numbers >= 0"),
        ("write_eps", "1e-6", "finite numbers >= 0"),
        ("write_multiplier", 0, "finite numbers > 0"),
        ("write_multiplier", True, "finite numbers > 0"),
    ],
)
def test_a_bad_number(field, value, accepted):
    with pytest.raises(ValueError, match=rf"{field}: got {value!r}; accepted: {accepted}"):
        dataclasses.replace(sm.recipes.get("mhc"), **{field: value})


@pytest.mark.parametrize("name", ["hc", "dghc", "xhc"])
def test_a_layer_norm_needs_an_eps(name):
    with pytest.raises(ValueError, match=r"norm_eps: got None; .* accept finite numbers >= 0"):
        sm.Stack([nn.Identity()], 16, recipe=dataclasses.replace(sm.recipes.get(name), norm_eps=None))


@pytest.mark.parametrize("name", ["mhc", "ihc", "ghc", "xhc"])
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_write_multiplier_and_eps(name, backend, seed):
    """post = 2.5 write(l) + 0.01 in every connection; a new model still starts as the plain one."""
    recipe = sm.recipes.get(name)
    write = "linear" if recipe.write == "linear" else "sigmoid"
    recipe = dataclasses.replace(recipe, write=write, write_multiplier=2.5, write_eps=0.01, collapse="mean")
    branch = nn.Linear(16, 16)
    x = torch.randn(3, 5, 16)
    with sm.backend(backend):
        out = sm.Stack([branch], 16, recipe=recipe)(x)
    expected = x + branch(x)
    scale = 4 / 16 if name == "xhc" else 1  # of 16 streams that sum to four states
    torch.testing.assert_close(out, scale * expected, rtol=0, atol=2e-5)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"recipe: none is called 'mch'; accepted: hc, hc-static, mhc"):
        sm.recipes.get("mch")


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": "identiy"}, r"start: got 'identiy'; accepted: identity, zero, authors; did you mean 'identity'\?"),
        ({"mix_start": "x"}, r"mix_start: got 'x'; accepted: identity, zero"),
        ({"mix_start": True}, r"mix_start: got True; accepted: identity, zero, finite numbers"),
        ({"mix_start": float("inf")}, r"mix_start: got inf; accepted: identity, zero, finite numbers"),
        ({"mix_start": -4.0, "manifold": "quaternion"}, r"mix_start: got -4.0 with manifold 'quaternion'.* birkhoff"),
        ({"mix_start": -4.0, "start": "zero"}, r"mix_start: got -4.0 .* start 'zero'; .* start 'identity'"),
        ({"write_multiplier_end": 0.0}, r"write_multiplier_end: got 0\.0; accepted: finite numbers > 0 or None"),
        ({"rotate": "x"}, r"rotate: got 'x'; accepted: one-hot, soft"),
        ({"logits": "flatened"}, r"logits: got 'flatened'; hyper connections accept static, flattened.*did you mean"),
        ({"read": "sigmiod"}, r"read: got 'sigmiod'; accepted: linear, sigmoid, twice-sigmoid"),
        ({"write": None}, r"write: got None"),
        ({"connection": "hyper-connection"}, r"connection: got 'hyper-connection'; accepted: hyper"),
        (
            {"connection_options": {"manifold": "identity"}},
            r"connection_options: got 'manifold'; hyper connections accept",
        ),
        ({"manifold": "birkhof"}, r"manifold: none is called 'birkhof'; accepted: birkhoff.*did you mean 'birkhoff'\?"),
        ({"manifold_options": {"tolerance": 1}}, r"manifold_options: got 'tolerance'; accepted by 'birkhoff': tol"),
        ({"collapse": "carried"}, r"collapse: got 'carried'; hyper connections accept sum, mean, head"),
        ({"streams": 0}, r"streams: got 0; accepted: integers >= 1"),
        ({"streams": True}, r"streams: got True"),
        ({"rank": 1.5}, r"rank: got 1\.5"),
        ({"gate": float("nan")}, r"gate: got nan; accepted: finite numbers"),
        ({"gate": "1"}, r"gate: got '1'"),
        ({"weight_std": -1.0}, r"weight_std: got -1\.0; accepted: finite numbers >= 0"),
        ({"freeze_mix_gate": 1}, r"freeze_mix_gate: got 1; accepted: True, False"),
        ({"freeze_mix_gate": True, "logits": "per-stream"}, r"freeze_mix_gate: got True with per-stream logits"),
        ({"norm_eps": None, "logits": "per-stream"}, r"norm_eps: got None; .*take a LayerNorm"),
        ({"name": ""}, r"name: got ''"),
    ],
)
def test_a_recipe_checks_itself_when_it_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(sm.recipes.get("mhc"), **fields)


def test_names_that_were_probably_meant_are_proposed():
    with pytest.raises(ValueError, match=r"recipe: none is called 'deepseek_v4'.*did you mean 'deepseek-v4'\?"):
        sm.recipes.get("deepseek_v4")
