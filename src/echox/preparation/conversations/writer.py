"""A chat model that answers many conversations at once, for data; speaking and streaming are not its business."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from echox.models.text.tokenization_text import render_chat

Message = Mapping[str, object]

_CLOSING = r"(?:[\"')“”’»]| »)*"
_SENTENCE_END = re.compile(rf"[.?!]+{_CLOSING} (?=(?:[\"'(“„‚¿¡]|« ?)?([^\W_]))")
_ABBREVIATED = re.compile(r"\b([A-Z]|Mrs?|Ms|Dr|St|Mt|Jr|Sr|vs|No)\.$")
_WHOLE_SENTENCE = re.compile(rf"[.?!]{_CLOSING}$")


class ChatWriter:
    """A language model folder that writes replies in batches of conversations of similar length.

    Args:
        folder: of stage "language_model".
        dtype: of weights and computation. In bfloat16 a reply may depend on the conversations beside it in the batch.
        batch_size: conversations at a time.
        device: of torch.
    """

    def __init__(self, folder: str | Path, dtype: Literal["float32", "bfloat16"], batch_size: int, device: str) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.model.to(device).eval()  # type: ignore[arg-type]  # transformers annotates its own wrapper
        self.batch_size = batch_size

    def write(
        self, conversations: Sequence[Sequence[Message]], max_new_tokens: int, sampling_seed: int | None = None
    ) -> list[str]:
        """One reply for each conversation, in their order; greedy without a seed.

        Args:
            conversations: messages, the last of the user.
            max_new_tokens: of a reply, which may end inside a sentence (`whole_sentences`).
            sampling_seed: draws from the distribution (temperature 1, top-p 0.9) instead.
        """
        prompts = [render_chat(self.tokenizer, list(said), add_generation_prompt=True) for said in conversations]
        by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        replies = [""] * len(prompts)
        for start in range(0, len(by_length), self.batch_size):
            places = by_length[start : start + self.batch_size]
            if sampling_seed is not None:
                torch.manual_seed(sampling_seed + start)
            for place, text in zip(places, self._batch([prompts[p] for p in places], max_new_tokens, sampling_seed)):
                replies[place] = text
        return replies

    @torch.inference_mode()
    def _batch(self, prompts: list[str], max_new_tokens: int, seed: int | None) -> list[str]:
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        sampling = {"do_sample": False} if seed is None else {"do_sample": True, "temperature": 1.0, "top_p": 0.9}
        ids = self.model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)  # type: ignore[operator]  # mixin
        return self.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def sentences(text: str) -> list[str]:
    """Sentences of a text, with single spaces; a title ("Dr.") or an initial ends none."""
    text = " ".join(text.split())
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        sentence = text[start : end.end()].strip()
        if not end[1].islower() and not _ABBREVIATED.search(sentence):
            found.append(sentence)
            start = end.end()
    return [*found, text[start:]]


def whole_sentences(text: str, max_sentences: int, max_words: int) -> str | None:
    """The first sentences of a text that may be cut at its end; None if there is no whole one of at most `max_words`.

    Args:
        text: as a model wrote it.
        max_sentences: taken at most.
        max_words: of all of them together.
    """
    if "\n" in text.strip():  # a list or a poem: the part before it is seldom an answer
        return None
    kept: list[str] = []
    for sentence in sentences(text)[:max_sentences]:
        if not _WHOLE_SENTENCE.search(sentence) or len(" ".join([*kept, sentence]).split()) > max_words:
            break
        kept.append(sentence)
    return " ".join(kept) or None


def repeats_itself(text: str, words: int = 4) -> bool:
    """Whether a run of that many words occurs twice: what a small model does where it knows nothing more."""
    said = text.lower().split()
    runs = [tuple(said[place : place + words]) for place in range(len(said) - words + 1)]
    return len(set(runs)) < len(runs)
