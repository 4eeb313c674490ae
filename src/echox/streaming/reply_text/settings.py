"""Settings of how a reply is written and spoken."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path

from echox.files import json_object, write_text
from echox.models.vocoder.vocoder_stream import FASTEST, SLOWEST
from echox.streaming.reply_text.policies import POLICIES
from echox.verbalization import spoken_language

GENERATION_FILE = "generation_config.json"


@dataclass(frozen=True)
class GenerationSettings:
    """How a reply is written and spoken; stored with a model in ``generation_config.json``.

    Attributes:
        max_new_tokens: most tokens of a reply (``Finished.stopped`` is "length" for one that was cut).
        temperature: of the text; 0 takes the most probable token.
        top_p: nucleus: sample among the smallest set of tokens with at least this probability together.
        echo_temperature, echo_top_p: the same for unit words.
        retry_temperature: a segment that failed is sampled once more at this temperature.
        seed: of all sampling in a reply.
        max_question_s: longer questions are refused.
        speak: False: the reply is written only.
        speed: of the speech, 0.25 to 4; the pitch stays.
        speech_policy: name of the rule that decides when which part of the reply is spoken; see `policies`. None:
            word by word if the echo decoder can, else the trigger.
        policy_numbers: numbers of that policy that differ from the model's.
        spoken_language: ISO 639 code of the language whose rules say figures, abbreviations and signs; None: the
            model's. Without rules for a language its text is spoken as it is written.

    Raises:
        ValueError: a number is out of its range, or a value has another type.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    echo_temperature: float = 0.0
    echo_top_p: float = 1.0
    retry_temperature: float = 1.0
    seed: int = 0
    max_question_s: float = 300.0
    speak: bool = True
    speed: float = 1.0
    speech_policy: str | None = None
    policy_numbers: dict[str, float] = field(default_factory=dict)
    spoken_language: str | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in ("temperature", "echo_temperature", "retry_temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: expected a number >= 0, found {value}; 0 is greedy")
        for name in ("top_p", "echo_top_p"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"{name}: expected 0 < {name} <= 1, found {value}; 1 keeps every token")
        if self.speech_policy is not None and self.speech_policy not in POLICIES:
            raise ValueError(f"speech_policy: expected one of {', '.join(POLICIES)}, found {self.speech_policy!r}")
        if self.spoken_language is not None:
            spoken_language(self.spoken_language)
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: expected at least 1, found {self.max_new_tokens}")
        if not SLOWEST <= self.speed <= FASTEST:
            raise ValueError(f"speed: expected {SLOWEST:g} to {FASTEST:g}, found {self.speed}; 1 is the trained speed")
        if not self.max_question_s > 0:
            raise ValueError(f"max_question_s: expected more than 0 seconds, found {self.max_question_s}")

    def _check_kinds(self) -> None:
        kinds: dict[type, tuple[type, str]] = {
            float: (Real, "a number"),
            int: (Integral, "a whole number"),
            bool: (bool, "true or false"),
            dict: (dict, "numbers by name"),
        }
        for item in dataclasses.fields(self):
            value, default = getattr(self, item.name), getattr(type(self), item.name, {})
            kind, wanted = kinds.get(type(default), (object, ""))
            if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
                raise ValueError(f"{item.name}: expected {wanted}, found {value!r}")

    def replaced(self, changes: Mapping[str, object]) -> GenerationSettings:
        """A copy with some values changed.

        Raises:
            ValueError: an unknown name (the known ones are listed), or a value out of range.
        """
        known = [item.name for item in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(f"unknown generation setting {name!r}; expected one of {', '.join(known)}")
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]  # checked in __post_init__

    def save(self, folder: str | Path) -> None:
        """Write ``generation_config.json`` into a model folder."""
        write_text(Path(folder) / GENERATION_FILE, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> GenerationSettings:
        """Read them from a model folder; a folder without the file has the defaults.

        Raises:
            ValueError: the file is not JSON, or holds unknown names or values out of range.
        """
        path = Path(folder) / GENERATION_FILE
        if not path.is_file():
            return cls()
        values = json_object(path, "copy the model folder again")
        known = {item.name for item in dataclasses.fields(cls)}
        # transformers writes its own keys into a file of this name (transformers_version, eos ids): they are ignored.
        # Its null means, as ours for the policy, that nothing was chosen.
        return cls(**{name: value for name, value in values.items() if name in known and value is not None})
