"""Letters beside tokens: any script, and the same in training, in batches, in steps and in streams."""

import pytest
import torch

from echox.models.decoding.lean_llama import LeanSteps
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_letters import letters_of, letters_of_words, pad_letters
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration, build_unit_decoder
from echox.models.t2c.modeling_unit_decoder import IGNORED, UnitDecoder, UnitSequence
from echox.models.t2c.unit_stream import Sampling, open_stream
from echox.models.text.tokenization_text import train_text_tokenizer, word_index
from echox.streaming.reply_text.token_text import token_texts
from echox.streaming.reply_text.trigger import Trigger
from echox.training.stages.speaking.echo_targets import cut_replies
from echox.training.stages.speaking.echo_teacher import OnlineTargets
from tiny_decoder import tiny_decoder
from tolerance import assert_equal_up_to_rounding

LIMIT = 12
TEXTS = ["Photosynthesis, unmet words!", "Zürich", "天気は元気です。 Привет 안녕하세요"]


def tiny(**sizes: object) -> UnitDecoderConfig:
    mine = {"text_vocab_size": 300, "num_unit_words": 30, "max_unit_words": 60, "max_unit_words_per_word": 7}
    return tiny_decoder(**(mine | {"max_word_letters": LIMIT} | sizes))


@pytest.fixture
def decoder() -> UnitDecoder:
    torch.manual_seed(0)
    return build_unit_decoder(tiny()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return train_text_tokenizer(["the water of the lake"], 280)  # nearly all tokens are bytes


def spelled(tokenizer, text: str) -> tuple[list[int], list[int], list[str]]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids, word_index(tokenizer, ids), token_texts(tokenizer, ids)


def batch_of(tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States of 24 numbers, words and letters of some texts."""
    rows = [spelled(tokenizer, text) for text in texts]
    longest = max(len(ids) for ids, _, _ in rows)
    table = torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
    states = torch.stack([table[torch.tensor(ids + [0] * (longest - len(ids)))] for ids, _, _ in rows])
    words = torch.tensor([of + [-1] * (longest - len(of)) for _, of, _ in rows])
    return states, words, pad_letters([letters_of_words(parts, of, LIMIT) for _, of, parts in rows])


def same(one: UnitSequence, other: UnitSequence) -> bool:
    return (one.unit_words, one.word_of, one.finished) == (other.unit_words, other.word_of, other.finished)


@pytest.mark.parametrize(
    ("word", "read"),
    [
        (" Photosynthesis,", "photosynthesis,"),
        ("NASA", "NASA"),
        ("FBI's", "FBI's"),
        ("I", "i"),
        ("McDonald", "mcdonald"),
        ("Zürich", "zu\u0308rich"),
        ("ﬁne", "fine"),
        ("", ""),
    ],
)
def test_a_word_is_spelled_the_same_at_the_start_of_a_sentence(word, read):
    assert bytes(letters_of(word, 64)).decode() == read
    assert letters_of(word, 3) == letters_of(word, 64)[:3]


def test_letters_are_those_of_the_words_in_any_script(tokenizer):
    """The tokens are bytes, so characters are spread over several of them."""
    text = TEXTS[2]
    ids, words, texts = spelled(tokenizer, text)
    assert len(ids) > len(text)
    assert "".join(texts) == text
    assert max(words) + 1 == len(letters_of_words(texts, words, LIMIT)) > 3


def test_letters_need_the_form_that_knows_its_words():
    with pytest.raises(ValueError, match="word-synchronous"):
        tiny(form="prefix")
    with pytest.raises(ValueError, match="word_token_dropout"):
        tiny(max_word_letters=0, word_token_dropout=0.2)


def test_missing_letters_are_refused(decoder, tokenizer):
    states, words, letters = batch_of(tokenizer, TEXTS)
    for given in (None, letters[:, :1], letters[:2], letters.repeat(1, 1, 3), letters[0]):
        with pytest.raises(ValueError, match="word_letters: expected"):
            decoder.generate(states, words, word_letters=given)


def test_a_batch_says_what_each_text_alone_says(decoder, tokenizer):
    together = decoder.generate(*batch_of(tokenizer, TEXTS)[:2], word_letters=batch_of(tokenizer, TEXTS)[2])
    for text, sequence in zip(TEXTS, together, strict=True):
        states, words, letters = batch_of(tokenizer, [text])
        assert same(sequence, decoder.generate(states, words, word_letters=letters)[0])
    assert len({tuple(sequence.unit_words) for sequence in together}) == len(TEXTS)


def test_a_row_that_is_done_takes_no_more_steps(decoder, tokenizer, monkeypatch):
    """Three rows of two words; the first ends each at once, the others when they must."""
    states, words, letters = batch_of(tokenizer, ["a bee", "is at", "my sea"])
    calls, advance = [], LeanSteps.advance
    monkeypatch.setattr(LeanSteps, "advance", lambda self, *inputs: calls.append(1) or advance(self, *inputs))

    def choose(logits: torch.Tensor) -> torch.Tensor:
        return torch.tensor([decoder.end_id] + [5] * (len(logits) - 1))

    with torch.no_grad():
        said = decoder._generate(states, words, choose, 40, letters)
    assert [len(one.unit_words) for one in said] == [0, 14, 14]
    assert len(calls) <= 2 * (8 + 2)


def test_teacher_forcing_sees_what_generation_sees(decoder, tokenizer):
    states, words, letters = batch_of(tokenizer, TEXTS)
    said = decoder.generate(states, words, word_letters=letters)
    longest = max(len(one.unit_words) for one in said)
    unit_words = torch.tensor([one.unit_words + [IGNORED] * (longest - len(one.unit_words)) for one in said])
    word_of = torch.tensor([one.word_of + [-1] * (longest - len(one.word_of)) for one in said])
    output = decoder(states, words, unit_words, word_of, letters)
    logits, in_word = output.logits.clone(), 0
    for row, targets in enumerate(output.targets.tolist()):
        for step, target in enumerate(targets):
            if target == IGNORED:
                continue
            if in_word == 0:
                logits[row, step, decoder.end_id] = -torch.inf
            if in_word < 7:  # else the end was forced
                assert int(logits[row, step].argmax()) == target
            in_word = 0 if target == decoder.end_id else in_word + 1
    alone = decoder(states[1:2], words[1:2], unit_words[1:2], word_of[1:2], letters[1:2])
    count = int((alone.targets != IGNORED).sum())
    assert_equal_up_to_rounding(alone.logits[0, :count], output.logits[1, :count])


@pytest.mark.parametrize("text", TEXTS)
@torch.no_grad()
def test_word_by_word_equals_at_once(decoder, tokenizer, text):
    """The scores of every step, for unit words that are given: random weights would only repeat themselves."""
    states, words, letters = batch_of(tokenizer, [text])
    ids, of, texts = spelled(tokenizer, text)
    said = [[3 + word, 9, 4 + word % 2] for word in range(max(of) + 1)]
    unit_words = torch.tensor([[unit for word in said for unit in word]])
    whole = decoder(states, words, unit_words, torch.arange(len(said)).repeat_interleave(3)[None], letters)
    outputs = iter([unit for word in said for unit in (*word, decoder.end_id)])
    stream, steps, scores = open_stream(decoder, Sampling(retry_temperature=0.0)), LeanSteps(decoder.backbone, 1), []

    def step() -> None:
        while stream.ready:
            steps.truncate(0, stream.position)
            scores.append(decoder.output_logits(steps.advance(stream.inputs()[None])[:, -1])[0])
            stream.accept(next(outputs))

    for state, word, part in zip(states[0], of, texts, strict=True):
        stream.push(state, word, part)
        step()
        assert len(scores) == 4 * max(0, word - 1), "all but the word that is written, and the one before it"
    stream.finish()
    step()
    assert stream.finished
    assert_equal_up_to_rounding(torch.stack(scores), whole.logits[0])
    assert stream.position == len(scores) + int((letters >= 0).sum())


def test_a_segment_continues_the_one_before(decoder):
    """Its first step reads the letters and unit words of the words before, as if all had been one segment."""
    end, states, texts = decoder.end_id, torch.randn(3, 24), [" one", " two", " six"]
    whole, first, after = (open_stream(decoder, Sampling(retry_temperature=0.0)) for _ in range(3))
    for stream, places in ((whole, (0, 1, 2)), (first, (0, 1)), (after, (2,))):
        for place in places:
            stream.push(states[place], place, texts[place])
        stream.finish()
    inputs = []
    for output in (5, 6, end, 7, end, 8, end):
        inputs.append(whole.inputs())
        whole.accept(output)
        if not first.finished:
            first.accept(output)
    after.follow(first, words=2)
    prompt = after.inputs()
    assert prompt[: len(torch.cat(inputs[:5]))].shape == torch.cat(inputs[:5]).shape
    torch.testing.assert_close(prompt[:3], inputs[0][:3])  # the letters of "one"
    after.accept(8)
    after.accept(end)
    assert after.finished
    assert after.position == whole.position


def test_a_failed_word_reads_its_letters_again(decoder):
    stream = open_stream(decoder)
    for place, text in enumerate((" one", " seven")):
        stream.push(torch.randn(24), place, text)
    stream.finish()
    begin = stream.inputs()
    for _ in range(8):  # one more than a word may have: the second attempt begins
        assert not stream.accept(3)
    assert stream.position == 0
    torch.testing.assert_close(stream.inputs(), begin)
    assert [one.problem is not None for _ in range(8) for one in stream.accept(3)] == [True]
    assert (stream.position, len(stream.inputs())) == (0, len(" seven"))


def test_letters_learn_and_hidden_tokens_do_not_matter(tokenizer):
    torch.manual_seed(0)
    decoder = build_unit_decoder(tiny(word_token_dropout=0.999)).train()
    states, words, letters = batch_of(tokenizer, ["water"])
    units, of = torch.tensor([[1, 2]]), torch.tensor([[0, 0]])
    one, other = (decoder(some, words, units, of, letters) for some in (states, torch.randn_like(states)))
    torch.testing.assert_close(one.logits, other.logits)
    one.loss.backward()
    assert all(value.grad is not None for value in decoder.letter_encoder.parameters())


def test_saved_equals_loaded_and_old_configurations_read_no_letters(tmp_path, tokenizer):
    torch.manual_seed(0)
    model = T2CForUnitGeneration(tiny()).eval()
    model.save_pretrained(tmp_path)
    loaded = T2CForUnitGeneration.from_pretrained(tmp_path)
    ids, of, texts = spelled(tokenizer, TEXTS[0])
    letters = pad_letters([letters_of_words(texts, of, LIMIT)])
    asked = {"input_ids": torch.tensor([ids]), "word_ids": torch.tensor([of]), "word_letters": letters}
    assert loaded.generate(**asked) == model.generate(**asked)
    old = build_unit_decoder(tiny(max_word_letters=0))
    assert not old.reads_letters
    assert not any("letter" in name or "step_embedding" in name for name in old.state_dict())


def test_echo_training_gives_the_teacher_the_letters_of_its_segments(tokenizer):
    torch.manual_seed(0)
    t2c = T2CForUnitGeneration(tiny()).eval()
    rows = [spelled(tokenizer, text)[0] for text in ("the water. A new lake.", "Zürich.")]
    ids = torch.tensor([row + [-1] * (max(map(len, rows)) - len(row)) for row in rows])
    period = tokenizer(".", add_special_tokens=False)["input_ids"][0]
    trigger = Trigger(min_tokens=1, max_tokens=40, lookahead_tokens=0, threshold=0.5)
    segments = cut_replies(ids, (ids == period).float(), trigger, tokenizer, max_word_letters=LIMIT)
    said = [[bytes(word[word >= 0].tolist()).decode() for word in row] for row in segments.word_letters]
    assert said[0][:2] == ["the", "water."]
    assert said[-1][0] == "zu\u0308rich."
    last = segments.kept([len(segments) - 1])
    (alone,) = t2c.generate(last.token_ids, last.word_ids, word_letters=last.word_letters)
    _, unit_words, _ = OnlineTargets(t2c)(last, {})
    assert unit_words[0].tolist() == alone.unit_words
