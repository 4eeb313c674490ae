"""The nano corpus, speech side: which texts are spoken by which voice, and the folder of the corpus.

    text/dialogues.jsonl        all text dialogues
    speech/questions.jsonl      questions, word salads and some replies in many voices (to train the speech encoder)
    speech/replies.jsonl        the reply voice, with word ends (units, vocoder, text to units)
    speech/dialogues.jsonl      single questions as audio, with the reply as text
    speech/multi_turn.jsonl     the same with two or three spoken turns
    text/greetings.jsonl        requests to greet, also under system prompts (see `greetings.py`)
    speech/greetings.jsonl      requests to greet as audio, with the reply as text
    phones.json                 {"phones": inventory, "lexicon": word -> phones}

Everything depends on the seed only: an interrupted run continues where it stopped, a changed text is spoken again.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from echox.config import dump_recipe, recipe
from echox.data.corpora.nano import greetings as nano_greetings
from echox.data.corpora.nano import world
from echox.data.engines.engine import Voice
from echox.data.engines.flite import Flite
from echox.data.manifest import Dialogue, Turn, Utterance, write_dialogues, write_utterances
from echox.data.sampling import Item, spread
from echox.data.synthesis import SpeechJob, SpokenJob, speak_all
from echox.files import write_text

log = logging.getLogger(__name__)

REPLY_VOICE = Voice("flite", "slt")

# Voice -> weight. flite is recorded speech, espeak-ng has the variety of accents: about half and half.
SEEN_VOICES: dict[Voice, float] = {
    Voice("flite", "slt"): 4.0,
    Voice("flite", "awb"): 4.0,
    Voice("flite", "kal16"): 3.0,
    **dict.fromkeys(
        (
            Voice("espeak-ng", name)
            for name in (
                "en-us",
                "en-us+m3",
                "en-us+m7",
                "en-us+f2",
                "en-us+f4",
                "en-us+klatt",
                "en-us+Annie",
                "en-us+linda",
                "en-us-nyc+m1",
                "en-gb",
                "en-gb+f3",
                "en-gb+m2",
                "en-gb-scotland",
                "en-gb-scotland+f1",
                "en-gb-x-gbclan+m6",
                "en-029+f4",
            )
        ),
        0.7,
    ),
}
NEW_VOICES: dict[Voice, float] = {
    Voice("flite", "rms"): 1.0,
    **{Voice("espeak-ng", name): 0.4 for name in ("en-gb-x-rp+f5", "en-us+Andrea", "en-us+m8")},
}

# Used to plan sizes before anything is spoken; measured on the full corpus.
_SECONDS_PER_WORD = 0.22
_SECONDS_AROUND = 0.80


@dataclass(frozen=True)
class Sizes:
    """Sizes of the corpus.

    Attributes:
        questions_hours: Training speech in many voices, hours.
        replies_hours: Speech of the reply voice, hours.
        heldout_questions: Items of each held-out set (seen voices, new voices).
        heldout_replies: Unseen utterances of the reply voice.
        multi_turn: Spoken dialogues of several turns (training; a fifth as many held out).
        greetings: Spoken training requests to greet.
        heldout_greetings: Items of each held-out set of them, and of their validation set; None: all.
        max_sentences: Speak only the first reply sentences, this many (for tests); None: all.
    """

    questions_hours: float = 9.0
    replies_hours: float = 5.0
    heldout_questions: int = 400
    heldout_replies: int = 150
    multi_turn: int = 250
    greetings: int = 450
    heldout_greetings: int | None = None
    max_sentences: int | None = None


@dataclass(frozen=True)
class _Line:
    """An utterance before it is spoken; ``dialogue`` is the one that it opens."""

    id: str
    text: str
    voice: Voice
    split: str
    dialogue: Dialogue | None = None


def write_corpus(folder: Path, sizes: Sizes, seed: int = 0, workers: int | None = None) -> dict[str, float]:
    """Write the whole corpus. Safe to call again: finished speech is kept.

    Args:
        folder: Of the corpus; created if missing.
        sizes: See `Sizes`.
        seed: Decides every choice.
        workers: Processes; default: one per CPU.

    Returns:
        Measured sizes: hours and counts of each part, and the real-time factor of synthesis.
    """
    dialogues = world.build_dialogues(seed, with_sealed=True)  # what is drawn of them depends on all; readers get less
    write_dialogues(folder / "text" / "dialogues.jsonl", dialogues)
    log.info("%d text dialogues written to %s", len(dialogues), folder / "text")
    sentences = world.reply_sentences(dialogues)
    _write_phones(folder / "phones.json", dialogues)

    questions = plan_questions(dialogues, sentences, sizes, random.Random(f"nano questions {seed}"))
    multi, multi_lines = plan_multi_turn(dialogues, sizes, random.Random(f"nano multi turn {seed}"))
    replies = plan_replies(dialogues, sentences, sizes, random.Random(f"nano replies {seed}"))
    report: dict[str, float] = {}
    spoken = _speak(folder, "questions", [*questions, *multi_lines], workers, report)
    write_utterances(folder / "speech" / "questions.jsonl", _question_utterances(questions, multi_lines, spoken))
    write_dialogues(folder / "speech" / "dialogues.jsonl", _spoken_dialogues(questions, spoken))
    write_dialogues(folder / "speech" / "multi_turn.jsonl", _spoken_multi_turn(multi, multi_lines, spoken))
    greetings = nano_greetings.build_greetings(seed)
    write_dialogues(folder / "text" / "greetings.jsonl", greetings)
    requests = plan_greetings(greetings, sizes, random.Random(f"nano spoken greetings {seed}"))
    spoken = _speak(folder, "greetings", requests, workers, report)
    write_dialogues(folder / "speech" / "greetings.jsonl", _spoken_dialogues(requests, spoken, "greetings"))
    spoken = _speak(folder, "replies", replies, workers, report)
    write_utterances(folder / "speech" / "replies.jsonl", [_utterance("replies", line, spoken) for line in replies])
    return report


def plan_questions(dialogues: list[Dialogue], sentences: list[str], sizes: Sizes, rng: random.Random) -> list[_Line]:
    """Return the lines of ``questions.jsonl``: 57% questions, 10% reply sentences, 33% word salads, by time."""
    single = [dialogue for dialogue in dialogues if len(dialogue.turns) == 2]
    seconds = sizes.questions_hours * 3600
    lines: list[_Line] = []
    for dialogue in _take(_by_fact(single, "train", rng), 0.57 * seconds):
        lines.append(_Line(f"q-{dialogue.id}", _question(dialogue), _draw(SEEN_VOICES, rng), "train", dialogue))
    for index, text in enumerate(_take_texts(_endless(sentences, rng), 0.10 * seconds)):
        lines.append(_Line(f"qr-{index:05d}", text, _draw(SEEN_VOICES, rng), "train"))
    salads = _salads(_salad_words(dialogues, sentences), rng)
    for index, text in enumerate(_take_texts(salads, 0.33 * seconds)):
        lines.append(_Line(f"qs-{index:05d}", text, _draw(SEEN_VOICES, rng), "train"))
    for split, voices in (("heldout_seen_voices", SEEN_VOICES), ("heldout_new_voices", NEW_VOICES)):
        for dialogue in _balanced(single, sizes.heldout_questions, rng):
            lines.append(_Line(f"{split}-{dialogue.id}", _question(dialogue), _draw(voices, rng), split, dialogue))
    return lines


def plan_multi_turn(dialogues: list[Dialogue], sizes: Sizes, rng: random.Random) -> tuple[list[Dialogue], list[_Line]]:
    """Return some dialogues of several turns and a line for each user turn; one voice a dialogue."""
    several = [dialogue for dialogue in dialogues if len(dialogue.turns) > 2]
    chosen = [dialogue for dialogue in several if dialogue.split == "train"][: sizes.multi_turn]
    chosen += [dialogue for dialogue in several if dialogue.split == "heldout"][: sizes.multi_turn // 5]
    lines = []
    for dialogue in chosen:
        voice = _draw(SEEN_VOICES, rng)
        for index, turn in enumerate(dialogue.turns):
            if turn.role == "user":
                lines.append(_Line(f"{dialogue.id}-{index}", turn.text or "", voice, dialogue.split))
    return chosen, lines


def plan_greetings(dialogues: list[Dialogue], sizes: Sizes, rng: random.Random) -> list[_Line]:
    """Return the lines of ``greetings.jsonl``: requests to greet; held-out ones also in new voices."""
    requests: dict[str, list[Dialogue]] = {}
    for dialogue in nano_greetings.spoken_requests(dialogues):
        requests.setdefault(dialogue.split, []).append(dialogue)
    lines = []
    for index, dialogue in enumerate(_repeated(requests["train"], sizes.greetings, rng)):
        lines.append(
            _Line(f"g-{index:04d}-{dialogue.id}", _question(dialogue), _draw(SEEN_VOICES, rng), "train", dialogue)
        )
    for split, source, voices in (
        ("validation", "validation", SEEN_VOICES),
        ("heldout_seen_voices", "heldout", SEEN_VOICES),
        ("heldout_new_voices", "heldout", NEW_VOICES),
    ):
        for dialogue in spread(requests[source], sizes.heldout_greetings or len(requests[source])):
            lines.append(_Line(f"{split}-{dialogue.id}", _question(dialogue), _draw(voices, rng), split, dialogue))
    return lines


def _repeated(dialogues: list[Dialogue], count: int, rng: random.Random) -> list[Dialogue]:
    """Return ``count`` dialogues in random order, each as often as any other, give or take one."""
    return list(itertools.islice(_endless(dialogues, rng), count))


def plan_replies(dialogues: list[Dialogue], sentences: list[str], sizes: Sizes, rng: random.Random) -> list[_Line]:
    """Return the lines of ``replies.jsonl``: every reply once, then splices and word salads, and unseen sentences.

    Salads make the decoder learn words instead of sentences: each word of the replies comes in dozens of contexts.
    Half of them look like sentences (capital, full stop), as replies do.
    """
    known = sentences[: sizes.max_sentences]
    whole = {turn.text or "" for dialogue in dialogues for turn in dialogue.turns if turn.role == "assistant"}
    texts = dict.fromkeys(known)
    if sizes.max_sentences is None:
        texts.update(dict.fromkeys(sorted(text for text in whole if len(world.split_sentences(text)) > 1)))
    remaining = max(0.0, sizes.replies_hours * 3600 - sum(_seconds(text) for text in texts))
    heldout = _unseen_sentences(dialogues, set(sentences), sizes.heldout_replies, rng)
    taken = set(sentences) | set(heldout)
    splices = (text for text in iter(lambda: world.spliced_fragments(sentences, rng), None) if text not in taken)
    texts.update(dict.fromkeys(_take_texts(splices, 0.42 * remaining)))
    words = _salad_words([], sentences)
    salads = (_as_sentence(text, rng) if rng.random() < 0.5 else text for text in _salads(words, rng))
    texts.update(dict.fromkeys(_take_texts(salads, 0.58 * remaining)))
    lines = [_Line(f"r-{index:05d}", text, REPLY_VOICE, "train") for index, text in enumerate(texts)]
    return lines + [_Line(f"rh-{index:03d}", text, REPLY_VOICE, "heldout") for index, text in enumerate(heldout)]


def _unseen_sentences(dialogues: list[Dialogue], known: set[str], count: int, rng: random.Random) -> list[str]:
    """Return unseen sentences: two thirds replies with another fact's answer, the rest spliced fragments."""
    by_topic: dict[str, list[Dialogue]] = {}
    for dialogue in dialogues:
        if len(dialogue.turns) == 2 and dialogue.topic not in (None, "small_talk"):
            by_topic.setdefault(str(dialogue.topic), []).append(dialogue)
    topics, unseen = sorted(by_topic), dict[str, None]()
    while len(unseen) < count * 2 // 3:
        first, second = rng.sample(by_topic[rng.choice(topics)], 2)
        text = rng.choice(world.split_sentences(first.turns[1].text or ""))
        swapped = text.replace(f" {first.answer}.", f" {second.answer}.")
        if swapped not in known:
            unseen[swapped] = None
    sentences = sorted(known)
    while len(unseen) < count:
        text = world.spliced_fragments(sentences, rng)
        if text not in known and text.endswith("."):
            unseen[text] = None
    return list(unseen)


def _by_fact(dialogues: list[Dialogue], split: str, rng: random.Random) -> Iterable[Dialogue]:
    """Yield dialogues so that every fact has its turn before any comes again, in random order and phrasing."""
    facts: dict[str, list[Dialogue]] = {}
    for dialogue in dialogues:
        if dialogue.split == split:
            facts.setdefault(dialogue.id.rpartition("-")[0], []).append(dialogue)
    for phrasings in facts.values():
        rng.shuffle(phrasings)
    while facts:
        for name in rng.sample(sorted(facts), len(facts)):
            yield facts[name].pop()
            if not facts[name]:
                del facts[name]


def _balanced(dialogues: list[Dialogue], count: int, rng: random.Random) -> list[Dialogue]:
    """Return held-out dialogues, as many of each topic as can be."""
    topics: dict[str, list[Dialogue]] = {}
    for dialogue in dialogues:
        if dialogue.split == "heldout":
            topics.setdefault(str(dialogue.topic), []).append(dialogue)
    for items in topics.values():
        rng.shuffle(items)
    chosen: list[Dialogue] = []
    while topics and len(chosen) < count:
        for topic in sorted(topics):
            chosen.append(topics[topic].pop())
            if not topics[topic]:
                del topics[topic]
    return chosen[:count]


def _salad_words(dialogues: list[Dialogue], sentences: list[str]) -> list[str]:
    """Return the words of salads; without "A", which is spoken as the article and not as the letter."""
    texts = [turn.text or "" for dialogue in dialogues for turn in dialogue.turns] + sentences
    return [word for word in world.spoken_words(texts) if word != "A"]


def _salads(words: list[str], rng: random.Random) -> Iterable[str]:
    """Yield word salads from a shuffled deck, so that all words come equally often.

    Templates alone teach a speech encoder a template language model; in salads the next word cannot be guessed.
    """
    deck: list[str] = []
    while True:
        count = rng.randint(3, 8)
        while len(deck) < count:
            deck += rng.sample(words, len(words))
        yield " ".join(deck[:count])
        del deck[:count]


def _as_sentence(text: str, rng: random.Random) -> str:
    words = text.split()
    if rng.random() < 0.3:
        words[rng.randrange(len(words) - 1)] += ","
    return f"{text[0].upper()}{' '.join(words)[1:]}."


def _endless(items: list[Item], rng: random.Random) -> Iterable[Item]:
    while True:
        yield from rng.sample(items, len(items))


def _seconds(text: str) -> float:
    return _SECONDS_AROUND + _SECONDS_PER_WORD * len(text.split())


def _take(dialogues: Iterable[Dialogue], seconds: float) -> Iterable[Dialogue]:
    for dialogue in dialogues:
        seconds -= _seconds(_question(dialogue))
        if seconds < 0:
            return
        yield dialogue


def _take_texts(texts: Iterable[str], seconds: float) -> Iterable[str]:
    for text in texts:
        seconds -= _seconds(text)
        if seconds < 0:
            return
        yield text


def _question(dialogue: Dialogue) -> str:
    return dialogue.turns[0].text or ""


def _draw(voices: dict[Voice, float], rng: random.Random) -> Voice:
    """Return a random voice with a random tempo and pitch."""
    (voice,) = rng.choices(list(voices), weights=list(voices.values()))
    return Voice(voice.engine, voice.name, round(rng.uniform(0.88, 1.15), 3), round(rng.uniform(0.85, 1.15), 3))


def _speak(
    folder: Path, name: str, lines: Sequence[_Line], workers: int | None, report: dict[str, float]
) -> dict[str, SpokenJob]:
    start = time.perf_counter()
    audio = folder / "speech" / name
    jobs = [SpeechJob(line.id, line.text, line.voice, str(audio / f"{line.id}.wav")) for line in lines]
    spoken: dict[str, SpokenJob] = {}
    seconds = 0.0
    for job in speak_all(jobs, folder / "speech" / f".{name}_journal.jsonl", workers):
        spoken[job.id] = job
        seconds += job.duration_s
    wall_s = time.perf_counter() - start
    report |= {f"{name}_count": len(jobs), f"{name}_hours": seconds / 3600, f"{name}_wall_s": wall_s}
    log.info("%s: %d utterances, %.2f h, %.0f x real time", name, len(jobs), seconds / 3600, seconds / wall_s)
    return spoken


def _utterance(part: str, line: _Line, spoken: dict[str, SpokenJob]) -> Utterance:
    job = spoken[line.id]
    split = "train" if line.split == "train" else "heldout"
    audio = f"{part}/{line.id}.wav"
    return Utterance(line.id, audio, line.text, line.voice.speaker, job.duration_s, split, job.word_ends_s)


def _question_utterances(
    questions: Sequence[_Line], multi: Sequence[_Line], spoken: dict[str, SpokenJob]
) -> list[Utterance]:
    return [_utterance("questions", line, spoken) for line in [*questions, *multi]]


def _user_turn(line: _Line, spoken: dict[str, SpokenJob], part: str = "questions") -> Turn:
    audio = f"{part}/{line.id}.wav"
    return Turn("user", line.text, audio, spoken[line.id].duration_s, line.voice.speaker)


def _spoken_dialogues(lines: Sequence[_Line], spoken: dict[str, SpokenJob], part: str = "questions") -> list[Dialogue]:
    dialogues = []
    for line in lines:
        if line.dialogue is not None:
            turns = (_user_turn(line, spoken, part), line.dialogue.turns[1])
            dialogues.append(Dialogue(line.id, turns, line.split, line.dialogue.answer, line.dialogue.topic))
    return dialogues


def _spoken_multi_turn(
    dialogues: Sequence[Dialogue], lines: Sequence[_Line], spoken: dict[str, SpokenJob]
) -> list[Dialogue]:
    by_id = {line.id: line for line in lines}
    result = []
    for dialogue in dialogues:
        turns = tuple(
            _user_turn(by_id[f"{dialogue.id}-{index}"], spoken) if turn.role == "user" else turn
            for index, turn in enumerate(dialogue.turns)
        )
        result.append(Dialogue(dialogue.id, turns, dialogue.split, dialogue.answer, dialogue.topic))
    return result


def _write_phones(path: Path, dialogues: list[Dialogue]) -> None:
    """Write the pronunciation of each word: for the judge's lexicon and the encoder's phone targets."""
    engine = Flite()
    words = world.spoken_words([turn.text or "" for dialogue in dialogues for turn in dialogue.turns])
    lexicon = {word: list(engine.pronounce(word)) for word in words}
    phones = sorted({phone for said in lexicon.values() for phone in said})
    write_text(path, json.dumps({"phones": phones, "lexicon": lexicon}, indent=0))


@recipe("corpus")
@dataclass
class CorpusRecipe:
    """Recipe of the stage "corpus": write the nano corpus, text and speech.

    Attributes:
        stage: "corpus".
        output_dir: Folder to write to.
        seed: Decides every choice.
        questions_hours: Training speech in many voices, hours.
        replies_hours: Speech of the reply voice, hours.
        heldout_questions: Items of each held-out question set (seen voices, new voices).
        heldout_replies: Unseen utterances of the reply voice.
        multi_turn: Spoken training dialogues of several turns.
        greetings: Spoken training requests to greet.
        workers: Synthesis processes; None: one per CPU.
        smoke: A few items of everything, in seconds, for a test run.
    """

    stage: str = "corpus"
    output_dir: str = "out/nano"
    seed: int = 0
    questions_hours: float = 9.0
    replies_hours: float = 5.0
    heldout_questions: int = 400
    heldout_replies: int = 150
    multi_turn: int = 250
    greetings: int = 450
    workers: int | None = None
    smoke: bool = False

    def run(self) -> dict[str, float]:
        """Write the corpus and return its measured sizes."""
        if self.smoke:
            sizes = Sizes(0.03, 0.015, 4, 3, multi_turn=5, greetings=8, heldout_greetings=2, max_sentences=5)
        else:
            sizes = Sizes(
                self.questions_hours,
                self.replies_hours,
                self.heldout_questions,
                self.heldout_replies,
                self.multi_turn,
                self.greetings,
            )
        report = write_corpus(Path(self.output_dir), sizes, self.seed, self.workers)
        dump_recipe(self, Path(self.output_dir) / "corpus.yaml")
        return report
