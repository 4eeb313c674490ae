"""Whole numbers as people say them."""

from __future__ import annotations

from num2words import num2words


def said_number(number: int) -> str:
    """English words of a number, with spaces between: 42 is "forty two"."""
    return str(num2words(number)).replace("-", " ")
