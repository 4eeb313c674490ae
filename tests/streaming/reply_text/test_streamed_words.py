"""The words that a streamed reply is spoken in, and their tokens, are those that training counts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.models.text.tokenization_text import word_index
from echox.models.text.word_breaks import white_space_words
from echox.streaming.reply_text.policies import make_policy
from echox.streaming.reply_text.settings import GenerationSettings
from echox.streaming.reply_text.token_text import token_texts
from echox.streaming.reply_text.trigger import Trigger
from echox.streaming.reply_text.verbalizer import Verbalizer
from echox.streaming.speech import ReplySpeech
from echox.verbalization import Reading
from tiny_echox import tiny_echox
from tiny_tokenizers import TOKENIZERS, bundled

KINDS = [*TOKENIZERS, "nano", "mini"]
PIECES = [
    *("you", " city", " is", " Ask me", ".", ",", " ", "  ", "\n", "\n\n", "\u00a0", "\u3000", "—", "'s", " 42", "$"),
    *(
        "😀",
        " 😀",
        "👩‍👩‍👧",
        " 👩‍👩‍👧",
        "🇵🇱",
        " é",
        "e\u0301",
        " n\u0303",
        "Łódź",
        " Łódź",
        " Čapek",
        " Ångström",
        " Ñandú",
    ),
    *("你好", " 世界", "。", " अनुच्छेद", " ไทย", " ꙮ", " Ω", "𝔘", " 𝔘nicode"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30)


class AsWritten:
    """Rules of a language that says everything as it is written."""

    code = "en"
    has_rules = True

    def read(self, words, before, complete):
        return Reading()


class Recorded(ReplySpeech):
    """A reply's speech that only notes what would be said."""

    def __init__(self, engine, tokenizer):
        engine.tokenizer = tokenizer
        super().__init__(engine, GenerationSettings(), make_policy("whole", Trigger(), max_tokens=1000))
        self._verbalizer = Verbalizer(AsWritten())
        self.said = []

    def _say_runs(self, runs):
        self.said += [run for run in runs if not (run.ends_segment or run.special)]
        return iter(())


@pytest.fixture(scope="module")
def engine():
    return tiny_echox().engine


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=TEXTS)
def test_a_streamed_word_has_the_tokens_that_training_gives_it(engine, kind, text):
    tokenizer = bundled(kind) if kind in ("nano", "mini") else TOKENIZERS[kind]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    speech = Recorded(engine, tokenizer)
    for place, (token_id, piece) in enumerate(zip(ids, token_texts(tokenizer, ids), strict=True)):
        speech.push(token_id, place, piece, 0.0)
    speech.finish()
    speech.read(lambda: False)
    whole = speech.text
    words = white_space_words(whole.strip(), word_index(tokenizer, ids))
    assert [whole[run.start : run.end].strip() for run in speech.said] == whole.split()
    for number, run in enumerate(speech.said):
        if run.spoken is None:  # else it shares a token with another word, and no word has its state
            assert [token.state for token in run.tokens] == [n for n, word in enumerate(words) if word == number]
