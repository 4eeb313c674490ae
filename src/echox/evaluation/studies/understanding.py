"""Study "understanding": questions asked aloud and typed, answered in writing by an S2T model, before it has a voice.

What it heard is compared with what was asked, and its answers to speech with its answers to text: S2T over T2T is the
share of the language model's knowledge that survives hearing. Audio goes through the front end that sessions use.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from echox.data.scoring import WordErrors, word_errors
from echox.evaluation.scoring.metrics import exist_match
from echox.evaluation.scoring.records import digest_of, fingerprint, read_lines
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.scoring.statistics import bootstrap, bootstrap_ratio
from echox.evaluation.sets.items import EvalItem
from echox.files import open_journal, write_text
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration, positions_of
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.pretrained import run_generate
from echox.models.text.tokenization_text import decode_text, render_chat
from echox.streaming.prompt.messages import Audio, read_audio

SYSTEM_PROMPT = "Answer in one short sentence."
MAX_AUDIO_S = 60.0


@dataclass(frozen=True)
class Answered:
    """One question.

    Attributes:
        question: as it is written. heard: as it was heard; "" if it was only typed.
        answers: accepted ones. spoken, typed: the replies to speech and to text; None: not asked so.
        hearing_s: seconds of computing (this thread) to encode the audio. audio_s: its length.
    """

    id: str
    question: str
    heard: str
    answers: tuple[str, ...]
    spoken: str | None
    typed: str | None
    hearing_s: float
    audio_s: float


class Listener:
    """An S2T model that hears one recording at a time and answers several questions together.

    Args:
        folder: of stage "s2t" or "hearing".
        system: system prompt; "" for none.
        max_new_tokens: of a reply.
    """

    def __init__(self, folder: str | Path, system: str = SYSTEM_PROMPT, max_new_tokens: int = 48) -> None:
        self.model = S2TForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = EchoXProcessor.from_pretrained(folder)
        self.system, self.max_new_tokens = system, max_new_tokens
        self.retokenizer = self.processor.retokenizer

    @cached_property
    def key(self) -> str:
        """Digits that depend on all that decides what it hears and replies."""
        features, template = self.processor.feature_extractor.to_json_string(), self.processor.chat_template
        config = self.model.config.to_json_string()
        return fingerprint(self.model, config, features, template, [self.system, self.max_new_tokens, MAX_AUDIO_S])

    @torch.inference_mode()
    def hear(self, audio: Audio) -> tuple[Tensor, str]:
        """Inputs of the language model (K, H), and the transcript."""
        inputs = self.processor.extract_features([audio.for_model()], audio.sampling_rate)
        (embeds,), (tokens,) = self.model.encode(**inputs, retokenizer=self.retokenizer)
        return embeds, decode_text(self.processor.tokenizer, tokens, skip_special_tokens=True).strip()

    @torch.inference_mode()
    def reply(self, questions: Sequence[str | Tensor]) -> list[str]:
        """Greedy replies to questions: text, or what `hear` returned for audio (K, H)."""
        tokenizer = self.processor.tokenizer
        prompts = []
        for question in questions:
            content: object = question if isinstance(question, str) else [{"type": "audio"}]
            turns: list[dict[str, object]] = [{"role": "system", "content": self.system}] if self.system else []
            prompts.append(
                render_chat(tokenizer, [*turns, {"role": "user", "content": content}], add_generation_prompt=True)
            )
        inputs = tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
        audios = [question for question in questions if isinstance(question, Tensor)]
        embeds, mask, _ = self.model.splice(
            inputs["input_ids"], inputs["attention_mask"], audios or None, padding_side="left"
        )
        written = run_generate(
            self.model.language_model,
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions_of(mask),
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
        )
        return [decode_text(tokenizer, row, skip_special_tokens=True).strip() for row in written]

    def answer(self, items: Sequence[EvalItem], sampling_rate: int, replies: bool) -> list[Answered]:
        """Ask questions aloud and, where their words are known, in writing; without ``replies``, only hear them."""
        heard: list[tuple[str, Tensor | None, float, float]] = []
        for item in items:
            text, embeds, hearing_s, audio_s = "", None, 0.0, 0.0
            for source in item.audios[-1:]:
                audio = read_audio(source, sampling_rate, MAX_AUDIO_S)
                began_s = time.thread_time()
                embeds, text = self.hear(audio)
                hearing_s, audio_s = time.thread_time() - began_s, audio.duration_s
            heard.append((text, embeds, hearing_s, audio_s))
        aloud = [one for one, (_, embeds, _, _) in enumerate(heard) if embeds is not None and replies]
        typed = [one for one, item in enumerate(items) if item.question and replies]
        spoken_replies = dict(zip(aloud, self._replies([heard[one][1] for one in aloud]), strict=True))
        typed_replies = dict(zip(typed, self._replies([items[one].question for one in typed]), strict=True))
        return [
            Answered(
                item.id,
                item.question,
                text,
                item.answers,
                spoken_replies.get(one),
                typed_replies.get(one),
                hearing_s,
                audio_s,
            )
            for one, (item, (text, _, hearing_s, audio_s)) in enumerate(zip(items, heard, strict=True))
        ]

    def _replies(self, questions: Sequence[str | Tensor | None]) -> list[str]:
        asked = [question for question in questions if question is not None]
        return self.reply(asked) if asked else []


def ask_all(
    listener: Listener,
    items: Sequence[EvalItem],
    file: Path,
    replies: bool = True,
    progress: Callable[[int, int], None] | None = None,
    together: int = 8,
) -> list[Answered]:
    """Ask every question, some together; answers go to a file of JSON lines, and those in it are not asked again.

    Answers of another listener, to other questions, or without the replies that are asked for, are none.
    """
    keys = {item.id: digest_of([listener.key, replies, item.digest, item.question, item.answers]) for item in items}
    known = {row["id"]: _answered(row) for row in read_lines(file) if row.get("key", "") == keys.get(row["id"])}
    rate = int(listener.processor.feature_extractor.sampling_rate)
    left = [item for item in items if item.id not in known]
    with open_journal(file) as sink:
        for start in range(0, len(left), together):
            for row in listener.answer(left[start : start + together], rate, replies):
                known[row.id] = row
                sink.write(json.dumps({"key": keys[row.id], **asdict(row)}, ensure_ascii=False) + "\n")
            sink.flush()
            if progress is not None:
                progress(len(known), len(items))
    return [known[item.id] for item in items]


def _answered(row: JsonObject) -> Answered:
    values = {name: value for name, value in row.items() if name != "key"}
    return Answered(**{**values, "answers": tuple(values["answers"])})


def understanding_scores(answered: Sequence[Answered]) -> JsonObject:
    """Figures with 95 % bootstrap intervals over questions.

    Returns:
        ``wer`` of what was heard (where the question's words are known), ``t2t`` and ``s2t`` (an accepted answer occurs
        in the reply), ``s2t_over_t2t`` (paired), ``hearing_rtf`` (seconds of computing per second of audio).
    """
    scores: JsonObject = {"questions": len(answered)}
    spoken = [row for row in answered if row.audio_s]
    known = [row for row in spoken if row.question]
    if known:
        errors = [word_errors([row.question], [row.heard]) for row in known]
        each = [one.rate for one in errors]
        scores["wer"] = asdict(bootstrap(errors, _rate, each=each))  # type: ignore[type-var, arg-type]  # not numbers
        scores["hearing_rtf"] = sum(row.hearing_s for row in spoken) / sum(row.audio_s for row in spoken)
    judged = [row for row in answered if row.answers]
    t2t = [float(exist_match(row.typed, row.answers)) for row in judged if row.typed is not None]
    s2t = [float(exist_match(row.spoken, row.answers)) for row in judged if row.spoken is not None]
    if t2t:
        scores["t2t"] = asdict(bootstrap(t2t))
    if s2t:
        scores["s2t"] = asdict(bootstrap(s2t))
    if t2t and len(t2t) == len(s2t) and sum(t2t):
        scores["s2t_over_t2t"] = asdict(bootstrap_ratio(s2t, t2t))
    return scores


def _rate(errors: Sequence[WordErrors]) -> float:
    return sum(errors, WordErrors()).rate


def measure_understanding(
    folder: str | Path,
    items: Sequence[EvalItem],
    output: Path,
    system: str = SYSTEM_PROMPT,
    replies: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> JsonObject:
    """Ask, score, and write ``answers.jsonl`` and ``understanding.json`` into a folder; a stopped study goes on."""
    answered = ask_all(Listener(folder, system), items, output / "answers.jsonl", replies=replies, progress=progress)
    scores = understanding_scores(answered)
    write_text(output / "understanding.json", json.dumps(scores, indent=1) + "\n")
    return scores
