"""Models with streams under PEFT and Trainer, where these are installed."""

import pytest
import torch
from tiny_models import PLAIN, tokens, transformers

import streammix as sm

TARGETS = {"gpt2": ["c_attn"], "gpt_neox": ["query_key_value"], "gpt_neox_in_turn": ["query_key_value"]}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dora", [False, True])
def test_lora_and_dora(name, dora, tmp_path, seed):
    """Adapters on the branches, sites trained whole; merged, saved and loaded again."""
    peft = pytest.importorskip("peft")
    model = sm.hf.add_streams(PLAIN[name]())
    given = {"pixel_values": torch.randn(2, 3, 16, 16)} if name == "vit" else {"input_ids": tokens()}
    labels = torch.tensor([0, 1]) if name == "vit" else given["input_ids"]
    before = model(**given).logits
    sites = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, sm.HyperConnection)})
    config = peft.LoraConfig(
        r=2,
        target_modules=TARGETS.get(name, ["q_proj", "v_proj"]),
        use_dora=dora,
        modules_to_save=sites,
        fan_in_fan_out=name == "gpt2",
    )
    adapted = peft.get_peft_model(model, config)
    torch.testing.assert_close(adapted(**given).logits, before, rtol=0, atol=1e-5)
    learned = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    start = {n: p.detach().clone() for n, p in learned.items()}
    optimiser = torch.optim.AdamW(learned.values(), 1e-2)
    losses = []
    for _ in range(15):
        loss = adapted(**given, labels=labels).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    assert any("hc_" in n and "bias" in n and not torch.equal(p, start[n]) for n, p in learned.items())
    after = adapted(**given).logits
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(**given).logits, after, rtol=0, atol=1e-4)
    merged.save_pretrained(tmp_path)
    assert torch.equal(sm.hf.from_pretrained(tmp_path)(**given).logits, merged(**given).logits)


def test_trainer_and_its_resume(tmp_path, seed):
    """Six steps at once, and three that are resumed for three more, end in the same weights."""
    pytest.importorskip("accelerate")
    rows = [{"input_ids": row, "labels": row} for row in tokens(12, 10)]
    first = sm.hf.add_streams(PLAIN["llama"]())
    first.save_pretrained(tmp_path / "start")

    def trainer(model, folder, steps):
        arguments = transformers.TrainingArguments(
            str(tmp_path / folder),
            per_device_train_batch_size=2,
            max_steps=steps,
            save_steps=3,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            gradient_checkpointing=True,
        )
        return transformers.Trainer(model, arguments, train_dataset=rows)

    trainer(first, "whole", 6).train()
    trainer(sm.hf.from_pretrained(tmp_path / "start"), "parts", 3).train()
    second = sm.hf.from_pretrained(tmp_path / "start")
    trainer(second, "parts", 6).train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    for (key, one), other in zip(first.state_dict().items(), second.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6, msg=key)
    last = sm.hf.from_pretrained(tmp_path / "whole" / "checkpoint-6")
    assert all(torch.equal(a, b) for a, b in zip(last.state_dict().values(), first.state_dict().values()))
