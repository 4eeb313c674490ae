"""Scores of a language model that writes units itself (stage direct_units), on the questions of `echo_scores`."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from echox.data.sampling import in_chunks
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.studies.batched_scores.echo_scores import UnitTranscriber
from echox.evaluation.studies.batched_scores.questions import QuestionSet, reply_scores, write_replies
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.training.stages.dialogue.dialogues import dialogue_batch
from echox.training.stages.speaking.direct_units import MAX_UNIT_WORDS, UnitWriter


def direct_scores(
    writer: UnitWriter,
    tokenizer: PreTrainedTokenizerBase,
    language: UnitLanguage,
    voice: UnitTranscriber,
    questions: QuestionSet,
) -> JsonObject:
    """Scores of a language model that writes units itself: those of `echo_scores` that it can have.

    S2T is what the same weights still write when they are asked for text.

    Args:
        writer: in evaluation mode, float32.
        tokenizer: its own.
        language: its unit language.
        voice: makes and transcribes speech.
        questions: to be asked.
    """
    written = write_replies(writer.s2t, tokenizer, questions)
    encoded, said = iter(questions.encoded(writer.s2t)[0]), []
    for part in in_chunks(questions.items, 32):
        batch = dialogue_batch(tokenizer, part, [set(item.rows) for item in part], [], last_reply=False)
        audios = [next(encoded) for item in part for _ in item.rows]
        embeds, mask, _ = writer.s2t.splice(batch["input_ids"], batch["attention_mask"], audios)
        said += writer.write(embeds, mask)
    pieces = [[language.decode_reduced(unit_words)] for unit_words in said]
    result = reply_scores(questions, written.texts, voice.transcribe(pieces), voice.judge)
    return result | {"unfinished": float(np.mean([len(unit_words) >= MAX_UNIT_WORDS for unit_words in said]))}
