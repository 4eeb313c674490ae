"""Stage "phone_units": the phones that a synthetic voice says, as units; nothing is trained and nothing is guessed.

Where the reply voice is synthetic, its engine knows every phone and how long it lasts, so units need no encoder and no
clusters. A phone that begins a word is another unit than the same phone inside one: words decide how long phones last.
A text that nobody speaks has units too: T2C learns to pronounce from as much text as there is, and the vocoder from
what was spoken.

Source: units of EchoX, https://arxiv.org/abs/2509.09174, section 3.2, are clusters of a speech encoder; phones instead
are ours (docs/paper_map.md).
"""

from __future__ import annotations

import itertools
import json
import logging
import operator
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from echox.config import recipe, to_dict
from echox.data.engines.engine import Pronunciation, Voice
from echox.data.engines.word_ends import PAUSE
from echox.data.manifest import UnitUtterance, read_dialogues, read_utterances, write_unit_utterances
from echox.data.sampling import in_chunks
from echox.data.scoring import normalize_words
from echox.data.synthesis import create_pronouncer
from echox.data.text import normalize_for_speech
from echox.files import journal_entries, open_journal
from echox.training.records.record import write_stage_record
from echox.units.inventory import read_phone_units, write_phone_units
from echox.units.phones import check_duration
from echox.verbalization import spoken_language

log = logging.getLogger(__name__)

FRAME_RATE_HZ = 50.0
WORD_BEGINS = "|"
_TOGETHER = 256
"""Texts that an engine is asked for at once."""
_NAMES_TOGETHER = 4
_OTHER_TEXTS_STEP = 40
"""Beside lists of names stands one in so many of the other texts."""
_WRITTEN_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@recipe("phone_units")
@dataclass
class PhoneUnitsRecipe:
    """Recipe of stage "phone_units" (it has `run`, not `build`).

    Attributes:
        speech: manifest of one voice of an engine that knows its phones: flite, Piper.
        output_dir: folder for ``replies.jsonl`` (what was spoken), ``texts.jsonl`` (what was not; split "train"),
            ``names.jsonl`` (of these the lists of names, and few others, lest they be forgotten) and the inventory of
            phones.
        texts: manifests of dialogues whose turns become units without being spoken; a text with a phone that `speech`
            never has, and held-out texts of `speech`, are left out.
        max_texts: of them; 0 = all.
        word_texts: manifests of dialogues (a dictionary's) from which only those turns are taken, after `texts`, that
            have a word of which fewer than `word_count` texts are there; for words that replies hardly ever have.
        name_count: names of `word_texts` (words that these never write in lower case) of which fewer texts are there
            are also said in short lists, with other neighbours each time, until each is in as many texts: a name
            that was met once is not yet known. 0: no lists.
        numbers_of: folder of another run of this stage whose phones keep their numbers, so that what was trained on
            them fits (other replies may lack a rare phone, and every later number would be another); None: new numbers.
        keep_going: leave out, and count, speech with a phone that the run of `numbers_of` lacks, instead of stopping.
        spoken_language: ISO 639 code of the language whose rules say figures, abbreviations and signs of `texts` and
            `word_texts`; without rules for it they are spoken as they are written.
        workers: texts at a time; null: one per CPU.
    """

    stage: str
    speech: str
    output_dir: str
    texts: list[str] = field(default_factory=list)
    max_texts: int = 0
    word_texts: list[str] = field(default_factory=list)
    word_count: int = 2
    name_count: int = 0
    numbers_of: str | None = None
    keep_going: bool = False
    spoken_language: str = "en"
    workers: int | None = None

    def run(self) -> dict[str, float]:
        """Writes units and inventory; returns counts, the rate of units and the cost.

        Raises:
            ValueError: `numbers_of` cannot be read (said before anything is pronounced), an engine that does not report
                phones, several voices, speech of another length than its text has now, or (without `keep_going`) a
                phone that the run of `numbers_of` lacks.
        """
        spoken_language(self.spoken_language)
        began_s = time.monotonic()
        numbered = None if self.numbers_of is None else read_phone_units(self.numbers_of)
        utterances = read_utterances(self.speech)
        speakers = {item.speaker for item in utterances}
        if len(speakers) != 1:
            raise ValueError(f"{self.speech}: expected one voice, found {sorted(speakers)}; units are of one voice")
        voice = Voice.of_speaker(speakers.pop())
        pronouncer = create_pronouncer(voice.engine)
        folder = Path(self.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.workers or os.cpu_count()) as pool:

            def said(texts: Sequence[str], timed: bool) -> Iterator[Pronunciation]:
                size = 1 if timed else _TOGETHER
                chunks = in_chunks(texts, size)
                found = pool.map(lambda chunk: pronouncer.pronunciations(chunk, voice, timed), chunks)
                return itertools.chain.from_iterable(found)

            known = _Journal(folder / ".pronunciations.jsonl", voice)
            missing = [item.text for item in utterances if item.text not in known.entries]
            known.extend(zip(missing, said(missing, timed=True), strict=True))
            spoken = [known.entries[item.text] for item in utterances]
            for item, pronunciation in zip(utterances, spoken, strict=True):
                check_duration(item, (pronunciation.ends_s or (0.0,))[-1], "speak it again (stage spoken_replies)")
            names = self._numbered({name for row in spoken for name in _names(row)}, numbered)
            index = {name: unit for unit, name in enumerate(names)}
            has_numbers = [index.keys() >= set(_names(row)) for row in spoken]
            heldout = {item.text for item in utterances if item.split != "train"}
            texts, lists = self._unspoken(heldout)
            pronunciations = enumerate(zip([*texts, *lists], said([*texts, *lists], timed=False), strict=True))
            unspoken = {
                number: _as_units(f"text-{number}", text, "train", pronunciation, index)
                for number, (text, pronunciation) in pronunciations
                if index.keys() >= set(_names(pronunciation))
            }
        rows = [
            _as_units(item.id, item.text, item.split, pronunciation, index, item.written)
            for item, pronunciation in itertools.compress(zip(utterances, spoken, strict=True), has_numbers)
        ]
        write_unit_utterances(folder / "replies.jsonl", rows)
        write_unit_utterances(folder / "texts.jsonl", unspoken.values())
        ordinary = [row for number, row in unspoken.items() if number < len(texts)]
        names_again = [*ordinary[::_OTHER_TEXTS_STEP], *(row for n, row in unspoken.items() if n >= len(texts))]
        write_unit_utterances(folder / "names.jsonl", names_again if lists else [])
        write_phone_units(folder, names)
        frames = sum(sum(row.durations_frames) for row in rows)
        figures = {
            "units": float(len(names)),
            "utterances": float(len(rows)),
            "texts": float(len(unspoken)),
            "left_out": float(len(utterances) + len(texts) + len(lists) - len(rows) - len(unspoken)),
            "units_per_s": sum(len(row.units) for row in rows) * FRAME_RATE_HZ / max(frames, 1),
            "wall_s": time.monotonic() - began_s,
        }
        write_stage_record(self.stage, folder, to_dict(self), figures, {"phones": names})
        log.info("%s: %s", folder, figures)
        return figures

    def _numbered(self, spoken: set[str], names: list[str] | None) -> list[str]:
        """Names of the units, by number: the pause, then phones; or `names`, those of the run that is to be followed.

        Raises:
            ValueError: that run has no such phone, and `keep_going` is off.
        """
        if names is None:
            return [PAUSE, *sorted(spoken - {PAUSE})]
        missing = sorted(spoken.difference(names))
        if missing and not self.keep_going:
            raise ValueError(
                f"{self.numbers_of}: expected all phones of {self.speech}, found none of {missing[:8]}; leave out "
                "numbers_of, and train again what depends on the units, or set keep_going=true"
            )
        return names

    def _unspoken(self, heldout: set[str]) -> tuple[list[str], list[str]]:
        """Different texts, in order, held-out ones left out, then those that bring words; and the lists of names."""
        chosen = list(itertools.islice(self._texts(_turns(self.texts), heldout), self.max_texts or None))
        counts = Counter(word for text in chosen for word in set(normalize_words(text)))
        turns = list(_turns(self.word_texts))
        for text in self._texts(turns, heldout.union(chosen)):
            words = set(normalize_words(text))
            if any(counts[word] < self.word_count for word in words):
                counts.update(words)
                chosen.append(text)
        return chosen, list(self._name_lists(turns, counts)) if self.name_count else []

    def _name_lists(self, turns: Sequence[str], counts: Counter[str]) -> Iterator[str]:
        """Lists of the names in `turns`, as they are spoken; `counts`: texts that have each word so far."""
        written = dict.fromkeys(word for text in turns for word in _WRITTEN_WORD.findall(text))
        names = [word for word in written if word[0].isupper() and word.lower() not in written]
        shuffle = random.Random(0).shuffle
        for times in range(self.name_count):
            rare = [name for name in names if counts[name.lower()] + times < self.name_count]
            shuffle(rare)
            for start in range(0, len(rare), _NAMES_TOGETHER):
                listed = ", ".join(rare[start : start + _NAMES_TOGETHER]) + "."
                yield normalize_for_speech(listed, self.spoken_language)

    def _texts(self, turns: Iterable[str], but: set[str]) -> Iterator[str]:
        """Different texts of turns as they are spoken, in order."""
        texts = dict.fromkeys(normalize_for_speech(text, self.spoken_language) for text in dict.fromkeys(turns))
        return (text for text in texts if any(map(str.isalpha, text)) and text not in but)


def _turns(manifests: Sequence[str]) -> Iterator[str]:
    """Texts of all turns as they are written."""
    return (turn.text or "" for path in manifests for row in read_dialogues(path) for turn in row.turns)


class _Journal:
    """Timed pronunciations, which take some tenths of a second each, kept for the next call."""

    def __init__(self, path: Path, voice: Voice) -> None:
        self.path, self.speaker = path, voice.speaker
        self.entries = {
            row["text"]: Pronunciation(tuple(row["phones"]), tuple(row["word_of_phone"]), tuple(row["ends_s"]))
            for row in journal_entries(path)
            if row["speaker"] == self.speaker
        }

    def extend(self, pronunciations: Iterable[tuple[str, Pronunciation]]) -> None:
        with open_journal(self.path) as sink:
            for text, pronunciation in pronunciations:
                self.entries[text] = pronunciation
                row = {"speaker": self.speaker, "text": text, **asdict(pronunciation)}
                sink.write(json.dumps(row, ensure_ascii=False) + "\n")
                sink.flush()


def _as_units(
    name: str, text: str, split: str, said: Pronunciation, index: dict[str, int], written: str | None = None
) -> UnitUtterance:
    """Units of a pronunciation: neighbours of one name are one unit, as everywhere."""
    phones = _names(said)
    last = [*map(operator.ne, phones, phones[1:]), True]  # of a run
    units = [index[phone] for phone in itertools.compress(phones, last)]
    words = tuple(itertools.compress(said.word_of_phone, last))
    frames = whole_frames(list(itertools.compress(said.ends_s, last))) if said.ends_s is not None else []
    return UnitUtterance(name, text, tuple(units), tuple(frames), words, split, written)


def _names(said: Pronunciation) -> list[str]:
    """Names of units: phones, with a mark before the first of each word."""
    begins = [True, *map(operator.ne, said.word_of_phone, said.word_of_phone[1:])]
    return [
        WORD_BEGINS + phone if first and phone != PAUSE else phone
        for phone, first in zip(said.phones, begins, strict=True)
    ]


def whole_frames(ends_s: Sequence[float], frame_rate_hz: float = FRAME_RATE_HZ) -> list[int]:
    """Frames of phones with these ends: each has at least one, and none begins further from its time than it must."""
    frames: list[int] = []
    total = 0
    for end_s in ends_s:
        frames.append(max(1, round(end_s * frame_rate_hz) - total))
        total += frames[-1]
    return frames
