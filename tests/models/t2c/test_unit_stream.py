"""Unit streams: step by step equals at once, and every failure is reported."""

import random

import pytest
import torch

from echox.api import EchoX
from echox.models.decoding.lean_llama import LeanSteps
from echox.models.t2c.modeling_t2c import build_unit_decoder
from echox.models.t2c.modeling_unit_decoder import UnitDecoder
from echox.models.t2c.unit_stream import Sampling, UnitStream, UnitStreamOutput, open_stream
from echox.models.t2c.unit_word_checks import CHARACTERS_PER_UNIT_WORD, MAX_REPEATS, repeating
from echox.models.text.tokenization_text import word_index
from tiny_decoder import tiny_decoder

FORMS = ("word_synchronous", "prefix")
WORDS = [3, 3, 4, -1, 6, 6, 6, 7, 8]


def tiny(form: str, **sizes: object) -> UnitDecoder:
    torch.manual_seed(0)
    mine = {"text_vocab_size": 50, "num_unit_words": 30, "max_unit_words": 40, "max_unit_words_per_word": 30}
    return build_unit_decoder(tiny_decoder(form, **(mine | sizes))).eval()


@torch.no_grad()
def say(stream: UnitStream, steps: LeanSteps | None = None) -> list[UnitStreamOutput]:
    """All that can be said now, the stream alone."""
    steps = steps or LeanSteps(stream.decoder.backbone, rows=1)
    said = []
    while stream.ready:
        steps.truncate(0, stream.position)
        logits = stream.decoder.output_logits(steps.advance(stream.inputs()[None])[:, -1])[0]
        if not stream.may_end:
            logits[stream.decoder.end_id] = -torch.inf
        said += stream.accept(int(logits.argmax()))
        assert len(said) < 1000
    return said


def units(said: list[UnitStreamOutput]) -> list[int]:
    return [unit_word for one in said for unit_word in one.unit_words]


def spoken(stream: UnitStream, states: torch.Tensor, words: list[int], characters: int = 4) -> UnitStream:
    for state, word in zip(states, words, strict=True):
        stream.push(state, word, "a" * characters)
    stream.finish()
    return stream


@pytest.mark.parametrize(
    "text", ["The capital of France is Paris.", "Seven.", "A dog barks, and a cat meows. It is late!"]
)
def test_word_by_word_equals_at_once(text):
    """With the nano model: random weights would only repeat themselves."""
    echox = EchoX.from_pretrained("nano", device="cpu")
    decoder, token_ids = (
        echox.model.echo_decoder,
        echox.processor.tokenizer(text, add_special_tokens=False)["input_ids"],
    )
    words, states = word_index(echox.processor.tokenizer, token_ids), echox.engine.text_states(token_ids)
    (whole,) = decoder.generate(states[None], torch.tensor([words]))
    stream = open_stream(decoder)
    steps = LeanSteps(decoder.backbone, rows=1)
    said = []
    for state, word in zip(states, words, strict=True):
        stream.push(state, word, "four")
        said += say(stream, steps)
    assert len(said) == max(0, len(set(words)) - 2), "all but the word that is written, and the one before it"
    stream.finish()
    said += say(stream, steps)
    assert stream.finished
    assert units(said) == whole.unit_words
    assert [one.word for one in said for _ in one.unit_words] == whole.word_of


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_a_word_is_generated_when_the_words_of_its_lookahead_are_complete(lookahead):
    stream = open_stream(tiny("word_synchronous", lookahead_words=lookahead))
    states, steps, after = torch.randn(9, 24), LeanSteps(stream.decoder.backbone, rows=1), []
    for state, word in zip(states, WORDS, strict=True):
        stream.push(state, word, "four")
        after.append(len(say(stream, steps)))
    expected = {0: [0, 0, 1, 0, 1, 0, 0, 1, 1], 1: [0, 0, 0, 0, 1, 0, 0, 1, 1], 2: [0, 0, 0, 0, 0, 0, 0, 1, 1]}
    assert after == expected[lookahead]
    stream.finish()
    with pytest.raises(ValueError, match="no more tokens"):
        stream.push(states[0], 9, "a")


@pytest.mark.parametrize("count", range(1, 9))
def test_unit_by_unit_equals_at_once(count):
    decoder = tiny("prefix", num_prefix_vectors=1)
    states = torch.randn(1, count, 24)
    (whole,) = decoder.generate(states, torch.tensor([WORDS[:count]]))
    said = say(spoken(open_stream(decoder, Sampling(retry_temperature=0.0)), states[0], WORDS[:count]))
    reported = [one for one in said if one.problem]
    assert whole.unit_words[: len(units(said))] == units(said)
    assert (
        units(said) == whole.unit_words or "repeats" in reported[-1].problem or "not finished" in reported[-1].problem
    )
    assert bool(reported) == (not whole.finished or len(whole.unit_words) * CHARACTERS_PER_UNIT_WORD < 4 * count)


def test_words_out_of_order_are_refused():
    for form in FORMS:
        stream = open_stream(tiny(form))
        stream.push(torch.randn(24), 3, "of")
        with pytest.raises(ValueError, match="ascending order"):
            stream.push(torch.randn(24), 2, "of")


# ---------------------------------------------------------------------------------------------- what goes wrong


def always(monkeypatch, decoder: UnitDecoder, outputs) -> list[int]:
    """Make a decoder say something fixed, step by step; returns the list of steps made."""
    made: list[int] = []

    def logits(hidden):
        row = torch.zeros(len(hidden), decoder.config.num_unit_words + 1)
        row[:, outputs(len(made))] = 1.0
        made.append(len(made))
        return row

    monkeypatch.setattr(decoder, "output_logits", logits)
    return made


def test_a_silent_segment_is_tried_again_and_reported():
    stream = spoken(open_stream(tiny("prefix")), torch.randn(3, 24), [0, 1, 2])
    said, steps = [], 0
    while stream.ready:  # the end although it is forbidden at the second try: damaged weights
        said += stream.accept(stream.decoder.end_id)
        steps += 1
    assert steps == 2, "once, and once more"
    assert [one.problem for one in said] == ["the echo decoder gave no units"]
    silent = spoken(open_stream(tiny("prefix")), torch.randn(2, 24), [-1, -1])
    assert silent.finished, "nothing to say is no failure"


def test_too_few_unit_words_for_a_long_word_are_refused():
    stream = spoken(open_stream(tiny("word_synchronous")), torch.randn(1, 24), [0], characters=60)
    said = []
    while stream.ready:
        said += stream.accept(5 if stream.may_end is False else stream.decoder.end_id)
    assert [one.problem for one in said] == ["only 1 unit words for 60 characters"]


def test_a_word_must_sound():
    stream = spoken(open_stream(tiny("word_synchronous")), torch.randn(3, 24), [0, 1, 2])
    assert not stream.may_end
    stream.accept(5)
    assert stream.may_end


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("period", [1, 3])
def test_endless_repetition_is_caught(form, period, monkeypatch):
    decoder = tiny(form, max_unit_words_per_word=64, max_unit_words=1000)
    steps = always(monkeypatch, decoder, lambda step: step % period)
    said = say(spoken(open_stream(decoder), torch.randn(2, 24), [0, 0], characters=200))
    assert "repeats itself" in said[-1].problem
    assert len(steps) <= 2 * period * (MAX_REPEATS + 1), "two tries"
    assert len(units(said)) <= 4 * period, "the repetition is not returned"


def test_the_second_attempt_can_succeed(monkeypatch):
    decoder = tiny("word_synchronous", max_unit_words_per_word=64)
    tried = MAX_REPEATS  # the first try repeats itself, the second says 5, 6 and ends
    always(monkeypatch, decoder, lambda step: 7 if step < tried else [5, 6, decoder.end_id][(step - tried) % 3])
    stream = spoken(open_stream(decoder, Sampling(source=random.Random(0))), torch.randn(2, 24), [0, 1])
    said = say(stream)
    assert [one.unit_words for one in said] == [[5, 6], [5, 6]]
    assert all(one.problem is None for one in said)
    assert stream.position == 6, "what was said in vain is not remembered"


def test_a_word_that_fails_twice_does_not_change_the_next(monkeypatch):
    """The words around a word that could not be said are said as if it had not been tried."""
    decoder = tiny("word_synchronous", max_unit_words_per_word=64)
    always(monkeypatch, decoder, lambda step: 7 if step < 2 * MAX_REPEATS else [5, decoder.end_id][step % 2])
    said = say(spoken(open_stream(decoder), torch.randn(3, 24), [0, 1, 2]))
    assert [(one.word, one.unit_words, bool(one.problem)) for one in said] == [
        (0, [], True),
        (1, [5] if said[1].unit_words == [5] else said[1].unit_words, False),
        (2, said[2].unit_words, False),
    ]
    assert all(one.unit_words for one in said[1:])


def test_a_prefix_decoder_discards_the_repetition(monkeypatch):
    decoder = tiny("prefix", max_unit_words=1000)
    begin = 4

    def outputs(step):
        if step < begin:
            return 10 + step
        if step < begin + MAX_REPEATS:
            return 7
        return [20, 21, 22, decoder.end_id][min(3, step - begin - MAX_REPEATS)]

    always(monkeypatch, decoder, outputs)
    said = say(spoken(open_stream(decoder), torch.randn(2, 24), [0, 1]))
    assert units(said) == [10, 11, 12, 13, 7, 20, 21, 22]
    assert all(one.problem is None for one in said)


def test_repetition_is_measured():
    assert repeating([1, 2, 3]) == 0
    assert repeating([1, 2, 2]) == 1
    assert repeating([1, 2, 2, 2]) == 2
    assert repeating([9, 1, 2, 1, 2]) == 2
    assert repeating([9, 1, 2, 1, 2, 1]) == 3


def test_a_segment_continues_the_one_before():
    """As if both had been one: what is said of the first is read again, not said again."""
    torch.manual_seed(3)
    decoder = tiny("word_synchronous", max_unit_words_per_word=64)
    states = torch.randn(6, 24)
    stream = open_stream(decoder, Sampling(retry_temperature=0.0))
    first, second = [5, 6, decoder.end_id, 7, decoder.end_id], [8, decoder.end_id, 9, 9, decoder.end_id]
    whole = spoken(open_stream(decoder), states, [0, 0, 1, 2, 2, 3])
    inputs = []
    for output in first + second:
        inputs.append(whole.inputs())
        whole.accept(output)
    spoken(stream, states[:3], [0, 0, 1])
    for output in first:
        stream.accept(output)
    after = spoken(open_stream(decoder), states[3:], [2, 2, 3])
    after.follow(stream, words=2)
    assert after.begins_with_prompt
    prompt = after.inputs()
    torch.testing.assert_close(prompt, torch.cat(inputs[: len(first) + 1]))
    said = [one for output in second for one in after.accept(output)]
    assert [(one.word, one.unit_words) for one in said] == [(2, [8]), (3, [9, 9])]
    assert after.position == len(first) + len(second)
    with pytest.raises(ValueError, match="without alignment"):
        open_stream(tiny("prefix")).follow(stream, 1)
