"""Text tokenizers: training (byte-level BPE, chat template), typed decoding, and the word of each token.

A turn is written ``<|role|>`` content ``<|end|>``, a conversation starts with ``<|bos|>``, the model continues after
``<|assistant|>``; audio is one ``<|audio|>`` token that S2T replaces by the frames of the audio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from echox.models.text.control_tokens import special_token_ids
from echox.models.text.word_breaks import WordFinder

PAD, BOS, SYSTEM, USER, ASSISTANT, END, AUDIO = SPECIAL_TOKENS = (
    "<|pad|>",
    "<|bos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|audio|>",
)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}{{ '<|audio|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Content is a string, or a list of ``{"type": "text", "text": ...}`` and ``{"type": "audio", ...}``."""

LONGEST_CHARACTER_TOKENS = 4
"""Largest number of byte tokens of a character; longer sequences without a character count one by one."""
_ANCHOR = "a"
"""A letter before tokens, so that they are decoded as within a text."""
_TOKEN_TEXTS: WeakKeyDictionary[PreTrainedTokenizerBase, dict[int, str | None]] = WeakKeyDictionary()
"""Text of each token (None: a part of a character), decoded once for all counters of a tokenizer."""


def train_text_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which can encode any text, with the special tokens and the chat template.

    Args:
        texts: training sentences.
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


def decode_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int] | Tensor, **settings: bool) -> str:
    """The text of one sequence of tokens; `settings` as ``tokenizer.decode`` takes them."""
    text = tokenizer.decode(token_ids if isinstance(token_ids, Tensor) else list(token_ids), **settings)
    assert isinstance(text, str), "one sequence"
    return text


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of a token; that of the unknown token where the tokenizer has no such token.

    Raises:
        ValueError: it has neither.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int):
        raise ValueError(f"expected the token {token} in the tokenizer, found none; add it to the tokenizer")
    return found


def period_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token of the full stop that ends a sentence. A SentencePiece tokenizer writes a lone "." as another one."""
    found = tokenizer.convert_tokens_to_ids(".")
    if isinstance(found, int) and found != tokenizer.unk_token_id:
        return found
    return int(tokenizer(".", add_special_tokens=False)["input_ids"][-1])


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, object]],
    add_generation_prompt: bool = False,
    **variables: Any,
) -> str:
    """Messages (``role``, ``content``) as text, by the tokenizer's chat template, which may read more variables.

    Another template may be given as ``chat_template``.
    """
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages],  # type: ignore[arg-type]  # contents may also be lists of parts
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **variables,
    )
    assert isinstance(text, str), "not tokenised"
    return text


class WordCounter:
    """The word of each token of a growing text, for any tokenizer and script, as `split_words` counts words.

    Args:
        tokenizer: of the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._texts = _TOKEN_TEXTS.setdefault(tokenizer, {})
        self._special = special_token_ids(tokenizer)
        self._anchor: tuple[list[int], str] | None = None  # its tokens, and their text
        self._finder = WordFinder()
        self._parts: list[int] = []  # tokens of a character that is not complete
        self._waiting: deque[int] = deque()  # characters of each token that has no word yet; -1: a special token
        self._decided: deque[int] = deque()  # words of characters that no token took yet
        self._num_words = 0  # that tokens were given
        self._last = -1  # word of the token before

    def push(self, token_id: int) -> list[tuple[int, bool]]:
        """Add a token.

        Returns:
            For each token whose word is now known, in order: its word, counted from 0 (-1 for special tokens; white
            space alone belongs to the next word), and whether the text may be cut before it: it begins a word, or is
            not text. A token of several words belongs to the first. Most words are known at once; a part of a character
            waits for the rest, and scripts without spaces for two more characters.
        """
        if token_id in self._special:
            decided = self.finish()
            self._waiting.append(-1)
            return decided + self._take()
        self._parts.append(token_id)
        text = self._text_of(token_id) if len(self._parts) == 1 else self._decode(self._parts)
        if text is not None:
            self._add(text)
        elif len(self._parts) >= LONGEST_CHARACTER_TOKENS:
            self._add_broken()
        return self._take()

    def finish(self) -> list[tuple[int, bool]]:
        """Mark the text as complete; returns the words of the remaining tokens."""
        self._add_broken()
        self._decided += self._finder.finish()
        return self._take()

    def _add(self, text: str) -> None:
        """Add the text of the tokens in `_parts`: the first has their character, the last what follows it."""
        own = (self._text_of(self._parts[-1]) or "") if len(self._parts) > 1 else ""
        own = own if text.endswith(own) else ""
        self._waiting.append(len(text) - len(own))
        self._waiting.extend([0] * (len(self._parts) - 2))
        if len(self._parts) > 1:
            self._waiting.append(len(own))
        self._parts = []
        self._decided += self._finder.push(text)

    def _add_broken(self) -> None:
        """Add bytes that are not a character."""
        for token_id in self._parts:
            text = self._decode([token_id], whole=False) or ""
            self._waiting.append(len(text))
            self._decided += self._finder.push(text)
        self._parts = []

    def _text_of(self, token_id: int) -> str | None:
        if token_id not in self._texts:
            self._texts[token_id] = self._decode([token_id])
        return self._texts[token_id]

    def _decode(self, token_ids: list[int], whole: bool = True) -> str | None:
        """Text of tokens within a text (some decoders strip spaces at the start); None: a part of a character."""
        if self._anchor is None:
            anchor = self.tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"]
            self._anchor = anchor, self._decode_plainly(anchor)
        ids, before = self._anchor
        text = self._decode_plainly([*ids, *token_ids]).removeprefix(before)
        return None if whole and text.endswith("\ufffd") else text

    def _decode_plainly(self, token_ids: list[int]) -> str:
        return decode_text(self.tokenizer, token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _take(self) -> list[tuple[int, bool]]:
        """Words of the first tokens, as far as those of their characters are known."""
        found = []
        while self._waiting and self._waiting[0] <= len(self._decided):
            length = self._waiting.popleft()
            words = [self._decided.popleft() for _ in range(max(0, length))]
            named = [word for word in words if word >= 0]
            if length < 0:
                word = -1
            elif named:
                word = named[0]
            else:  # white space belongs to the next word, the rest of a character to the last word
                word = self._num_words if length or self._last < 0 else self._last
            self._num_words = max([self._num_words, *(one + 1 for one in named)])
            found.append((word, word == -1 or word != self._last))
            self._last = word
        return found


def word_index(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[int]:
    """Word of every token, as `WordCounter` counts."""
    counter = WordCounter(tokenizer)
    decided = [one for token_id in token_ids for one in counter.push(int(token_id))] + counter.finish()
    return [word for word, _ in decided]
