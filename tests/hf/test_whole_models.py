"""torch.compile of whole models of transformers with our operators in them: one graph, the same numbers."""

import pytest
import torch
from tiny_models import FAMILIES, PLAIN, scattered, tokens

import streammix as sm

MODELS = {
    "deepseek_v4": lambda: sm.hf.accelerate(scattered(FAMILIES["deepseek_v4"]())),
    "llama": lambda: sm.hf.add_streams(PLAIN["llama"]()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compile_of_a_whole_model(name, seed):
    model, x = MODELS[name](), tokens()

    def step(call):
        model.zero_grad()
        output = call(input_ids=x)
        output = output.logits if hasattr(output, "logits") else output.last_hidden_state
        output.square().mean().backward()
        return output.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected, gradients = step(model)
    torch._dynamo.reset()
    found, compiled = step(torch.compile(model, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert compiled.keys() >= gradients.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for key, gradient in compiled.items():  # zeros where the plain model leaves a parameter without a gradient
        assert (gradient - gradients.get(key, torch.zeros(()))).abs().max() <= 1e-5 * largest, key
