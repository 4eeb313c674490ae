"""The phone of each frame: labels to train the unit encoder with, and to measure units against."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from echox.data.engines.engine import Voice
from echox.data.engines.word_ends import PAUSE, Phone
from echox.data.lexicon import Lexicon
from echox.data.manifest import Utterance
from echox.data.synthesis import WITH_PHONES, create_synthesizer
from echox.files import journal_entries, open_journal

PhoneTimes = tuple[tuple[str, float], ...]
"""Phones with their end times (s), in order."""

_DURATION_TOLERANCE_S = 0.1
_SHORT_PAUSE_S = 0.06


def spoken_phone_times(utterances: Sequence[Utterance], cache: Path, workers: int | None = None) -> list[PhoneTimes]:
    """Gets the end of each phone by speaking the texts again: the same text and voice give the same speech.

    A pause too short to be heard (Piper has one between any two words) belongs to the phone before it.

    Args:
        utterances: Spoken by flite or Piper ("flite/slt" and so on) at the voice's own tempo.
        cache: JSONL of the phones so far; continued after an interruption.
        workers: utterances at a time; default: one per CPU.

    Raises:
        ValueError: If the speaker's engine does not report phones, or now speaks the text in another time than the
            recording has.
    """
    known: dict[tuple[str, str], PhoneTimes] = {
        (row["speaker"], row["text"]): tuple((name, end_s) for name, end_s in row["phones"])
        for row in journal_entries(cache)
    }
    missing = [item for item in utterances if (item.speaker, item.text) not in known]
    foreign = [item for item in missing if Voice.of_speaker(item.speaker).engine not in WITH_PHONES]
    if foreign:
        raise ValueError(
            f"{foreign[0].id}: expected a voice of {' or '.join(WITH_PHONES)}, found {foreign[0].speaker!r}; set "
            "data.phone_times: ctc"
        )
    if missing:

        def ask(item: Utterance) -> PhoneTimes:
            voice = Voice.of_speaker(item.speaker)
            phones = create_synthesizer(voice.engine).synthesize(item.text, voice).phones
            return _without_short_pauses(phones or ())

        with open_journal(cache) as sink, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            for item, phones in zip(missing, pool.map(ask, missing), strict=True):
                known[item.speaker, item.text] = phones
                sink.write(json.dumps({"speaker": item.speaker, "text": item.text, "phones": phones}) + "\n")
    times = [known[item.speaker, item.text] for item in utterances]
    for item, phones in zip(utterances, times, strict=True):
        check_duration(item, phones[-1][1] if phones else 0.0, "set data.phone_times: ctc")
    return times


def check_duration(item: Utterance, end_s: float, remedy: str) -> None:
    """Check that a text lasts as long as its recording when it is spoken again.

    Raises:
        ValueError: it does not.
    """
    if abs(end_s - item.duration_s) > _DURATION_TOLERANCE_S:
        raise ValueError(
            f"{item.id}: expected {item.duration_s:.2f} s of speech, found {end_s:.2f} s when spoken again; was it "
            f"spoken at another tempo? {remedy}"
        )


def _without_short_pauses(phones: Sequence[Phone]) -> PhoneTimes:
    kept: list[Phone] = []
    for name, end_s in phones:
        if name == PAUSE and kept and end_s - kept[-1][1] < _SHORT_PAUSE_S:
            kept[-1] = (kept[-1][0], end_s)
        else:
            kept.append((name, end_s))
    return tuple(kept)


def lexicon_phones(utterances: Sequence[Utterance], lexicon_path: Path) -> list[list[str]]:
    """Phones of each utterance in order, from the words' entries in ``phones.json``; no times, no pauses.

    Raises:
        ValueError: If there is no such lexicon, or a word is not in it.
    """
    lexicon = Lexicon(lexicon_path)
    return [lexicon.say(item.text) for item in utterances]


def frame_phones(
    phones: Sequence[tuple[str, float]], num_frames: int, index: dict[str, int], frame_rate_hz: float = 50.0
) -> np.ndarray:
    """Labels each frame with the phone at its middle.

    Args:
        phones: Phones with their end times (s), in order; frames after the last end take the last phone.
        num_frames: F.
        index: Phone to class.
        frame_rate_hz: Frames per second.

    Returns:
        (F,) int64.

    Raises:
        ValueError: If there are no phones, or one is not in the inventory.
    """
    if not phones:
        raise ValueError("expected phones with end times, found none")
    unknown = {name for name, _ in phones} - index.keys()
    if unknown:
        raise ValueError(f"expected phones of the inventory ({len(index)}), found also {sorted(unknown)}")
    ends = np.asarray([end for _, end in phones])
    middles = (np.arange(num_frames) + 0.5) / frame_rate_hz
    places = np.minimum(np.searchsorted(ends, middles, side="right"), len(phones) - 1)
    return np.asarray([index[name] for name, _ in phones], dtype=np.int64)[places]
