"""`streammix.hf.add_streams` and `from_pretrained` on random models of every architecture named."""

import copy
import dataclasses
import json
import pickle

import pytest
import torch
from tiny_models import PLAIN, tokens, transformers

import streammix as sm

TEXT = [name for name in PLAIN if name != "vit"]


def inputs(name):
    return {"pixel_values": torch.randn(2, 3, 16, 16)} if name == "vit" else {"input_ids": tokens()}


def outputs(model, given, **options):
    return model(**given, **options).logits


def labels(name, given):
    return torch.tensor([0, 1]) if name == "vit" else given["input_ids"]


@pytest.fixture(params=PLAIN)
def name(request, seed):
    return request.param


def test_logits_do_not_change(name):
    model, given = PLAIN[name](), inputs(name)
    before, keys = outputs(model, given), set(model.state_dict())
    parameters = dict(model.named_parameters())
    assert sm.hf.add_streams(model) is model
    torch.testing.assert_close(outputs(model, given), before, rtol=0, atol=1e-5)
    assert keys < set(model.state_dict())
    assert all(parameters[n] is p for n, p in model.named_parameters() if n in parameters)
    assert all("hc_" in key for key in set(model.state_dict()) - keys)


@pytest.mark.parametrize("recipe", ["mhc-sinkhorn", "ihc", "hc", "kromhc", "frac", "hc-static", "motif-3", "ehc"])
def test_recipes(recipe, seed):
    model, given = PLAIN["llama"](), inputs("llama")
    before = outputs(model, given)
    sm.hf.add_streams(model, streams=2, recipe=recipe)
    torch.testing.assert_close(outputs(model, given), before, rtol=0, atol=1e-5)


def trained(name, model, steps=50):
    model.train()
    given = inputs(name)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(steps):
        loss = model(**given, labels=labels(name, given)).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    return losses


def test_it_learns_and_its_streams_come_apart(name):
    model = sm.hf.add_streams(PLAIN[name]())
    losses = trained(name, model)
    assert losses[-1] < 0.8 * losses[0]
    states = model(**inputs(name), output_hidden_states=True).hidden_states
    between = states[1]
    assert between.shape[-2] == 4
    assert (between - between[..., :1, :]).abs().max() > 1e-4
    moved = [n for n, p in model.named_parameters() if "hc_" in n and p.grad is not None and p.grad.abs().max() > 0]
    assert moved


def test_save_and_load(name, tmp_path):
    model = sm.hf.add_streams(PLAIN[name]())
    trained(name, model, 5)
    given = inputs(name)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["streammix"] == {"streams": 4, "recipe": "mhc"}
    again = sm.hf.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(outputs(again, given), outputs(model, given))
    again.save_pretrained(tmp_path / "again")
    third = sm.hf.from_pretrained(tmp_path / "again")
    assert torch.equal(outputs(third, given), outputs(model, given))
    half = sm.hf.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for key, parameter in half.named_parameters():
        assert parameter.dtype == (torch.float32 if "hc_" in key else torch.bfloat16), key
    assert outputs(half, given).isfinite().all()


@pytest.mark.parametrize("name", TEXT)
def test_generation_with_a_cache(name, seed):
    model = PLAIN[name]()
    prompt = tokens(2, 6)
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None}
    before = model.generate(prompt, **options)
    sm.hf.add_streams(model)
    assert torch.equal(model.generate(prompt, **options), before)
    trained(name, model, 5)
    cached, whole = (model.generate(prompt, use_cache=use, **options) for use in (True, False))
    assert torch.equal(cached, whole)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(name, reentrant):
    model, given = sm.hf.add_streams(PLAIN[name]()), inputs(name)
    trained(name, model, 3)
    model.train()

    def gradients():
        model.zero_grad()
        torch.manual_seed(3)  # of dropout
        model(**given, labels=labels(name, given)).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    found = gradients()
    assert expected.keys() == found.keys()
    largest = max(g.abs().max() for g in expected.values())
    for n, gradient in expected.items():
        assert (found[n] - gradient).abs().max() <= 1e-6 * largest, n


def test_copies_pickles_and_hidden_states(name):
    model, given = sm.hf.add_streams(PLAIN[name]()), inputs(name)
    expected = outputs(model, given)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(again, given), expected)
    states = model(**given, output_hidden_states=True).hidden_states
    assert [state.ndim for state in states] == [3, 4, 3]


def test_the_way_back(name):
    model, given = PLAIN[name](), inputs(name)
    before, keys, classes = outputs(model, given), list(model.state_dict()), [type(m) for m in model.modules()]
    sm.hf.add_streams(model)
    assert sm.hf.restore(model) is model
    assert torch.equal(outputs(model, given), before)
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == classes
    assert not hasattr(model.config, "streammix")
    sm.hf.add_streams(model, streams=2, recipe="ihc")
    torch.testing.assert_close(outputs(model, given), before, rtol=0, atol=1e-5)


def test_the_way_back_keeps_what_branches_have_learned(seed):
    model = sm.hf.add_streams(PLAIN["llama"]())
    trained("llama", model, 5)
    learned = {key: value.clone() for key, value in model.state_dict().items() if "hc_" not in key}
    plain = PLAIN["llama"]()
    plain.load_state_dict(learned)
    sm.hf.restore(model)
    given = inputs("llama")
    assert torch.equal(outputs(model, given), outputs(plain, given))


def test_watched_sites(seed):
    model, given = sm.hf.add_streams(PLAIN["llama"]()), inputs("llama")
    expected = outputs(model, given)
    with sm.diagnostics.trace(model) as trace:
        torch.testing.assert_close(outputs(model, given), expected, rtol=0, atol=1e-6)
    assert len(trace.visits) == 4


def test_bfloat16_model(name):
    model, given = PLAIN[name]().bfloat16(), inputs(name)
    before = outputs(model, given).float()
    sm.hf.add_streams(model)
    assert (outputs(model, given).float() - before).abs().max() <= 0.05 * before.abs().max()


def test_a_recipe_of_ones_own_is_remembered(tmp_path, seed):
    recipe = dataclasses.replace(
        sm.recipes.get("mhc-lite"), gate=0.5, start="identity", manifold="sinkhorn", manifold_options={"rounds": 5}
    )
    model, given = sm.hf.add_streams(PLAIN["gpt2"](), streams=3, recipe=recipe), inputs("gpt2")
    model.save_pretrained(tmp_path)
    again = sm.hf.from_pretrained(tmp_path, transformers.GPT2LMHeadModel)
    assert torch.equal(outputs(again, given), outputs(model, given))
    sites = [m for m in again.modules() if isinstance(m, sm.HyperConnection)]
    assert [site.recipe for site in sites] == [recipe] * 4
    assert [site.site for site in sites] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        ("LlamaModel", "llama"),
        ("LlamaForSequenceClassification", "llama"),
        ("Qwen3ForTokenClassification", "qwen3"),
        ("GPT2Model", "gpt2"),
        ("ViTModel", "vit"),
    ],
)
def test_any_head(cls, name, tmp_path, seed):
    own = getattr(transformers, cls)
    model, given = own(PLAIN[name]().config).eval(), inputs(name)
    before = model(**given)[0]
    sm.hf.add_streams(model)
    torch.testing.assert_close(model(**given)[0], before, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = sm.hf.from_pretrained(tmp_path)
    assert type(again) is own
    assert torch.equal(again(**given)[0], model(**given)[0])


def test_a_device_map(tmp_path, seed):
    pytest.importorskip("accelerate")
    model, given = sm.hf.add_streams(PLAIN["llama"]()), inputs("llama")
    model.save_pretrained(tmp_path)
    places = dict.fromkeys(["model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    places["model.layers.1"] = "disk"
    again = sm.hf.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offloaded")
    with torch.no_grad():
        torch.testing.assert_close(outputs(again, given), outputs(model, given), rtol=0, atol=1e-6)


def untouched(model, *arguments, match, **options):
    keys, classes = list(model.state_dict()), [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=match):
        sm.hf.add_streams(model, *arguments, **options)
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == classes
    assert getattr(model.config, "streammix", None) is None


def test_what_cannot_be_moved_over(seed):
    llama = PLAIN["llama"]()
    untouched(llama, 0, match=r"streams: got 0; accepted: integers >= 1")
    untouched(llama, recipe="mch", match=r"recipe: none is called 'mch'")
    untouched(llama, recipe="deepseek-v4", match=r"recipe: got 'deepseek-v4', which does not start as the plain")
    untouched(llama, recipe="xhc", match=r"recipe: got 'xhc', whose connection is 'sparse'; accepted: hyper, eq")
    bert = transformers.BertModel(transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    untouched(bert, match=r"model: got one of type 'bert', whose layers are not known here; accepted: gemma, gemma2")
    shared = PLAIN["llama"]()
    shared.model.layers[1] = shared.model.layers[0]
    untouched(shared, match=r"model: LlamaModel runs one layer several times")
    crossed = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9, add_cross_attention=True)
    untouched(transformers.GPT2LMHeadModel(crossed), match=r"model: GPT2Model has cross-attention")
    replaced = PLAIN["llama"]()
    replaced.model.layers[0].forward = lambda x, **others: x
    untouched(replaced, match=r"model: the forward of its LlamaDecoderLayer has been replaced by .*; accepted")
    with torch.device("meta"):
        untouched(PLAIN["llama"](), match=r"model: some of its layers are offloaded, or on the meta device; accepted")
    quantised = PLAIN["llama"]()
    quantised.hf_quantizer = object()
    untouched(quantised, match=r"model: its weights are quantised; accepted: plain weights")
    sm.hf.add_streams(llama)
    with pytest.raises(ValueError, match=r"model: it has streams already"):
        sm.hf.add_streams(llama)


def test_a_plain_checkpoint(tmp_path, seed):
    PLAIN["llama"]().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"path: the config of .* has no entry 'streammix'; accepted"):
        sm.hf.from_pretrained(tmp_path)


def test_a_recipe_that_changes_along_the_depth(seed, tmp_path):
    """Every site knows how many there are, in a model that is loaded again, too."""
    halfway = {"sums": sm.recipes.Switch("rows", "columns", at=0.5)}
    recipe = dataclasses.replace(sm.recipes.get("os-hc"), name="halfway", manifold_options=halfway)
    model, given = PLAIN["llama"](), inputs("llama")
    before = outputs(model, given)
    sm.hf.add_streams(model, recipe=recipe)
    torch.testing.assert_close(outputs(model, given), before, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    for made in (model, sm.hf.from_pretrained(tmp_path)):
        sums = [site.manifold.sums for site in made.modules() if isinstance(site, sm.HyperConnection)]
        assert sums == ["rows"] * (len(sums) // 2) + ["columns"] * (len(sums) // 2)
