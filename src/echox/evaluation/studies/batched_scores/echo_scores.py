"""Scores of a model on spoken questions, measured in batches, to compare many models of one stage.

The questions are answered greedily; all states come from the replies that the model itself wrote. These replies are
spoken in segments of the trigger (as in streaming) or whole, and a judge transcribes them. The scores are those of
:mod:`echox.evaluation.scoring.nano`, whose replies come from the streaming engine, one question at a time.

Letters: B questions, R reply tokens, S segments, H width of the language model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from echox.data.manifest import UnitUtterance
from echox.data.sampling import in_chunks
from echox.data.scoring import WordErrors, edit_counts, word_errors
from echox.evaluation.judges.asr import Judge
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.studies.batched_scores.questions import (
    QuestionSet,
    WrittenReplies,
    reply_loss,
    reply_scores,
    write_replies,
)
from echox.models.decoding.lean_llama import LeanSteps
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.t2c.modeling_unit_decoder import UnitSequence
from echox.models.t2c.modeling_word_synchronous import WordSynchronousDecoder
from echox.models.t2c.text_words import TextWords
from echox.models.text.text_embeddings import weight_of
from echox.models.text.tokenization_text import decode_text, word_index
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.models.vocoder.modeling_unit_vocoder import UnitVocoder
from echox.streaming.reply_text.trigger import Trigger
from echox.training.batches.collate import IGNORE_INDEX
from echox.training.stages.speaking.echo_targets import Segments, cut_replies
from echox.training.stages.speaking.t2c import spoken_batch, spoken_text

NO_CUTS = Trigger(min_tokens=1_000_000, max_tokens=1_000_000)
"""A trigger that never cuts: replies are spoken whole, after they are written."""


class UnitTranscriber:
    """Makes units audible with a vocoder and transcribes them with a judge.

    Args:
        vocoder: units to waveform.
        judge: waveform to words.
    """

    def __init__(self, vocoder: UnitVocoder, judge: Judge) -> None:
        self.vocoder, self.judge = vocoder, judge

    def transcribe(self, pieces: Sequence[Sequence[Sequence[int]]]) -> list[str]:
        """The transcript of each reply of `speak`."""
        return self.judge.transcribe(self.speak(pieces), self.vocoder.sampling_rate)

    @torch.inference_mode()
    def speak(self, pieces: Sequence[Sequence[Sequence[int]]]) -> list[np.ndarray]:
        """Sound of each reply, which is a list of unit sequences that are spoken one after the other."""
        flat = [torch.tensor(units) for piece in pieces for units in piece if len(units)]
        waveforms: list[np.ndarray] = []
        order = sorted(range(len(flat)), key=lambda place: len(flat[place]))
        spoken_units: dict[int, np.ndarray] = {}
        for part in in_chunks(order, 32):
            output = self.vocoder(pad_sequence([flat[place] for place in part], True, -1))
            for place, row, length in zip(part, output.waveform, output.waveform_lengths.tolist(), strict=True):
                spoken_units[place] = row[: int(length)].float().numpy()
        place = 0
        for piece in pieces:
            count = sum(bool(len(units)) for units in piece)
            parts = [spoken_units[number] for number in range(place, place + count)]
            waveforms.append(np.concatenate(parts) if parts else np.zeros(0, np.float32))
            place += count
        return waveforms


@torch.inference_mode()
def speak_segments(model: EchoXForConditionalGeneration, segments: Segments, states: Tensor) -> list[UnitSequence]:
    """Unit words of every segment on its own, greedily; segments of similar length are one batch."""
    said: dict[int, UnitSequence] = {}
    order = sorted(range(len(segments)), key=lambda row: int((segments.token_ids[row] >= 0).sum()))
    for part in in_chunks(order, 64):
        chosen = segments.kept(part)
        sequences = model.generate_unit_words(
            chosen.of(states), chosen.token_ids, chosen.word_ids, word_letters=chosen.word_letters
        )
        said |= dict(zip(part, sequences, strict=True))
    return [said[row] for row in range(len(segments))]


@torch.inference_mode()
def speak_in_context(model: EchoXForConditionalGeneration, segments: Segments, states: Tensor) -> list[UnitSequence]:
    """Unit words of every segment, given the last words of the segment before it, as `context_words` trains it.

    Args:
        model: with a word-synchronous echo decoder.
        segments: those of a reply in order, each with the last words of the one before it.
        states: (B, R, H).
    """
    alone = [row for row, count in enumerate(segments.context) if not count]
    said = dict(zip(alone, speak_segments(model, segments.kept(alone), states), strict=True))
    for row, count in enumerate(segments.context):
        if count:
            chosen = segments.kept([row])
            inputs = model.denoise(chosen.of(states), chosen.token_ids)[0]
            given, words = last_words(said[row - 1], count), chosen.word_ids[0].tolist()
            said[row] = speak_after(model, inputs, words, given, chosen.word_letters)
    return [said[row] for row in range(len(segments))]


def last_words(sequence: UnitSequence, words: int) -> list[list[int]]:
    """The unit words of the last text words of a sequence, word by word."""
    names = sorted(set(sequence.word_of))[-words:]
    pairs = list(zip(sequence.unit_words, sequence.word_of, strict=True))
    return [[unit_word for unit_word, name in pairs if name == wanted] for wanted in names]


@torch.inference_mode()
def speak_after(
    model: EchoXForConditionalGeneration,
    inputs: Tensor,
    words: list[int],
    given: list[list[int]],
    word_letters: Tensor | None = None,
) -> UnitSequence:
    """Unit words of the words that follow: those of the first words (`given`) are fed in, the others decoded greedily.

    Args:
        model: with a word-synchronous echo decoder.
        inputs: (R, H) inputs of the decoder.
        words: text word of each input, -1 = not spoken.
        given: unit words of each of the first words.
        word_letters: (1, W, C) letters of the words, for a decoder that reads them.
    """
    decoder = model.echo_decoder
    assert isinstance(decoder, WordSynchronousDecoder)
    text = TextWords.of(torch.tensor([words]))
    vectors = decoder.text_vectors(inputs[None], text, word_letters)
    steps = LeanSteps(decoder.backbone, rows=1)
    sequence = UnitSequence([], [], finished=True)
    previous = decoder.end_id
    for number, name in enumerate(text.names[0].tolist()):
        said: list[int] = []
        letters = vectors.letters[:, number, : int(vectors.letter_counts[0, number])]
        if letters.shape[1]:
            steps.advance(letters)
        while True:
            step = decoder.step_inputs(
                torch.tensor([previous]), vectors.conditions[0, number], torch.tensor([len(said)])
            )
            logits = decoder.output_logits(steps.advance(step[None])[:, -1])[0]
            if number < len(given):
                previous = given[number][len(said)] if len(said) < len(given[number]) else decoder.end_id
            elif len(said) >= decoder.config.max_unit_words_per_word:
                previous = decoder.end_id
            else:
                if decoder.config.force_sound and not said:
                    logits[decoder.end_id] = -torch.inf
                previous = int(logits.argmax())
            if previous == decoder.end_id:
                break
            said.append(previous)
        if number >= len(given):
            sequence.unit_words += said
            sequence.word_of += [name] * len(said)
    return sequence


def echo_scores(
    model: EchoXForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    language: UnitLanguage,
    teacher: T2CForUnitGeneration,
    voice: UnitTranscriber,
    questions: QuestionSet,
    trigger: Trigger,
    context_words: int = 0,
) -> JsonObject:
    """Scores of one model on one set of questions.

    Args:
        model: in evaluation mode, float32.
        tokenizer: its own.
        language: its unit language.
        teacher: the T2C whose units for the same text are the reference of ``unit_error``.
        voice: makes and transcribes speech.
        questions: to be asked.
        trigger: cuts replies; :data:`NO_CUTS` = whole replies.
        context_words: words of the segment before that each segment is given; see :func:`speak_in_context`.

    Returns:
        ``s2t_answer``, ``s2s_answer``, ``s2t_exact``, ``s2s_exact`` (shares of the questions), ``gap`` (points of 1 by
        answer), ``reply_wer`` (of the speech against its own text), ``unit_error`` (unit edits per unit of the
        teacher's), ``unfinished`` (share of the segments), ``first_audio_tokens`` (median of the tokens written before
        the first segment can be spoken), ``first_word_tokens`` (the same, word by word with the decoder's look-ahead),
        ``segments`` per reply, ``unit_words_per_word``; ``right``: of ``s2t_answer`` and ``s2s_answer`` a digit a
        question, 1 where it was right, so that two models are compared question by question.
    """
    written = write_replies(model.s2t, tokenizer, questions)
    scores = _trigger_scores(model, tokenizer, written.states)
    limit = teacher.config.max_word_letters
    segments = cut_replies(written.token_ids, scores, trigger, tokenizer, max_word_letters=limit)
    if context_words:
        longer = cut_replies(written.token_ids, scores, trigger, tokenizer, context_words, limit)
        sequences = speak_in_context(model, longer, written.states)
    else:
        sequences = speak_segments(model, segments, written.states)
    units = [language.decode_reduced(sequence.unit_words) for sequence in sequences]
    pieces: list[list[list[int]]] = [[] for _ in questions.items]
    for (row, _), spoken in zip(segments.owners, units, strict=True):
        pieces[row].append(spoken)
    said = voice.transcribe(pieces)
    result = reply_scores(questions, written.texts, said, voice.judge)
    reference = read_aloud(teacher, segments.token_ids, segments.word_ids, segments.word_letters)
    errors = [
        edit_counts(language.decode(one.unit_words), language.decode(other.unit_words))
        for one, other in zip(reference, sequences, strict=True)
    ]
    words = sum(len(set(sequence.word_of)) for sequence in reference)
    return result | {
        "unit_error": sum(count.errors for count in errors) / max(1, sum(count.reference_words for count in errors)),
        "unfinished": sum(not sequence.finished for sequence in sequences) / max(1, len(sequences)),
        "first_audio_tokens": float(np.median(first_audio_tokens(written, scores, trigger, tokenizer))),
        "first_word_tokens": float(np.median(first_word_tokens(written, tokenizer, teacher.config.lookahead_words))),
        "segments": len(segments) / len(questions.items),
        "unit_words_per_word": sum(len(sequence.unit_words) for sequence in sequences) / max(1, words),
    }


@torch.inference_mode()
def s2t_scores(
    s2t: S2TForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, questions: QuestionSet
) -> dict[str, float]:
    """Scores of transcripts and written replies.

    Args:
        s2t: in evaluation mode, float32.
        tokenizer: its own.
        questions: to be asked.

    Returns:
        ``ctc_wer`` of the transcripts, ``s2t_answer`` (share of the questions), ``s2t_loss`` (cross-entropy per token
        of the reference replies), ``frames_per_question`` that the language model reads.
    """
    embeds, transcripts = questions.encoded(s2t)
    replies = write_replies(s2t, tokenizer, questions).texts
    asked = [item.dialogue.turns[-2].text or "" for item in questions.items]
    return {
        "ctc_wer": word_errors(asked, [decode_text(tokenizer, row) for row in transcripts]).rate,
        "s2t_answer": float(np.mean(questions.right(replies))),
        "s2t_loss": reply_loss(s2t, tokenizer, questions.items),
        "frames_per_question": float(np.mean([len(row) for row in embeds])),
    }


def t2c_scores(
    t2c: T2CForUnitGeneration,
    tokenizer: PreTrainedTokenizerBase,
    language: UnitLanguage,
    voice: UnitTranscriber,
    utterances: Sequence[UnitUtterance],
) -> JsonObject:
    """Scores of one T2C on held-out recordings, in figures that do not depend on its unit language.

    Args:
        t2c: in evaluation mode, float32.
        tokenizer: its own.
        language: its unit language.
        voice: makes and transcribes speech.
        utterances: texts with the units of their recordings.

    Returns:
        ``wer`` of its speech, ``nats_per_unit`` (teacher-forced, ends included, over reduced units),
        ``unit_words_per_word`` and ``unit_words_per_text`` of the recordings, ``steps_per_word`` and ``steps_per_s`` of
        its speech (ends included, as they cost a step too), ``decode_ms_per_word`` and ``decode_ms_per_s`` (CPU time,
        64 at once), ``unfinished`` (share of the texts); ``word_errors`` and ``reference_words`` of each text, so that
        two models are compared text by text. Per second: None where nothing sounds.
    """
    items = [spoken_text(utterance, tokenizer, language) for utterance in utterances]
    nats = units = 0.0
    for part in in_chunks(items, 32):
        output = t2c(**spoken_batch(part, t2c.config.max_word_letters))
        nats += float(output.loss) * float((output.targets != IGNORE_INDEX).sum())
        units += sum(len(language.decode(item.unit_words)) for item in part)
    words = sum(item.num_words for item in items)
    batch = spoken_batch(items, t2c.config.max_word_letters)
    began_s = time.process_time()
    sequences = read_aloud(t2c, batch["input_ids"], batch["word_ids"], batch.get("word_letters"))
    decode_s = time.process_time() - began_s
    waveforms = voice.speak([[language.decode_reduced(sequence.unit_words)] for sequence in sequences])
    speech_s = sum(map(len, waveforms)) / voice.vocoder.sampling_rate
    said = voice.judge.transcribe(waveforms, voice.vocoder.sampling_rate)
    errors = [word_errors([voice.judge.as_heard(item.text)], [heard]) for item, heard in zip(items, said, strict=True)]
    steps = sum(len(sequence.unit_words) for sequence in sequences)
    steps += words if t2c.config.form == "word_synchronous" else len(items)
    said_words = sum(len(item.unit_words) for item in items)
    return {
        "wer": sum(errors, WordErrors()).rate,
        "nats_per_unit": nats / units,
        "unit_words_per_word": said_words / words,
        "unit_words_per_text": said_words / len(items),
        "steps_per_word": steps / words,
        "steps_per_s": steps / speech_s if speech_s else None,
        "decode_ms_per_word": 1000 * decode_s / words,
        "decode_ms_per_s": 1000 * decode_s / speech_s if speech_s else None,
        "unfinished": float(np.mean([not sequence.finished for sequence in sequences])),
        "word_errors": [one.errors for one in errors],
        "reference_words": [one.reference_words for one in errors],
    }


def first_audio_tokens(
    written: WrittenReplies, scores: Tensor, trigger: Trigger, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Tokens written when the first segment is complete; the end of the reply counts as one."""
    counts = []
    for tokens, row in zip(written.token_ids.tolist(), scores.tolist(), strict=True):
        tokens = [token for token in tokens if token >= 0]
        words = word_index(tokenizer, tokens)
        state = trigger.state()
        for place, word in enumerate(words):
            if state.push(row[place], place == 0 or word != words[place - 1]) is not None:
                counts.append(place + 1)
                break
        else:
            counts.append(len(tokens) + 1)
    return counts


def first_word_tokens(written: WrittenReplies, tokenizer: PreTrainedTokenizerBase, lookahead_words: int) -> list[int]:
    """Tokens written when the first word can be spoken word by word: `lookahead_words` later words are complete."""
    counts = []
    for tokens in written.token_ids.tolist():
        tokens = [token for token in tokens if token >= 0]
        words = word_index(tokenizer, tokens)
        later = [place for place, word in enumerate(words) if word > lookahead_words]
        counts.append(later[0] + 1 if later else len(tokens) + 1)
    return counts


@torch.inference_mode()
def read_aloud(
    teacher: T2CForUnitGeneration, token_ids: Tensor, word_ids: Tensor, word_letters: Tensor | None = None
) -> list[UnitSequence]:
    """Unit words of T2C, greedily, for every row of token ids and word ids (S, R), and of letters (S, W, C)."""
    said: list[UnitSequence] = []
    for part in in_chunks(range(len(token_ids)), 64):
        letters = None if word_letters is None else word_letters[part]
        said += teacher.generate(token_ids[part], word_ids[part], word_letters=letters)
    return said


def _trigger_scores(model: EchoXForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, states: Tensor) -> Tensor:
    """(B, R) cos(h_i, lm_head row of ".")."""
    period = tokenizer(".", add_special_tokens=False)["input_ids"][-1]
    row = weight_of(model.get_output_embeddings())[period]
    return torch.cosine_similarity(states.float(), row.float(), dim=-1)
