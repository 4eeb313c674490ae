"""Requests of tools as a model hears them: spoken by voices, written down by its recogniser, errors and all.

What a lesson asks for stays what was meant ("Set a time of for ten minutes" is a timer), as long as a listener could
still tell it from what was heard: every argument is there, or nearly (`still_told`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from echox.api import EchoX
from echox.api.loading import find_model
from echox.audio import resample
from echox.data.corpora.tools.requests import ToolRequest, taught_tools
from echox.data.engines.engine import Voice
from echox.data.numbers import said_number
from echox.data.scoring import normalize_words
from echox.data.synthesis import create_synthesizer
from echox.files import JsonObject, journal_entries, open_journal, stamp
from echox.streaming.prompt.messages import Audio

_ALIKE = 0.7
"""Least likeness of an argument to words that were heard (`SequenceMatcher.ratio`, without spaces)."""
_TOGETHER = 8
"""Recordings that are heard at once."""
_NUMBER_WORDS = frozenset(word for number in range(101) for word in said_number(number).split())


@dataclass
class HearingConfig:
    """Who speaks, and who hears.

    Attributes:
        model: a finished model: "nano", "mini" or a folder.
        voices: "engine/name" and its weight, of requests for training.
        new_voices: the same, of the others.
        requests: so many of those for training are spoken, at most; of the others all.
    """

    model: str
    voices: dict[str, float]
    new_voices: dict[str, float]
    requests: int = 1000


def heard_requests(
    requests: Sequence[ToolRequest], config: HearingConfig, journal: Path, rng: random.Random
) -> dict[ToolRequest, ToolRequest]:
    """Requests with their texts as they were heard, by the written ones; without those that nobody could tell any more.

    Args:
        requests: of one split.
        config: voices and model.
        journal: file that remembers what was heard, so that it is heard once; created if missing.
        rng: decides which are spoken, and the voices.

    Raises:
        ValueError: no such model or voice.
    """
    training = bool(requests) and requests[0].split == "train"
    chosen = rng.sample(requests, min(config.requests, len(requests))) if training else list(requests)
    weights = config.voices if training else config.new_voices
    voices = rng.choices(list(weights), list(weights.values()), k=len(chosen))
    hearer = hashlib.sha256(stamp(find_model(config.model)).encode()).hexdigest()[:24]
    known = {(one["model"], one["voice"], one["text"]): str(one["heard"]) for one in journal_entries(journal)}
    said = dict.fromkeys((voice, request.text) for voice, request in zip(voices, chosen, strict=True))
    pending = [(voice, text) for voice, text in said if (hearer, voice, text) not in known]
    if pending:
        model = EchoX.from_pretrained(config.model, device="cpu")
        with open_journal(journal) as entries:
            for start in range(0, len(pending), _TOGETHER):
                some = pending[start : start + _TOGETHER]
                for (voice, text), heard in zip(some, _heard(model, some), strict=True):
                    known[hearer, voice, text] = heard
                    entry = {"model": hearer, "voice": voice, "text": text, "heard": heard}
                    entries.write(json.dumps(entry, ensure_ascii=False) + "\n")
                entries.flush()
    found = {
        request: replace(request, text=known[hearer, voice, request.text])
        for voice, request in zip(voices, chosen, strict=True)
    }
    return {request: heard for request, heard in found.items() if still_told(heard)}


def _heard(model: EchoX, said: Sequence[tuple[str, str]]) -> list[str]:
    """What the model hears of (voice, text)."""
    audios = []
    for speaker, text in said:
        voice = Voice.of_speaker(speaker)
        speech = create_synthesizer(voice.engine).synthesize(text, voice)
        samples = resample(speech.waveform, speech.sampling_rate, model.engine.input_sampling_rate)
        audios.append(Audio(samples, model.engine.input_sampling_rate))
    return [encoded.text for encoded in model.engine.encode(audios)]


def still_told(request: ToolRequest) -> bool:
    """Whether every argument of the call can be told from the text: numbers exactly, words nearly.

    Of several choices, the one that is meant has to be the one that is most alike.
    """
    words = normalize_words(request.text)
    tool = next(tool for tool in taught_tools() if tool.name == request.call.name)
    schemas: JsonObject = json.loads(tool.parameters)["properties"]
    for name, value in json.loads(request.call.arguments).items():
        if isinstance(value, int):
            if not _has_number(words, value):
                return False
            continue
        choices = schemas[name].get("enum", [value])
        likeness = {choice: _likeness(words, choice) for choice in choices}
        others = [found for choice, found in likeness.items() if choice != value]
        if likeness[value] < _ALIKE or any(found >= likeness[value] for found in others):
            return False
    return True


def _has_number(words: list[str], number: int) -> bool:
    """Whether the number stands there, and is no part of a longer one ("for fifty" may be heard as "four fifty")."""
    prepositions = ("four", "two") if number > 9 else ()
    for form in ([str(number)], said_number(number).split()):
        for start in range(len(words) - len(form) + 1):
            end = start + len(form)
            around = [word for word in words[max(0, start - 1) : start] if word not in prepositions]
            around += words[end : end + 1]
            if words[start:end] == form and not any(word in _NUMBER_WORDS or word.isdigit() for word in around):
                return True
    return False


def _likeness(words: list[str], value: str) -> float:
    """Of a value to the words that are most like it, as many as it has, one more or one less."""
    count = len(value.split())
    letters = "".join(normalize_words(value))
    windows = {
        "".join(words[start : start + size])
        for size in range(max(1, count - 1), count + 2)
        for start in range(len(words) - size + 1)
    }
    return max((SequenceMatcher(None, letters, window).ratio() for window in windows), default=0.0)
