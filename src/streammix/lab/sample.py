"""Text that a trained model writes."""

from pathlib import Path

import torch

from streammix.lab.errors import LabError
from streammix.lab.text import VOCABULARY
from streammix.lab.training.checkpoint import load_model

BEGINNING = b"\0\n"  # every file of a text ends with a zero byte, so that the next begins after one


@torch.no_grad()
def sample(path: Path, prompt: str = "", *, count: int = 500, temperature: float = 0.8, seed: int = 0) -> str:
    """`prompt` and `count` bytes that the model of a run, or of a checkpoint, writes after it.

    Args:
        temperature: logits are divided by it before a byte is drawn; 0 takes the likeliest byte.
        seed: of the draws.

    Raises:
        LabError: there is no readable checkpoint, or a number is out of range.
    """
    if count < 1:
        raise LabError(f"--bytes is {count}; accepted: integers >= 1")
    if not 0 <= temperature < float("inf"):
        raise LabError(f"--temperature is {temperature}; accepted: numbers >= 0")
    model, config = load_model(path)
    generator = torch.Generator().manual_seed(seed)
    written = list(BEGINNING + prompt.encode())
    for _ in range(count):
        logits = model(torch.tensor([written[-config.context :]]))[0, -1].float()
        if temperature == 0:
            written.append(int(logits.argmax()))
        else:
            shares = (logits / temperature).softmax(-1)
            written.append(int(torch.multinomial(shares, 1, generator=generator)))
    assert max(written) < VOCABULARY
    return bytes(written[len(BEGINNING) :]).decode(errors="replace")
