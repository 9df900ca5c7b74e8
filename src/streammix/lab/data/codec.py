"""From text to tokens and back: bytes, or a tokenizer of the package tokenizers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streammix.lab.data.documents import needed
from streammix.lab.errors import LabError
from streammix.lab.files import read_json
from streammix.lab.text.shards import SETTINGS, TOKENIZER

BYTES = "bytes"
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")


@dataclass
class Codec:
    """Tokens of a text.

    name: "bytes", or the name of the tokenizer's file.
    sha256: of that file; "" for bytes.
    vocabulary: how many tokens there are.
    separator: the token that ends a piece of text; None where the tokenizer has none.
    """

    name: str
    sha256: str
    vocabulary: int
    separator: int | None
    tokenizer: Any = None

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, without the tokens that a tokenizer would add around it."""
        if self.tokenizer is None:
            return [np.frombuffer(text.encode(), np.uint8) for text in texts]
        made = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.uint32) for one in made]

    def decode(self, tokens: Sequence[int]) -> str:
        if self.tokenizer is None:
            return bytes(tokens).decode(errors="replace")
        return str(self.tokenizer.decode(list(tokens)))

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256, "vocabulary": self.vocabulary, "separator": self.separator}


def codec(source: str, separator: str | None = None) -> Codec:
    """The codec "bytes", or that of a tokenizer.json file.

    Args:
        separator: the token between texts; by default the first of SEPARATORS that the tokenizer has.

    Raises:
        LabError: no such file, it is no tokenizer, or it lacks the separator.
    """
    if source == BYTES:
        if separator is not None:
            raise LabError(f"--separator is {separator!r}; accepted with bytes: none, the zero byte ends every text")
        return Codec(BYTES, "", 256, 0)
    path = Path(source)
    if not path.is_file():
        raise LabError(f"--tokenizer is {source!r}; accepted: bytes, or a tokenizer.json file of tokenizers")
    tokenizers = needed("tokenizers")
    content = path.read_bytes()
    try:
        made = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises no narrower one
        raise LabError(f"{path}: not a tokenizer ({' '.join(str(error).split())})") from None
    made.no_truncation()
    made.no_padding()
    if separator is not None and made.token_to_id(separator) is None:
        raise LabError(f"--separator is {separator!r}; accepted: a token of {path}")
    found = [made.token_to_id(word) for word in ((separator,) if separator else SEPARATORS)]
    end = next((token for token in found if token is not None), None)
    # Tokens may have larger numbers than there are tokens.
    size = 1 + max([made.get_vocab_size() - 1, *made.get_vocab().values()])
    return Codec(path.name, hashlib.sha256(content).hexdigest(), size, end, made)


def codec_of_folder(folder: Path) -> Codec:
    """The codec of a folder of data shards.

    Raises:
        LabError: its tokenizer is missing, or another one than its tokens were made by.
    """
    about = read_json(folder / SETTINGS)["tokenizer"]
    if about["name"] == BYTES:
        return codec(BYTES)
    made = codec(str(folder / TOKENIZER))
    if made.sha256 != about["sha256"]:
        raise LabError(f"{folder / TOKENIZER}: is another tokenizer than the one that made the tokens")
    made.separator = about["separator"]
    return made
