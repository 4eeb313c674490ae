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


def word_index(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[int]:
    """White-space word of every token: consistent with ``text.split()`` of the decoded text.

    Special tokens get -1. White space alone belongs to the word that follows it.
    """
    special = set(tokenizer.all_special_ids)
    indices: list[int] = []
    word, between = -1, True
    for token_id, token in zip(token_ids, tokenizer.convert_ids_to_tokens(list(token_ids)), strict=True):
        if token_id in special or token is None:
            indices.append(-1)
            between = True
            continue
        blank = not token.strip("".join(_SPACES))
        if blank:
            between = True
        elif between or token.startswith(_SPACES):
            word, between = word + 1, False
        indices.append(word + 1 if blank else word)
    return indices
