"""Stage "replies": a language model answers every user turn, so that later stages are trained on its own words.

Self-distillation: what the speech model is trained to say is what its own text LLM says, no knowledge is added.
Replies are written greedily and cut to whole sentences; what is no good to speak is left out, with its dialogue.

Source: self-distilled targets for speech adapters, as in https://arxiv.org/abs/2310.00230 (SALM) and DiVA,
https://arxiv.org/abs/2410.02678.
"""

from __future__ import annotations

import collections
import hashlib
import json
import logging
import os
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from echox.config import dump_recipe, recipe
from echox.data.manifest import Dialogue, Turn, audio_path, read_dialogues, write_dialogues
from echox.data.text import normalize_for_speech
from echox.files import journal_entries, open_journal, stamp
from echox.preparation.conversations.writer import ChatWriter, Message, repeats_itself, whole_sentences
from echox.verbalization import SpokenLanguage, readings, spoken_language

log = logging.getLogger(__name__)

HELD_OUT = "heldout"
_SPOKEN_MARKS = frozenset(".,?!;:…¿¡؟،؛।'\"’‘‚“”„«»‹›()%$€£&°+/-–—")
"""Marks that a voice has a reading for or passes over."""
_SPOKEN_CATEGORIES = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd"))
"""Letters of any script with their signs, and decimal figures."""


@recipe("replies")
@dataclass
class RepliesRecipe:
    """Recipe of stage "replies" (it has `run`, not `build`).

    Attributes:
        questions: manifests of dialogues (stages "questions", "invented_questions", or a corpus), one after the other;
            other turns than the user's are not read, and recordings of users stay with their turns.
        language_model: folder of stage "language_model".
        output: manifest to write: every dialogue begins with the system turn, and a reply follows each user turn.
        system: the system turn, as it will be in use.
        max_new_tokens: of a reply before it is cut. max_sentences, max_words: of a reply that is kept.
        max_repetitions: of one and the same reply; more dialogues with it are left out.
        heldout: share of the dialogues in split "heldout", by their first question.
        spoken_language: ISO 639 code of the language whose rules say figures, abbreviations and signs; without rules
            for it the text is spoken as it is written.
        dtype, batch_size, device: see :class:`ChatWriter`.
        chunk: dialogues that are answered, and noted in the journal, together.
        limit: the first ones only; null: all. What was written before is not written again.
    """

    stage: str
    questions: list[str]
    language_model: str
    output: str
    system: str
    max_new_tokens: int = 40
    max_sentences: int = 2
    max_words: int = 28
    max_repetitions: int = 3
    heldout: float = 0.03
    spoken_language: str = "en"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch_size: int = 64
    device: str = "cpu"
    chunk: int = 256
    limit: int | None = None

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns counts and cost.

        Raises:
            ValueError: the questions or the language model cannot be read, or `spoken_language` is no language code.
        """
        spoken_language(self.spoken_language)
        began_s = time.process_time()
        output = Path(self.output)
        questions = [one for path in self.questions for one in asked(path, output)][: self.limit]
        output.parent.mkdir(parents=True, exist_ok=True)
        written = _Journal(output.with_name(f".{output.stem}_journal.jsonl"), self)
        dropped: collections.Counter[str] = collections.Counter()
        kept: list[Dialogue] = []
        said: collections.Counter[str] = collections.Counter()
        for start in range(0, len(questions), self.chunk):
            for dialogue in self._answer(questions[start : start + self.chunk], written, dropped):
                reply = dialogue.turns[-1].text or ""
                said[reply] += 1
                if said[reply] > self.max_repetitions:
                    dropped["repeated reply"] += 1
                else:
                    kept.append(dialogue)
            log.info("%s: %d of %d dialogues answered", output.name, start + self.chunk, len(questions))
        write_dialogues(output, kept)
        dump_recipe(self, output.with_suffix(".yaml"))
        figures = {"questions": len(questions), "dialogues": len(kept), "cpu_s": time.process_time() - began_s}
        return {**figures, **{f"dropped: {reason}": float(count) for reason, count in sorted(dropped.items())}}

    def _answer(
        self, questions: Sequence[Dialogue], written: _Journal, dropped: collections.Counter[str]
    ) -> list[Dialogue]:
        """Answer all turns of some dialogues, the first turns together, then the second ones."""
        opening = Turn("system", self.system)
        open_: dict[str, tuple[Turn, ...]] = {dialogue.id: (opening,) for dialogue in questions}
        for place in range(max(len(dialogue.turns) for dialogue in questions)):
            asking = [dialogue for dialogue in questions if place < len(dialogue.turns) and dialogue.id in open_]
            for dialogue in asking:
                open_[dialogue.id] += (self._spoken(dialogue.turns[place]),)
            replies = written.replies([open_[dialogue.id] for dialogue in asking])
            for dialogue, raw in zip(asking, replies, strict=True):
                text, reason = self.cut(raw)
                if text is None:
                    dropped[reason] += 1
                    del open_[dialogue.id]
                else:
                    open_[dialogue.id] += (self._spoken(Turn("assistant", text)),)
        return [
            replace(dialogue, turns=open_[dialogue.id], split=self._split(dialogue))
            for dialogue in questions
            if dialogue.id in open_
        ]

    def cut(self, raw: str) -> tuple[str | None, str]:
        """What is kept of a reply as the model wrote it, or None and the reason."""
        text = whole_sentences(raw, self.max_sentences, self.max_words)
        if text is None:
            return None, "no whole sentence"
        if repeats_itself(text):
            return None, "repeats itself"
        return (text, "") if can_be_spoken(text, spoken_language(self.spoken_language)) else (None, "cannot be spoken")

    def _spoken(self, turn: Turn) -> Turn:
        """The turn in spoken words, with its written form if that is another; what was recorded is what was said."""
        text = turn.text or ""
        said = normalize_for_speech(text, self.spoken_language) or text
        return replace(turn, text=said, written=text if said != text else None)

    def _split(self, dialogue: Dialogue) -> str:
        digest = hashlib.sha256((dialogue.turns[0].text or "").casefold().encode()).digest()
        return HELD_OUT if int.from_bytes(digest[:4], "big") < self.heldout * 2**32 else "train"


class _Journal:
    """Replies by the conversation before them; a new one is written by the model, which is opened for the first."""

    def __init__(self, path: Path, settings: RepliesRecipe) -> None:
        self.path, self.settings = path, settings
        self._model = [stamp(settings.language_model), settings.max_new_tokens, settings.dtype]
        self._done: dict[str, str] = {row["conversation"]: row["reply"] for row in journal_entries(path)}
        self._writer: ChatWriter | None = None

    def replies(self, conversations: Sequence[Sequence[Turn]]) -> list[str]:
        """One for each conversation."""
        messages: list[list[Message]] = [
            [{"role": turn.role, "content": turn.written or turn.text} for turn in turns] for turns in conversations
        ]
        keys = [hashlib.sha256(json.dumps([self._model, one]).encode()).hexdigest()[:24] for one in messages]
        new = {key: one for key, one in zip(keys, messages, strict=True) if key not in self._done}
        if new:
            settings = self.settings
            if self._writer is None:
                self._writer = ChatWriter(settings.language_model, settings.dtype, settings.batch_size, settings.device)
            found = self._writer.write(list(new.values()), settings.max_new_tokens)
            with open_journal(self.path) as entries:
                for key, reply in zip(new, found, strict=True):
                    self._done[key] = reply
                    entries.write(json.dumps({"conversation": key, "reply": reply}, ensure_ascii=False) + "\n")
        return [self._done[key] for key in keys]


def asked(path: str, output: Path) -> list[Dialogue]:
    """The user's turns of the training dialogues of a manifest; audio relative to the folder of `output`.

    Raises:
        ValueError: the manifest is damaged, or a turn has audio but no text.
    """
    found = []
    for dialogue in read_dialogues(path):
        turns = []
        for turn in dialogue.turns:
            if turn.role != "user":
                continue
            if not turn.text:
                raise ValueError(f"{path}: {dialogue.id}: expected the text of every user turn, found only audio")
            if turn.audio:
                turn = replace(turn, audio=os.path.relpath(audio_path(path, turn.audio), output.parent))
            turns.append(turn)
        if turns and dialogue.split == "train":
            found.append(Dialogue(dialogue.id, tuple(turns), topic=dialogue.topic))
    return found


def can_be_spoken(text: str, rules: SpokenLanguage) -> bool:
    """Whether a text has only letters, decimal figures, white space and marks, and its language's rules read it all.

    Args:
        text: as it is written.
        rules: of its language; without rules letters of any script can be spoken.
    """
    return all(
        character.isspace() or character in _SPOKEN_MARKS or unicodedata.category(character) in _SPOKEN_CATEGORIES
        for character in text
    ) and not any(reading.problem for _, reading in readings(text, rules))
