"""`streammix.hf.add_streams` on timm's vision transformers, by themselves and in transformers' wrapper.

`make` installs timm and torchvision in a folder of their own: transformers imports a torchvision that it finds, and
PyPI's does not load beside a torch without CUDA.
"""

import copy
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import transformers

import streammix as sm

APART = Path(sys.prefix) / "timm"


@pytest.fixture(scope="module")
def timm():
    if APART.is_dir() and str(APART) not in sys.path:
        sys.path.append(str(APART))
        if torch.version.cuda is None:  # torchvision's binary is not loaded then; it asks for these by their names
            for name in ("nms", "qnms"):
                torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        for available in (transformers.utils.is_torchvision_available, transformers.utils.is_timm_available):
            available.cache_clear()
    return pytest.importorskip("timm")


SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
KINDS = {
    "vit": ("vit_tiny_patch16_224", {}),
    "scaled, stochastic depth": ("vit_tiny_patch16_224", {"init_values": 0.1, "drop_path_rate": 0.3}),
    "registers": ("vit_base_patch14_reg4_dinov2", {}),
    "two class tokens": ("deit_tiny_distilled_patch16_224", {}),
}


@pytest.fixture(params=KINDS)
def model(request, timm, seed):
    name, options = KINDS[request.param]
    return timm.create_model(name, pretrained=False, **SIZES, **options).eval()


def images():
    return torch.randn(4, 3, 32, 32)


def test_logits_do_not_change_and_50_steps_learn(model):
    x, labels = images(), torch.tensor([0, 1, 2, 3])
    before, keys = model(x), set(model.state_dict())
    assert sm.hf.add_streams(model) is model
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-5)
    assert {key.split(".")[2] for key in set(model.state_dict()) - keys} == {"hc_attn", "hc_mlp"}
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(50):
        losses.append(torch.nn.functional.cross_entropy(model(x), labels))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]
    assert any(p.grad.abs().max() > 0 for n, p in model.named_parameters() if "hc_" in n)


def test_weights_come_back_into_a_new_model(model):
    x = images()
    new = copy.deepcopy(model)
    sm.hf.add_streams(model, recipe="mhc-sinkhorn")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    sm.hf.add_streams(new, recipe="mhc-sinkhorn").load_state_dict(model.state_dict())
    assert torch.equal(new(x), model(x))


def test_checkpointing_and_states_between_blocks(model):
    x = images()
    sm.hf.add_streams(model)
    model(x).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    for found, gradient in zip((p.grad for p in model.parameters() if p.grad is not None), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6)


def test_the_way_back(model):
    x, keys = images(), list(model.state_dict())
    before, classes = model(x), [type(m) for m in model.modules()]
    assert sm.hf.restore(sm.hf.add_streams(model)) is model
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == classes
    assert torch.equal(model(x), before)


def test_in_the_wrapper_of_transformers(timm, tmp_path, seed):
    wrapped = {"architecture": "vit_tiny_patch16_224", "model_args": {k: SIZES[k] for k in SIZES if k != "num_classes"}}
    config = transformers.TimmWrapperConfig(**wrapped, num_labels=5)
    model = transformers.TimmWrapperForImageClassification(config).eval()
    x = images()
    before = model(x).logits
    sm.hf.add_streams(model)
    torch.testing.assert_close(model(x).logits, before, rtol=0, atol=1e-5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    again = sm.hf.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again(x).logits, model(x).logits)


def test_other_models_of_timm_are_refused(timm, seed):
    resnet = timm.create_model("resnet10t", pretrained=False)
    keys = list(resnet.state_dict())
    with pytest.raises(ValueError, match=r"model: got one of type 'ResNet', .*; accepted: .* timm's vision transf"):
        sm.hf.add_streams(resnet)
    assert list(resnet.state_dict()) == keys
