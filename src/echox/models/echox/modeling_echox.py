"""EchoX, the whole model: spoken question to written and spoken reply.

S2T writes the reply; the states that predict its tokens go through the denoising adapter into the echo decoder, which
generates unit words; the vocoder makes the waveform. All of it is saved in one folder.

Letters: B rows, R reply tokens of a row, H width of the language model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration, S2TOutput
from echox.models.pretrained import Model, TypedPreTrainedModel
from echox.models.quantization.group_int4 import from_group_int4, held_in_int4
from echox.models.quantization.int4_linear import hold_in_int4
from echox.models.quantization.stored import holds_few_bits, read_weights
from echox.models.t2c.modeling_t2c import build_unit_decoder
from echox.models.t2c.modeling_unit_decoder import UnitSequence
from echox.models.vocoder.auto import AutoUnitVocoder


class DenoisingAdapter(nn.Module):
    """Maps a hidden state to the text embedding of the token that it predicts: Linear, ReLU, dropout, Linear.

    Args:
        hidden_size: H. intermediate_size: between the two. dropout: after the ReLU.

    Source: EchoX (arXiv 2509.09174, section 3.3).
    """

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size)
        self.dropout = nn.Dropout(dropout)
        self.down_proj = nn.Linear(intermediate_size, hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return self.down_proj(self.dropout(F.relu(self.up_proj(states))))

    @torch.no_grad()
    def become_identity(self) -> None:
        """Set weights that do not change any state: relu(x) - relu(-x) = x.

        Raises:
            ValueError: an inner width below twice the width of the states.
        """
        inner, width = self.up_proj.weight.shape
        if inner < 2 * width:
            raise ValueError(f"intermediate_size: expected at least {2 * width} to pass {width} numbers, found {inner}")
        for parameter in self.parameters():
            parameter.zero_()
        one = torch.eye(width)
        self.up_proj.weight[: 2 * width] = torch.cat([one, -one])
        self.down_proj.weight[:, : 2 * width] = torch.cat([one, -one], 1)


class EmbeddingGate(nn.Module):
    """Gated sum of denoised states and text embeddings, both at unit RMS; the gate depends on both.

    Source: LLaMA-Omni2 (arXiv 2505.02625, section 3.3); compared with states alone in docs/ablations.md.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """(..., H) twice -> (..., H)."""
        states, embeddings = (F.rms_norm(x.float(), x.shape[-1:], eps=1e-12).to(x.dtype) for x in (states, embeddings))
        gate = torch.sigmoid(self.gate_proj(torch.cat([states, embeddings], -1)))
        return gate * states + (1 - gate) * embeddings

    @torch.no_grad()
    def close(self) -> None:
        """Set weights that pass the text embeddings only."""
        self.gate_proj.weight.zero_()
        self.gate_proj.bias.fill_(-40.0)  # its sigmoid is 4e-18


class EchoXForConditionalGeneration(TypedPreTrainedModel):
    """S2T + denoising adapter + echo decoder (+ vocoder).

    Sessions, triggers and key-value memories are in `echox.streaming`; this module holds weights only.

    Args:
        config: of all parts.
        in_int4: weights that are in 4 bits (`hold_in_int4`), which a state dict fills; None: no weights.

    Raises:
        ValueError: an echo decoder made for another width than the language model's.

    Source: EchoX (arXiv 2509.09174, section 3); docs/paper_map.md.
    """

    config: EchoXConfig
    config_class = EchoXConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _keep_in_fp32_modules_strict = {"vocoder"}  # small, and rounding would be audible

    def __init__(self, config: EchoXConfig, in_int4: Mapping[str, int] | None = None) -> None:
        super().__init__(config)
        width, expected = config.s2t_config.hidden_size, config.echo_decoder_config.text_hidden_size
        if width != expected:
            raise ValueError(
                f"echo_decoder_config.text_hidden_size: expected the language model's width {width}, found {expected}; "
                "train the T2C on this language model's embedding"
            )
        self.s2t = S2TForConditionalGeneration(config.s2t_config)
        self.denoising_adapter = DenoisingAdapter(width, config.denoising_intermediate_size, config.denoising_dropout)
        self.embedding_gate = EmbeddingGate(width) if config.fuse_text_embeddings else None
        self.echo_decoder = build_unit_decoder(config.echo_decoder_config)
        self.vocoder = AutoUnitVocoder.from_config(config.vocoder_config) if config.vocoder_config is not None else None
        hold_in_int4(self, in_int4 or {})
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # transformers names each argument
        cls: type[Model], pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Model:
        """As in transformers; folders with matrices in 8 or 4 bits (`stored.py`) become floats.

        A ``state_dict`` may hold weights in 4 bits; they stay so (on a CPU, for inference).
        """
        folder = Path(str(pretrained_model_name_or_path))
        file = folder / "model.safetensors"
        if "state_dict" not in kwargs and holds_few_bits(file):
            kwargs["state_dict"] = from_group_int4(read_weights(file))
            if "config" not in kwargs:
                kwargs["config"] = EchoXConfig.from_pretrained(folder)
            return super().from_pretrained(None, *args, **kwargs)
        if kwargs.get("state_dict") is not None:
            kwargs["in_int4"] = held_in_int4(kwargs["state_dict"])
            return super().from_pretrained(None, *args, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.s2t.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.s2t.language_model.get_output_embeddings()

    def parts(self) -> dict[str, nn.Module]:
        """Parts by their names in tables of sizes: those of S2T one by one, then the others."""
        parts = {f"s2t.{name}": part for name, part in self.s2t.named_children()}
        return parts | {name: part for name, part in self.named_children() if name != "s2t"}

    def forward(self, **inputs: Tensor) -> S2TOutput:
        """The text side: see `S2TForConditionalGeneration.forward`. Speech: `generate_unit_words` and `vocoder`."""
        return self.s2t(**inputs)

    def denoise(self, states: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Inputs of the echo decoder.

        Args:
            states: (B, R, H) last hidden states, each the one that predicts its token.
            token_ids: (B, R) those tokens, any number below 0 as padding; only with ``fuse_text_embeddings``.

        Returns:
            (B, R, H).

        Raises:
            ValueError: ``fuse_text_embeddings`` without token ids.
        """
        return self.fuse(self.denoising_adapter(states), token_ids)

    def fuse(self, denoised: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Denoised states (B, R, H), with the text embeddings of their tokens if `fuse_text_embeddings` is set."""
        if self.embedding_gate is None:
            return denoised
        if token_ids is None:
            raise ValueError("token_ids: expected the tokens of the states (fuse_text_embeddings is on), found None")
        return self.embedding_gate(denoised, self.text_embeddings(token_ids).to(denoised.dtype))

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        """Input vectors (B, R, H) of the language model for tokens (B, R), without gradient: the table is frozen."""
        with torch.no_grad():
            embeddings: Tensor = self.get_input_embeddings()(token_ids.clamp(min=0))
        return embeddings

    def generate_unit_words(
        self,
        states: Tensor,
        token_ids: Tensor,
        word_ids: Tensor,
        max_unit_words: int | None = None,
        word_letters: Tensor | None = None,
    ) -> list[UnitSequence]:
        """Greedy unit words of segments of a reply.

        Args:
            states: (B, R, H) last hidden states that predict `token_ids`.
            token_ids: (B, R) tokens of the segment, -1 = padding.
            word_ids: (B, R) text word of each token, -1 = padding or not spoken.
            max_unit_words: limit per row (None: the configuration's).
            word_letters: (B, W, C) letters of each text word, for a decoder that reads them.
        """
        states = states.to(self.denoising_adapter.up_proj.weight.dtype)
        if self.echo_decoder.reads_silent_tokens:
            word_ids = torch.where(token_ids >= 0, word_ids.clamp(min=0), -1)
        return self.echo_decoder.generate(
            self.denoise(states, token_ids), word_ids, max_unit_words=max_unit_words, word_letters=word_letters
        )


AutoModel.register(EchoXConfig, EchoXForConditionalGeneration, exist_ok=True)
