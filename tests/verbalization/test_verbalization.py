"""Written text as a person reads it aloud: the cases of tests/readings, whole and word by word."""

import re
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.streaming.reply_text.verbalizer import Verbalizer, WrittenToken
from echox.verbalization import (
    LOOKAHEAD_WORDS,
    PlainText,
    Reading,
    spoken_language,
    verbalize,
    written_words,
)
from echox.verbalization.english.english import English, is_plain
from echox.verbalization.english.words import signs as english_signs
from echox.verbalization.english.words import tables as english_tables
from paths import TESTS

READINGS = TESTS / "readings"
LISTS = {
    "english.tsv": 150,
    "english_held_out.tsv": 100,
    "english_replies.tsv": 300,
    "english_chat.tsv": 420,
    "english_kinds.tsv": 490,
    "english_common.tsv": 180,
    "english_sentences.tsv": 1290,
    "english_blind.tsv": 560,
}
"""Files of readings, and the least number of cases in each."""
ENGLISH = spoken_language("en")
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NUMBER = "|".join([*NUMBERS, r"\w+teen", r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty"])


def heard(text: str) -> str:
    """Words alone: no case, no marks, no hyphens, no British "and" after hundred."""
    text = re.sub(r"[^\w' ]", " ", text.lower().replace("’", "'")).replace("o'clock", "o clock")
    text = re.sub(rf"\b(hundred|thousand|million) and (?=(?:{NUMBER})\b)", r"\1 ", text)
    return " ".join(re.sub(r"(?<!\w)'|'(?!\w)", " ", text).split())


def cases(name: str) -> list[tuple[str, str, list[str]]]:
    """(kind, written, readings) of each line."""
    lines = (READINGS / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(kind, text.replace("\\n", "\n"), [heard(one) for one in said.split("|")]) for kind, text, said in rows]


@pytest.mark.parametrize(("name", "least"), LISTS.items())
def test_read_as_a_person_would(name, least):
    rows, wrong = cases(name), defaultdict(list)
    assert len(rows) >= least
    for kind, written, readings in rows:
        said = heard(verbalize(written, ENGLISH))
        if said not in readings:
            wrong[kind].append(f"{written!r}: {said!r}, expected {readings[0]!r}")
    missed = sum(len(found) for found in wrong.values())
    assert missed <= 0.03 * len(rows), dict(wrong)


def by_token(text: str, sizes: list[int]) -> tuple[str, int]:
    """What is said for text that comes in pieces, and the most words that waited."""
    verbalizer, said, place, waited = Verbalizer(ENGLISH), [], 0, 0
    runs = []
    while place < len(text):
        size = sizes[len(runs) % len(sizes)] if sizes else 1
        piece = text[place : place + size]
        new = verbalizer.push(WrittenToken(None, piece, place, place + len(piece)))
        runs.append(new)
        place += len(piece)
        end = max((run.end for found in runs for run in found), default=0)
        waited = max(waited, len(text[end:place].split()))
    runs.append(verbalizer.finish())
    place = 0
    for run in (run for found in runs for run in found):
        assert run.start >= place, "in order"
        place = run.end
        if run.spoken is not None:
            said.append(run.spoken)
        elif run.problem is not None:
            said.append(verbalize(text[run.start : run.end], ENGLISH))
        else:
            said.append("".join(token.text for token in run.tokens))
    return " ".join(part for one in said for part in one.split()), waited


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([written for name in LISTS for _, written, _ in cases(name)]),
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
)
def test_in_pieces_it_is_said_as_it_is_whole(text, sizes):
    said, waited = by_token(text, sizes)
    assert heard(said) == heard(verbalize(text, ENGLISH))
    assert waited <= LOOKAHEAD_WORDS + 2


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("a1 25.,:/-–$€%°'\"()#*@&²½xkmIVDr.\n…😀你=+^\\"), max_size=30), st.integers(1, 5))
def test_any_text_in_pieces(text, size):
    said, _ = by_token(text, [size])
    assert heard(said) == heard(verbalize(text, ENGLISH))


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("abc 0123456789.,:/-–$€£¥₹%°'\"()#*@&²³½¾xkmMIVDr+=<>~^_`|[]\n…😀"), max_size=40))
def test_no_digit_stays(text):
    assert not re.search(r"[0-9]", verbalize(text, ENGLISH)), "every figure has a reading"


@pytest.mark.parametrize("number", ["1" * 16, "1" * 400, "9" * 5000, "0" * 5000])
def test_numbers_of_any_length(number):
    """Python's int and num2words have a longest number; a text may have a longer one."""
    forms = (
        "{}|{}th|{}s|{}%|${}|{}k|{}/2|1/{}|2^{}|{}e{}|{}:30|{}-{}|{}.5.5|#{}|{}ers|{} km|{}½|{}'{}|May {}|{}⁹|-{}°|0{}"
    )
    for form in forms.split("|"):
        said = verbalize(form.replace("{}", number), ENGLISH)
        assert said, form
        assert not re.search(r"[0-9]", said), form


def test_a_plain_word_does_not_wait():
    verbalizer = Verbalizer(ENGLISH)
    pieces = ["The", " capital", " of", " 5", " lands", " is", " Rome", "."]
    found, place = [], 0
    for piece in pieces:
        found.append(verbalizer.push(WrittenToken(None, piece, place, place + len(piece))))
        place += len(piece)
    assert [len(runs) for runs in found] == [0, 1, 1, 1, 0, 2, 1, 0], "only the figure waits for the word after it"
    assert found[1][0].spoken is None, "and a plain word keeps its states"
    assert found[1][0].tokens, "and a plain word keeps its states"


BESIDE = [("", ""), ("Chapter", "5"), ("per", "of"), ("in", "Main St."), ("Henry", "was"), ("5", "II")]
"""Words before and after a word, that change how some words are read."""


def tabled_words() -> set[str]:
    """Words of letters in the tables of English: the rules look for them."""
    tables = [table for module in (english_tables, english_signs) for table in vars(module).values()]
    keys = {key for table in tables if isinstance(table, dict | frozenset) for key in table if isinstance(key, str)}
    return {form for key in keys if key.isalpha() for form in (key, key.lower(), key.capitalize())}


@pytest.mark.parametrize(("before", "after"), BESIDE)
def test_the_short_way_of_plain_words_leads_where_the_rules_lead(before, after):
    words = [f"{word}{mark}" for word in sorted(tabled_words()) for mark in ("", ".")]
    plain = [word for word in words if is_plain(word)]
    assert len(plain) > 500
    for word in plain:
        said = English().read_by_rules(written_words(f"{word} {after}"), written_words(before), True)
        assert said == Reading(), f"{word!r} after {before!r}: add it to the words that are read otherwise"


@pytest.mark.parametrize("name", ["english_blind.tsv", "english_kinds.tsv"])
def test_in_the_readings_the_short_way_leads_where_the_rules_lead(name):
    for _, written, _ in cases(name):
        words = written_words(written)
        for place in range(len(words)):
            ahead, before = words[place : place + LOOKAHEAD_WORDS + 1], words[max(0, place - LOOKAHEAD_WORDS) : place]
            assert ENGLISH.read(ahead, before, True) == English().read_by_rules(ahead, before, True), (written, place)


def test_what_cannot_be_said_is_a_problem_and_emoji_are_none():
    def read(word):
        return ENGLISH.read(written_words(word), [], True)

    assert read("你好").problem
    assert read("Привет").problem
    for word in ("🎉", "👍🏽", "...", "—", "*", "❤️", "👩‍👩‍👧"):
        assert read(word).spoken == ""
        assert read(word).problem is None


def test_a_language_without_rules_says_so():
    german = spoken_language("de-DE")
    assert isinstance(german, PlainText)
    assert not german.has_rules
    assert verbalize("Es kostet 5 €.", german) == "Es kostet 5 €."
    with pytest.raises(ValueError, match="ISO 639"):
        spoken_language("English")


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Sodium is denoted by the symbol Na.", "Sodium is denoted by the symbol N A."),
        ("The chemical symbol for tin is Sn, or so.", "The chemical symbol for tin is S N, or so."),
        ("Iron (Fe) rusts, gold (Au) does not.", "Iron F E rusts, gold A U does not."),
        ("Pb is a metal. Na is sodium.", "P B is a metal. N A is sodium."),
        ("Salt is NaCl, chalk CaCO3, McCoy a name.", "Salt is N A C L, chalk C A C O three, McCoy a name."),
        ("Helium has the symbol He. He saw it.", "Helium has the symbol H E. He saw it."),
        ("Al Gore saw La Paz. In Santa Fe, No one met Li.", "Al Gore saw La Paz. In Santa Fe, No one met Li."),
        ("It is a symbol. In Rome it was. As ever.", "It is a symbol. In Rome it was. As ever."),
    ],
)
def test_chemical_symbols_are_spelt_and_words_are_not(written, spoken):
    assert verbalize(written, ENGLISH) == spoken


def test_a_sentence_may_begin_with_a_word_that_is_a_symbol_without_waiting():
    assert ENGLISH.read(written_words("In"), [], complete=False) is not None
