"""Times of the words of a question, from the frames of their tokens."""

import pytest

from echox.models.text.tokenization_text import train_text_tokenizer
from echox.streaming.word_times import heard_words


@pytest.fixture(scope="module")
def tokenizer():
    return train_text_tokenizer(["the sea is deep", " 東", " 木", " 東"], 400)


def words_of(tokenizer, text, duration_s=10.0):
    """Tokens of one frame each, ten frames of a tenth of a second apart."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = [(token_id, 10 * place, 10 * place + 1) for place, token_id in enumerate(ids)]
    return ids, heard_words(tokenizer, tokens, 0.1, duration_s)


@pytest.mark.parametrize("text", ["the sea is deep", " the  deep\nsea ", " 東京 is big", "a 🎉 b🎉c", "", " "])
def test_words_are_those_of_white_space_in_order_and_apart(tokenizer, text):
    ids, words = words_of(tokenizer, text)
    assert [word.text for word in words] == tokenizer.decode(ids).split() == text.split()
    assert all(0 <= word.start_s < word.end_s <= 10.0 * len(ids) for word in words)
    assert all(before.end_s <= after.start_s for before, after in zip(words[:-1], words[1:], strict=True))


def test_a_word_reaches_from_its_first_token_to_its_last_and_a_little_beyond(tokenizer):
    ids, words = words_of(tokenizer, "xyz")
    assert len(ids) == 3, "a token for each letter"
    assert [(word.text, word.start_s, word.end_s) for word in words] == [("xyz", 0.0, pytest.approx(2.1 + 0.25))]


def test_half_a_character_after_a_space_is_of_the_next_word(tokenizer):
    """A token may hold a space and the first bytes of a character: the word before does not reach to it."""
    a, half, *rest = tokenizer.convert_tokens_to_ids(["a", "Ġæ", "Ŀ", "±"])
    tokens = [(a, 0, 1), (half, 20, 21), *((token_id, 22 + place, 23 + place) for place, token_id in enumerate(rest))]
    words = heard_words(tokenizer, tokens, 0.1, 10.0)
    assert [word.text for word in words] == ["a", "東"]
    assert words[0].end_s == pytest.approx(0.1 + 0.25)
