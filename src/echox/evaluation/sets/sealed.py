"""Sealed questions: held-out questions for figures at the very end, opened by a command that records it.

Whoever reads nano's held-out questions gets them without the sealed ones (`echox.data.sealed`), and a table that holds
some is refused, unless `open_seal` wrote it. That opening is recorded in a file to be committed: when, at which commit,
for what. A seal is no lock: anyone who means to can write the questions anew from the corpus. It keeps them from being
read without meaning to, and keeps the record of when they were.

Until 2026-11-30 only the test sets left them out; docs/evaluation.md lists what had read some of them by then. No
figure of answers (S2T, S2S) was made with one. Of each, its fact is in training and its template, filled with other
facts, in the questions that are looked at.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TypeVar

from echox.data.corpora.nano.speech import Sizes, plan_multi_turn, plan_questions
from echox.data.corpora.nano.world import build_dialogues, reply_sentences
from echox.data.manifest import Dialogue
from echox.data.sampling import spread
from echox.data.sealed import Seal, question_digest, seals
from echox.evaluation.scoring.records import balanced_order
from echox.evaluation.scoring.schema import JsonObject
from echox.files import write_text

REGISTER = Path("docs") / "sealed_openings.json"
"""Where openings are recorded, beside the code that they are about."""
OPENED = "opened"
"""Column of a table that `open_seal` wrote: the name and number of the opening."""
LOOKED_AT = 400
"""Of the held-out questions asked of any model (task nano-questions): the first ones, which figures were made with."""
_LEAST_PURPOSE = 10


class _Asked(Protocol):
    @property
    def question(self) -> str: ...


T = TypeVar("T", bound=Dialogue | _Asked)


def write_seal(seal: Seal, path: Path) -> None:
    """Write a seal as JSON."""
    write_text(path, json.dumps(asdict(seal), indent=1) + "\n")


def refuse_sealed(rows: Sequence[tuple[str, object]], path: Path) -> None:
    """Refuse a table with sealed questions that no opening wrote.

    Args:
        rows: question and value of the column `OPENED` of each item.
        path: of the table.

    Raises:
        ValueError: there are some.
    """
    for name, seal in seals().items():
        closed = set(seal.digests)
        found = sum(question_digest(question) in closed for question, opened in rows if question and not opened)
        if found:
            raise ValueError(
                f"{path}: expected no sealed questions, found {found} of {name!r}; they are read once, at the end: "
                f"echox eval open-sealed --name {name}"
            )


def draw_nano_seal(count: int = 300, seed: int = 0) -> Seal:
    """Draw sealed questions from nano's held-out ones, balanced over topics.

    Left out are all that a figure of answers (S2T, S2S) was made with: the spoken held-out questions and dialogues, the
    typed ones in the package, and the first `LOOKED_AT` of task nano-questions. That leaves questions of the share of
    typed ones that are answered exactly, and what stages choose and measure with.

    Args:
        count: number of questions.
        seed: of the draw, and of the corpus.

    Raises:
        ValueError: fewer questions are left.
    """
    dialogues = build_dialogues(seed, with_sealed=True)
    held_out = [item for item in dialogues if item.split != "train"]
    single = [item for item in held_out if len(item.turns) == 2]
    sizes = Sizes()
    lines = plan_questions(dialogues, reply_sentences(dialogues), sizes, random.Random(f"nano questions {seed}"))
    several, _ = plan_multi_turn(dialogues, sizes, random.Random(f"nano multi turn {seed}"))
    seen = [line.text for line in lines if line.split != "train"]
    seen += [turn.text or "" for item in several for turn in item.turns if turn.role == "user"]
    seen += [_question(item) for item in spread([item for item in dialogues if item.split == "heldout"], 200)]
    seen += [_question(item) for item in balanced_order(single, _topic, seed)[:LOOKED_AT]]
    known = {question_digest(text) for text in seen}
    left = [item for item in single if question_digest(_question(item)) not in known]
    if len(left) < count:
        raise ValueError(f"expected {count} questions that no figure was made with, found {len(left)}: seal fewer")
    chosen = balanced_order(left, _topic, seed + 1)[:count]
    return Seal(
        "nano",
        "nano's held-out single questions, without those that are spoken, embedded, or among the first "
        f"{LOOKED_AT} of task nano-questions",
        seed,
        len(left),
        tuple(sorted(question_digest(_question(item)) for item in chosen)),
    )


def open_seal(
    name: str, items: Sequence[T], purpose: str, state: JsonObject, now: str, register: Path, again: bool = False
) -> tuple[list[T], JsonObject]:
    """Record an opening, and give the sealed items out of all items.

    Args:
        name: of the seal.
        items: all items, the sealed ones among them; of dialogues, the held-out ones of one question count.
        purpose: what the figures are for, in a sentence.
        state: ``commit`` and ``dirty`` of the working tree.
        now: date and time, ISO 8601.
        register: JSON file of the openings; made if it is not there.
        again: open a set that was opened before. Its figures are then no longer those of unseen questions.

    Returns:
        The items and the entry of the register.

    Raises:
        ValueError: no such seal, no purpose, no commit or one with changes, opened before, or items that lack some.
    """
    if name not in seals():
        raise ValueError(f"expected a sealed set of {', '.join(seals())}, found {name!r}")
    if len(purpose.strip()) < _LEAST_PURPOSE:
        raise ValueError(f"--purpose: expected a sentence that says what for, found {purpose!r}")
    if not state.get("commit"):
        raise ValueError("expected a git checkout, so that the opening names a commit, found none; open it from there")
    if state.get("dirty"):
        raise ValueError("expected a commit without changes, found changed files; commit them, then open the seal")
    before = read_openings(register)
    of_this = [one for one in before if one["name"] == name]
    if of_this and not again:
        raise ValueError(
            f"{register}: expected {name!r} to be sealed, found that it was opened on {of_this[-1]['at']} for: "
            f"{of_this[-1]['purpose']}. --again opens it once more; its questions then are not unseen any more"
        )
    wanted = set(seals()[name].digests)
    found = [item for item in items if _is_single(item) and question_digest(_question(item)) in wanted]
    if len(found) != len(wanted):
        raise ValueError(
            f"expected all {len(wanted)} questions of {name!r}, found {len(found)}: the corpus was changed; draw a new "
            "set: echox eval seal"
        )
    digest = hashlib.sha256(" ".join(sorted(wanted)).encode()).hexdigest()[:16]
    entry: JsonObject = {
        "name": name,
        "opening": len(of_this) + 1,
        "at": now,
        "commit": state["commit"],
        "purpose": purpose.strip(),
        "questions": len(wanted),
        "digest": digest,
    }
    register.parent.mkdir(parents=True, exist_ok=True)
    write_text(register, json.dumps([*before, entry], indent=1, ensure_ascii=False) + "\n")
    return found, entry


def read_openings(register: Path) -> list[JsonObject]:
    """Openings so far, oldest first.

    Raises:
        ValueError: the file is damaged.
    """
    if not register.is_file():
        return []
    try:
        found = json.loads(register.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{register}: expected a JSON list of openings, found {error}; restore it from git") from error
    if not isinstance(found, list):
        raise ValueError(f"{register}: expected a JSON list of openings, found {type(found).__name__}")
    return found


def _topic(item: Dialogue) -> str:
    return str(item.topic)


def _is_single(item: Dialogue | _Asked) -> bool:
    return not isinstance(item, Dialogue) or (item.split != "train" and len(item.turns) == 2)


def _question(item: Dialogue | _Asked) -> str:
    if isinstance(item, Dialogue):
        return item.turns[-2].text or ""
    return item.question
