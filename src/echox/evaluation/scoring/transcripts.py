"""Distances between texts as the field reports them: word errors under Whisper's normaliser, and BLEU.

Source: the 13a tokens of mteval-v13a (https://github.com/mjpost/sacrebleu, which computes BLEU here); UltraEval-Audio's
``wer`` figure. The tokens are in this file because word error rates are also measured where sacrebleu (extra ``eval``)
is not installed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from echox.data.scoring import WordErrors, edit_counts

_SYMBOLS = re.compile(r"""([{|}~\[\\\]^_`!"#$%&()*+:;<=>?@/])""")
_MARK_AFTER_NO_DIGIT = re.compile(r"([^0-9])([.,])")
_MARK_BEFORE_NO_DIGIT = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")


def tokens_13a(text: str) -> list[str]:
    """Tokens of the 13a rule: symbols alone, full stops and commas alone unless between digits."""
    text = f" {html.unescape(text)} "
    text = _SYMBOLS.sub(r" \1 ", text)
    text = _MARK_AFTER_NO_DIGIT.sub(r"\1 \2 ", text)
    text = _MARK_BEFORE_NO_DIGIT.sub(r" \1 \2", text)
    return _DASH_AFTER_DIGIT.sub(r"\1 \2 ", text).split()


@cache
def english_normalizer() -> tuple[Callable[[str], str], str]:
    """Whisper's English normaliser and what to call it.

    transformers has its rules, the list of British spellings is in the package whisper-normalizer (extra ``eval``);
    without that list "colour" and "color" stay two words, and the name says so.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    try:
        from whisper_normalizer.english import EnglishSpellingNormalizer  # type: ignore[import-untyped]
    except ImportError:
        return EnglishTextNormalizer({}), "Whisper English normaliser without British spellings"
    return EnglishTextNormalizer(EnglishSpellingNormalizer().mapping), "Whisper English normaliser"


def whisper_words(text: str) -> list[str]:
    """Words of a text as UltraEval-Audio counts them: normalised by Whisper's rules, then 13a tokens."""
    normalize, _ = english_normalizer()
    return tokens_13a(normalize(text).lower())


def whisper_errors(reference: str, hypothesis: str) -> WordErrors:
    """Edit counts of one pair; they add up over a corpus."""
    return edit_counts(whisper_words(reference), whisper_words(hypothesis))


class Bleu(NamedTuple):
    """Corpus BLEU in percent, and sacreBLEU's signature: everything that the figure depends on, with the version."""

    score: float
    signature: str


def bleu(references: Sequence[str], hypotheses: Sequence[str]) -> Bleu:
    """Corpus BLEU with sacreBLEU's defaults: one reference each, 13a tokens, cased, exponential smoothing.

    Raises:
        ValueError: the two lists differ in length.
        ImportError: sacrebleu is not installed (extra ``eval``).
    """
    from sacrebleu.metrics import BLEU

    if len(references) != len(hypotheses):
        raise ValueError(f"expected a hypothesis for each of {len(references)} references, found {len(hypotheses)}")
    metric = BLEU()
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Bleu(score, str(metric.get_signature()))
