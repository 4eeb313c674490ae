"""Stages "language_model" and "published_vocoder": published parts as the other stages read them. Nothing is trained.

language_model: any chat model, ready to hear and to speak, in one folder that all other stages read (`s2t` the model,
`t2c` its embedding, `encoder` its vocabulary), so that they agree on every token: an audio placeholder in its
vocabulary, exactly as many embeddings as tokens, a padding token, a chat template that writes audio
(`data/chat_templates.py`).

published_vocoder: fairseq's code-HiFi-GAN as a vocoder folder of ours.

Source: METHOD.md items 4 (Llama-3.1-8B-Instruct, Llama-3.2-3B-Instruct; other families are ours) and 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from echox.config import recipe
from echox.data.chat_templates import hearing_template
from echox.models.conversion.code_hifigan import find_vocoder, open_vocoder
from echox.models.modeling_hifigan import CodeHiFiGAN
from echox.models.tokenization_text import AUDIO


@recipe("language_model")
@dataclass
class LanguageModelRecipe:
    """The recipe of stage "language_model" (it has `run`, not `build`).

    Attributes:
        model: folder or hub id of a causal language model with its tokenizer.
        output_dir: what the other stages take as language model.
        dtype: of the weights; sharded training (``training.parallel: fsdp``) needs float32, as the adapters are.
        revision: of a hub id.
    """

    stage: str
    model: str
    output_dir: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    revision: str = "main"

    def run(self) -> dict[str, Any]:
        """Write the folder; returns vocabulary and number of parameters.

        Raises:
            ValueError: see `make_ready`.
        """
        tokenizer = AutoTokenizer.from_pretrained(self.model, revision=self.revision)
        dtype = getattr(torch, self.dtype)
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype, revision=self.revision)
        make_ready(model, tokenizer)
        model.save_pretrained(self.output_dir)
        tokenizer.save_pretrained(self.output_dir)
        return {"vocabulary": len(tokenizer), "parameters": sum(value.numel() for value in model.parameters())}


def make_ready(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Placeholder, padding, chat template, one embedding per token; in place.

    Raises:
        ValueError: a vocabulary with gaps, or a chat template that cannot be used (`hearing_template`).
    """
    tokenizer.add_tokens([AUDIO], special_tokens=True)
    last = max(tokenizer.get_vocab().values())
    if last + 1 != len(tokenizer):
        raise ValueError(f"tokenizer: expected ids from 0 without gaps, found {len(tokenizer)} tokens up to id {last}")
    tokenizer.chat_template = hearing_template(tokenizer, AUDIO)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Some tables have rows to spare: CTC head and unit decoder take one row for each token.
    model.resize_token_embeddings(len(tokenizer))
    for config in (model.config.get_text_config(), model.generation_config):
        if config is not None:
            config.eos_token_id = tokenizer.eos_token_id


@recipe("published_vocoder")
@dataclass
class PublishedVocoderRecipe:
    """The recipe of stage "published_vocoder" (it has `run`, not `build`).

    Attributes:
        source: folder of ``g_*`` and its ``config.json``, or the ``g_*`` file.
        output_dir: vocoder folder to write.
    """

    stage: str
    source: str
    output_dir: str

    def run(self) -> dict[str, Any]:
        """Write the folder; returns its number of units and parameters.

        Raises:
            ValueError: there is none at `source`, or one of another kind.
        """
        files = find_vocoder(Path(self.source))
        if files is None:
            raise ValueError(f"{self.source}: expected g_* and config.json of a code-HiFi-GAN, found none")
        config, stored = open_vocoder(files)
        model = CodeHiFiGAN(config)
        model.load_state_dict({name: tensor.load() for name, tensor in stored.items()})
        model.save_pretrained(self.output_dir)
        return {"units": config.num_units, "parameters": sum(value.numel() for value in model.parameters())}
