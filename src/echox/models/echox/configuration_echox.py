"""Configurations of the speech encoder, of S2T (speech to text) and of the whole model.

The audio tower has the configuration of its family in transformers (`models/towers/auto.py` lists them), a Whisper with
one optional key of ours, ``position_scale`` (see :func:`whisper_config`); the language model may have any configuration
that ``AutoConfig`` knows.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 3) and Soundwave (https://arxiv.org/abs/2502.12900, section 3).
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig, WhisperConfig

from echox.models.compatibility import Compatibility
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.towers.auto import AutoAudioTower
from echox.models.vocoder.configuration_vocoder import UnitVocoderConfig

ALIGNERS = ("ctc", "recogniser")
"""Values of `S2TConfig.aligner`."""

PHONE_BLANK_ID = 0
"""Class 0 of a phone head is its CTC blank; phone i of the configuration is class i + 1."""


def whisper_config(**values: Any) -> WhisperConfig:
    """A ``WhisperConfig`` for an encoder only: the decoder, which is never built, has the sizes of the encoder.

    ``position_scale`` (default 1) multiplies Whisper's sinusoidal positions when weights are *initialised*: in a small
    encoder with small convolutions, positions of amplitude 1 would be much larger than the speech. ``forward`` does not
    use it.
    """
    values.setdefault("decoder_layers", 0)
    values.setdefault("decoder_attention_heads", values.get("encoder_attention_heads", 1))
    values.setdefault("decoder_ffn_dim", values.get("encoder_ffn_dim", 1))
    return WhisperConfig(**values)


def _as_config(value: object, default: type[PreTrainedConfig], name: str) -> Any:
    """A sub-configuration from a configuration or a dict; for None the defaults of the class `default`."""
    if value is None:
        return default()
    if isinstance(value, PreTrainedConfig):
        return value
    if isinstance(value, dict):
        values = dict(value)
        model_type = values.pop("model_type", None)
        other = model_type and model_type != default.model_type
        return AutoConfig.for_model(model_type, **values) if other else default(**values)
    raise ValueError(f"{name}: expected a configuration or a dict, found {type(value).__name__}")


class SpeechEncoderConfig(PreTrainedConfig):
    """Audio tower, alignment adapter and CTC heads, trained before any language model is attached.

    Args:
        audio_config: of the audio tower; its ``model_type`` names the family.
        hidden_size: H, width of the language model (and of the alignment adapter).
        vocab_size: rows of the CTC head: the language model's vocabulary.
        blank_token_id: the CTC blank; EchoX uses the audio placeholder token.
        adapter_attention_heads, adapter_intermediate_size (None = 2 H), adapter_dropout, adapter_activation: the
            adapter's one Transformer encoder layer.
        phones: inventory of the auxiliary phone head, without its blank (which is class 0); empty = no phone head.
        phone_layer: encoder layer (1 = first) whose output the phone head reads, 50 frames/s.
        phone_loss_weight: the phone CTC's weight beside the text CTC.
        initializer_range: standard deviation of initial weights outside the audio tower (which has ``init_std``).
        sampling_rate: of the audio that the features are made of, hertz.
    """

    model_type = "echox_speech_encoder"
    sub_configs = {"audio_config": AutoConfig}

    def __init__(
        self,
        audio_config: PreTrainedConfig | dict | None = None,
        hidden_size: int = 256,
        vocab_size: int = 1536,
        blank_token_id: int | None = None,
        adapter_attention_heads: int = 4,
        adapter_intermediate_size: int | None = None,
        adapter_dropout: float = 0.1,
        adapter_activation: str = "relu",
        phones: list[str] | tuple[str, ...] = (),
        phone_layer: int = 1,
        phone_loss_weight: float = 0.3,
        initializer_range: float = 0.02,
        sampling_rate: int = 16000,
        **kwargs: Any,
    ) -> None:
        self.audio_config = _as_config(audio_config, WhisperConfig, "audio_config")
        self.hidden_size = hidden_size
        self.vocab_size = vocab_size
        self.blank_token_id = blank_token_id
        self.adapter_attention_heads = adapter_attention_heads
        self.adapter_intermediate_size = adapter_intermediate_size
        self.adapter_dropout = adapter_dropout
        self.adapter_activation = adapter_activation
        self.phones = list(phones)
        self.phone_layer = phone_layer
        self.phone_loss_weight = phone_loss_weight
        self.initializer_range = initializer_range
        self.sampling_rate = sampling_rate
        layers = AutoAudioTower.spec(self.audio_config).num_layers
        if self.phones and not 1 <= phone_layer <= layers:
            raise ValueError(f"phone_layer: expected 1 to {layers} (an encoder layer), found {phone_layer}")
        super().__init__(**kwargs)

    @property
    def phone_blank_id(self) -> int:
        """The CTC blank of the phone head."""
        return PHONE_BLANK_ID


class S2TConfig(PreTrainedConfig):
    """Speech to text: audio tower, aligner, language model.

    Args:
        audio_config: of the audio tower; its ``model_type`` names the family.
        text_config: any causal language model of transformers.
        audio_token_id: the placeholder in ``input_ids`` that one audio replaces; also the CTC blank.
        aligner: "ctc", the method as published (alignment adapter, CTC head, shrinking adapter), or "recogniser" (the
            decoder of the tower's family writes a transcript). The fields after it, up to ``ctc_loss_weight``, are of
            "ctc".
        adapter_*: the alignment adapter's Transformer layer; heads of the look-back are the same number.
        drop_blanks: drop blank runs as well, so that about one frame per spoken token is left. The official model
            keeps the first frame of every blank run.
        ctc_bridge: feed each kept frame as its CTC distribution over the language model's input embeddings plus a
            gated look-back (gate 0 at first), rather than the look-back alone.
        ctc_loss_weight: weight of the CTC loss beside the cross-entropy (0.3 in EchoX).
        recogniser_tokens_per_s: most tokens of a transcript per second of audio, for "recogniser": one that repeats
            itself without end is stopped. Moonshine's authors recommend 6.5 for English.
        initializer_range: standard deviation of the adapters' initial weights.
        compatibility: departures from the method for released weights (`Compatibility`); None: no departures.

    Raises:
        ValueError: an unknown aligner.
    """

    model_type = "echox_s2t"
    sub_configs = {"audio_config": AutoConfig, "text_config": AutoConfig}

    def __init__(
        self,
        audio_config: PreTrainedConfig | dict | None = None,
        text_config: PreTrainedConfig | dict | None = None,
        audio_token_id: int | None = None,
        aligner: str = "ctc",
        adapter_attention_heads: int = 4,
        adapter_intermediate_size: int | None = None,
        adapter_dropout: float = 0.1,
        adapter_activation: str = "relu",
        drop_blanks: bool = False,
        ctc_bridge: bool = False,
        ctc_loss_weight: float = 0.3,
        recogniser_tokens_per_s: float = 6.5,
        initializer_range: float = 0.02,
        compatibility: dict[str, bool | int | None] | None = None,
        **kwargs: Any,
    ) -> None:
        from transformers import LlamaConfig

        self.audio_config = _as_config(audio_config, WhisperConfig, "audio_config")
        self.text_config = _as_config(text_config, LlamaConfig, "text_config")
        self.audio_token_id = audio_token_id
        if aligner not in ALIGNERS:
            raise ValueError(f"aligner: expected {' or '.join(ALIGNERS)}, found {aligner!r}")
        self.aligner = aligner
        self.adapter_attention_heads = adapter_attention_heads
        self.adapter_intermediate_size = adapter_intermediate_size
        self.adapter_dropout = adapter_dropout
        self.adapter_activation = adapter_activation
        self.drop_blanks = drop_blanks
        self.ctc_bridge = ctc_bridge
        self.ctc_loss_weight = ctc_loss_weight
        self.recogniser_tokens_per_s = recogniser_tokens_per_s
        self.initializer_range = initializer_range
        self.compatibility = Compatibility.of(compatibility).to_dict()
        # The head of the model is that of the language model, and tied if it is tied there.
        kwargs["tie_word_embeddings"] = bool(getattr(self.text_config, "tie_word_embeddings", False))
        super().__init__(**kwargs)

    @property
    def compatible(self) -> Compatibility:
        """`compatibility` with the default values of the method."""
        return Compatibility.of(self.compatibility)

    @property
    def hidden_size(self) -> int:
        """H, width of the language model."""
        return int(self.text_config.get_text_config().hidden_size)

    @property
    def vocab_size(self) -> int:
        """Vocabulary of the language model."""
        return int(self.text_config.get_text_config().vocab_size)


class EchoXConfig(PreTrainedConfig):
    """The whole model: S2T, denoising adapter, echo decoder, unit vocoder, and the settings of the trigger.

    Args:
        s2t_config: speech to text.
        echo_decoder_config: the decoder from denoised states to unit words.
        vocoder_config: any registered unit vocoder; None = a model that outputs unit words (in training).
        denoising_intermediate_size: inner width of the denoising adapter; None = that of the language model, as in the
            official model.
        denoising_dropout: inside the denoising adapter.
        fuse_text_embeddings: feed the echo decoder a gated sum of the denoised states and the text embeddings of the
            decoded tokens (LLaMA-Omni2, arXiv 2505.02625, section 3.3), rather than the denoised states alone.
        echo_context_words: number of words of the previous segment, with their unit words, that the echo decoder was
            trained to read before each segment; 0: it reads the segment alone.
        spoken_language: ISO 639 code of the language of spoken replies, for numbers and signs as words.
        system_prompt: of conversations that have none of their own; None: none.
        trigger_min_tokens, trigger_max_tokens, trigger_lookahead_tokens, trigger_threshold: when a segment of the
            reply is complete; see ``streaming/reply_text/trigger.py``.

    Raises:
        ValueError: an echo decoder of another width than the language model.

    Source: EchoX (arXiv 2509.09174, section 3.3); docs/paper_map.md.
    """

    model_type = "echox"
    sub_configs = {"s2t_config": S2TConfig, "echo_decoder_config": UnitDecoderConfig, "vocoder_config": AutoConfig}

    def __init__(
        self,
        s2t_config: S2TConfig | dict | None = None,
        echo_decoder_config: UnitDecoderConfig | dict | None = None,
        vocoder_config: PreTrainedConfig | dict | None = None,
        denoising_intermediate_size: int | None = None,
        denoising_dropout: float = 0.1,
        fuse_text_embeddings: bool = False,
        echo_context_words: int = 0,
        spoken_language: str = "en",
        system_prompt: str | None = None,
        trigger_min_tokens: int = 20,
        trigger_max_tokens: int = 50,
        trigger_lookahead_tokens: int = 5,
        trigger_threshold: float = 0.1,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.s2t_config = _as_config(s2t_config, S2TConfig, "s2t_config")
        self.echo_decoder_config = _as_config(echo_decoder_config, UnitDecoderConfig, "echo_decoder_config")
        self.echo_decoder_config.compatibility = self.s2t_config.compatibility  # one for the whole model
        known = vocoder_config is not None
        self.vocoder_config = _as_config(vocoder_config, UnitVocoderConfig, "vocoder_config") if known else None
        self.denoising_intermediate_size = denoising_intermediate_size or self.s2t_config.text_config.intermediate_size
        self.denoising_dropout = denoising_dropout
        self.fuse_text_embeddings = fuse_text_embeddings
        self.echo_context_words = echo_context_words
        self.spoken_language = spoken_language
        self.system_prompt = system_prompt
        self.trigger_min_tokens = trigger_min_tokens
        self.trigger_max_tokens = trigger_max_tokens
        self.trigger_lookahead_tokens = trigger_lookahead_tokens
        self.trigger_threshold = trigger_threshold
        self.initializer_range = initializer_range
        kwargs["tie_word_embeddings"] = self.s2t_config.tie_word_embeddings
        super().__init__(**kwargs)

    @property
    def compatible(self) -> Compatibility:
        """Departures from the method for released weights, from `s2t_config`."""
        return self.s2t_config.compatible


AutoConfig.register(SpeechEncoderConfig.model_type, SpeechEncoderConfig, exist_ok=True)
AutoConfig.register(S2TConfig.model_type, S2TConfig, exist_ok=True)
AutoConfig.register(EchoXConfig.model_type, EchoXConfig, exist_ok=True)
