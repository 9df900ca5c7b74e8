"""The lab's GPT through AutoModelForCausalLM."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

from streammix.lab.config import Config  # noqa: E402
from streammix.lab.huggingface import StreammixConfig, StreammixForCausalLM, of_run  # noqa: E402
from streammix.lab.training.train import train  # noqa: E402

SMALL = {"dim": 32, "layers": 2, "heads": 2, "context": 24}


@pytest.mark.parametrize("recipe", ["residual", "mhc", "kromhc", "deepseek-v4", "gated-residual", "xhc"])
def test_save_and_load(recipe, tmp_path, seed):
    model = StreammixForCausalLM(StreammixConfig(recipe=recipe, **SMALL)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 50)
    tokens = torch.randint(256, (2, 24))
    expected = model(tokens, labels=tokens)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is StreammixForCausalLM
    found = again(tokens, labels=tokens)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)
    half = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, parameter in half.named_parameters():
        assert parameter.dtype == (torch.float32 if half.gpt.is_connection(name[4:]) else torch.bfloat16), name
    assert half(tokens).logits.isfinite().all()


def test_generate(seed):
    model = transformers.AutoModelForCausalLM.from_config(StreammixConfig(recipe="mhc", **SMALL)).eval()
    text = prompt = torch.randint(256, (2, 20))
    for _ in range(10):  # past the context of 24
        text = torch.cat([text, model(text[:, -24:]).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(prompt, max_new_tokens=10, do_sample=False), text)


def test_a_run_of_the_lab(tmp_path, seed):
    (tmp_path / "text").write_bytes(b"To be, or not to be, that is the question.\n" * 200)
    config = Config(text=(str(tmp_path / "text"),), steps=4, batch=2, eval_batches=1, **SMALL)
    train(config, tmp_path / "run")
    model = of_run(tmp_path / "run")
    assert not model.training
    assert model.config.recipe == "mhc"
    tokens = torch.randint(256, (2, 24))
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert torch.equal(model(tokens).logits, model.gpt(tokens))


def test_padding_is_refused(seed):
    model = StreammixForCausalLM(StreammixConfig(**SMALL))
    tokens = torch.randint(256, (2, 8))
    mask = torch.ones_like(tokens)
    model(tokens, attention_mask=mask)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match=r"attention_mask: got one that leaves tokens out; accepted"):
        model(tokens, attention_mask=mask)
