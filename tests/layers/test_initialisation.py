"""Modules as frameworks make them: on the meta device, emptied, sharded, or filled by a loader."""

import copy
import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn

import streammix as sm

RECIPES = sm.recipes.names()
DIM = 16


def branches(count: int = 4) -> list[nn.Module]:
    return [nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, DIM)) for _ in range(count)]


def stack(recipe: str, **options) -> sm.Stack:
    return sm.Stack(branches(), DIM, recipe=recipe, **options)


def connections(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are not the branches'."""
    return {name: p.detach() for name, p in model.named_parameters() if ".branch." not in name}


def spoil(model: nn.Module) -> None:
    """What raw memory may hold."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(torch.nan)


def same_start(model: nn.Module, fresh: nn.Module) -> None:
    """Equal parameters, or for those that are drawn the same mean and spread."""
    made, expected = connections(model), connections(fresh)
    assert made.keys() == expected.keys()
    for name, start in expected.items():
        value = made[name]
        assert value.isfinite().all(), name
        if start.numel() > 8 and start.std() > 0 and not torch.equal(value, start):
            # Which are zero, but for one of 2^24 draws: torch's normal numbers have exact zeros among them.
            assert ((value == 0) != (start == 0)).sum() <= 3, name
            assert 0.2 < value[value != 0].std() / start[start != 0].std() < 5, name
            if start.std() < 1e-3 * start.mean().abs():  # drawn around a value
                torch.testing.assert_close(value.mean(), start.mean())
        else:
            torch.testing.assert_close(value, start)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_module_with_parameters_or_buffers_resets_itself_after_to_empty(recipe, seed):
    with torch.device("meta"):
        model = stack(recipe)
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    spoil(model)
    for module in model.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            module.reset_parameters()
    fresh = stack(recipe)
    same_start(model, fresh)
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(2, 7, DIM)
    assert torch.equal(model(x), fresh(x))


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_reset_does_for_all(recipe, seed):
    with torch.device("meta"):
        model = stack(recipe)
    model.to_empty(device="cpu")
    spoil(model)
    model.reset_parameters()
    same_start(model, stack(recipe))


@pytest.mark.parametrize("recipe", RECIPES)
def test_constants_survive_meta_and_assign(recipe, seed):
    real = stack(recipe)
    with torch.device("meta"):
        model = stack(recipe)
    model.load_state_dict(real.state_dict(), assign=True)
    x = torch.randn(2, 7, DIM)
    assert torch.equal(model(x), real(x))


@pytest.mark.parametrize("recipe", RECIPES)
def test_resetting_is_in_place_and_leaves_branches_alone(recipe, seed):
    model = stack(recipe)
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    spoil(nn.ModuleList(site.logits for site in model))
    model.reset_parameters()
    for name, p in model.named_parameters():
        parameter, address, value = before[name]
        assert p is parameter
        assert p.data_ptr() == address
        if ".branch." in name:
            assert torch.equal(p, value)
    same_start(model, stack(recipe))


@pytest.mark.parametrize("recipe", ["mhc-lite", "ohc", "kromhc", "perm-mix"])
def test_a_manifolds_tables_go_where_the_logits_are(recipe):
    site = stack(recipe)[0]
    assert not list(site.buffers())
    assert site.manifold(torch.zeros(3, site.manifold.num_logits, device="meta")).shape == (3, 4, 4)
    H = site.manifold(torch.zeros(3, site.manifold.num_logits))  # and back again
    assert site.manifold.contains(H).all()
    twin = copy.deepcopy(site).half()
    assert torch.equal(twin.manifold(torch.zeros(3, site.manifold.num_logits)), H)


SHARDED = """
import sys, torch, torch.distributed as dist, streammix as sm
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

rank, port = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for recipe in sm.recipes.names():
    torch.manual_seed(0)
    with torch.device("meta"):
        model = sm.Stack([nn.Sequential(nn.RMSNorm(16), nn.Linear(16, 16)) for _ in range(4)], 16, recipe=recipe)
    for site in model:
        fully_shard(site, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float("nan"))
    for module in model.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            module.reset_parameters()
    fresh = sm.Stack([nn.Identity()] * 4, 16, recipe=recipe)
    own = dict(fresh.named_parameters())
    for name, p in model.named_parameters():
        full = p.full_tensor()
        assert full.isfinite().all(), (recipe, name)
        if ".branch." not in name and (own[name].numel() < 9 or not own[name].std() > 0):
            torch.testing.assert_close(full, own[name].detach(), msg=f"{recipe} {name}")
    out = model(torch.randn(2, 5, 16))
    out.square().mean().backward()
    assert out.isfinite().all()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_modules_reset_themselves(tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(outputs)[-3000:]


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# --- Hugging Face's loader ------------------------------------------------------------------------------------------


def mixed_llama(recipe: str):
    """The class one writes first: a Llama whose layers are joined by connections."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama as llama

    class Layer(llama.LlamaDecoderLayer):
        def __init__(self, config, layer_idx):
            super().__init__(config, layer_idx)
            wiring = sm.layers.connections.CLASSES[sm.recipes.get(recipe).connection]
            size = {"streams": sm.recipes.get(recipe).streams, "recipe": recipe}
            self.attention_site = wiring(None, config.hidden_size, site=2 * layer_idx, **size)
            self.mlp_site = wiring(None, config.hidden_size, site=2 * layer_idx + 1, **size)

        def forward(self, hidden_states, **kwargs):
            x = hidden_states if isinstance(hidden_states, tuple) else (hidden_states,)
            u, finish = self.attention_site.connect(*x)
            x = finish(self.self_attn(hidden_states=self.input_layernorm(u), **kwargs)[0])
            u, finish = self.mlp_site.connect(*(x if isinstance(x, tuple) else (x,)))
            return finish(self.mlp(self.post_attention_layernorm(u)))

    class Model(transformers.LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.model.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
            self.collapse = self.model.layers[-1].mlp_site.ending_here()
            self.post_init()

        def forward(self, input_ids):
            base = self.model
            x = base.embed_tokens(input_ids)
            positions = torch.arange(x.shape[1]).unsqueeze(0)
            rotary = base.rotary_emb(x, positions)
            mask = torch.full((x.shape[1],) * 2, float("-inf")).triu(1)[None, None]
            state = base.layers[0].attention_site.begin(x)
            for layer in base.layers:
                state = layer(state, position_embeddings=rotary, attention_mask=mask)
            return self.lm_head(base.norm(self.collapse(state)))

    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=DIM,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM, Model, config


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_plain_checkpoint_loads_into_a_model_with_connections(recipe, seed, tmp_path):
    Plain, Mixed, config = mixed_llama(recipe)
    plain = Plain(config).eval()
    plain.save_pretrained(tmp_path / "plain")
    mixed = Mixed.from_pretrained(tmp_path / "plain").eval()
    sites = {name: p for name, p in mixed.named_parameters() if "site" in name or "collapse" in name}
    fresh = {name: p for name, p in Mixed(config).named_parameters() if name in sites}
    assert sites.keys() == fresh.keys()
    for name, start in fresh.items():
        assert sites[name].isfinite().all(), name
        if start.numel() < 9 or not start.std() > 0:
            torch.testing.assert_close(sites[name], start, msg=name)
        else:
            assert 0.3 < sites[name].std() / start.std() < 3, name
    tokens = torch.randint(32, (2, 9))
    with torch.no_grad():
        if sm.recipes.get(recipe).start == "identity":
            logits = plain(tokens).logits
            assert (mixed(tokens) - logits).abs().max() <= 2e-2 * logits.abs().max()
        for p in sites.values():
            p.add_(0.1 * torch.randn_like(p))
        mixed.save_pretrained(tmp_path / "mixed")
        again = Mixed.from_pretrained(tmp_path / "mixed").eval()
        assert torch.equal(again(tokens), mixed(tokens))


def test_a_partly_read_site_keeps_what_was_read(seed, tmp_path):
    """One gate is missing in the checkpoint: it starts anew, the weights beside it are those that were saved."""
    _, Mixed, config = mixed_llama("mhc")
    model = Mixed(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    state = model.state_dict()
    gate = "model.layers.0.attention_site.logits.gate"
    model.save_pretrained(tmp_path, state_dict={name: value for name, value in state.items() if name != gate})
    again = Mixed.from_pretrained(tmp_path)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, torch.full((3,), 0.01) if name == gate else state[name], msg=name)
    again.model.layers[0].attention_site.reset_parameters()  # the user's own call resets everything
    assert again.model.layers[0].attention_site.logits.weight.abs().max() == 0


def test_meta_models_take_a_recipes_own_dtype():
    recipe = dataclasses.replace(sm.recipes.get("mhc"), gate=0.5)
    with torch.device("meta"):
        model = sm.Stack(branches(), DIM, recipe=recipe)
    model.to_empty(device="cpu")
    model.bfloat16().reset_parameters()
    assert model[0].logits.gate.dtype == torch.float32
    assert (model[0].logits.gate == 0.5).all()
