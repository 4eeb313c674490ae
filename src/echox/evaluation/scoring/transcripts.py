"""Distances between texts as the field reports them: WER under Whisper's normaliser, and BLEU.

Source: the 13a tokens of mteval-v13a (https://github.com/mjpost/sacrebleu); UltraEval-Audio's ``wer`` figure.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

from echox.data.scoring import WordErrors, edit_counts

_SYMBOLS = re.compile(r"""([{|}~\[\\\]^_`!"#$%&()*+:;<=>?@/])""")
_MARK_AFTER_NO_DIGIT = re.compile(r"([^0-9])([.,])")
_MARK_BEFORE_NO_DIGIT = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")
MAX_ORDER = 4


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


def bleu(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Corpus BLEU in percent: one reference each, 13a tokens, cased, exponential smoothing (sacreBLEU's defaults).

    Raises:
        ValueError: the two lists differ in length.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"expected a hypothesis for each of {len(references)} references, found {len(hypotheses)}")
    matches, totals = [0] * MAX_ORDER, [0] * MAX_ORDER
    wanted_tokens = found_tokens = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        wanted, found = tokens_13a(reference), tokens_13a(hypothesis)
        wanted_tokens += len(wanted)
        found_tokens += len(found)
        for order in range(MAX_ORDER):
            have = _ngrams(found, order + 1)
            matches[order] += sum((have & _ngrams(wanted, order + 1)).values())
            totals[order] += sum(have.values())
    if not matches[0]:
        return 0.0
    log_sum, smooth = 0.0, 1.0
    for right, total in zip(matches, totals, strict=True):
        if not total:
            return 0.0
        if not right:
            smooth *= 2
        log_sum += math.log(right / total if right else 1 / (smooth * total))
    brevity = min(0.0, 1 - wanted_tokens / found_tokens)
    return 100 * math.exp(brevity + log_sum / MAX_ORDER)


def _ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))
