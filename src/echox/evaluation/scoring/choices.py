"""Questions whose answer is one of two words, or a number: which one does a reply name, and no other?

A strict reading without a language model, of Big Bench Audio's answers for example. A reply is right if it names the
reference and nothing else that could be the answer; one that names both, or none, is *unclear* and therefore wrong.
From the last "the answer is" or "Answer:" on that names one, only what follows counts, so working before it, and an
answer that is taken back, do no harm. A negation turns the next "valid" or "invalid" of its clause round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from echox.evaluation.scoring.schema import JsonObject, Row
from echox.evaluation.scoring.scores import by_column, score_by_rule, score_typed_by_rule
from echox.evaluation.scoring.transcripts import english_normalizer

CHOICES = (("valid", "invalid"), ("yes", "no"))
"""Answers that exclude each other."""
CATEGORY = "category"
"""Column by which the figures are also given."""
_CONCLUSION = re.compile(r"\banswer\b\W*(?:is\b|would be\b|must be\b|:)", re.IGNORECASE)
_SPOKEN_FORMS = {"yeah": "yes", "yep": "yes", "yup": "yes", "nope": "no", "nah": "no"}
_ONE_WORD = re.compile(r"\b(?:in|non)[- ]?valid\b")
_NEGATION = re.compile(
    r"\b(?:not(?! (?:only|just|merely|simply)\b)|never|cannot|\w+n't|(?:is|are|was|do|does|did|ca|wo|could|would)nt"
    r"|neither|nor|none|nothing|hardly|no (?:way|means|sense|longer)|no(?= (?:\w+ly )*$)|without|rather than|instead of"
    r"|far from|fail(?:s|ed|ing)? to|unable to|(?:false|untrue|incorrect|wrong|impossible) (?:that|to|for))\b"
)
_SUBJECT = r"(?:the|this|that|these|those|it|its|they|we|you|i|there|a|an|your|my|all)\b"
_CLAUSE_END = re.compile(
    r"[.!?;:\n()]|\b(?:but|because|since|which|although|though|while|whereas|then|making|rendering|meaning)\b"
    r"|(?<!\bnot )\b(?:so|yet)\b"
    rf"|(?:,|\band\b|\b(?:therefore|thus|hence)\b)(?=[\s,]+(?:(?:and|or|so|therefore|thus|hence|however)[\s,]+)?{_SUBJECT})"
    r"|(?<!\bthat )(?<!\bthink )(?<!\bbelieve )(?<!\bsay )(?<!\bmean )(?<!\bimply )(?<!\bif )(?<!\bwhether )"
    r"(?=\b(?:(?:the|this|that) \w+|it) (?:is|was|must be)\b)"
)
_UNDECIDED = re.compile(r"\b(?:if|whether)\b")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])")


def known_answer(reference: str) -> str:
    """A reference as replies are compared with it: lower case, a number in figures.

    Raises:
        ValueError: it is neither a known choice nor a whole number.
    """
    answer = reference.strip().lower()
    if any(answer in choices for choices in CHOICES):
        return answer
    if re.fullmatch(r"\d+", answer):
        return str(int(answer))
    known = ", ".join(word for choices in CHOICES for word in choices)
    raise ValueError(f"expected an answer of {known} or a whole number in figures, found {reference!r}")


def named_answers(reply: str, reference: str) -> set[str]:
    """What a reply names of the answers that are possible where ``reference`` is right.

    Args:
        reply: written, or a transcript.
        reference: the right answer, whose kind says what to look for.

    Raises:
        ValueError: see `known_answer`.
    """
    answer = known_answer(reference)
    choices = next((choices for choices in CHOICES if answer in choices), None)
    conclusions = [reply[found.end() :] for found in _CONCLUSION.finditer(reply)]
    for text in (*reversed(conclusions), reply):
        named = _numbers(text) if choices is None else _words(text) & set(choices)
        if named:
            return named
    return set()


def names_only(reply: str, reference: str) -> bool:
    """Whether a reply names the reference, and no other possible answer."""
    return named_answers(reply, reference) == {known_answer(reference)}


def score_choices(rows: Sequence[Row]) -> JsonObject:
    """S2T and S2S, their gap, and both by category; ``unclear``: shares that name no answer or more than one."""
    scores = score_by_rule(rows, _right)
    sides = {"s2t": [row["text"] for row in rows]}
    if "not_measured" not in scores["s2s"]:
        sides["s2s"] = [row["said"] or "" for row in rows]
    for side, texts in sides.items():
        unclear = [len(named_answers(text, row["answers"][0])) != 1 for text, row in zip(texts, rows, strict=True)]
        scores[side]["unclear"] = sum(unclear) / len(unclear)
        right = [row["s2t"] if side == "s2t" else row["s2s"] for row in rows]
        scores[f"{side}_by_category"] = by_column(rows, right, CATEGORY)
    return scores


def score_typed_choices(rows: Sequence[Row]) -> JsonObject:
    """The same questions in writing (T2T)."""
    return score_typed_by_rule(rows, _right)


def _right(text: str, row: Row) -> bool:
    return names_only(text, row["answers"][0])


def _words(text: str) -> set[str]:
    """Words of a text; "valid" and "invalid" as their clause means them."""
    text = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    words = {_SPOKEN_FORMS.get(word, word) for word in re.findall(r"[a-z']+", text)}
    return words - {"valid", "invalid"} | _validity(_ONE_WORD.sub("invalid", text))


def _validity(text: str) -> set[str]:
    """Which of "valid" and "invalid" a text says: each is turned round by an odd number of negations before it.

    A negation reaches to the end of its clause, or to the first of the two words. What stands after "if" or "whether"
    says neither.
    """
    found: set[str] = set()
    for clause in _CLAUSE_END.split(text):
        parts = re.split(r"\b(valid|invalid)\b", clause)
        for words, named in zip(parts[::2], parts[1::2]):
            if _UNDECIDED.search(words):
                break
            negations = _NEGATION.findall(words)
            negated = (len(negations) - ("nor" in negations[1:])) % 2 == 1
            found.add({"valid": "invalid", "invalid": "valid"}[named] if negated else named)
    return found


def _numbers(text: str) -> set[str]:
    """Numbers of a text, in figures; punctuation parts them ("two, three" is no 23)."""
    normalize, _ = english_normalizer()
    found: set[str] = set()
    for part in re.split(r"[^\w\s'.,-]+|\.(?!\d)|,(?!\d{3}\b)|\n", text):
        plain = normalize(part)
        found |= {number.removesuffix(".0").lstrip("0") or "0" for number in _NUMBER.findall(plain)}
        found |= {"1" for word in plain.split() if word == "one"}
    return found
