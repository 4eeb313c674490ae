"""Viterbi decoding of phone CTC posteriors over a flat lexicon: all words are equally likely, no language model.

A language model would repair unclear speech, which a judge must not do: words compete on sound alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_NEVER = np.float32(-1e30)


class LexiconDecoder:
    """The most probable word sequence for CTC posteriors of phones.

    A word of n phones has 2n states, phone and blank in turn. A phone may follow a different phone directly, and an
    equal one only after a blank; the same holds between words.

    Args:
        pronunciations: phone ids of each word; a word may be listed again with another pronunciation.
        blank_id: the CTC blank in the posteriors.
        word_penalty: log probability subtracted for each word; a higher one gives fewer words.

    Raises:
        ValueError: a pronunciation is empty or holds the blank.
    """

    def __init__(self, pronunciations: Sequence[Sequence[int]], blank_id: int, word_penalty: float = 2.0) -> None:
        for index, phones in enumerate(pronunciations):
            if not phones or blank_id in phones:
                raise ValueError(f"expected phones without the blank for word {index}, found {list(phones)}")
        self.blank_id = blank_id
        self.word_penalty = np.float32(word_penalty)
        sizes = np.array([2 * len(phones) for phones in pronunciations])
        self._first = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # first state (phone) of each word
        self._last_blank = self._first + sizes - 1
        self._last_phone = self._last_blank - 1
        label = np.full(int(sizes.sum()), blank_id)
        label[0::2] = np.concatenate([np.asarray(phones) for phones in pronunciations])
        self._label = label
        inside = np.ones(len(label), dtype=bool)  # may be entered from the state before it
        inside[self._first] = False
        skip = np.zeros(len(label), dtype=bool)  # may be entered from the phone before, over the blank
        skip[2:] = (label[2:] != blank_id) & (label[2:] != label[:-2]) & inside[2:] & inside[1:-1]
        self._step_cost = np.where(inside, np.float32(0), _NEVER)
        self._skip_cost = np.where(skip, np.float32(0), _NEVER)
        self._entry_label = label[self._first]
        self._exit_label = label[self._last_phone]

    def decode(self, log_probs: np.ndarray) -> list[int]:
        """Word indices of the best path through ``log_probs`` (frames, phones incl. blank), in natural logs."""
        score: np.ndarray = np.full(len(self._label), _NEVER)
        # Index into `words_so_far` before the current word.
        history: np.ndarray = np.zeros(len(self._label), dtype=np.int64)
        words_so_far: list[tuple[int, int]] = [(-1, -1)]  # (history before, word); entry 0 is the beginning
        silence = np.float32(0)  # leading blanks, before any word
        exits = [(np.float32(0), 0, -1)]  # where a new word may come from: (score, history, final phone or -1)
        frames: np.ndarray = log_probs.astype(np.float32)
        for frame in frames:
            entry_score, entry_history = self._enter(exits)
            step = np.concatenate([[_NEVER], score[:-1]]) + self._step_cost
            leap = np.concatenate([[_NEVER, _NEVER], score[:-2]]) + self._skip_cost
            step[self._first] = entry_score - self.word_penalty
            step_history = np.concatenate([[0], history[:-1]])
            step_history[self._first] = entry_history
            leap_history = np.concatenate([[0, 0], history[:-2]])
            moved = step > score
            score, history = np.where(moved, step, score), np.where(moved, step_history, history)
            moved = leap > score
            score, history = np.where(moved, leap, score), np.where(moved, leap_history, history)
            score = np.maximum(score + frame[self._label], _NEVER)
            silence += frame[self.blank_id]
            exits = self._leave(score, history, words_so_far, silence)
        _, best, _ = max(exits, key=lambda end: end[0])
        found: list[int] = []
        while best > 0:
            best, word = words_so_far[best]
            found.append(word)
        return found[::-1]

    def _leave(
        self, score: np.ndarray, history: np.ndarray, words_so_far: list[tuple[int, int]], silence: np.float32
    ) -> list[tuple[np.float32, int, int]]:
        """Best ends of a word at this frame: one through a blank, two through different final phones."""
        ways = [(silence, 0, -1)]

        def add(word: int, state: int, final: int) -> None:
            words_so_far.append((int(history[state]), word))
            ways.append((score[state], len(words_so_far) - 1, final))

        word = int(np.argmax(score[self._last_blank]))
        add(word, int(self._last_blank[word]), -1)
        ends = score[self._last_phone]
        word = int(np.argmax(ends))
        final = int(self._exit_label[word])
        add(word, int(self._last_phone[word]), final)
        others = np.where(self._exit_label == final, _NEVER, ends)
        word = int(np.argmax(others))
        add(word, int(self._last_phone[word]), int(self._exit_label[word]))
        return ways

    def _enter(self, exits: Sequence[tuple[np.float32, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Score and history with which each word may begin: an equal phone may not be joined without a blank."""
        best: np.ndarray = np.full(len(self._first), _NEVER)
        history: np.ndarray = np.zeros(len(self._first), dtype=np.int64)
        for score, link, final in exits:
            better = (score > best) & (self._entry_label != final)
            best, history = np.where(better, score, best), np.where(better, link, history)
        return best, history
