"""Hundreds of replies, ordinary and unusual: every word is spoken or reported; speech has a plausible length."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice

import pytest

from echox.api import EchoX
from echox.streaming import AudioChunk, Finished, ReplyTask, SpeechFailed
from echox.verbalization import spoken_language, verbalize

PLAIN = ["The capital of France is Paris.", "Seven.", "A spider has eight legs.", "Yes!", "It is late, and it is cold."]
ODD = [
    "1984",
    "3.5 percent",
    "12,345,678",
    "007",
    "e.g. this",
    "A.B.C.",
    "don't",
    '"quoted"',
    "(in brackets)",
    "a-b-c",
    "…",
    "???",
    "!!!",
    "—",
    "* item",
    "naïve café",
    "日本語",
    "😀",
    "👩‍👩‍👧",
    "x" * 60,
    "½",
    "I",
    "42",
    "supercalifragilisticexpialidocious",
    "C:\\path\\file",
    "user@example.com",
    "https://example.com/a?b=c",
    "#hashtag",
    "$5.00",
    "50%",
    "1st 2nd 3rd",
    "tab\there",
    "line\nbreak",
    "  spaces  ",
    "ALL CAPS",
    "mIxEd",
    "Ünïcödé",
    "a",
]


def texts(count: int) -> list[str]:
    """Short, long, numbers and odd ones, always the same."""
    source = random.Random(0)
    found = []
    for number in range(count):
        kind = number % 5
        if kind == 0:
            found.append(source.choice(PLAIN))
        elif kind == 1:
            found.append(" ".join(source.choices(PLAIN, k=source.randint(3, 12))))
        elif kind == 2:
            found.append(" ".join(str(source.randint(0, 10 ** source.randint(1, 9))) for _ in range(4)))
        else:
            found.append(" ".join(source.choices(ODD + PLAIN, k=source.randint(1, 6))))
    return found


def check(events: list) -> tuple[int, int]:
    """Words of a reply, and how many of them were reported."""
    assert isinstance(events[-1], Finished)
    chunks, failed = ([event for event in events if isinstance(event, kind)] for kind in (AudioChunk, SpeechFailed))
    words = events[-1].text.split()
    spoken = [word for chunk in chunks for word in chunk.text.split()]
    reported = [word for failure in failed for word in failure.text.split()]
    silent = not verbalize(events[-1].text, spoken_language("en"))  # emoji and marks alone
    # Of a run that is said in several words ("12,345") a part may fail: then it is heard, and reported.
    assert Counter(spoken) | Counter(reported) == Counter([] if silent else words), "each word is heard or reported"
    assert len(spoken) <= len(words), "and heard once"
    if spoken:
        characters = sum(map(len, spoken))
        assert 0.01 < events[-1].timings.audio_s / characters < 1.5, "seconds for a character"
        marked = [events[-1].text[mark.text_start : mark.text_end] for mark in events[-1].timeline]
        assert [word for text in marked for word in text.split()] == spoken
    return len(words), len(reported)


def check_all(begin: Iterable[Callable[[], ReplyTask]]) -> tuple[int, int]:
    """The sums of `check` over replies that are made eight at a time, which costs less than one after another."""
    totals = []
    waiting = iter(begin)
    while tasks := [start() for start in islice(waiting, 8)]:
        totals += [check(list(task)) for task in tasks]
    return sum(words for words, _ in totals), sum(reported for _, reported in totals)


def speak(model: EchoX, count: int) -> tuple[int, int]:
    return check_all(partial(model.session().speak, text) for text in texts(count))


@pytest.fixture(scope="module")
def nano() -> EchoX:
    return EchoX.from_pretrained("nano", device="cpu")


def test_some_replies(nano):
    words, reported = speak(nano, 10)  # two of each kind
    assert reported < words / 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_hundred_replies(nano):
    words, reported = speak(nano, 400)
    questions = [f"Tell me about {name}." for name in ("Brazil", "Japan", "dogs", "the sea", "seven")] * 20
    choices = {"temperature": 1.0, "echo_temperature": 0.7}
    more, missing = check_all(
        partial(nano.session().submit, {"role": "user", "content": question}, seed=number, **choices)
        for number, question in enumerate(questions)
    )
    words, reported = words + more, reported + missing
    print(f"{words} words, {reported} reported")
    assert reported < words / 10
