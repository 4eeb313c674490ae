"""The text tokenizer trained from scratch (byte-level BPE, chat template), and which token belongs to which word.

A turn is written ``<|role|>`` content ``<|end|>``, a conversation starts with ``<|bos|>``, the model continues after
``<|assistant|>``; audio is one ``<|audio|>`` token that the S2T model replaces by speech states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, BOS, SYSTEM, USER, ASSISTANT, END, AUDIO = SPECIAL_TOKENS = (
    "<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|audio|>",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}{{ '<|audio|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Content is a string, or a list of ``{"type": "text", "text": ...}`` and ``{"type": "audio", ...}``."""

_SPACES = ("Ġ", "▁", "Ċ", "ĉ", "č", " ")
"""How byte-level and SentencePiece vocabularies write white space at the start of a token."""


def train_text_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (any text can be written) with the special tokens and the chat template.

    Args:
        texts: training sentences; the merges come from these.
        vocab_size: at least 256 bytes and the special tokens.

    Raises: ValueError for a smaller vocabulary.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size: expected at least {smallest} (bytes and special tokens), found {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, AUDIO],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


class WordCounter:
    """Which white-space word each token of a growing text belongs to: consistent with ``text.split()``.

    Args:
        tokenizer: of the text.
        kinds: what is known of token ids already; several counters may share one to look up nothing twice.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kinds: dict[int, str] | None = None) -> None:
        self.tokenizer = tokenizer
        self._kinds = {} if kinds is None else kinds
        self._word, self._between = -1, True
        self._last: int | None = None

    def push(self, token_id: int) -> tuple[int, bool]:
        """Add a token.

        Returns:
            Its word, counted from 0: -1 for special tokens; white space alone belongs to the word that follows it. And
            whether the text may be cut before it: it opens a word, or is no text at all.
        """
        kind = self._kinds.get(token_id) or self._look_up(token_id)
        if kind == "special":
            self._between, word = True, -1
        elif kind == "blank":
            self._between, word = True, self._word + 1
        else:
            if self._between or kind == "opens":
                self._word, self._between = self._word + 1, False
            word = self._word
        opens = word == -1 or word != self._last
        self._last = word
        return word, opens

    def is_blank(self, token_id: int) -> bool:
        """Whether a token is white space alone."""
        return (self._kinds.get(token_id) or self._look_up(token_id)) == "blank"

    def _look_up(self, token_id: int) -> str:
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None or token_id in self.tokenizer.all_special_ids:
            kind = "special"
        elif not token.strip("".join(_SPACES)):
            kind = "blank"
        else:
            kind = "opens" if token.startswith(_SPACES) else "continues"
        self._kinds[token_id] = kind
        return kind


def word_index(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[int]:
    """White-space word of every token, as `WordCounter` counts."""
    counter = WordCounter(tokenizer)
    return [counter.push(int(token_id))[0] for token_id in token_ids]
