"""Stage "bilingual_corpus": questions in several languages, answers in one, all spoken by espeak-ng voices.

A table of facts (`recipes/new_language/facts_de.yml`) becomes dialogues of three kinds: a question in the answers' own
language, the same question in another language, and a sentence to be translated. All are ordinary dialogues, spoken
user turn to written and spoken reply: speech-to-speech translation needs nothing else.

    text/dialogues.jsonl        every question and answer, for stage lm
    speech/questions.jsonl      spoken questions, for stage encoder
    speech/replies.jsonl        every answer in the one reply voice, for stage encoder
    speech/voice.jsonl          those and more sentences in that voice: align, units, vocoder
    speech/dialogues.jsonl      spoken dialogues, for stages s2t and echo
    phones.json                 pronunciations: the letters of each word
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from echox.config import recipe
from echox.data.engines.engine import Voice
from echox.data.lexicon import write_letters
from echox.data.manifest import Dialogue, Turn, Utterance, write_dialogues, write_utterances
from echox.data.synthesis import SpeechJob, SpokenJob, speak_all
from echox.files import JsonObject


@recipe("bilingual_corpus")
@dataclass
class BilingualCorpusRecipe:
    """Recipe of the stage "bilingual_corpus".

    Attributes:
        facts: the table; see `read_facts`.
        output_dir: folder of the corpus.
        question_voices: espeak-ng voices by language; the last one of each language asks held-out questions only.
        reply_voice: the voice of all answers.
        shuffled_sentences: number of further sentences in that voice, of the words of training answers in any order, so
            that the voice also learns sequences of words that no answer has.
        max_items: most questions of each topic; 0 = all.
        heldout_part: share of held-out questions of each topic, chosen by their text.
    """

    stage: str
    facts: str
    output_dir: str
    question_voices: dict[str, list[str]]
    reply_voice: str
    shuffled_sentences: int = 0
    max_items: int = 0
    heldout_part: float = 0.1
    workers: int | None = None

    def run(self) -> dict[str, float]:
        """Write the corpus; returns the numbers of items and hours.

        Raises:
            ValueError: a table that cannot be read, or a language without two voices.
        """
        return write_corpus(self)


@dataclass(frozen=True)
class Question:
    """A question with its answer; `topic` is ``language/topic``."""

    id: str
    language: str
    text: str
    answer: str
    topic: str
    split: str


def read_facts(path: str | Path, max_items: int, heldout_part: float) -> list[Question]:
    """Questions of a table.

    ``topics: {name: {rows: [{...}], with: [{...}], questions: {language: [template]}, answer: template}}``: every row,
    joined with every row of ``with`` if there is one, fills ``{name}`` in every template.

    Raises:
        ValueError: not such a table, or a template with a name that its rows do not have.
    """
    try:
        topics: JsonObject = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["topics"]
        found = [
            question for name, topic in topics.items() for question in _of_topic(name, topic, max_items, heldout_part)
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected topics with rows, questions and answer, found: {error!r}") from error
    return found


def _of_topic(name: str, topic: JsonObject, max_items: int, heldout_part: float) -> Iterator[Question]:
    questions = [
        (language, template.format(**row), topic["answer"].format(**row))
        for row in (one | other for one, other in itertools.product(topic["rows"], topic.get("with") or [{}]))
        for language, templates in topic["questions"].items()
        for template in templates
    ]
    if max_items and len(questions) > max_items:  # spread over the topic, languages among them
        questions = [questions[place * len(questions) // max_items] for place in range(max_items)]
    for place, (language, text, answer) in enumerate(questions):
        digest = int(hashlib.sha256(text.encode()).hexdigest(), 16)
        # At least one of every topic.
        heldout = place == len(questions) - 1 or digest % 1000 < 1000 * heldout_part
        split = "heldout" if heldout else "train"
        yield Question(f"{name}-{place}", language, text, answer, f"{language}/{name}", split)


def write_corpus(settings: BilingualCorpusRecipe) -> dict[str, float]:
    """See :meth:`BilingualCorpusRecipe.run`."""
    questions = read_facts(settings.facts, settings.max_items, settings.heldout_part)
    folder = Path(settings.output_dir)
    speech = folder / "speech"
    asking = [_asker(settings, question, place) for place, question in enumerate(questions)]
    jobs = [
        SpeechJob(question.id, question.text, voice, str(speech / "questions" / f"{question.id}.wav"))
        for question, voice in zip(questions, asking, strict=True)
    ]
    answers = {question.answer: question for question in reversed(questions)}
    for question in questions:  # an answer is in training if one of its questions is
        if question.split == "train":
            answers[question.answer] = question
    replying = Voice("espeak-ng", settings.reply_voice)
    reply_jobs = [
        SpeechJob(f"r-{question.id}", text, replying, str(speech / "replies" / f"r-{question.id}.wav"))
        for text, question in answers.items()
    ]
    shuffled = [text for text, question in answers.items() if question.split == "train"]
    shuffled_jobs = [
        SpeechJob(f"v-{place}", text, replying, str(speech / "replies" / f"v-{place}.wav"))
        for place, text in enumerate(shuffle_words(shuffled, settings.shuffled_sentences))
    ]
    asked = {job.id: job for job in speak_all(jobs, speech / ".questions_journal.jsonl", settings.workers)}
    all_replies = [*reply_jobs, *shuffled_jobs]
    replied = {job.id: job for job in speak_all(all_replies, speech / ".replies_journal.jsonl", settings.workers)}
    write_dialogues(folder / "text" / "dialogues.jsonl", [_dialogue(question) for question in questions])
    write_dialogues(
        speech / "dialogues.jsonl",
        [_dialogue(question, asked[question.id], voice) for question, voice in zip(questions, asking, strict=True)],
    )
    write_utterances(
        speech / "questions.jsonl",
        [
            Utterance(
                question.id,
                f"questions/{question.id}.wav",
                question.text,
                voice.speaker,
                asked[question.id].duration_s,
                question.split,
            )
            for question, voice in zip(questions, asking, strict=True)
        ],
    )
    replies = [
        Utterance(
            f"r-{question.id}",
            f"replies/r-{question.id}.wav",
            text,
            replying.speaker,
            replied[f"r-{question.id}"].duration_s,
            question.split,
        )
        for text, question in answers.items()
    ]
    more = [
        Utterance(job.id, f"replies/{job.id}.wav", job.text, replying.speaker, replied[job.id].duration_s, "train")
        for job in shuffled_jobs
    ]
    write_utterances(speech / "replies.jsonl", replies)
    write_utterances(speech / "voice.jsonl", [*replies, *more])
    write_letters([text for question in questions for text in (question.text, question.answer)], folder / "phones.json")
    seconds = sum(job.duration_s for job in (*asked.values(), *replied.values()))
    return {"questions": float(len(questions)), "replies": float(len(answers)), "hours": seconds / 3600}


def shuffle_words(texts: list[str], count: int, seed: int = 0) -> list[str]:
    """`count` sentences of 4 to 9 words of the texts in any order; all words occur equally often."""
    words = sorted({word.strip(".,?!;:\"'") for text in texts for word in text.split()} - {""})
    source, waiting, sentences = random.Random(seed), list[str](), list[str]()
    for _ in range(count):
        length = source.randint(4, 9)
        while len(waiting) < length:
            waiting += source.sample(words, len(words))
        taken, waiting = waiting[:length], waiting[length:]
        sentences.append(" ".join(taken) + ".")
    return sentences


def _asker(settings: BilingualCorpusRecipe, question: Question, place: int) -> Voice:
    voices = settings.question_voices.get(question.language, [])
    if len(voices) < 2:
        raise ValueError(f"question_voices: expected at least two for {question.language!r}, found {voices}")
    known = voices[:-1]
    name = voices[-1] if question.split != "train" and place % 2 else known[place % len(known)]
    return Voice("espeak-ng", name, round(0.9 + 0.05 * (place % 5), 3), round(0.9 + 0.05 * (place % 4), 3))


def _dialogue(question: Question, spoken: SpokenJob | None = None, voice: Voice | None = None) -> Dialogue:
    user = Turn("user", question.text)
    if spoken is not None and voice is not None:
        user = Turn("user", question.text, f"questions/{question.id}.wav", spoken.duration_s, voice.speaker)
    return Dialogue(question.id, (user, Turn("assistant", question.answer)), question.split, topic=question.topic)
