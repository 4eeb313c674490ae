from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from echox.models.text.tokenization_text import AUDIO, SPECIAL_TOKENS, train_text_tokenizer, word_index
from echox.models.text.word_breaks import split_words

TEXTS = [
    "What is the capital of France?",
    "The capital of France is Paris. It is known for wine.",
    "Isn't it nice?",
    "what is ten times two?",
] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_text_tokenizer(TEXTS, 400)


def test_chat_template_is_the_contract(tokenizer):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "audio", "audio": "q.wav"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And Italy?"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|bos|><|system|>Be kind.<|end|><|user|><|audio|>What?<|end|><|assistant|>Paris.<|end|>"
        "<|user|>And Italy?<|end|><|assistant|>"
    )
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids(AUDIO)) == 1
    assert ids.count(tokenizer.eos_token_id) == 4


def test_parts_encode_as_the_whole(tokenizer):
    """Training encodes each turn on its own; generation encodes the rendered conversation."""
    messages = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    parts = [tokenizer.bos_token_id]
    for message in messages:
        parts += [tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>")]
        parts += tokenizer(message["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    assert whole == parts


def test_training_is_deterministic_and_saves(tokenizer, tmp_path):
    again = train_text_tokenizer(TEXTS, 400)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(len(SPECIAL_TOKENS))] == list(SPECIAL_TOKENS)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded(TEXTS[0])["input_ids"] == tokenizer(TEXTS[0])["input_ids"]
    assert (loaded.pad_token, loaded.eos_token, loaded.padding_side) == ("<|pad|>", "<|end|>", "left")


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec="utf-8") | st.just(" "), max_size=40))
def test_any_text_round_trips_and_words_are_counted(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    words = word_index(tokenizer, ids)
    assert len({word for word in words if word < len(split_words(text))}) == len(split_words(text))
    assert words == sorted(words)


def test_word_index(tokenizer):
    ids = tokenizer("The capital isn't  Rome.", add_special_tokens=False)["input_ids"]
    words = word_index(tokenizer, [*ids, tokenizer.eos_token_id])
    assert words[-1] == -1
    for number, word in enumerate(["The", "capital", "isn't", "Rome."]):
        assert tokenizer.decode([i for i, w in zip(ids, words, strict=False) if w == number]).strip() == word


def test_too_small_a_vocabulary():
    with pytest.raises(ValueError, match="expected at least 263"):
        train_text_tokenizer(TEXTS, 100)
