"""Words of any tokenizer and any script: byte-level BPE as Llama 3 and Qwen have it, SentencePiece, bytes alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.evaluation.studies.speech_policies.candidate_policies import CANDIDATE_POLICIES, candidate_policy
from echox.models.text.tokenization_text import WordCounter, word_index
from echox.models.text.word_breaks import WordFinder, check_spaces, split_words, white_space_words, word_spans
from echox.streaming.reply_text.trigger import Trigger
from echox.training.stages.speaking.echo_targets import cut_replies
from tiny_tokenizers import CHINESE, ENGLISH, JAPANESE, THAI, TOKENIZERS


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.mark.parametrize(
    "text", [*ENGLISH, "Schöne Grüße – „ja“", "Её звали Ольга.", "고양이가 잔다", "我 喜欢 狗。", "はい。"]
)
def test_texts_with_spaces_are_taken(text):
    check_spaces(text)


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_texts_without_spaces_are_refused(text):
    with pytest.raises(ValueError, match=r"expected white space .*, found \d of \d+ apart: .*; write"):
        check_spaces(text)


@pytest.mark.parametrize(
    "text", [*ENGLISH, CHINESE, JAPANESE, THAI, "iPhone手机很好 and 你好", "x\n\n\ny", "👩‍👩‍👧 ok"]
)
def test_every_token_belongs_to_the_word_of_its_first_letter(tokenizer, text):
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = word_spans(text)
    for word, (start, end) in zip(word_index(tokenizer, encoded["input_ids"]), encoded["offset_mapping"], strict=True):
        letters = [place for place in range(start, end) if not text[place].isspace()]
        first = letters[0] if letters else end
        expected = sum(begin <= first for begin, _ in spans) - 1 if letters else sum(begin < end for begin, _ in spans)
        assert word == expected, (text[start:end], word, expected)
    if text.isascii():
        assert len(split_words(text)) == len(text.split())


def test_the_reported_case():
    tokenizer = TOKENIZERS["llama 3"]
    ids = tokenizer("Sure.\n\nFrance lies.", add_special_tokens=False)["input_ids"]
    assert any(tokenizer.decode([token]).endswith(".\n\n") for token in ids), "the token that takes line ends along"
    assert max(word_index(tokenizer, ids)) == 2


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab.,1 \n\u00a0\u3000，。「」国首都ハパのแมเล\u0e31éက္ខ😀"), max_size=30), st.data())
def test_text_in_pieces_is_parted_like_the_whole(text, data):
    finder, found, place = WordFinder(), [], 0
    while place < len(text):
        size = data.draw(st.integers(1, 5))
        found += finder.push(text[place : place + size])
        assert len(found) >= min(len(text), place + size) - 2, "bounded look-ahead"
        place += size
    found += finder.finish()
    spans = word_spans(text)
    assert found == [
        next((number for number, (start, end) in enumerate(spans) if start <= at < end), -1) for at in range(len(text))
    ]
    assert all(not text[start:end].isspace() and text[start:end].split() == [text[start:end]] for start, end in spans)


def test_manifests_count_words_by_white_space(tokenizer):
    for text in ("你好世界 abc 再见", "Hello you", "日本 の本です"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = white_space_words(text, word_index(tokenizer, ids))
        assert sorted(set(found)) == list(range(len(text.split())))


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_words_of_latin_text_are_those_of_split(text):
    if not any(ord(character) >= 0x0E01 for character in text):
        assert split_words(text) == text.split()


def test_words_of_scripts_without_spaces():
    assert split_words("巴黎，是首都。")[0].startswith("巴黎")
    assert 5 <= len(split_words(CHINESE)) <= 26
    assert 4 <= len(split_words(JAPANESE)) <= 14
    assert 6 <= len(split_words(THAI)) <= 20
    for text in (CHINESE, JAPANESE, THAI):
        assert "".join(split_words(text)) == text
        assert not any(word[0] in "，。、" for word in split_words(text)), "punctuation stays with the word before it"
    assert split_words("見る「本」です")[1].startswith("「")


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
def test_a_long_reply_without_spaces_is_not_one_segment(text):
    tokenizer, trigger = TOKENIZERS["llama 3"], Trigger(min_tokens=5, max_tokens=30, lookahead_tokens=2, threshold=0.5)
    ids = tokenizer(text * 20, add_special_tokens=False)["input_ids"][:504]
    counter, opens = WordCounter(tokenizer), []
    for token in ids:
        opens += counter.push(token)
    opens += counter.finish()
    for name in CANDIDATE_POLICIES:
        state, ends = candidate_policy(name, trigger).state(), []
        for (_, opening), token in zip(opens, ids, strict=True):
            ends += [one.end for one in state.push(0.0, tokenizer.decode([token]), opening) if one.final]
        ends += [one.end for one in state.flush() if one.final]
        assert ends[-1] == len(ids)
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        assert max(sizes) <= 2 * 30 + 12, f"{name}: segments of {sizes} tokens"
    scores = torch.zeros(1, len(ids))
    assert len(cut_replies(torch.tensor([ids]), scores, trigger, tokenizer)) > 5, "training cuts it too"
