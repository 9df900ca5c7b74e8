"""A DeepSeek-V4 of transformers with its hyper-connections on streammix's operators: how much faster is a step?

    python examples/accelerate_deepseek.py
    python examples/accelerate_deepseek.py --hidden 64 --rounds 2

Both models train on the same random tokens, step by step in turn, on one thread.
"""

import argparse
import copy
import statistics
import time

import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

import streammix as sm


def deepseek(hidden: int) -> DeepseekV4ForCausalLM:
    return DeepseekV4ForCausalLM(
        DeepseekV4Config(
            vocab_size=256,
            hidden_size=hidden,
            num_hidden_layers=4,
            num_attention_heads=8,
            head_dim=hidden // 8,
            qk_rope_head_dim=4,
            q_lora_rank=hidden // 4,
            o_lora_rank=hidden // 8,
            o_groups=2,
            n_routed_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=hidden // 2,
            index_n_heads=2,
            index_head_dim=32,
            index_topk=16,
            sliding_window=32,
            pad_token_id=0,
        )
    )


def step(model: DeepseekV4ForCausalLM, optimiser: torch.optim.Optimizer, tokens: torch.Tensor) -> tuple[float, float]:
    """Seconds, and the loss."""
    begun = time.process_time()
    optimiser.zero_grad()
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    optimiser.step()
    return time.process_time() - begun, loss.item()


def main(hidden: int = 512, rounds: int = 10) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = deepseek(hidden)
    fast = sm.hf.accelerate(copy.deepcopy(plain))
    models = {"transformers": plain, "streammix": fast}
    optimisers = {name: torch.optim.SGD(model.parameters(), 1e-2) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    losses: dict[str, float] = {}
    for _ in range(rounds):
        tokens = torch.randint(1, 256, (2, 128))
        for name, model in models.items():
            taken, losses[name] = step(model, optimisers[name], tokens)
            seconds[name].append(taken)
    for name, taken in seconds.items():
        middle = statistics.median(taken[1:])  # the first warms up
        print(f"{name:12} {1000 * middle:6.0f} ms a step, last loss {losses[name]:.5f}")
    before, after = seconds.values()
    faster = statistics.median(a / b for a, b in zip(before[1:], after[1:], strict=True))
    print(f"{faster:.2f} times as fast")
    return {**losses, "faster": faster}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=10)
    main(**vars(parser.parse_args()))
