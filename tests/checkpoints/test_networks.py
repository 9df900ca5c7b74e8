"""Whole networks: where each site's keys are, and what is said of keys that do not fit."""

import copy

import pytest
import torch
from formulas import FORMULAS, C
from torch import nn

import streammix as sm

N, SITES = 4, 6


def stack_of(source: str, sites: int = SITES) -> sm.Stack:
    return sm.Stack([nn.Linear(C, C) for _ in range(sites)], C, N, sm.checkpoints.recipe(source))


def drawn(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    """But for the branches."""
    pairs = zip(a.named_parameters(), b.parameters(), strict=True)
    return all("branch" in name or torch.equal(p, q) for (name, p), q in pairs)


#: source -> keys of the first two sites, how they begin, and the prefix that says so
NETWORKS = {
    "deepseek-v4": ("layers.0.hc_attn_fn", "layers.0.hc_ffn_fn", ""),
    "deepseek-v4-hf": ("model.layers.0.attn_hc.fn", "model.layers.0.ffn_hc.fn", "model."),
    "megatron": (
        "decoder.layers.0.self_attention_hyper_connection.bias",
        "decoder.layers.0.mlp_hyper_connection.bias",
        "decoder.",
    ),
    "liger": ("blocks.0.phi", "blocks.1.phi", "blocks.{site}."),
    "mhc-lite": (
        "h.0.hc_0.static_beta",
        "h.0.hc_1.static_beta",
        ["h.0.hc_0.", "h.0.hc_1.", "h.1.a.", "b.", "c.", "d."],
    ),
}


@pytest.mark.parametrize("source", NETWORKS)
def test_a_network_there_and_back(source, seed):
    *keys, prefix = NETWORKS[source]
    stack, other = drawn(stack_of(source)), stack_of(source)
    state = sm.checkpoints.export(stack, source, prefix=prefix)
    assert set(keys) <= set(state)
    rest = {"model.norm.weight": torch.ones(C), "blocks.0.layer.weight": torch.ones(C, C)}
    used = sm.checkpoints.load(other, {**state, **rest}, source, prefix=prefix)
    assert set(used) == set(state)
    assert same(stack, other)


def test_the_head_comes_along(seed):
    stack, other = drawn(stack_of("deepseek-v4")), stack_of("deepseek-v4")
    state = sm.checkpoints.export(stack, "deepseek-v4")
    assert {"hc_head_fn", "hc_head_base", "hc_head_scale"} <= set(state)
    sm.checkpoints.load(other.collapse, state, "deepseek-v4", prefix="hc_head_")
    assert same(stack.collapse, other.collapse)
    hf = sm.checkpoints.export(stack, "deepseek-v4-hf", prefix="model.")
    assert {"model.hc_head.hc_fn", "model.hc_head.hc_base", "model.hc_head.hc_scale"} <= set(hf)
    sm.checkpoints.load(other, hf, "deepseek-v4-hf", prefix="model.")
    assert same(stack, other)


def test_a_head_with_a_gain(seed):
    fn, base, scale, gain = torch.randn(N, N * C), torch.randn(N), torch.randn(1), torch.randn(N * C)
    end = sm.Collapse(C, N, how="head")
    sm.checkpoints.load(end, {"fn": fn, "base": base, "scale": scale, "norm_weight": gain}, "tile-kernels")
    x = torch.randn(3, N, C)
    flat = x.flatten(-2)
    flat = flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + 1e-6) * gain
    weights = ((flat @ fn.mT) * scale + base).sigmoid() + 1e-6
    torch.testing.assert_close(end(x), (weights.unsqueeze(-1) * x).sum(-2), rtol=0, atol=1e-4)


def test_single_pass_stacks_take_deepseeks_names(seed):
    stack, other = (sm.Stack([nn.Tanh()] * 2, C, N, "deepseek-v4.1") for _ in range(2))
    sm.checkpoints.load(other, sm.checkpoints.export(drawn(stack), "deepseek-v4"), "deepseek-v4")
    assert same(stack, other)


def test_transformers_modules_give_the_same_numbers(seed):
    """DeepseekV4HyperConnection and its head, as transformers has them."""
    deepseek = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    from transformers import DeepseekV4Config

    config = DeepseekV4Config(hidden_size=C, hc_mult=N)
    theirs = drawn(deepseek.DeepseekV4HyperConnection(config))
    settings = {name: getattr(config, name) for name in ("hc_sinkhorn_iters", "hc_eps", "rms_norm_eps")}
    site = sm.HyperConnection(None, C, N, sm.checkpoints.recipe("deepseek-v4-hf", **settings), site=0)
    sm.checkpoints.load(site, theirs.state_dict(), "deepseek-v4-hf")
    x = torch.randn(2, 3, N, C)
    post, comb, collapsed = theirs(x)
    pre, own_post, H = site.coefficients(x)
    for ours, expected in ((own_post, post), (H, comb.mT), (site.read(x, pre), collapsed)):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    head = drawn(deepseek.DeepseekV4HyperHead(config))
    end = sm.Collapse(C, N, how="head", norm_eps=config.rms_norm_eps, read_eps=config.hc_eps)
    sm.checkpoints.load(end, head.state_dict(), "deepseek-v4-hf")
    torch.testing.assert_close(end(x), head(x), rtol=0, atol=1e-4)


# --- what does not fit ------------------------------------------------------------------------------------------


def test_every_key_that_does_not_fit_is_listed(seed):
    stack = stack_of("deepseek-v4")
    before = copy.deepcopy(stack)
    state = sm.checkpoints.export(drawn(copy.deepcopy(stack)), "deepseek-v4")
    del state["layers.1.hc_attn_base"], state["hc_head_scale"]
    state["layers.0.hc_ffn_fn"] = torch.zeros(3, 4)
    state["layers.2.hc_attn_scale"] = torch.zeros(3, dtype=torch.int64)
    state["layers.2.hc_ffn_base"] = "text"
    state["layers.2.hc_ffn_more"] = torch.zeros(1)
    state["layers.7.hc_attn_fn"] = torch.zeros(24, N * C)
    with pytest.raises(ValueError, match="does not fit source 'deepseek-v4'") as raised:
        sm.checkpoints.load(stack, state, "deepseek-v4")
    said = str(raised.value)
    assert "missing: layers.1.hc_attn_base, hc_head_scale;" in said
    assert "layers.0.hc_ffn_fn (3, 4) (accepted: (24, 20))" in said
    assert "layers.2.hc_attn_scale (torch.int64; accepted: float16" in said
    assert "layers.2.hc_ffn_base (a str; accepted: a tensor)" in said
    assert said.endswith("unknown: layers.2.hc_ffn_more, layers.7.hc_attn_fn")
    assert same(before, stack)


def site(recipe: str = "mhc", n: int = N) -> sm.HyperConnection:
    return sm.HyperConnection(None, C, n, recipe, site=0)


def state(source: str, n: int = N) -> dict[str, torch.Tensor]:
    return FORMULAS[source].state(n)


ERRORS = [
    (lambda: sm.checkpoints.load(site(), {}, "ligre"), "source: none is called 'ligre'; .* did you mean 'liger'"),
    (lambda: sm.checkpoints.load(site("hc"), state("liger"), "liger"), "which makes its logits by PerStream; source"),
    (lambda: sm.checkpoints.load(site("kromhc"), state("liger"), "liger"), "whose mixing is Kronecker"),
    (lambda: sm.checkpoints.load(site("ohc"), state("liger"), "liger"), "whose mixing is Quaternion"),
    (lambda: sm.checkpoints.load(site("tbp"), state("tbp"), "tbp"), "whose mixing is Transportation"),
    (lambda: sm.checkpoints.load(site("hc"), state("hyper-connections"), "hyper-connections"), "by PerStream; source"),
    (
        lambda: sm.checkpoints.load(
            site(sm.checkpoints.recipe("hyper-connections")), state("hyper-connections-mhc"), "hyper-connections-mhc"
        ),
        "whose mixing is Unconstrained.* with tanh",
    ),
    (
        lambda: sm.checkpoints.load(
            site(sm.checkpoints.recipe("hyper-connections-mhc")), state("hyper-connections"), "hyper-connections"
        ),
        "whose mixing is Sinkhorn",
    ),
    (
        lambda: sm.checkpoints.load(site("mhc", 3), {}, "transformer-engine"),
        "which has 3 streams where the source has 4; source 'transformer-engine' accepts sites of",
    ),
    (lambda: sm.checkpoints.load(sm.Collapse(C, N), {}, "deepseek-v4"), "how='mean', which has no parameters"),
    (lambda: sm.checkpoints.load(sm.Collapse(C, N, how="head"), {}, "liger"), "has no learned end of the streams"),
    (lambda: sm.checkpoints.load(site(), {}, "liger", prefix=["a."]), "prefix: got .* accepts a string"),
    (
        lambda: sm.checkpoints.load(stack_of("liger"), {}, "liger", prefix="blocks."),
        r"prefix: got 'blocks.'; the sites of a stack from source 'liger' accept a name with \{site\}",
    ),
    (
        lambda: sm.checkpoints.load(stack_of("liger"), {}, "liger", prefix=["a."]),
        "got 1 prefixes; .* each of the 6 sites",
    ),
    (
        lambda: sm.checkpoints.load(stack_of("deepseek-v4"), {}, "deepseek-v4", prefix="l.{layer}.{part}_"),
        "head: got None; accepted with this prefix",
    ),
    (
        lambda: sm.checkpoints.load(sm.Stack([nn.Tanh()], C, N, "mhc-lite"), {}, "mhc-lite", prefix="b.{site}."),
        "a stack that ends in 'mean'; source 'mhc-lite' ends its streams in 'sum'",
    ),
    (
        lambda: sm.checkpoints.load(sm.Stack([nn.Tanh()], 4 * C, N, "frac"), {}, "liger", prefix="b.{site}."),
        "a stack of FracConnections; accepted: stacks of hyper-connections",
    ),
    (
        lambda: sm.checkpoints.load(site("deepseek-v4").to("meta"), state("deepseek-v4"), "deepseek-v4"),
        "parameter logits.weight is on the meta device; .*to_empty",
    ),
    (
        lambda: sm.checkpoints.export(
            drawn(site(sm.checkpoints.recipe("hyper-connections"))), source="hyper-connections"
        ),
        "on reads and .* on mixing; source 'hyper-connections' has one for both",
    ),
    (
        lambda: sm.checkpoints.load(
            site(sm.checkpoints.recipe("hyper-connections-mhc")),
            {**state("hyper-connections-mhc"), "dynamic_alpha_fn": torch.zeros(3, C, 5)},
            "hyper-connections-mhc",
        ),
        r"dynamic_alpha_fn\(3, 5, 5\) \(accepted: \(1, 5, 5\)\)".replace("fn", "fn "),
    ),
]


@pytest.mark.parametrize(("run", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors_say_what_came_and_what_is_accepted(run, message):
    with pytest.raises(ValueError, match=message):
        run()


@pytest.mark.refusal
def test_other_targets():
    with pytest.raises(TypeError, match="target: got Linear; accepted: a HyperConnection, a Collapse with a head"):
        sm.checkpoints.load(nn.Linear(2, 2), {}, "liger")


def test_half_precision_weights_are_widened(seed):
    values = {name: value.half() for name, value in state("liger").items()}
    loaded = site(sm.checkpoints.recipe("liger"))
    sm.checkpoints.load(loaded, values, "liger")
    assert torch.equal(loaded.logits.weight[:N], values["phi"].mT[:N].float())
    assert loaded.logits.weight.dtype == torch.float32
