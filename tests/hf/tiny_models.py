"""Random models of transformers, as small as their families allow."""

from importlib import import_module

import pytest
import torch

transformers = pytest.importorskip("transformers")

VOCABULARY = 97
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MOE = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32}
INDEXER = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 16}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "v_head_dim": 16}


def of_family(name: str):
    """The modeling and configuration modules of a family, or a skip where the installed release has none."""
    modeling = pytest.importorskip(f"transformers.models.{name}.modeling_{name}")
    return modeling, import_module(f"transformers.models.{name}.configuration_{name}")


def deepseek_v4(layers: int = 3, hidden: int = 64):
    modeling, configs = of_family("deepseek_v4")
    config = configs.DeepseekV4Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        head_dim=16,
        qk_rope_head_dim=8,
        q_lora_rank=32,
        o_lora_rank=16,
        o_groups=2,
        sliding_window=32,
        max_position_embeddings=256,
        hc_sinkhorn_iters=7,
        hc_eps=1e-5,
        rms_norm_eps=1e-4,
        **MOE,
        **INDEXER,
        **SPECIAL,
    )
    return modeling.DeepseekV4ForCausalLM(config)


def glm5_next(layers: int = 3):
    modeling, configs = of_family("glm5_next")
    config = configs.Glm5NextTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=layers,
        layer_types=["linear_attention", "indexed_attention", "linear_attention"][:layers],
        mlp_layer_types=["dense", "sparse", "sparse"][:layers],
        num_attention_heads=4,
        num_key_value_heads=4,
        qk_nope_head_dim=16,
        linear_head_dim=16,
        linear_num_heads=4,
        index_kpool=4,
        **MLA,
        **MOE,
        **INDEXER,
        **SPECIAL,
    )
    return modeling.Glm5NextTextModel(config)


def hy_v4_numbers(layers: int) -> dict:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "hc_magnitude": 1.5,
        "initializer_range": 0.02,
        **MLA,
        **MOE,
        **INDEXER,
        **SPECIAL,
    }


def hy_v4(layers: int = 3):
    modeling, configs = of_family("hy_v4")
    return modeling.HYV4ForCausalLM(configs.HYV4Config(**hy_v4_numbers(layers)))


def hy_v4_vl(layers: int = 2):
    modeling, configs = of_family("hy_v4_vl")
    text = next(c for name, c in vars(configs).items() if name.endswith("TextConfig"))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    return modeling.HYV4VLTextModel(text(**hy_v4_numbers(layers), rope_parameters=rope))


def qwen4_exp(layers: int = 3):
    modeling, configs = of_family("qwen4_exp")
    config = configs.Qwen4ExpTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=layers,
        layer_types=["linear_attention", "indexed_attention", "linear_attention"][:layers],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
        hc_lowrank=12,
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=16,
        indexer_budget=16,
        indexer_compress_ratio=4,
        **SPECIAL,
    )
    return modeling.Qwen4ExpForCausalLM(config)


VISION = {"hidden_size": 32, "intermediate_size": 32}


def glm5_next_with_images():
    modeling, configs = of_family("glm5_next")
    vision = configs.Glm5NextVisionConfig(
        depth=1, num_heads=2, out_hidden_size=64, projection_intermediate_size=64, **VISION
    )
    special = {"image_token_id": 90, "video_token_id": 91}
    config = configs.Glm5NextConfig(text_config=glm5_next().config.to_dict(), vision_config=vision.to_dict(), **special)
    return modeling.Glm5NextForConditionalGeneration(config)


def hy_v4_vl_with_images():
    modeling, configs = of_family("hy_v4_vl")
    vision = configs.HYV4VLVisionConfig(num_hidden_layers=1, num_attention_heads=2, **VISION)
    config = configs.HYV4VLConfig(text_config=hy_v4_vl().config.to_dict(), vision_config=vision.to_dict())
    return modeling.HYV4VLForConditionalGeneration(config)


def qwen4_exp_with_images():
    modeling, configs = of_family("qwen4_exp")
    vision = configs.Qwen4ExpVisionConfig(depth=1, num_heads=2, out_hidden_size=64, **VISION)
    config = configs.Qwen4ExpConfig(text_config=qwen4_exp().config.to_dict(), vision_config=vision.to_dict())
    return modeling.Qwen4ExpForConditionalGeneration(config)


#: Models with a language model's head.
GENERATING = [deepseek_v4, hy_v4, qwen4_exp, glm5_next_with_images, hy_v4_vl_with_images, qwen4_exp_with_images]
FAMILIES = {f.__name__: f for f in (deepseek_v4, glm5_next, hy_v4, hy_v4_vl, qwen4_exp)}


def scattered(model, size: float = 0.1):
    """The model with connections away from their start."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "hc" in name or "hyper" in name:
                parameter.add_(torch.randn_like(parameter) * size)
    return model.eval()


def assert_same_to_rounding(found, expected):
    """Gradients in float64, to 1e-14 of each one's largest; of all, for gates, whose gradients are sums that cancel."""
    largest = max(gradient.abs().max() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        size = largest if other.numel() <= 3 else other.abs().max()
        assert (one.reshape(other.shape) - other).abs().max() <= 1e-14 * size


def tokens(batch: int = 2, length: int = 24):
    return torch.randint(3, VOCABULARY, (batch, length))


def plain(config: str, model: str, **numbers):
    """A maker of a model with one residual state, in evaluation mode."""

    def make():
        cls = getattr(transformers, config)
        return getattr(transformers, model)(cls(**numbers)).eval()

    return make


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **SPECIAL,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
PLAIN = {
    "llama": plain("LlamaConfig", "LlamaForCausalLM", **GROUPED),
    "qwen2": plain("Qwen2Config", "Qwen2ForCausalLM", **GROUPED),
    "qwen3": plain("Qwen3Config", "Qwen3ForCausalLM", **HEADS),
    "mistral": plain("MistralConfig", "MistralForCausalLM", **HEADS),
    "gemma": plain("GemmaConfig", "GemmaForCausalLM", **HEADS),
    "gemma2": plain("Gemma2Config", "Gemma2ForCausalLM", **HEADS),
    "gemma3": plain("Gemma3TextConfig", "Gemma3ForCausalLM", **HEADS),
    "olmo": plain("OlmoConfig", "OlmoForCausalLM", **GROUPED),
    "olmo2": plain("Olmo2Config", "Olmo2ForCausalLM", **GROUPED),
    "olmo3": plain("Olmo3Config", "Olmo3ForCausalLM", **GROUPED),
    "gpt2": plain(
        "GPT2Config",
        "GPT2LMHeadModel",
        **{"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **SPECIAL},
    ),
    "gpt_neox": plain("GPTNeoXConfig", "GPTNeoXForCausalLM", **SIZES),
    "gpt_neox_in_turn": plain("GPTNeoXConfig", "GPTNeoXForCausalLM", **SIZES, use_parallel_residual=False),
    "phi": plain("PhiConfig", "PhiForCausalLM", **SIZES),
    "vit": plain(
        "ViTConfig",
        "ViTForImageClassification",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    ),
}
