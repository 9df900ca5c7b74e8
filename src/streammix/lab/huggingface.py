"""The lab's GPT as a model of Hugging Face's transformers: importing this file registers it with AutoModelForCausalLM.

It needs transformers (pip install 'streammix[transformers]').
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from streammix.lab.config import Config
from streammix.lab.model import GPT
from streammix.lab.text import VOCABULARY
from streammix.lab.training.checkpoint import load_model

#: The settings that decide the model, of `streammix.lab.config.Config`.
FIELDS = (
    *("recipe", "streams", "manifold", "start", "rounds", "dim", "layers", "heads", "mlp_width", "qk_norm"),
    *("vocabulary", "context", "seed"),
)


class StreammixConfig(PreTrainedConfig):
    """The settings of a lab's GPT; see `streammix.lab.config.Config`."""

    model_type = "streammix_gpt"
    attribute_map = {"hidden_size": "dim", "num_hidden_layers": "layers", "num_attention_heads": "heads"}  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        for name in FIELDS:
            setattr(self, name, settings.pop(name, getattr(Config, name)))
        self.vocab_size = self.vocabulary or VOCABULARY
        super().__init__(**{"use_cache": False, **settings})

    def lab(self) -> Config:
        """The lab's own config."""
        return Config(**{name: getattr(self, name) for name in FIELDS})


class StreammixForCausalLM(PreTrainedModel, GenerationMixin):
    """The lab's GPT on bytes, with a language model's interface.

    It has no key-value cache: `generate` reads the last `context` bytes again for every byte.
    """

    config_class = StreammixConfig
    base_model_prefix = "gpt"
    # The connections; plain weights load in the dtype that is asked for.
    _keep_in_fp32_modules_strict = ["logits", "manifold", "collapse", "router"]  # noqa: RUF012

    def __init__(self, config: StreammixConfig) -> None:
        super().__init__(config)
        self.gpt = GPT(config.lab())
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """The model has drawn its weights itself."""

    def get_input_embeddings(self) -> Any:
        return self.gpt.embed

    def forward(
        self,
        input_ids: Int64[Tensor, "batch time"],
        attention_mask: Tensor | None = None,
        labels: Int64[Tensor, "batch time"] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits (batch, time, 256), and the mean loss of each byte after the first if labels are given, -100 left out.

        Raises:
            ValueError: the mask leaves out tokens, which the model cannot.
        """
        if attention_mask is not None and not attention_mask.bool().all():
            raise ValueError("attention_mask: got one that leaves tokens out; accepted: texts of one length, unpadded")
        logits: Float[Tensor, "batch time vocabulary"] = self.gpt(input_ids)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Tensor]:
        return {"input_ids": input_ids[:, -self.config.context :]}


def of_run(path: str | Path) -> StreammixForCausalLM:
    """The model of a lab's run or checkpoint, in evaluation mode.

    Raises:
        LabError: there is no readable checkpoint.
    """
    trained, settings = load_model(Path(path))
    with torch.random.fork_rng(devices=[]):
        model = StreammixForCausalLM(StreammixConfig(**{name: getattr(settings, name) for name in FIELDS}))
    model.gpt.load_state_dict(trained.state_dict())
    return model.eval()


AutoConfig.register(StreammixConfig.model_type, StreammixConfig, exist_ok=True)
AutoModelForCausalLM.register(StreammixConfig, StreammixForCausalLM, exist_ok=True)
