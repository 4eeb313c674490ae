"""Questions that many models of one study are asked, in batches: how they are put, what each wrote, what was right.

Letters: B questions, R reply tokens, K positions of an audio, H width of the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from echox.data.features.tower_features import TowerFeatures
from echox.data.manifest import Dialogue, Turn
from echox.data.sampling import in_chunks
from echox.data.scoring import same_words, word_errors
from echox.evaluation.judges.asr import Judge
from echox.evaluation.scoring.metrics import exist_match
from echox.evaluation.scoring.nano import contains_words
from echox.evaluation.scoring.records import balanced_order, fingerprint
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.sets.items import EvalItem
from echox.models.decoding.greedy_rows import WrittenRow, write_rows
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.text.retokenization import Retokenizer
from echox.models.text.tokenization_text import decode_text
from echox.training.batches.collate import IGNORE_INDEX
from echox.training.stages.dialogue.dialogues import SpokenDialogue, dialogue_batch, spoken_dialogues

Rule = Callable[[str, Sequence[str]], bool]
"""Whether a reply holds one of the accepted answers."""
MAX_REPLY_TOKENS = 96


@dataclass
class WrittenReplies:
    """Replies that a model wrote.

    Attributes:
        token_ids: (B, R) without the end of turn, -1 = padding.
        states: (B, R, H) the states that predict them.
        texts: B replies.
    """

    token_ids: Tensor
    states: Tensor
    texts: list[str]


@dataclass
class QuestionSet:
    """Questions, spoken or typed, and how replies to them are scored. Each speech encoder encodes them once.

    Attributes:
        items: dialogues that end with the question and a reply, which is not shown.
        answers: accepted ones of each question. rule: which replies are right.
        references: the reply to each, where it is known word for word; else None.
        tower: features of the speech encoder's audio tower; None: all are typed.
        retokenizer: of the processor, for aligner "recogniser".
    """

    items: list[SpokenDialogue]
    answers: list[tuple[str, ...]]
    rule: Rule
    references: list[str] | None = None
    tower: TowerFeatures | None = None
    retokenizer: Retokenizer | None = None
    _encoded: dict[str, tuple[list[Tensor], list[list[int]]]] = field(default_factory=dict)

    @classmethod
    def of_manifest(cls, manifest: Path, split: str, limit: int, tower: TowerFeatures) -> QuestionSet:
        """Held-out questions of a manifest of spoken dialogues, in an order balanced over topics."""
        items = [item for item in spoken_dialogues(manifest, tower) if item.dialogue.split == split]
        items = balanced_order(items, lambda item: str(item.dialogue.topic), 0)[:limit]
        # Questions of similar length are encoded and answered in one batch.
        items.sort(key=lambda item: item.frames)
        references = [item.dialogue.turns[-1].text or "" for item in items]
        answers: list[tuple[str, ...]] = [
            (item.dialogue.answer or reply,) for item, reply in zip(items, references, strict=True)
        ]
        return cls(items, answers, _has_words, references, tower)

    @classmethod
    def of_task(
        cls,
        items: Sequence[EvalItem],
        system: str,
        tower: TowerFeatures | None = None,
        folder: Path | None = None,
        retokenizer: Retokenizer | None = None,
    ) -> QuestionSet:
        """Questions of a task with accepted answers (`evaluation.sets.tasks`).

        Args:
            items: each with one question.
            system: prompt of every conversation; "" for none.
            tower: ask aloud; None: in writing.
            folder: where features of the audio are kept; needed with a tower.
            retokenizer: of the model's processor.

        Raises:
            ValueError: a question without accepted answers; without words, if it is typed; without audio, if not.
        """
        if bad := [item.id for item in items if not item.answers or (tower is None and not item.question)]:
            raise ValueError(f"expected words and accepted answers of every question, found none of {bad[0]!r}")
        dialogues, store = [_dialogue(item, system) for item in items], None
        rows: list[dict[int, int]] = [{} for _ in items]
        if tower is not None:
            assert folder is not None, "with a tower, a folder is named"
            files = [_audio_file(item, folder) for item in items]
            store = tower.store(files, folder, "asked", as_served=True)
            rows = [{len(one.turns) - 2: row} for row, one in enumerate(dialogues)]
        asked = [SpokenDialogue(one, store, row, tower) for one, row in zip(dialogues, rows, strict=True)]
        # Questions of similar length are encoded and answered in one batch.
        order = sorted(range(len(asked)), key=lambda place: (asked[place].frames, len(items[place].question)))
        answers = [items[place].answers for place in order]
        return cls([asked[place] for place in order], answers, exist_match, None, tower, retokenizer)

    def parts(self, size: int) -> list[QuestionSet]:
        """The questions in sets of `size`, in order; the last one may be smaller. Of those that are typed."""
        starts = range(0, len(self.items), size)
        return [replace(self, items=self.items[at : at + size], answers=self.answers[at : at + size]) for at in starts]

    def right(self, replies: Sequence[str], spelled: Callable[[str], str] = str) -> list[bool]:
        """Whether each reply is right; answers are spelled as the writer of the replies would."""
        return [
            self.rule(reply, [spelled(answer) for answer in answers])
            for reply, answers in zip(replies, self.answers, strict=True)
        ]

    def encoded(self, s2t: S2TForConditionalGeneration) -> tuple[list[Tensor], list[list[int]]]:
        """Input states (K, H) and transcript (token ids) of each spoken question; kept while what hears is the same."""
        if self.tower is None:
            return [], []
        # Aligner "recogniser" writes the transcript in the language model's embeddings.
        parts = [*s2t.hearing_parts().values(), s2t.get_input_embeddings()]
        encoder = " ".join(fingerprint(part, s2t.config.compatibility) for part in parts)
        if encoder not in self._encoded:
            embeds: list[Tensor] = []
            transcripts: list[list[int]] = []
            for part in in_chunks(self.items, 32):
                states, texts = s2t.encode(*self.tower.batch(features_of(part)), retokenizer=self.retokenizer)
                embeds += states
                transcripts += texts
            self._encoded = {encoder: (embeds, transcripts)}
        return self._encoded[encoder]


def _has_words(reply: str, answers: Sequence[str]) -> bool:
    return any(contains_words(reply, answer) for answer in answers)


def _dialogue(item: EvalItem, system: str) -> Dialogue:
    """System prompt, question, and an accepted answer in the place of the reply."""
    turns = [Turn("user", item.question or item.id), Turn("assistant", item.answers[0])]
    return Dialogue(item.id, tuple([Turn("system", system), *turns] if system else turns))


def _audio_file(item: EvalItem, folder: Path) -> Path:
    """The file of an item's question; what a data set holds as bytes is written into the folder."""
    if len(item.audios) != 1:
        raise ValueError(f"{item.id}: expected one audio, found {len(item.audios)}")
    (audio,) = item.audios
    if isinstance(audio, Path):
        return audio
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{item.digest}.audio"
    file.write_bytes(audio)
    return file


def features_of(items: Sequence[SpokenDialogue]) -> list[Tensor]:
    """Features of all spoken turns, in reading order."""
    return [item.features(turn) for item in items for turn in sorted(item.rows)]


@torch.inference_mode()
def write_replies(
    s2t: S2TForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, questions: QuestionSet
) -> WrittenReplies:
    """Greedy replies, with the states that predict their tokens."""
    rows: list[WrittenRow] = []
    encoded = iter(questions.encoded(s2t)[0])
    for part in in_chunks(questions.items, 32):
        batch = dialogue_batch(tokenizer, part, [set(item.rows) for item in part], [], last_reply=False)
        audios = [next(encoded) for item in part for _ in item.rows]
        embeds, mask, _ = s2t.splice(batch["input_ids"], batch["attention_mask"], audios)
        rows += write_rows(
            s2t.language_model.base_model,
            [row[seen.bool()] for row, seen in zip(embeds, mask, strict=True)],
            s2t.get_output_embeddings(),
            s2t.get_input_embeddings(),
            tokenizer.all_special_ids,
            MAX_REPLY_TOKENS,
        )
    token_ids = [torch.tensor(row.token_ids, dtype=torch.long) for row in rows]
    texts = [decode_text(tokenizer, row) for row in token_ids]
    return WrittenReplies(pad_sequence(token_ids, True, -1), pad_sequence([row.states for row in rows], True), texts)


def write_texts(
    s2t: S2TForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, questions: QuestionSet
) -> list[str]:
    """The texts alone."""
    return write_replies(s2t, tokenizer, questions).texts


def reply_scores(questions: QuestionSet, replies: Sequence[str], said: Sequence[str], judge: Judge) -> JsonObject:
    """Shares of right answers in writing and aloud, and the words that differ between the two."""
    right = {"s2t_answer": questions.right(replies), "s2s_answer": questions.right(said, judge.as_heard)}
    shares = {name: float(np.mean(flags)) for name, flags in right.items()}
    scores = {**shares, "gap": shares["s2t_answer"] - shares["s2s_answer"]}
    if questions.references is not None:
        pairs = list(zip(questions.references, replies, said, strict=True))
        scores["s2t_exact"] = float(np.mean([same_words(wanted, reply) for wanted, reply, _ in pairs]))
        scores["s2s_exact"] = float(np.mean([same_words(judge.as_heard(wanted), heard) for wanted, _, heard in pairs]))
    return {
        **scores,
        "reply_wer": word_errors([judge.as_heard(reply) for reply in replies], list(said)).rate,
        "unspoken": float(np.mean([not heard for heard in said])),
        "right": {name: digits(flags) for name, flags in right.items()},
    }


def typed_scores(questions: QuestionSet, replies: Sequence[str]) -> JsonObject:
    """The share of right answers to typed questions, and which were right."""
    right = questions.right(replies)
    return {"t2t_answer": float(np.mean(right)), "right": {"t2t_answer": digits(right)}}


def digits(flags: Sequence[bool]) -> str:
    """A digit for each question, 1 where it was right, so that two models are compared question by question."""
    return "".join(str(int(flag)) for flag in flags)


@torch.inference_mode()
def reply_loss(
    s2t: S2TForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, items: Sequence[SpokenDialogue]
) -> float:
    """Cross-entropy, in nats per token, of the replies of dialogues."""
    loss = tokens = 0.0
    for part in in_chunks(items, 32):
        batch = dialogue_batch(tokenizer, part, [set(item.rows) for item in part], features_of(part))
        batch.pop("ctc_labels", None)
        count = float((batch["labels"] != IGNORE_INDEX).sum())
        loss, tokens = loss + float(s2t(**batch).s2t_loss) * count, tokens + count
    return loss / tokens
