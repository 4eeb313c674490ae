"""The recipe of stage "prepare_data": which inputs, what is kept, what is made.

Source: the order of the steps follows how EchoX's corpora were made (text rewritten for speech, spoken, filtered by
recognition); the numbers are ours, measured ones are in docs/data.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from echox.verbalization import spoken_language


@dataclass
class Input:
    """One source of clips: exactly one of the first three is set.

    Attributes:
        utterances: manifest of recordings.
        dialogues: manifest of dialogues; turns without audio are spoken.
        shards: folder of lhotse Shar shards; of truncated ones the undamaged clips are read.
        prefix: put before ids, if two sources use the same.
        role: of utterances and shards: recordings of users, or of the reply voice ("assistant").
    """

    utterances: str | None = None
    dialogues: str | None = None
    shards: str | None = None
    prefix: str = ""
    role: Literal["user", "assistant"] = "user"

    def __post_init__(self) -> None:
        """Raises: ValueError unless exactly one source is named."""
        if sum(value is not None for value in (self.utterances, self.dialogues, self.shards)) != 1:
            raise ValueError("inputs: expected one of utterances, dialogues, shards in each, found none or several")


@dataclass
class TextSettings:
    """spoken_language: ISO 639 code of the language whose rules say figures, abbreviations and signs; None, or one
    without rules: texts are as they are spoken. rewriter: base URL of an OpenAI-compatible server that rewrites texts
    as people would say them, before they are spoken; model: its model. Texts of recordings stay.
    """

    spoken_language: str | None = "en"
    rewriter: str | None = None
    model: str = "default"

    def __post_init__(self) -> None:
        """Raises: ValueError if `spoken_language` is no language code."""
        if self.spoken_language is not None:
            spoken_language(self.spoken_language)


@dataclass
class Voices:
    """engine/name of the voices that speak texts without audio; a user's voice follows from the clip's id.

    An empty list of user voices, or null for the assistant, leaves such turns of dialogues as text.
    """

    user: list[str] = field(default_factory=lambda: ["flite/awb", "flite/kal16", "flite/rms", "espeak-ng/en-us"])
    assistant: str | None = "flite/slt"

    @property
    def speaking(self) -> tuple[str, ...]:
        """Roles whose texts are spoken."""
        return (*(("user",) if self.user else ()), *(("assistant",) if self.assistant else ()))


@dataclass
class Filter:
    """Limits of the clips that are kept.

    Attributes:
        max_silence_ratio: share of 20 ms blocks quieter than `silence_dbfs`.
        max_wer: word error rate of recognised words against the text; None: nothing is recognised.
        judge: folder, URL#model or hub id of the recogniser; None: the embedded one (nano's words only).
        lexicon: for a judge that needs one.
    """

    min_duration_s: float = 0.3
    max_duration_s: float = 30.0
    min_words_per_s: float = 0.5
    max_words_per_s: float = 6.0
    max_silence_ratio: float = 0.7
    silence_dbfs: float = -50.0
    max_wer: float | None = 0.25
    judge: str | None = None
    lexicon: str | None = None


@dataclass
class Duplicates:
    """Same words (exact), or nearly (Jaccard of character n-grams at least `near_threshold`; above 1: off).

    `per_speaker`: the same text by another voice is no duplicate.
    """

    near_threshold: float = 0.9
    ngram: int = 5
    hashes: int = 64
    per_speaker: bool = True


@dataclass
class Units:
    """extractor: folder of a `UnitExtractor`; encoder: if the folder has none.

    missing_word_ends: clips whose words have no end times are dropped, or their words share the time by letters
    ("estimate": enough for a unit language, too coarse to train streaming on).
    """

    extractor: str
    encoder: str | None = None
    device: str = "cpu"
    missing_word_ends: Literal["drop", "estimate"] = "drop"


@dataclass
class Language:
    """folder: a unit language to apply; None: one is learned from the training clips."""

    folder: str | None = None
    vocabulary_size: int = 1000
    max_units_per_word: int = 5
    min_count: int = 3


@dataclass
class Shards:
    """size: clips, or dialogues, in a shard; sampling_rate: of the FLAC in it.

    clips: write shards of clips, with their units. dialogues: write shards of dialogues, which stages s2t and echo read
    (their user turns' audio is in both, where both are written).
    """

    size: int = 1000
    sampling_rate: int = 16_000
    clips: bool = True
    dialogues: bool = True
