"""Letters, marks and nouns that look like units, marks or plurals of others."""

import re
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echox.verbalization import spoken_language, verbalize

ENGLISH = spoken_language("en")


def heard(text: str) -> str:
    return " ".join(re.sub(r"[^\w' ]", " ", verbalize(text, ENGLISH)).split())


@pytest.mark.parametrize("first", ascii_uppercase)
@pytest.mark.parametrize("around", ["{}", "The {} cable is new.", "an {} test", "({})", "**{}**, please"])
def test_pairs_of_capitals_are_letters(first, around):
    for second in ascii_uppercase:
        assert f"{first} {second}" in heard(around.format(f"{first}/{second}"))


@given(
    st.integers(1901, 2099),
    st.sampled_from(["Copyright", "copyright", "COPYRIGHT"]),
    st.sampled_from(["{0} © {1}", "{0} ©{1}", "© {0} {1}", "{0} (c) {1}", "{0} (C) {1}", "© {1}", "©{1}"]),
)
def test_the_mark_of_copyright_is_said_once(year, word, form):
    said = heard(f"{form.format(word, year)} Ann Lee").lower()
    assert said.split().count("copyright") == 1
    assert said == f"copyright {heard(f'in {year}').removeprefix('in ').lower()} ann lee"


@given(st.integers(2, 900), st.sampled_from(["V", "W", "J"]), st.sampled_from(["A", "K"]))
def test_pairs_of_capitals_after_a_number_are_units(number, above, below):
    many = {"V": "volts", "W": "watts", "J": "joules"}[above]
    per = {"A": "amp", "K": "kelvin"}[below]
    assert heard(f"{number} {above}/{below}").endswith(f"{many} per {per}")
    assert heard(f"It is given in {above}/{below}.") == f"It is given in {many} per {per}"


ONES = "census bus crisis virus thesis glass class congress campus business process bias gas atlas lens canvas analysis"
MANY = "people buses copies cases glasses classes menus taxis lenses tickets viruses crises students gases"
YEAR = st.integers(1901, 2099).filter(lambda year: year % 100 > 9)


@given(YEAR, st.sampled_from(ONES.split()), st.sampled_from(["The {} {}", "a {} {} boycott", "Ann's {} {} was good."]))
def test_a_year_before_one_thing_is_a_year(year, noun, form):
    said = heard(f"in {year}").removeprefix("in ")
    assert f" {said} {noun}" in heard(form.format(year, noun))


@given(YEAR, st.sampled_from(MANY.split()), st.sampled_from(["", "bus ", "glass ", "virus "]))
def test_a_number_of_things_is_no_year(number, things, kind):
    said = heard(f"{number // 1000},{number % 1000:03}")
    assert heard(f"We saw {number} {kind}{things} there.") == f"We saw {said} {kind}{things} there"
