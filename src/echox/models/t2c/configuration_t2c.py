"""Configuration of unit decoders: the T2C (text to codec) and the echo decoder."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from echox.models.compatibility import Compatibility

UNIT_DECODER_FORMS = ("word_synchronous", "prefix", "text_prefix")


class UnitDecoderConfig(PreTrainedConfig):
    """Sizes and form of a decoder from text embeddings (or hidden states) to unit words.

    Three forms share one backbone and one interface (`modeling_t2c.py`):

    - ``prefix``, the paper's: ``[states] [separator] unit words ... end``.
    - ``word_synchronous`` (ours; 9.0 against 15.1 % WER with nano's budget, docs/experiments.md): every step reads
      the current text word, its neighbours, and the previous unit word; an end-of-word output moves to the next text
      word.
    - ``text_prefix``, the official release's (`modeling_t2c_text.py`): as ``prefix``, with a prompt of text
      tokens, and one vocabulary of text and unit words for input and output.

    Args:
        form: ``word_synchronous``, ``prefix`` or ``text_prefix``.
        hidden_size: width D of the decoder.
        num_hidden_layers: Llama layers. num_attention_heads, num_key_value_heads (None: as many), intermediate_size:
            their sizes. head_dim (None: hidden_size / heads), hidden_act, attention_bias, mlp_bias: as in Llama.
        text_hidden_size: width H of the input states (that of the language model).
        text_vocab_size: rows of the T2C's frozen text embedding, copied from the language model.
        num_unit_words: size of the unit language; the output has one more, the end (of a word, or of the sequence).
        max_unit_words: limit of one generation.
        normalize_states: scale every input state to unit RMS, so that the scales of the text embeddings and of the
            denoised states (trained by a cosine, which does not fix the scale) do not matter.
        lookahead_words, lookback_words: neighbours whose vectors each step reads (word-synchronous form).
        max_unit_words_per_word: limit, after which the end of the word is forced (word-synchronous form).
        force_sound: forbid the end as the first output of a word, so that no word is skipped (word-synchronous form).
        max_word_tokens: number of different positions in a word; later tokens of a long word share the last.
        max_word_letters: letters of a word that are read before its unit words, so that words which training never met
            can be spelled; 0: none (word-synchronous form).
        num_letter_layers: convolutions over the letters.
        word_token_dropout: fraction of the words whose tokens are hidden in training, so that letters are relied on.
        num_prefix_vectors, num_separator_vectors: learned vectors before and after the states (prefix form).
        prompt_prefix_ids, prompt_suffix_ids: text tokens before and after the states (text_prefix form).
        end_token_id: the text token that ends the unit words (text_prefix form).
        unit_noise: fraction of the previous unit words that are replaced by random ones in training.
        dropout: on the input of the backbone and before the head; attention_dropout: inside it.
        embedding_std: initial size of unit embeddings; word vectors start at unit RMS.
        max_position_embeddings, rope_theta, rope_scaling_parameters (of transformers, without rope_theta),
            rms_norm_eps, initializer_range: as in Llama.
        compatibility: switches for released weights; `EchoXConfig` copies those of the whole model here.

    Raises:
        ValueError: unknown form, or a size below its minimum.

    Source: EchoX (arXiv 2509.09174, section 3); the word-synchronous form is ours.
    """

    model_type = "echox_t2c"

    def __init__(
        self,
        form: str = "word_synchronous",
        hidden_size: int = 256,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        num_key_value_heads: int | None = None,
        intermediate_size: int = 640,
        text_hidden_size: int = 256,
        text_vocab_size: int = 1536,
        num_unit_words: int = 1000,
        max_unit_words: int = 2048,
        normalize_states: bool = True,
        lookahead_words: int = 1,
        lookback_words: int = 1,
        max_unit_words_per_word: int = 24,
        force_sound: bool = True,
        max_word_tokens: int = 16,
        max_word_letters: int = 0,
        num_letter_layers: int = 2,
        word_token_dropout: float = 0.0,
        num_prefix_vectors: int = 0,
        num_separator_vectors: int = 1,
        prompt_prefix_ids: list[int] | tuple[int, ...] = (),
        prompt_suffix_ids: list[int] | tuple[int, ...] = (),
        end_token_id: int | None = None,
        unit_noise: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        embedding_std: float = 0.5,
        max_position_embeddings: int = 2048,
        rope_theta: float = 10000.0,
        rope_scaling_parameters: dict[str, object] | None = None,
        head_dim: int | None = None,
        hidden_act: str = "silu",
        attention_bias: bool = False,
        mlp_bias: bool = False,
        rms_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        compatibility: dict[str, bool | int | None] | None = None,
        **kwargs: Any,
    ) -> None:
        if form not in UNIT_DECODER_FORMS:
            raise ValueError(f"form: expected one of {', '.join(UNIT_DECODER_FORMS)}, found {form!r}")
        if head_dim is None and hidden_size % num_attention_heads:
            raise ValueError(f"hidden_size: expected a multiple of {num_attention_heads} heads, found {hidden_size}")
        self.form = form
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.intermediate_size = intermediate_size
        self.text_hidden_size = text_hidden_size
        self.text_vocab_size = text_vocab_size
        self.num_unit_words = num_unit_words
        self.max_unit_words = max_unit_words
        self.normalize_states = normalize_states
        self.lookahead_words = lookahead_words
        self.lookback_words = lookback_words
        self.max_unit_words_per_word = max_unit_words_per_word
        self.force_sound = force_sound
        self.max_word_tokens = max_word_tokens
        self.max_word_letters = max_word_letters
        self.num_letter_layers = num_letter_layers
        self.word_token_dropout = word_token_dropout
        if max_word_letters < 0 or (max_word_letters and form != "word_synchronous"):
            raise ValueError(
                "max_word_letters: expected 0, or more in the word-synchronous form, found "
                f"{max_word_letters} in the form {form}"
            )
        if word_token_dropout and not (max_word_letters and 0 < word_token_dropout < 1):
            raise ValueError(
                "word_token_dropout: expected 0, or a number below 1 beside letters (max_word_letters), found "
                f"{word_token_dropout}"
            )
        self.num_prefix_vectors = num_prefix_vectors
        self.num_separator_vectors = num_separator_vectors
        self.prompt_prefix_ids, self.prompt_suffix_ids = list(prompt_prefix_ids), list(prompt_suffix_ids)
        self.end_token_id = end_token_id
        if form == "text_prefix" and end_token_id is None:
            raise ValueError("end_token_id: expected the text token that ends the unit words (text_prefix), found None")
        self.unit_noise = unit_noise
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.embedding_std = embedding_std
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = rope_theta
        self.rope_scaling_parameters = rope_scaling_parameters
        self.head_dim = head_dim
        self.hidden_act = hidden_act
        self.attention_bias = attention_bias
        self.mlp_bias = mlp_bias
        self.compatibility = Compatibility.of(compatibility).to_dict()
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        for name in (
            "num_hidden_layers",
            "num_unit_words",
            "max_word_tokens",
            "max_unit_words",
            "max_unit_words_per_word",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        super().__init__(**kwargs)

    @property
    def compatible(self) -> Compatibility:
        """`compatibility` with the default values of the method."""
        return Compatibility.of(self.compatibility)

    @property
    def end_id(self) -> int:
        """The output after the unit words: end of word (word-synchronous) or of the sequence (the others)."""
        return self.num_unit_words if self.end_token_id is None else self.end_token_id

    def backbone_config(self) -> LlamaConfig:
        """Configuration of the Llama inside, whose token table holds the unit words and the end."""
        return LlamaConfig(
            vocab_size=self.num_unit_words + 1,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=self.max_position_embeddings,
            attention_dropout=self.attention_dropout,
            rms_norm_eps=self.rms_norm_eps,
            initializer_range=self.initializer_range,
            rope_parameters={
                "rope_type": "default",
                **(self.rope_scaling_parameters or {}),
                "rope_theta": self.rope_theta,
            },
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            hidden_act=self.hidden_act,
            attention_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )


AutoConfig.register(UnitDecoderConfig.model_type, UnitDecoderConfig, exist_ok=True)
