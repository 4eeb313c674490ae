"""Tokens to text without parts of characters, sampling, and the settings of a model folder."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from echox.streaming.reply_text.settings import GenerationSettings
from echox.streaming.reply_text.token_text import IncrementalDetokenizer


class ByteTokenizer:
    """Every byte is a token: the hardest case for characters of several bytes."""

    def __init__(self) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        self.tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def decode(self, token_ids: list[int], **_: object) -> str:
        return self.tokenizer.decode(token_ids)


TOKENIZER = ByteTokenizer()


@settings(deadline=None, max_examples=80)
@given(st.text(alphabet=st.sampled_from("aé €ß😀日 .\n"), max_size=20))
def test_pieces_join_to_the_text_and_hold_whole_characters(text):
    detokenizer = IncrementalDetokenizer(TOKENIZER)
    pieces = [detokenizer.push(token_id) for token_id in TOKENIZER.encode(text)]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == text
    assert detokenizer.flush() == ""


def test_an_unfinished_character_at_the_end_is_told_and_not_lost():
    detokenizer = IncrementalDetokenizer(TOKENIZER)
    pieces = [detokenizer.push(token_id) for token_id in TOKENIZER.encode("a😀")[:-1]]
    assert "".join(pieces) == "a"
    assert detokenizer.flush() == "\ufffd"


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"echo_top_p": 1.5},
        {"max_new_tokens": 0},
        {"max_question_s": 0.0},
        {"speech_policy": "soon"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenerationSettings(**wrong)


def test_settings_round_trip_and_refuse_unknown_names(tmp_path):
    mine = GenerationSettings(temperature=0.2, top_p=0.9, max_new_tokens=7)
    mine.save(tmp_path)
    assert GenerationSettings.load(tmp_path) == mine
    assert GenerationSettings.load(tmp_path / "nowhere") == GenerationSettings()
    with pytest.raises(ValueError, match="temprature"):
        mine.replaced({"temprature": 0.1})
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        GenerationSettings.load(tmp_path)
