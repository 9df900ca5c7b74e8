"""Every source: a loaded site computes the source's formula, and an exported state loads again."""

import pytest
import torch
from formulas import FORMULAS, C

import streammix as sm

CASES = [(name, n) for name, formula in FORMULAS.items() for n in formula.ns]


def site_of(source: str, n: int, **settings) -> sm.HyperConnection:
    return sm.HyperConnection(torch.sin, C, n, sm.checkpoints.recipe(source, **settings), site=1)


def test_every_source_has_a_formula_here():
    assert set(sm.checkpoints.sources()) == set(FORMULAS)
    assert all(sm.checkpoints.sources().values())


@pytest.mark.parametrize(("source", "n"), CASES)
def test_a_loaded_site_computes_the_formula(source, n, seed):
    formula, site = FORMULAS[source], site_of(source, n).double()
    state, x = formula.state(n), torch.randn(6, n, C, dtype=torch.float64)
    used = sm.checkpoints.load(site, state, source)
    assert set(used) == set(state) - {"J"}
    expected = formula.run(state, x)
    torch.testing.assert_close(site(x), expected, rtol=0, atol=formula.tolerance * max(1, expected.abs().max()))


@pytest.mark.parametrize(("source", "n"), CASES)
def test_an_exported_state_computes_the_formula_too(source, n, seed):
    formula, site = FORMULAS[source], site_of(source, n).double()
    sm.checkpoints.load(site, formula.state(n), source)
    state, x = sm.checkpoints.export(site, source), torch.randn(6, n, C, dtype=torch.float64)
    expected = formula.run(state, x)
    torch.testing.assert_close(site(x), expected, rtol=0, atol=formula.tolerance * max(1, expected.abs().max()))


@pytest.mark.parametrize(("source", "n"), CASES)
def test_ours_and_back_to_the_bit(source, n, seed):
    """Parameters of ours, exported and loaded: the same numbers, and a copy of them."""
    site, other = site_of(source, n), site_of(source, n)
    with torch.no_grad():
        for parameter in site.parameters():
            parameter.normal_()
        if source == "hyper-connections":
            site.logits.gate[2] = site.logits.gate[0]
    state = sm.checkpoints.export(site, source)
    sm.checkpoints.load(other, state, source)
    for (name, ours), theirs in zip(site.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    for value in state.values():
        value.zero_()
    assert all(torch.equal(a, b) for a, b in zip(site.parameters(), other.parameters()))


@pytest.mark.parametrize(("source", "n"), CASES)
def test_theirs_and_back_to_the_bit(source, n, seed):
    """Where nothing has to be absorbed; unused logits of the charts come back as zeros."""
    state = {name: value.float() for name, value in FORMULAS[source].state(n).items() if name != "J"}
    state.pop("norm_weight", None)
    if "norm.gamma" in state:
        state["norm.gamma"].zero_()
    if "residual_val_scale" in state:
        state |= dict.fromkeys(("residual_rot_scale_u", "residual_rot_scale_v"), state["residual_val_scale"])
    if "delta_logit" in state:
        for alpha in (state["static_alpha"], state["dynamic_alpha_fn"].unflatten(-1, (n, 1 + n))):
            alpha[..., -1, 1:] = 0
            alpha[..., -1] = 0
    site = site_of(source, n)
    sm.checkpoints.load(site, state, source)
    back = sm.checkpoints.export(site, source)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name
        assert back[name].shape == value.shape


SQUARE = ["deepseek-v4", "liger", "transformer-engine", "megatron", "megatron-transposed"]


@pytest.mark.parametrize("source", SQUARE)
def test_the_exact_projection_takes_the_same_logits(source, seed):
    """Into recipe mhc, in its orientation: with logits as small as these twenty rounds nearly reach the limit."""
    state = FORMULAS[source].state(4)
    for name in ("fn", "phi", "mapping_proj.weight"):
        if name in state:
            state[name] = state[name] * 0.3
    own, exact = site_of(source, 4).double(), sm.HyperConnection(torch.sin, C, 4, "mhc", site=1).double()
    sm.checkpoints.load(own, state, source)
    sm.checkpoints.load(exact, state, source)
    x = torch.randn(6, 4, C, dtype=torch.float64)
    torch.testing.assert_close(exact.coefficients(x)[2], own.coefficients(x)[2], rtol=0, atol=2e-3)


@pytest.mark.parametrize(("source", "target"), [("deepseek-v4", "liger"), ("liger", "transformer-engine")])
def test_from_source_to_source_through_the_exact_projection(source, target, seed):
    """An exactly doubly stochastic matrix has no orientation to lose: both states give the same site."""
    site, other = (sm.HyperConnection(None, C, 4, "mhc", site=0) for _ in range(2))
    sm.checkpoints.load(site, FORMULAS[source].state(4), source)
    sm.checkpoints.load(other, sm.checkpoints.export(site, target), target)
    assert all(torch.equal(a, b) for a, b in zip(site.parameters(), other.parameters()))


SETTINGS = [
    ("deepseek-v4", {"hc_sinkhorn_iters": 7, "hc_eps": 1e-4, "rms_norm_eps": 1e-3}),
    ("tile-kernels", {"sinkhorn_repeat": 3, "post_mult_value": 1.5, "pre_eps": 0.0, "sinkhorn_eps": 1e-5}),
    ("liger", {"tmax": 5, "rms_eps": 1e-4, "pre_eps": 0.1, "sinkhorn_eps": 1e-3, "post_mult": 1.0}),
    ("transformer-engine", {"iters": 3}),
    ("megatron", {"mhc_sinkhorn_iterations": 3, "mhc_init_gating_factor": 0.5}),
    ("hyper-connections", {"tanh": False}),
    ("hyper-connections-mhc", {"sinkhorn_iters": 3}),
    ("tbp", {"make_dse": False}),
]


@pytest.mark.parametrize(("source", "settings"), SETTINGS, ids=[s for s, _ in SETTINGS])
def test_settings_by_the_sources_names(source, settings):
    site = site_of(source, 4, **settings)
    assert site(torch.randn(2, 4, C)).isfinite().all()
    assert sm.checkpoints.recipe(source, **settings) != sm.checkpoints.recipe(source)
    with pytest.raises(TypeError, match="no_such"):
        sm.checkpoints.recipe(source, no_such=1)


def test_scales_of_zero(seed):
    """sHC's scales may all be zero, or all but one."""
    for zeros in (("rot_scale_u",), ("rot_scale_u", "rot_scale_v", "val_scale")):
        state, site = FORMULAS["shc"].state(4), site_of("shc", 4).double()
        state |= {f"residual_{name}": torch.zeros(1, dtype=torch.float64) for name in zeros}
        sm.checkpoints.load(site, state, "shc")
        x = torch.randn(6, 4, C, dtype=torch.float64)
        torch.testing.assert_close(site(x), FORMULAS["shc"].run(state, x), rtol=0, atol=1e-12)
