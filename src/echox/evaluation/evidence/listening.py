"""A blind listening test: pairs of replies in one HTML page, a key that stays with whoever made it, and a scorer.

The page holds everything, so it can be sent to a panel: question, two unnamed replies, two choices (which would you
rather be given, which sounds more natural). Which system is A is drawn for every pair, all replies are as loud as each
other, and some pairs come twice with A and B exchanged, which says how far a listener agrees with themselves. The page
gives its listener a file of choices to send back.

Source: paired comparison with ties, after ITU-T P.800 annex E (comparison category rating), reduced to three choices.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from echox.api.card import markdown_table
from echox.audio import encode_audio, load_audio
from echox.evaluation.control import control_key
from echox.evaluation.run_files import CONTROL, read_run, recorded_replies
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.scoring.statistics import DIFFERENCE, bootstrap_crossed, permutation_test
from echox.files import write_text

PAGE, KEY = "sheet.html", "key.json"
ASKED = ("helpful", "natural")
"""What is asked of each pair; the page has the words."""
CHOICES = ("A", "B", "equal")
OF_CONTROL = ":control"
"""After a run's folder: the control voice's reading of its replies."""
LOUDNESS_DBFS = -26.0
"""Root mean square that every reply is brought to, so that none is preferred for being louder."""
_RATE_HZ = 24000


@dataclass(frozen=True)
class Spoken:
    """A system's reply: the question's words, what tells the question from others, and where the speech is."""

    question: str
    asked: str
    audio: Path


def spoken_replies(run: str) -> dict[str, Spoken]:
    """Spoken replies of a run as "task/item", of all its tasks.

    Args:
        run: folder of ``echox eval run``; with `OF_CONTROL`, the control voice's reading of them.

    Raises:
        ValueError: no run there, or one without such speech.
    """
    folder = Path(run.removesuffix(OF_CONTROL))
    described = read_run(folder)
    found: dict[str, Spoken] = {}
    for task in described["tasks"]:
        place = folder / task["name"]
        replies = recorded_replies(place, task["keys"])
        audio = {reply["key"]: reply["audio"] for reply in replies}
        if run.endswith(OF_CONTROL):
            of_control = {record["key"]: record["audio"] for record in read_lines(place / CONTROL)}
            judge, speaker = described["judge"].get("name", ""), described.get("control", "")
            audio = {key: of_control.get(control_key(key, judge, speaker)) for key in audio}
        for reply in replies:
            if speech := audio[reply["key"]]:
                # The key ends with a digest of the question: of one without words, it is what can be compared.
                asked = reply["question"].strip() or reply["key"].rpartition(" ")[2]
                found[f"{task['name']}/{reply['id']}"] = Spoken(reply["question"], asked, place / speech)
    if not found:
        raise ValueError(
            f"{run}: expected spoken replies, found none; run a task that speaks (--control for a control)"
        )
    return found


def _shared(replies: Mapping[str, Mapping[str, Spoken]]) -> list[str]:
    """Items that all systems answered aloud. Raises ValueError where they were asked different questions."""
    (first, known), *others = replies.items()
    shared = sorted(set(known).intersection(*(found for _, found in others)))
    for name, found in others:
        item = next((item for item in shared if found[item].asked != known[item].asked), None)
        if item is not None:
            asked = [one[item].question or "a recording of its own" for one in (known, found)]
            raise ValueError(
                f"expected one question as {item} of all systems, found {asked[0]!r} of {first} and {asked[1]!r} of "
                f"{name}; ask both the same table (of recordings without words: add a column question)"
            )
    return shared


def make_sheet(
    systems: Mapping[str, str], output: Path, items: int = 20, repeated: int = 4, seed: int = 0
) -> tuple[Path, Path]:
    """Write the page and its key.

    Args:
        systems: name -> run; see `spoken_replies`.
        output: folder of both files.
        items: questions of each pair of systems.
        repeated: pairs that come twice, A and B exchanged.
        seed: of what is drawn: questions, sides, order.

    Returns:
        The page, to be sent to listeners, and the key, to be kept from them.

    Raises:
        ValueError: fewer than two systems, different questions under one name, or fewer shared questions than
            ``items``.
    """
    if len(systems) < 2:
        raise ValueError(f"expected two or more systems, found {len(systems)}; name each as NAME=FOLDER")
    replies = {name: spoken_replies(run) for name, run in systems.items()}
    shared = _shared(replies)
    if len(shared) < items:
        raise ValueError(f"expected {items} questions that all systems answered aloud, found {len(shared)}; ask fewer")
    rng = random.Random(f"listening sheet {seed}")
    pairs: list[JsonObject] = []
    for one, other in itertools.combinations(systems, 2):
        for item in rng.sample(shared, items):
            sides = rng.sample((one, other), 2)
            pairs.append({"item": item, "A": sides[0], "B": sides[1]})
    again = [
        {"item": pair["item"], "A": pair["B"], "B": pair["A"], "again": True}
        for pair in rng.sample(pairs, min(repeated, len(pairs)))
    ]
    pairs += again
    rng.shuffle(pairs)
    shown = [
        {
            "question": replies[pair["A"]][pair["item"]].question,
            **{side: _player(replies[pair[side]][pair["item"]].audio) for side in "AB"},
        }
        for pair in pairs
    ]
    name = hashlib.sha256(json.dumps([pairs, seed, *shown]).encode()).hexdigest()[:12]
    template = files("echox").joinpath("assets").joinpath("listening_sheet.html").read_text(encoding="utf-8")
    # "<" would end the script element that holds the data.
    data = json.dumps({"id": name, "pairs": shown}, ensure_ascii=False).replace("<", "\\u003c")
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / PAGE, template.replace("__SHEET__", data))
    key = {"sheet": name, "seed": seed, "systems": dict(systems), "pairs": pairs}
    write_text(output / KEY, json.dumps(key, indent=1, ensure_ascii=False) + "\n")
    return output / PAGE, output / KEY


def _player(audio: Path) -> str:
    """A reply as a data URL: FLAC, as loud as all others."""
    waveform = load_audio(audio, _RATE_HZ)
    level = float(np.sqrt(np.mean(np.square(waveform)))) if len(waveform) else 0.0
    if level > 0:
        gain = 10 ** (LOUDNESS_DBFS / 20) / level
        waveform = waveform * min(gain, 0.99 / float(np.abs(waveform).max()))
    return "data:audio/flac;base64," + base64.b64encode(encode_audio(waveform, _RATE_HZ, "flac")).decode()


def score_sheets(key: Path, answers: Sequence[Path]) -> JsonObject:
    """What a panel preferred.

    Args:
        key: of the sheet.
        answers: files of choices that listeners saved.

    Returns:
        ``listeners``; ``consistency``: share of repeated pairs in which a listener chose the same again;
        ``preferences``: for each pair of systems and question asked, the choices and ``preference``: the share for the
        first less that for the second, with its 95 % bootstrap interval over questions and listeners, and ``p`` of a
        paired permutation test over questions.

    Raises:
        ValueError: no answers, a file of another sheet, an incomplete one, or two of the same listener.
    """
    known = json.loads(key.read_text(encoding="utf-8"))
    sheets = [_read_answers(path, known) for path in answers]
    if not sheets:
        raise ValueError("expected a file of choices of at least one listener, found none")
    names = [one["listener"] for one in sheets]
    if len(set(names)) != len(names):
        raise ValueError(f"expected each listener once, found {sorted(names)}; rename those who are different people")
    found: JsonObject = {"sheet": known["sheet"], "listeners": len(sheets), "consistency": {}, "preferences": []}
    for asked in ASKED:
        found["consistency"][asked] = _consistency(known["pairs"], sheets, asked)
    for one, other in itertools.combinations(known["systems"], 2):
        places = [
            place
            for place, pair in enumerate(known["pairs"])
            if {pair["A"], pair["B"]} == {one, other} and not pair.get("again")
        ]
        for asked in ASKED:
            table = [[_points(known["pairs"][place], sheet, place, asked, one) for place in places] for sheet in sheets]
            flat = [value for row in table for value in row]
            means = [float(value) for value in np.mean(table, axis=0)]
            interval = bootstrap_crossed(table, bounds=DIFFERENCE)
            found["preferences"].append(
                {
                    "first": one,
                    "second": other,
                    "asked": asked,
                    "for_first": flat.count(1),
                    "equal": flat.count(0),
                    "for_second": flat.count(-1),
                    "preference": {"mean": interval.mean, "low": interval.low, "high": interval.high},
                    "p": permutation_test(means, [-value for value in means]),
                }
            )
    return found


def _read_answers(path: Path, key: JsonObject) -> JsonObject:
    try:
        sheet = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected a file that the page saved, found no JSON ({error})") from error
    if not isinstance(sheet, dict) or sheet.get("sheet") != key["sheet"]:
        found = sheet.get("sheet") if isinstance(sheet, dict) else type(sheet).__name__
        raise ValueError(f"{path}: expected choices of sheet {key['sheet']}, found {found}; name the key of that sheet")
    choices = sheet.get("choices", [])
    complete = len(choices) == len(key["pairs"]) and all(
        one.get(asked) in CHOICES for one in choices for asked in ASKED
    )
    if not complete or not str(sheet.get("listener", "")).strip():
        raise ValueError(f"{path}: expected a listener's choices of all {len(key['pairs'])} pairs, found it incomplete")
    return sheet


def _points(pair: JsonObject, sheet: JsonObject, place: int, asked: str, first: str) -> float:
    """1: for the first system, -1: for the other, 0: no difference."""
    chosen = sheet["choices"][place][asked]
    if chosen == "equal":
        return 0.0
    return 1.0 if pair[chosen] == first else -1.0


def _consistency(pairs: Sequence[JsonObject], sheets: Sequence[JsonObject], asked: str) -> float | None:
    """Share of the repeated pairs in which the same system was chosen again; None: none was repeated."""
    same = []
    for place, pair in enumerate(pairs):
        if not pair.get("again"):
            continue
        before = next(
            other
            for other, one in enumerate(pairs)
            if not one.get("again") and (one["item"], one["A"], one["B"]) == (pair["item"], pair["B"], pair["A"])
        )
        for sheet in sheets:
            values = [_points(pairs[number], sheet, number, asked, pair["A"]) for number in (place, before)]
            same.append(values[0] == values[1])
    return sum(same) / len(same) if same else None


def preferences_markdown(found: JsonObject) -> str:
    """The scored test as a table."""
    rows = []
    for one in found["preferences"]:
        mean = one["preference"]
        interval = f"{100 * mean['mean']:+.0f} ({100 * mean['low']:+.0f} to {100 * mean['high']:+.0f})"
        counts = f"{one['for_first']} / {one['equal']} / {one['for_second']}"
        rows.append(
            [html.escape(one["first"]), html.escape(one["second"]), one["asked"], counts, interval, f"{one['p']:.3f}"]
        )
    heads = ["first", "second", "asked", "first / equal / second", "preference, points", "p, questions"]
    lines = [f"Listeners: {found['listeners']}.", "", *markdown_table(heads, rows)]
    return "\n".join(lines) + "\n"
