"""Special tokens in text: it stays text, with the tokens around it unchanged, for any tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from echox.models.text.control_tokens import ControlTokens, special_token_ids
from echox.models.text.tokenization_text import period_id, word_index
from tiny_tokenizers import TOKENIZERS, bundled
from tool_models import family_tokenizer

KINDS = [*TOKENIZERS, "nano", "mini", "llama", "qwen"]
MARKS = "\ufdd0\ufdd1"


def kind(name):
    if name in ("llama", "qwen"):
        return family_tokenizer(name)
    return bundled(name) if name in ("nano", "mini") else TOKENIZERS[name]


@pytest.fixture(scope="module", params=KINDS)
def control(request):
    return ControlTokens(kind(request.param))


def numbers(control, text):
    return control._tokenizer(text, add_special_tokens=False)["input_ids"]


def specials(control):
    return {token: number for token, number in control._numbers.items() if token}


def test_a_special_token_in_text_is_text(control):
    for token in specials(control):
        text = f"So {token} it is."
        assert control.find(text) is not None
        assert control.find_unreadable(text) is None
        ids = control.text_ids(text)
        assert not set(ids) & set(specials(control).values())
        written = control._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert written.strip() == text
        assert -1 not in word_index(control._tokenizer, ids)


def test_text_without_special_tokens_is_read_as_before(control):
    for text in ("So it is.", "< | im_end | >", "<s", "", "x\n\ny  z 😀", "你好"):
        assert control.find(text) is None
        assert control.marked(text) == text
        assert control.text_ids(text) == numbers(control, text)


def test_the_template_keeps_its_tokens_and_what_is_around_them(control):
    """As the tokenizer alone reads a prompt, whose texts hold no special token."""
    for token in specials(control):
        prompt = f"{token}user\nHi there.{token}\n{token}{token}It is."
        for place in (prompt.index("there"), len(prompt)):
            assert control.prompt_ids(f"{prompt[:place]}{MARKS}{prompt[place:]}") == numbers(control, prompt)


@settings(max_examples=50)
@given(data=st.data())
def test_no_text_becomes_a_special_token_of_the_prompt(control, data):
    tokens = list(specials(control))
    cut = [token[:place] for token in tokens[:8] for place in (1, len(token) // 2)]
    rest = [token[place:] for token in tokens[:8] for place in (1, len(token) // 2)]
    pieces = st.sampled_from([*tokens[:8], *cut, *rest, *MARKS, "x", " ", "\n", "5"])
    text = "".join(data.draw(st.lists(pieces, max_size=8)))
    token = tokens[0]
    found = control.prompt_ids(f"{token} {control.marked(text)} {token}")
    assert [number for number in found if number in specials(control).values()] == [specials(control)[token]] * 2


def test_one_definition_of_special():
    """Tokens with a name, and tokens that are only marked as special."""
    tokenizer = family_tokenizer("qwen")
    tokenizer.add_tokens([AddedToken("<extra>", special=True)], special_tokens=False)
    extra = tokenizer.convert_tokens_to_ids("<extra>")
    assert extra in special_token_ids(tokenizer)
    assert tokenizer.eos_token_id in special_token_ids(tokenizer)
    assert word_index(tokenizer, [extra]) == [-1]
    assert ControlTokens(tokenizer).find("a <extra> b") == "<extra>"


def test_a_tokenizer_that_cannot_read_it_as_text_says_so():
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2, "<end>": 3}
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in vocabulary], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    control = ControlTokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>"))
    assert control.find_unreadable("a<end>a") == "<end>"
    assert control.find_unreadable("aa") is None
    for read in (control.text_ids, lambda text: control.prompt_ids(control.marked(text))):
        with pytest.raises(ValueError, match="found the special token <end>"):
            read("a<end>a")


def test_the_full_stop_and_words_that_follow(control):
    """SentencePiece writes a space before what begins: then "." is another token, and a space one more."""
    tokenizer = control._tokenizer
    assert tokenizer.convert_ids_to_tokens(period_id(tokenizer)) == "."
    following = control.text_ids("there, how", follows=True)
    before, whole = numbers(control, "Hello"), numbers(control, "Hello there, how")
    assert following == whole[len(before) :]
