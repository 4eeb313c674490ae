"""Written text to spoken words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.data.text import normalize_for_speech


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Dr. Smith paid $42.50 on the 3rd.", "Doctor Smith paid forty two dollars and fifty cents on the third."),
        ("It costs £1.", "It costs one pound."),
        ("In 1984, 3,500 people came.", "In nineteen eighty four, three thousand five hundred people came."),
        ("Born in 2007 or 1905.", "Born in two thousand seven or nineteen oh five."),
        ("It is -3.5 °C & 80% wet.", "It is minus three point five degrees Celsius and eighty percent wet."),
        ("Meet at 10:05 or 9:00.", "Meet at ten oh five or nine o'clock."),
        ("Run 5 km or 1km.", "Run five kilometers or one kilometer."),
        ("**Bold** [link](http://x.y) and `code`", "Bold link and code"),
        ("No change here.", "No change here."),
        ("one – two", "one, two"),
        ("cats, e.g. lions", "cats, for example lions"),
        ("", ""),
    ],
)
def test_written_becomes_said(written, said):
    assert normalize_for_speech(written) == said


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_nothing_breaks_and_no_digit_stays(text):
    said = normalize_for_speech(text)
    assert said == " ".join(said.split())
    assert not any(char in "0123456789" for char in said)
