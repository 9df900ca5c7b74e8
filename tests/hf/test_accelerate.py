"""`streammix.hf.accelerate` on random models of every family that the installed transformers has."""

import copy
import pickle

import pytest
import tiny_models
import torch
from tiny_models import FAMILIES, GENERATING, assert_same_to_rounding, scattered, tokens

import streammix as sm

MIXING = ("deepseek_v4", "glm5_next")


@pytest.fixture(params=FAMILIES)
def model(request, seed):
    return scattered(FAMILIES[request.param]())


def outputs(model, ids, **options):
    return model(ids, **options)[0]


def gradients(model, ids):
    model.zero_grad()
    out = outputs(model, ids)
    torch.manual_seed(7)
    (out * torch.randn_like(out)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_outputs_and_gradients(model):
    ids = tokens()
    fast = sm.hf.accelerate(copy.deepcopy(model))
    torch.testing.assert_close(outputs(fast, ids), outputs(model, ids), rtol=0, atol=1e-5)
    same_gradients(gradients(fast, ids), gradients(model, ids))


def same_gradients(found, expected):
    """To 1e-5 of a parameter's largest, or of a hundredth of the model's, as sums that cancel are mostly rounding."""
    assert expected.keys() == found.keys()
    largest = max(g.abs().max().item() for g in expected.values())
    for name, gradient in expected.items():
        size = max(gradient.abs().max().item(), 1e-2 * largest)
        assert (found[name] - gradient).abs().max().item() <= 1e-5 * size, name


def test_in_float64(model, monkeypatch):
    """Sites, heads and their gradients. The models compute coefficients in float32 whatever their dtype; here they are
    made to use float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model.double()
    fast = sm.hf.accelerate(copy.deepcopy(model))
    for theirs, ours in zip(model.modules(), fast.modules()):
        if isinstance(ours, sm.hf.sites.Site | sm.hf.sites.Head):
            width = next(ours.parameters()).shape[1]
            x = torch.randn(2, 5, 4, width // 4, dtype=torch.float64, requires_grad=True)
            found, expected = as_tuple(ours(x)), as_tuple(theirs(x))
            for one, other in zip(found, expected, strict=True):
                assert (one - other).abs().max() <= 3e-15 * other.abs().max()
            G = [torch.randn_like(out) for out in expected]
            found = torch.autograd.grad(found, [x, *ours.parameters()], G)
            expected = torch.autograd.grad(expected, [x, *theirs.parameters()], G)
            assert_same_to_rounding(found, expected)


def as_tuple(output):
    return output if isinstance(output, tuple) else (output,)


@pytest.mark.parametrize("make", GENERATING)
def test_greedy_text_is_the_same(make, seed):
    model, prompt = scattered(make()), tokens(2, 6).clamp(max=80)  # below the tokens that stand for images
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    expected = model.generate(prompt, **options)
    sm.hf.accelerate(model)
    assert torch.equal(model.generate(prompt, **options), expected)


def test_token_by_token(model):
    """With the model's own cache, as generation does it."""
    ids = tokens(2, 12)
    fast = sm.hf.accelerate(copy.deepcopy(model))
    with torch.no_grad():
        one, other = (m(ids[:, :8], use_cache=True) for m in (fast, model))
        for i in range(8, 12):
            part = ids[:, i : i + 1]
            one, other = fast(part, cache=one.cache, use_cache=True), model(part, cache=other.cache, use_cache=True)
            torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-5)


def test_one_line_over_and_one_line_back(model, tmp_path):
    ids, keys, classes = tokens(), list(model.state_dict()), [type(m) for m in model.modules()]
    before, parameters = outputs(model, ids), list(model.parameters())
    assert sm.hf.accelerate(model) is model
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(again, ids), before, rtol=0, atol=0)
    assert sm.hf.restore(model) is model
    assert [type(m) for m in model.modules()] == classes
    assert torch.equal(outputs(model, ids), before)
    assert not any("streammix" in key for m in model.modules() for key in m.__dict__)


def test_copies_and_pickles(model):
    ids, fast = tokens(), sm.hf.accelerate(model)
    expected = outputs(fast, ids)
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(outputs(again, ids), expected)
        assert [type(m) for m in again.modules()] == [type(m) for m in fast.modules()]


def test_hidden_states(model):
    ids = tokens()
    expected = model(ids, output_hidden_states=True).hidden_states
    found = sm.hf.accelerate(model)(ids, output_hidden_states=True).hidden_states
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(model, reentrant):
    ids, fast = tokens(), sm.hf.accelerate(copy.deepcopy(model)).train()
    expected = gradients(fast, ids)
    fast.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        fast.enable_input_require_grads()
    same_gradients(gradients(fast, ids), expected)


def test_bfloat16(model):
    ids = tokens()
    model.to(torch.bfloat16)
    expected = outputs(model, ids).float()
    found = outputs(sm.hf.accelerate(model), ids).float()
    assert found.isfinite().all()
    assert (found - expected).abs().mean() <= 0.1 * expected.abs().mean() + 1e-3


@pytest.mark.parametrize("name", MIXING)
def test_the_exact_projection(name, seed):
    model, ids = scattered(FAMILIES[name](), 0.1), tokens()
    rounds = [m for m in model.modules() if hasattr(m, "hc_sinkhorn_iters")]
    for site in rounds:
        site.hc_sinkhorn_iters, site.hc_eps = 200, 1e-12
    expected = outputs(model, ids)
    sm.hf.accelerate(model, projection="exact")
    torch.testing.assert_close(outputs(model, ids), expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(outputs(model, ids), expected, rtol=0, atol=1e-4)
    _, comb, _ = rounds[0](torch.randn(2, 5, 4, 64))
    torch.testing.assert_close(comb.sum(-1), torch.ones(2, 5, 4))
    torch.testing.assert_close(comb.sum(-2), torch.ones(2, 5, 4))


def test_what_watches_a_site_sees_it(model):
    if not any(isinstance(m, sm.hf.sites.Site) for m in sm.hf.accelerate(model).modules()):
        pytest.skip("sites of this family stay the model's own")
    ids = tokens()
    expected, calls = outputs(model, ids), []
    sites = [m for m in model.modules() if isinstance(m, sm.hf.sites.Site)]
    for site in sites:
        site.register_forward_hook(lambda *arguments: calls.append(1))
    torch.testing.assert_close(outputs(model, ids), expected, rtol=0, atol=1e-6)
    assert len(calls) == len(sites)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepseek_v4", "hy_v4"])
def test_a_layer_compiles(name, seed):
    model = scattered(FAMILIES[name]())
    ids, fast = tokens(), sm.hf.accelerate(copy.deepcopy(model))
    for layer in fast.model.layers:
        layer.compile(backend="aot_eager")
    torch.testing.assert_close(outputs(fast, ids), outputs(model, ids), rtol=0, atol=1e-5)
    found, expected = gradients(fast, ids), gradients(model, ids)
    shared = found.keys() & expected.keys()  # compiled code leaves out gradients that are zero
    same_gradients({k: found[k] for k in shared}, {k: expected[k] for k in shared})


def test_layers_may_be_left_out_or_changed_in_order(seed):
    """What a layer has computed for the next is used by that one alone, and for these very streams."""
    model = scattered(tiny_models.deepseek_v4(4))
    fast, ids = sm.hf.accelerate(copy.deepcopy(model)), tokens()
    for one in (model, fast):
        layers = one.model.layers
        one.model.layers = torch.nn.ModuleList([layers[0], layers[2], layers[1]])
        one.model.layers[0].register_forward_hook(lambda module, args, out: out.mul_(1.5))
    with torch.no_grad():
        torch.testing.assert_close(outputs(fast, ids), outputs(model, ids), rtol=0, atol=1e-5)


def test_offloaded_layers(tmp_path, seed):
    pytest.importorskip("accelerate")
    model, ids = scattered(tiny_models.deepseek_v4(2)), tokens()
    model.save_pretrained(tmp_path)
    kept = ["model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "model.hc_head", "lm_head"]
    places = dict.fromkeys(kept, "cpu") | {"model.layers.1": "disk"}
    loaded = type(model).from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offloaded")
    expected = outputs(model, ids)
    seen = []
    for change in (sm.hf.accelerate, sm.hf.restore):
        change(loaded)
        with torch.no_grad(), torch.profiler.profile() as profile:
            torch.testing.assert_close(outputs(loaded, ids), expected, rtol=0, atol=1e-5)
        seen.append(sum(event.count for event in profile.key_averages() if event.key.startswith("streammix::")))
    assert seen[0] > 0
    assert seen[1] == 0


def test_models_without(seed):
    llama = tiny_models.transformers.LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = tiny_models.transformers.LlamaForCausalLM(llama)
    with pytest.raises(ValueError, match=r"model: LlamaForCausalLM has no .*deepseek_v4, glm5_next, .*qwen4_exp"):
        sm.hf.accelerate(model)
    with pytest.raises(ValueError, match=r"model: nothing in it is accelerated"):
        sm.hf.restore(model)


def test_twice(model):
    sm.hf.accelerate(model)
    with pytest.raises(ValueError, match=r"model: it is accelerated already; streammix\.hf\.restore"):
        sm.hf.accelerate(model)


@pytest.mark.refusal
def test_a_projection_that_does_not_exist(model):
    classes = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=r"projection: got 'exat'; accepted: truncated, exact; did you mean 'exact'\?"):
        sm.hf.accelerate(model, projection="exat")
    assert [type(m) for m in model.modules()] == classes


def test_numbers_that_no_formula_accepts(seed):
    model = tiny_models.deepseek_v4()
    model.model.layers[1].ffn_hc.hc_eps = 2.0
    classes = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=r"eps: got 2\.0; recipe 'deepseek-v4', which adds it to sums, accepts"):
        sm.hf.accelerate(model)
    assert [type(m) for m in model.modules()] == classes


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in MIXING])
def test_nothing_to_project(name, seed):
    model = FAMILIES[name]()
    with pytest.raises(
        ValueError, match=rf"projection: got 'exact', but {name} does not mix .*; accepted: 'truncated'"
    ):
        sm.hf.accelerate(model, projection="exact")
    sm.hf.accelerate(model)
