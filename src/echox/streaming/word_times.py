"""Times of the words of a question, from the frames of their tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from echox.streaming.events import HeardWord
from echox.streaming.reply_text.token_text import token_texts


def heard_words(
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[tuple[int, int, int]],
    frame_s: float,
    duration_s: float,
    begin_s: float = 0.0,
    reach_s: float = 0.25,
) -> tuple[HeardWord, ...]:
    """Words of a transcript with their times.

    The bound between two words is halfway between their tokens; at a pause a word ends ``reach_s`` after its tokens.
    Words do not overlap, and lie within the recording. Times are accurate to about a tenth of a second.

    Args:
        tokenizer: of the transcript.
        tokens: id, first frame, and frame after the last, of each token in order.
        frame_s: seconds of a frame.
        duration_s: length of the recording.
        begin_s: where in the recording the first frame is; negative: in silence put before it.
        reach_s: see `Aligner.token_reach_s`.
    """
    spans = _spans(tokenizer, tokens)
    found = []
    for place, (text, first, last) in enumerate(spans):
        before = spans[place - 1][2] if place else None
        after = spans[place + 1][1] if place + 1 < len(spans) else None
        start_s, end_s = first * frame_s - reach_s, last * frame_s + reach_s
        if before is not None:
            start_s = max(start_s, (before + first) / 2 * frame_s)
        if after is not None:
            end_s = min(end_s, (last + after) / 2 * frame_s)
        end_s = min(max(begin_s + end_s, 0.0), duration_s)
        found.append(HeardWord(text, min(max(begin_s + start_s, 0.0), end_s), end_s))
    return tuple(found)


def _spans(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[tuple[int, int, int]]) -> list[tuple[str, int, int]]:
    """White-space words: text, first frame, frame after the last; marks around a word have no sound."""
    pieces = token_texts(tokenizer, [token_id for token_id, _, _ in tokens])
    token_of = [token for token, piece in zip(tokens, pieces, strict=True) for _ in piece]  # of each character
    found = []
    for word in re.finditer(r"\S+", "".join(pieces)):
        sounds = [place for place, character in enumerate(word[0], word.start()) if character.isalnum()]
        first, last = (sounds[0], sounds[-1]) if sounds else (word.start(), word.end() - 1)
        found.append((word[0], token_of[first][1], token_of[last][2]))
    return found
