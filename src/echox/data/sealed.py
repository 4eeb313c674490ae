"""Which held-out questions are sealed: no reader of dialogues gives them unless it is asked ``with_sealed``.

A seal is a list of digests of questions. `echox.data.manifest.read_dialogues` and
`echox.data.corpora.nano.world.build_dialogues` leave out every held-out dialogue in which one is asked, at its end or
before, so that whoever reads held-out questions gets none without meaning to; a test names who means to.
`echox.evaluation.sets.sealed` draws seals and opens them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from echox.data.scoring import normalize_words


@dataclass(frozen=True)
class Seal:
    """A sealed set.

    Attributes:
        name: of the set.
        drawn_from: what it is a part of, and what was left out.
        seed: of the draw.
        candidates: number of questions that it was drawn from.
        digests: `question_digest` of each question, sorted.
    """

    name: str
    drawn_from: str
    seed: int
    candidates: int
    digests: tuple[str, ...]


def question_digest(question: str) -> str:
    """Sixteen hexadecimal digits of the words of a question."""
    return hashlib.sha256(" ".join(normalize_words(question)).encode()).hexdigest()[:16]


@cache
def seals() -> dict[str, Seal]:
    """The seals in the package, by name."""
    folder = Path(str(files("echox") / "assets" / "sealed"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {one["name"]: Seal(**one | {"digests": tuple(one["digests"])}) for one in found}


def any_sealed(questions: Iterable[str]) -> bool:
    """Whether one of these questions is sealed."""
    return not _closed().isdisjoint(map(question_digest, questions))


@cache
def _closed() -> frozenset[str]:
    return frozenset(digest for seal in seals().values() for digest in seal.digests)
