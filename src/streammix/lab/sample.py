"""Text that a trained model writes."""

from pathlib import Path

import torch

from streammix.lab.config import Config
from streammix.lab.data.codec import BYTES, Codec, codec, codec_of_folder
from streammix.lab.errors import LabError
from streammix.lab.text import VOCABULARY
from streammix.lab.text.shards import is_data_folder
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
    tokens = codec_of(config)
    generator = torch.Generator().manual_seed(seed)
    beginning = list(BEGINNING) if tokens.tokenizer is None else [tokens.separator] * (tokens.separator is not None)
    written = [*beginning, *map(int, tokens.encode([prompt])[0])]
    if not written:
        raise LabError(
            "--prompt is empty; accepted: a beginning, because the tokenizer has no token that begins a text"
        )
    for _ in range(count):
        logits = model(torch.tensor([written[-config.context :]]))[0, -1].float()
        if temperature == 0:
            written.append(int(logits.argmax()))
        else:
            shares = (logits / temperature).softmax(-1)
            written.append(int(torch.multinomial(shares, 1, generator=generator)))
    return tokens.decode(written[len(beginning) :])


def codec_of(config: Config) -> Codec:
    """How the text of a run was made into tokens.

    Raises:
        LabError: the data shards that hold the run's tokenizer are gone.
    """
    folders = [Path(path) for path in config.text if is_data_folder(Path(path))]
    if folders:
        return codec_of_folder(folders[0])
    if config.vocabulary not in (None, VOCABULARY):
        raise LabError(f"{', '.join(config.text)}: the data shards with this run's tokenizer are not there")
    return codec(BYTES)
