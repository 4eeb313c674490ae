"""Scores of question answering: the match rule, right in writing against right aloud.

Source: UltraEval-Audio's ``qa-exist-match`` rule, restated from its published behaviour
(https://github.com/OpenBMB/UltraEval-Audio); word error rate in :mod:`echox.data.scoring`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def match_tokens(text: str) -> list[str]:
    """Tokens of the match rule: runs of letters, numbers and marks; any other visible character alone; lower case."""
    tokens: list[str] = []
    run: list[str] = []
    for character in unicodedata.normalize("NFD", text):
        major = unicodedata.category(character)[0]
        if major in "LNM":
            run.append(character)
            continue
        if run:
            tokens.append("".join(run).lower())
            run = []
        if major not in "ZC":
            tokens.append(character.lower())
    if run:
        tokens.append("".join(run).lower())
    return tokens


def exist_match(prediction: str, references: str | Sequence[str]) -> bool:
    """Whether the tokens of any reference occur as a contiguous run in the prediction's.

    An empty reference matches everything and an empty list nothing, as in UltraEval-Audio.

    Raises:
        ValueError: a reference is not a string.
    """
    references = [references] if isinstance(references, str) else list(references)
    predicted = match_tokens(str(prediction))
    for reference in references:
        if not isinstance(reference, str):
            raise ValueError(f"expected references as strings, found {reference!r}: quote numbers in the data")
        wanted = match_tokens(reference)
        if any(predicted[i : i + len(wanted)] == wanted for i in range(len(predicted) - len(wanted) + 1)):
            return True
    return False


def agreement_table(s2t: Sequence[bool], s2s: Sequence[bool]) -> dict[str, int]:
    """The 2 x 2 table of right in writing against right aloud, over the same replies."""
    pairs = list(zip(s2t, s2s, strict=True))
    return {
        "both_right": pairs.count((True, True)),
        "only_written_right": pairs.count((True, False)),
        "only_spoken_right": pairs.count((False, True)),
        "both_wrong": pairs.count((False, False)),
    }
