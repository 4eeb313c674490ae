"""The judge's decoder against enumeration of all word sequences."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.evaluation.judges.lexicon_decoder import LexiconDecoder

LEXICON = [(1, 2), (2,), (3, 3), (2, 1)]
PENALTY = 0.7


def best_path_score(log_probs: np.ndarray, phones: list[int]) -> float:
    """Viterbi score of one CTC label sequence, by plain dynamic programming."""
    states = [0]
    for phone in phones:
        states += [phone, 0]
    score = [log_probs[0, 0], log_probs[0, states[1]] if len(states) > 1 else -np.inf] + [-np.inf] * (len(states) - 2)
    score = score[: len(states)]
    for frame in log_probs[1:]:
        new = []
        for j, label in enumerate(states):
            options = [score[j], score[j - 1] if j else -np.inf]
            if j > 1 and label and label != states[j - 2]:
                options.append(score[j - 2])
            new.append(max(options) + frame[label])
        score = new
    return max(score[-2:])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_decoder_finds_the_best_of_all_word_sequences(seed, frames):
    log_probs = np.log(np.random.default_rng(seed).dirichlet([0.4] * 4, size=frames)).astype(np.float32)
    log_probs = np.maximum(log_probs, -50)

    def total(words):
        phones = [phone for word in words for phone in LEXICON[word]]
        return best_path_score(log_probs, phones) - PENALTY * len(words)

    candidates = [words for n in range(frames + 1) for words in itertools.product(range(4), repeat=n) if n <= 4]
    found = LexiconDecoder(LEXICON, blank_id=0, word_penalty=PENALTY).decode(log_probs)
    if len(found) <= 4:
        assert total(tuple(found)) == pytest.approx(max(map(total, candidates)), abs=1e-3)


def test_silence_is_no_word():
    assert LexiconDecoder(LEXICON, 0).decode(np.log(np.array([[0.97, 0.01, 0.01, 0.01]] * 5))) == []


def test_clear_speech_is_read():
    labels = torch.tensor([0, 1, 1, 2, 0, 2, 0, 3, 0, 3, 0])
    probabilities = torch.nn.functional.one_hot(labels, 4).float() * 0.96 + 0.01
    assert LexiconDecoder(LEXICON, 0).decode(probabilities.log().numpy()) == [0, 1, 2]


def test_a_pronunciation_without_phones_is_refused():
    with pytest.raises(ValueError, match="word 1"):
        LexiconDecoder([(1,), ()], 0)
