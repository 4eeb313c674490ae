"""Sums and algebra: one reading, however they are typed; what only looks like them stays what it is."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.verbalization import spoken_language, verbalize

ENGLISH = spoken_language("en")
SAID = {"+": "plus", "-": "minus", "*": "times", "/": "divided by", "=": "equals"}
TYPED, PRINTED = {}, {"-": "−", "*": "×", "/": "÷"}

NUMBERS = st.integers(2, 999).map(str)
LETTERS = st.sampled_from("abcnxyz")
ATOMS = st.one_of(NUMBERS, LETTERS, st.tuples(st.integers(2, 9).map(str), st.sampled_from("xyzn")).map("".join))
POWERS = st.tuples(LETTERS | st.integers(2, 9).map(str), st.sampled_from(["^2", "^3", "^5"])).map("".join)


def joined(parts: tuple[list[str], list[str]]) -> list[str]:
    terms, operators = parts
    tokens = [terms[0]]
    for operator, term in zip(operators, terms[1:], strict=False):
        plain = term.isdigit() and tokens[-1].isdigit()
        tokens += ["-" if operator == "/" and plain and int(tokens[-1]) < int(term) else operator, term]
    return tokens


def sums(terms: st.SearchStrategy[str], longest: int) -> st.SearchStrategy[list[str]]:
    operators = st.lists(st.sampled_from("+-*/"), min_size=longest - 1, max_size=longest - 1)
    return st.tuples(st.lists(terms, min_size=1, max_size=longest), operators).map(joined)


TERMS = ATOMS | POWERS
BRACKETS = st.tuples(TERMS, st.sampled_from("+-"), TERMS).map(lambda found: ["(" + found[0], found[1], found[2] + ")"])


@st.composite
def equations(draw):
    """Tokens of an equation; brackets are glued to their terms."""
    left = draw(sums(TERMS, 5))
    if draw(st.booleans()):
        left = [*left, draw(st.sampled_from("+-*")), *draw(BRACKETS)]
    if draw(st.booleans()):
        first, second = draw(BRACKETS), draw(BRACKETS)
        left = [*first[:-1], first[-1] + second[0], *second[1:], draw(st.sampled_from("+-*/")), *left]
    right = draw(sums(TERMS, 3))
    return [*left, "=", *right] if draw(st.booleans()) else [*right, "=", *left]


def forms_of(tokens: list[str]) -> list[str]:
    return [written(tokens, signs, space) for signs in (TYPED, PRINTED) for space in (" ", "")]


def assert_one_reading(tokens: list[str], forms: list[str]) -> None:
    said = {form: heard(form).removeprefix("Solve ").removesuffix(" please") for form in forms}
    assert len(set(said.values())) == 1, said
    only = next(iter(said.values()))
    for operator, words in SAID.items():
        assert len(re.findall(rf"\b{words}\b", only)) == tokens.count(operator), (only, tokens)


def written(tokens: list[str], signs: dict[str, str], space: str) -> str:
    return space.join(signs.get(token, token) for token in tokens)


def heard(text: str) -> str:
    return " ".join(re.sub(r"[^\w' ]", " ", verbalize(text, ENGLISH)).split())


@settings(max_examples=120, deadline=None)
@given(equations())
def test_an_equation_has_one_reading_however_it_is_typed(tokens):
    forms = forms_of(tokens)
    forms += [rf"\({form}\)" for form in forms] + [f"**{form}**" for form in forms] + [f"Solve {forms[0]}, please"]
    assert_one_reading(tokens, forms)


@settings(max_examples=60, deadline=None)
@given(sums(TERMS, 4).filter(lambda tokens: len(tokens) > 1))
def test_latex_shows_that_a_sum_is_one(tokens):
    assert_one_reading(tokens, [rf"\({form}\)" for form in forms_of(tokens)])


@settings(max_examples=50, deadline=None)
@given(LETTERS, sums(TERMS, 3).filter(lambda tokens: len(tokens) > 1))
def test_dollars_show_that_a_sum_is_one(letter, tokens):
    tokens = [letter, "-", *tokens]
    assert_one_reading(tokens, [f"${form}$" for form in forms_of(tokens)])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.integers(2, 90), st.sampled_from(["", " is right", ", is it", " kg", "?"]))
def test_a_sum_of_two_numbers_in_one_word(first, second, after):
    whole = {"-": first - second, "*": first * second, "/": None, "x": first * second}
    for sign, words in {"-": "minus", "*": "times", "x": "times"}.items():
        assert f" {words} " in heard(f"{first}{sign}{second}={whole[sign]}{after}"), sign
        assert f" {words} " in heard(f"{first}{sign}{second} = {whole[sign]}{after}"), sign
    assert " divided by " in heard(f"{first * second}/{second}={first}{after}")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 60),
    st.integers(1, 60),
    st.sampled_from(["pages {}", "{} days", "{} kg", "a {} m² room", "({} people)", "A = {}", "1 cup = {} oz"]),
)
def test_a_span_of_numbers_is_no_sum(low, more, around):
    said = heard(around.format(f"{low}-{low + more}"))
    assert " to " in said
    assert "minus" not in said
    if around in {"{} days", "{} kg"}:
        assert heard(around.format(f"{low} - {low + more}")) == said
    if "{} kg" in around:
        assert "minus" not in heard(f"{low} kg - {low + more} kg")


NAMES = st.sampled_from(["profit", "revenue", "costs", "length", "width", "total_cost", "force", "mass", "rate"])


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, min_size=3, max_size=4), st.lists(st.sampled_from("-*/"), min_size=2, max_size=2), st.booleans())
def test_operators_between_names_are_said(names, operators, first):
    operators = [
        "*" if "/" in both and not {"length", "width", "mass", "rate", "force"} & set(pair) else both
        for both, pair in zip(operators, pairwise(names[1:]), strict=False)
    ]
    tokens = [names[1], operators[0], names[2]] + ([operators[1], names[3]] if len(names) > 3 else [])
    tokens = [names[0], "=", *tokens] if first or len(names) > 3 else [*tokens, "=", names[0]]
    said = heard(f"Here {written(tokens, TYPED, ' ')}.")
    assert said == heard(f"Here {written(tokens, PRINTED, ' ')}.")
    for operator, words in SAID.items():
        assert said.count(f" {words} ") == tokens.count(operator)


@pytest.mark.parametrize("question", ["What is {}?", "What's {}?", "Calculate {}.", "So {} equals 18."])
def test_a_sum_that_is_asked_for_is_one(question):
    assert "twenty five minus seven" in heard(question.format("25-7"))


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("√(b² - 4ac)", "the square root of b squared minus four a c"),
        ("y = mx - b", "y equals m x minus b"),
        ("ax² - bx - c = 0", "ax squared minus bx minus c equals zero"),
        ("x_1 - x_2 = 3", "x one minus x two equals three"),
        ("sin² x - cos² x", "sin squared x minus cos squared x"),
        ("1 - 1/n", "one minus one divided by n"),
        ("-5+3", "minus five plus three"),
        ("(-2)^3", "minus two cubed"),
        ("10 kg - 3 kg = 7 kg", "ten kilograms minus three kilograms equals seven kilograms"),
        ("3 kg x 4 = 12 kg", "three kilograms times four equals twelve kilograms"),
        ("2 ft x 4 ft", "two feet by four feet"),
        ("$5 - 3 = 2$", "five minus three equals two"),
        ("It costs $5 - 3 is free.", "It costs five dollars minus three is free"),
        ("**10-3** = 7", "ten minus three equals seven"),
        ("5 - 7 kg = -2 kg", "five minus seven kilograms equals minus two kilograms"),
        ("7–4=3", "seven minus four equals three"),
    ],
)
def test_sums_of_other_forms(written, spoken):
    assert heard(written) == spoken


PROSE = """
won 3-1|2024-05-06|a well-known x-ray|a T-shirt|It was fine - really.|- 4 eggs|src/a/b-c.py|3/4 cup|24/7|*5* and **3**
https://a.b/c-d|555-0199|90-100 = A|5-7 × 10^6 cells|K-12|k-12|401(k)-403(b)|Fig. 3(a-c)|1 m/s = 3.6 km/h|3×3 grid|w/o
e = mc² - a famous formula|2x4 lumber|A -> B|B-2 bomber|mid-1990s|12/25 = Christmas|8.5 x 11 in|dial *100#|7 PM / 9 AM
and/or|1 - Sleep|a 4-3-3 formation|x-axis|10-12 kg ≈ 22-26 lb|w/2 kids|1/2 tsp = 2 ml|a 9-5 job|1-on-1|2010-2012|E=mc²
"""


@pytest.mark.parametrize("text", [text for line in PROSE.strip().splitlines() for text in line.split("|")])
def test_what_is_no_sum_has_no_operators(text):
    assert re.search("minus|times (?!ten)|divided", heard(text)) is None, heard(text)
