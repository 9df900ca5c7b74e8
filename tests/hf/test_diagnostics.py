"""Diagnostics of transformers' models: with sites of ours, and with their own that we compute."""

import pytest
import torch
from tiny_models import FAMILIES, scattered, tokens

import streammix as sm


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in ("deepseek_v4", "glm5_next", "hy_v4")])
def test_accelerated_sites_are_recorded_and_change_nothing(name, seed):
    model = sm.hf.accelerate(scattered(FAMILIES[name]()).eval())
    ids = tokens()
    with torch.no_grad():
        before = model(ids)[0]
        with sm.diagnostics.trace(model, states=True) as trace:
            during = model(ids)[0]
        after = model(ids)[0]
    assert torch.equal(during, before)
    assert torch.equal(after, before)
    names = [n for n, module in model.named_modules() if isinstance(module, sm.hf.sites.Site)]
    assert {visit.name.rpartition(".")[0] for visit in trace.visits} == set(names)
    assert len(trace.visits) == len(names)
    summary = sm.diagnostics.summarize(trace)
    assert summary.gains.forward.isfinite().all()
    for visit in trace.visits:
        assert visit.state is not None
        assert visit.state.shape == (*visit.post.shape, visit.state.shape[-1])


@pytest.mark.parametrize("name", ["deepseek_v4"])
def test_the_site_that_went_wrong_is_named(name, seed):
    model = sm.hf.accelerate(scattered(FAMILIES[name]()).eval())
    sites = [n for n, module in model.named_modules() if isinstance(module, sm.hf.sites.Site)]
    with torch.no_grad():
        model.get_submodule(sites[2]).base[-1] = torch.nan
        with sm.diagnostics.first_non_finite(model) as found:
            model(tokens())
    assert found.first.name.startswith(sites[2])
    assert found.first.what == "H_res"


def test_added_streams_are_recorded(seed):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    model = sm.hf.add_streams(LlamaForCausalLM(config).eval())
    ids = tokens()
    with torch.no_grad():
        before = model(ids)[0]
        with sm.diagnostics.trace(model, states=True) as trace:
            assert torch.equal(model(ids)[0], before)
    assert len(trace.visits) == 4
    ablation = sm.diagnostics.Ablation(model, lambda: model(ids).logits)
    assert ablation.kl(0, range(4)).mean() > ablation.kl(0, []).abs().max()
