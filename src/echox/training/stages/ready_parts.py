"""Stages "language_model", "recogniser", "published_vocoder": published parts as other stages read them; no training.

language_model: any chat model, prepared for speech, in one folder that all other stages read (`s2t` the model, `t2c`
its embedding, `encoder` its vocabulary), so that they agree on every token: an audio placeholder in its vocabulary,
exactly as many embeddings as tokens, a padding token, a chat template with audio (`data/templates/chat_templates.py`).

recogniser: a published recogniser whose encoder is an audio tower, and whose decoder aligns (`S2TConfig.aligner`).

published_vocoder: fairseq's code-HiFi-GAN, converted to a vocoder folder of this package.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 4: Llama-3.1-8B-Instruct, Llama-3.2-3B-Instruct; other families
are ours); the vocoder, https://github.com/facebookresearch/fairseq, examples/speech_to_speech.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from echox.api.parts import installed_folder
from echox.config import recipe
from echox.data.templates.chat_templates import hearing_template
from echox.files import JsonObject, save_model
from echox.models.conversion.code_hifigan import find_vocoder, open_vocoder
from echox.models.conversion.file_formats.gguf_file import MAGIC
from echox.models.conversion.moonshine import open_ort_moonshine
from echox.models.conversion.moonshine_files import find_ort_moonshine
from echox.models.text.tokenization_text import AUDIO
from echox.models.towers.auto import RECOGNISERS, AutoAudioTower
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN

PACKAGE_PREFIX = "package:"
"""Prefix of the name of an installed package, in place of a folder or a hub id."""


@recipe("language_model")
@dataclass
class LanguageModelRecipe:
    """The recipe of stage "language_model" (it has `run`, not `build`).

    Attributes:
        model: folder or hub id of a causal language model with its tokenizer, or ``package:NAME``: the folder of an
            installed Python package that contains one.
        output_dir: folder to write, the language model of the other stages.
        dtype: of the weights, which stages "s2t" and "echo" keep frozen as they are (what they train is float32).
            bfloat16 takes half the memory and is what the published weights are.
        revision: of a hub id.
        gguf_file: name of a GGUF file in `model`: weights, tokenizer and chat template are read from it, and the
            weights are dequantised.
    """

    stage: str
    model: str
    output_dir: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    revision: str = "main"
    gguf_file: str | None = None

    def run(self) -> JsonObject:
        """Write the folder; returns vocabulary and number of parameters.

        Raises:
            ValueError: no such package or GGUF file; see also `make_ready`.
        """
        source = package_folder(self.model) if self.model.startswith(PACKAGE_PREFIX) else self.model
        if self.gguf_file is not None:
            check_gguf(source, self.gguf_file)
        where = {"revision": self.revision, "gguf_file": self.gguf_file}
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, self.dtype), **where)
        if self.gguf_file is not None:
            model = without_quantization(model)
        make_ready(model, tokenizer)
        save_model(model, self.output_dir)
        tokenizer.save_pretrained(self.output_dir)
        return {"vocabulary": len(tokenizer), "parameters": sum(value.numel() for value in model.parameters())}


def package_folder(name: str) -> Path:
    """The folder of an installed package, written as ``package:NAME``; the package is not imported.

    Raises:
        ValueError: it is not installed, or it is no package with a folder.
    """
    package = name.removeprefix(PACKAGE_PREFIX)
    folder = installed_folder(package)
    if folder is None:
        raise ValueError(
            f"model: expected an installed package after '{PACKAGE_PREFIX}', found none named {package!r}; install it, "
            "or name a folder or a hub id"
        )
    return folder


def check_gguf(source: str | Path, gguf_file: str) -> None:
    """Check a GGUF file as far as possible before it is read.

    Raises:
        ValueError: the reader (package ``gguf``) is missing, or the folder holds no such GGUF file.
    """
    if find_spec("gguf") is None:
        raise ValueError("gguf_file: expected the package gguf, which reads it; pip install 'echox[train]'")
    path = Path(source) / gguf_file
    if not Path(source).is_dir():
        return  # a hub id: transformers reports a missing file
    if Path(gguf_file).name != gguf_file or not path.is_file():
        have = ", ".join(sorted(file.name for file in Path(source).glob("*.gguf"))) or "none"
        raise ValueError(f"{path}: expected a GGUF file, found none; GGUF files in the folder: {have}")
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise ValueError(f"{path}: expected a GGUF file, found one that begins with {magic!r}; download it again")


def without_quantization(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights under a plain configuration: transformers refuses to save a dequantised GGUF model."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    unsaved = [name for name, buffer in plain.named_buffers() if buffer.is_meta]  # rotary frequencies
    for name in unsaved:
        owner, _, leaf = name.rpartition(".")
        plain.get_submodule(owner).register_buffer(leaf, model.get_buffer(name), persistent=False)
    plain.generation_config = model.generation_config
    return plain.eval()


def make_ready(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add placeholder, padding token and chat template, and make one embedding per token; in place.

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
    # Some tables have more rows than tokens: CTC head and unit decoder need one row for each token.
    model.resize_token_embeddings(len(tokenizer))
    for config in (model.config.get_text_config(), model.generation_config):
        if config is not None:
            config.eos_token_id = tokenizer.eos_token_id


@recipe("recogniser")
@dataclass
class RecogniserRecipe:
    """The recipe of stage "recogniser" (it has `run`, not `build`).

    Attributes:
        model: folder or hub id of a recogniser of transformers with its tokenizer; or ``package:NAME``, the folder of
            an installed Python package (or any folder) that holds Moonshine's ONNX-runtime files, whose weights are
            then read and dequantised.
        output_dir: folder to write, ``speech_encoder`` of stage "s2t".
        revision: of a hub id.
    """

    stage: str
    model: str
    output_dir: str
    revision: str = "main"

    def run(self) -> JsonObject:
        """Write the folder: model, tokenizer and feature extractor. Returns vocabulary and number of parameters.

        Raises:
            ValueError: no such package, or no recogniser of a family that is known here.
        """
        source = package_folder(self.model) if self.model.startswith(PACKAGE_PREFIX) else Path(self.model)
        exported = find_ort_moonshine(source) if source.is_dir() else None
        model: PreTrainedModel
        tokenizer: PreTrainedTokenizerBase
        if exported is not None:
            model, tokenizer = open_ort_moonshine(exported)
        else:
            model = AutoModelForSpeechSeq2Seq.from_pretrained(self.model, revision=self.revision, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(self.model, revision=self.revision)
        if model.config.model_type not in RECOGNISERS:
            raise ValueError(
                f"{self.model}: expected a recogniser of {', '.join(RECOGNISERS)}, found {model.config.model_type!r}"
            )
        save_model(model, self.output_dir)
        tokenizer.save_pretrained(self.output_dir)
        AutoAudioTower.feature_extractor(model.config).save_pretrained(self.output_dir)
        return {"vocabulary": len(tokenizer), "parameters": sum(value.numel() for value in model.parameters())}


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

    def run(self) -> JsonObject:
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
        save_model(model, self.output_dir)
        return {"units": config.num_units, "parameters": sum(value.numel() for value in model.parameters())}
