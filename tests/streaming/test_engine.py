"""Sessions: streaming equals the parts at once, every word is spoken or reported, cancelling stops the work."""

import itertools

import numpy as np
import pytest
import torch

from echox.api import EchoX
from echox.models.text.tokenization_text import word_index
from echox.models.unit_language.tokenization_unit_language import UnitReader
from echox.streaming import AudioChunk, Finished, Heard, SpeechFailed, TextDelta
from echox.streaming.reply_text.policies import POLICIES
from echox.streaming.speech import ReplySpeech
from tiny_echox import of, tiny_echox, tone
from tiny_recogniser import tiny_hearer


@pytest.fixture(scope="module", params=[tiny_echox, tiny_hearer], ids=["ctc", "recogniser"])
def model(request) -> EchoX:
    return request.param()


@pytest.fixture(scope="module")
def nano() -> EchoX:
    return EchoX.from_pretrained("nano", device="cpu")


QUESTION = tone(1.0)
TYPED = {"role": "user", "content": "Tell me about Brazil."}


def waveform(chunks: list[AudioChunk]) -> np.ndarray:
    return np.concatenate([chunk.waveform for chunk in chunks])


# ---------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize("policy", ["word_by_word", "whole"])
def test_streaming_equals_the_parts_at_once(nano, policy, monkeypatch):
    """The echo decoder over all states of a segment, the vocoder over all units of the reply."""
    written: list[tuple[int, torch.Tensor]] = []
    push = ReplySpeech.push
    monkeypatch.setattr(
        ReplySpeech, "push", lambda self, i, state, *rest: written.append((i, state)) or push(self, i, state, *rest)
    )
    reply = nano.generate({"role": "user", "content": "What is the capital of France?"}, speech_policy=policy)
    assert len(reply.chunks) >= 2
    token_ids, states = [i for i, _ in written], torch.stack([state for _, state in written])
    with torch.inference_mode():
        words = torch.tensor([word_index(nano.engine.tokenizer, token_ids)])
        (said,) = nano.model.echo_decoder.generate(states[None], words)
        units = torch.tensor([nano.engine.unit_language.decode_reduced(said.unit_words)])
        whole = nano.model.vocoder(units).waveform[0].numpy()
    np.testing.assert_allclose(waveform(list(reply.chunks)), whole, atol=1e-4)


def words_of(text: str) -> set[str]:
    """Without marks that stand for no sound, which are not reported with their word."""
    return {word.strip("\ufffd") for word in text.split()} - {""}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("form", ["word_synchronous", "spelling", "prefix"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_every_word_is_spoken_or_reported(form, policy, seed):
    echox = tiny_echox(form=form, max_positions=2048)
    events = list(echox.session().stream(QUESTION, seed=seed, speech_policy=policy, max_new_tokens=40))
    text = events[-1].text
    assert "".join(event.text for event in of(TextDelta, events)) == text
    chunks, failed = of(AudioChunk, events), of(SpeechFailed, events)
    assert "".join(chunk.text for chunk in chunks)
    spoken, reported = ("".join(event.text for event in kind).split() for kind in (chunks, failed))
    if form != "prefix":  # each word alone is one or the other
        assert sorted(spoken + reported) == sorted(text.split())
    else:  # a segment that breaks off is spoken so far, and reported
        assert words_of(text) == words_of(" ".join(spoken)) | words_of(" ".join(reported))
    marks = events[-1].timeline
    assert all(a.text_end <= b.text_start and a.end_s <= b.start_s for a, b in itertools.pairwise(marks))
    assert "".join(text[mark.text_start : mark.text_end] for mark in marks).split() == spoken
    assert marks[-1].end_s <= events[-1].timings.audio_s + 1e-6


def test_policies_say_the_same_text_and_differ_in_when(nano):
    tokens, texts = {}, set()
    for policy in ("word_by_word", "semantic", "whole"):
        reply = nano.generate(TYPED, speech_policy=policy)
        tokens[policy] = reply.timings["ttfa_tokens"]
        texts.add(reply.text)
        assert not reply.failures
        assert "".join(chunk.text for chunk in reply.chunks) == reply.text
    assert len(texts) == 1
    assert tokens["word_by_word"] <= 8 < tokens["semantic"] < tokens["whole"] == reply.timings["num_tokens"]


def test_order_of_events_and_their_times(model):
    model.engine.clear_encoded()
    events = list(model.session().stream(QUESTION))
    kinds = [type(event) for event in events]
    assert kinds[0] is Heard
    assert kinds[-1] is Finished
    assert kinds.index(AudioChunk) < len(kinds) - 1 - kinds[::-1].index(TextDelta), "speech begins before the text ends"
    said_samples = 0
    for chunk in of(AudioChunk, events):
        assert chunk.start_s == pytest.approx(said_samples / chunk.sampling_rate)
        assert chunk.waveform.dtype == np.float32
        said_samples += len(chunk.waveform)
    timings = events[-1].timings
    assert timings.audio_s == pytest.approx(said_samples / 16000)
    assert timings.question_s == pytest.approx(1.0)
    parts = ("encode_s", "prefill_s", "text_s", "echo_s", "vocoder_s")
    assert all(getattr(timings, part) > 0 for part in parts)
    assert timings.compute_s == pytest.approx(sum(getattr(timings, part) for part in parts))
    assert 0 < timings.queued_s < timings.first_text_s < timings.ttfa_s
    assert timings.ttfa_tokens < timings.num_tokens == 24
    assert timings.rtf == pytest.approx(timings.compute_s / timings.audio_s)
    assert events[-1].stopped == "length"


def test_audio_follows_the_text_it_says(model):
    """When a chunk comes, its words have been emitted."""
    emitted, spoken = "", ""
    for event in model.session().stream(QUESTION):
        if isinstance(event, TextDelta):
            emitted += event.text
        elif isinstance(event, AudioChunk):
            spoken += event.text
            assert set(spoken.split()) <= set(emitted.split())


def accounted(events: list) -> list[str]:
    """Words that were spoken or reported, sorted."""
    return sorted(word for event in of((AudioChunk, SpeechFailed), events) for word in event.text.split())


def test_words_that_sound_like_the_end_of_the_one_before_are_told(monkeypatch):
    """All their units become one with its last: they begin where the sound ends."""
    echox = tiny_echox()
    decoder, steps = echox.model.echo_decoder, itertools.count()

    def one_unit(hidden):
        row = torch.zeros(len(hidden), decoder.config.num_unit_words + 1)
        row[:, decoder.end_id if next(steps) % 2 else 7] = 1e9
        return row

    monkeypatch.setattr(decoder, "output_logits", one_unit)
    events = list(echox.session().stream(TYPED, echo_temperature=0.0))
    assert accounted(events) == sorted(events[-1].text.split())


def test_a_reader_that_holds_units_back_tells_each_text_once(monkeypatch):
    """As that of the official unit pieces does."""
    echox = tiny_echox(form="prefix")
    language = echox.engine.unit_language

    class Holding(UnitReader):
        held: tuple[int, ...] = ()

        def push(self, unit_words):
            units = [*self.held, *super().push(unit_words)]
            self.held = tuple(units[-1:])
            return units[:-1]

        def finish(self):
            return list(self.held)

    monkeypatch.setattr(language, "reader", lambda: Holding(language))
    events = list(echox.session().stream(TYPED))
    spoken = " ".join(chunk.text for chunk in of(AudioChunk, events)).split()
    assert len(spoken) <= len(events[-1].text.split())
    places = [mark.text_start for mark in events[-1].timeline]
    assert places == sorted(set(places))


def test_half_a_character_at_the_end_is_told(model, monkeypatch):
    engine = model.engine
    token_ids = engine.tokenizer(" sea \N{GRINNING FACE}", add_special_tokens=False)["input_ids"][:-1]
    stream = model.speak_text(" sea ")
    monkeypatch.setattr(type(engine.tokenizer), "__call__", lambda *_, **__: {"input_ids": token_ids})
    events = list(stream)
    assert events[-1].text == " sea \N{REPLACEMENT CHARACTER}"
    assert accounted(events) == sorted(events[-1].text.split())


def test_silent_writing(model):
    reply = model.generate(QUESTION, speak=False)
    assert reply.text
    assert len(reply.waveform) == 0
    assert reply.timings["ttfa_s"] is None
    assert reply.timings["rtf"] is None


def test_given_text_is_spoken(nano):
    events = list(nano.speak_text("The capital of France is Paris."))
    assert (
        "".join(chunk.text for chunk in of(AudioChunk, events)) == events[-1].text == "The capital of France is Paris."
    )
    assert 1.0 < events[-1].timings.audio_s < 4.0
    with pytest.raises(ValueError, match="text to speak"):
        nano.speak_text(" ")


# ---------------------------------------------------------------------------------------------- cancelling, failing


def test_cancel_stops_all_work_and_keeps_what_was_written(model):
    session = model.session()
    stream = session.stream(QUESTION)
    emitted = ""
    for event in stream:
        emitted += event.text if isinstance(event, TextDelta) else ""
        if isinstance(event, AudioChunk):
            break
    before = model.scheduler.num_steps
    stream.close()
    assert list(stream) == []
    assert model.scheduler.num_running == model.scheduler.num_waiting == 0
    assert not model.scheduler.step()
    assert model.scheduler.num_steps == before
    assert session.messages[-1] == session.messages[1]
    assert session.messages[-1].parts[0].startswith(emitted)
    assert session.reply(QUESTION).text  # the session continues


def test_letting_go_of_a_stream_cancels_it(model):
    stream = model.session().stream(QUESTION)
    next(stream)
    assert model.scheduler.num_running == 1
    del stream
    assert model.scheduler.num_running == 0


def test_a_reply_cancelled_before_a_word_was_never_asked(model):
    session = model.session()
    session.submit(QUESTION).cancel()
    assert session.messages == []
    assert session._context._encoded == {}
    assert session.reply(QUESTION).text == model.generate(QUESTION).text


@pytest.mark.parametrize("form", ["word_synchronous", "prefix"])
@pytest.mark.parametrize("fault", ["hangs", "emits nothing", "not finite"])
def test_speech_that_fails_is_reported_with_its_text(form, fault, monkeypatch):
    echox = tiny_echox(form=form)
    decoder, vocoder = echox.model.echo_decoder, echox.model.vocoder
    if fault == "not finite":
        vocode_next = vocoder.vocode_next
        monkeypatch.setattr(
            vocoder,
            "vocode_next",
            lambda *inputs: (lambda sound, state: (sound * float("nan"), state))(*vocode_next(*inputs)),
        )
    else:

        def logits(hidden):
            row = torch.zeros(len(hidden), decoder.config.num_unit_words + 1)
            row[:, 7 if fault == "hangs" else decoder.end_id] = 1e9
            return row

        monkeypatch.setattr(decoder, "output_logits", logits)
    events = list(echox.session().stream(QUESTION))
    chunks, failed = of(AudioChunk, events), of(SpeechFailed, events)
    said = words_of(events[-1].text)
    spoken, reported = ({word for event in kind for word in words_of(event.text)} for kind in (chunks, failed))
    if fault == "emits nothing" and form == "word_synchronous":
        assert not failed, "a word must sound: its end is not possible before"
        return
    assert spoken | reported == said, "nothing is passed over"
    reasons = {"hangs": "repeats itself", "emits nothing": "unit", "not finite": "not finite"}
    assert any(reasons[fault] in event.reason for event in failed)
    if fault != "emits nothing":  # there the second try must not end at once, and says something
        assert reported == said
    if fault == "not finite":
        assert not waveform(chunks).any(), "silence in its place"


def test_an_error_leaves_a_usable_session(model, monkeypatch):
    session = model.session()
    expected = model.generate(QUESTION).text
    with monkeypatch.context() as broken:
        broken.setattr(model.engine, "logits", lambda states: torch.full((len(states), 300), float("nan")))
        with pytest.raises(FloatingPointError, match="not finite"):
            session.reply(QUESTION)
    assert session.messages == []
    assert session.reply(QUESTION).text == expected


def test_ctrl_c_leaves_a_usable_session(model, monkeypatch):
    session = model.session(temperature=0.0)
    expected = model.generate(QUESTION, temperature=0.0).text
    memory = model.scheduler.batch._memory
    advance = memory.advance
    with monkeypatch.context() as pressed:

        def stop(*inputs):
            advance(*inputs)  # it has written into the memory by then
            raise KeyboardInterrupt

        pressed.setattr(memory, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            session.reply(QUESTION)
    assert session.reply(QUESTION).text == expected


# ---------------------------------------------------------------------------------------------- one folder, the API


def test_save_equals_load(model, tmp_path):
    echox = EchoX(model.model, model.processor, model.settings, {"stage": "tiny", "seed": 0})
    echox.save_pretrained(tmp_path)
    loaded = EchoX.from_pretrained(tmp_path, device="cpu")
    assert loaded.settings == echox.settings
    assert loaded.training_record == {"stage": "tiny", "seed": 0}
    assert loaded.engine.trigger == echox.engine.trigger
    before, after = model.generate(QUESTION), loaded.generate(QUESTION)
    assert before.text == after.text
    np.testing.assert_array_equal(before.waveform, after.waveform)
    expected = {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "unit_language.json"}
    expected |= {"generation_config.json", "training_record.json", "chat_template.jinja"}
    assert expected <= {path.name for path in tmp_path.iterdir()}


def test_a_folder_of_float16_is_float32_in_memory(model, tmp_path):
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    loaded = EchoX.from_pretrained(tmp_path / "half", device="cpu")
    assert {value.dtype for value in loaded.model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert loaded.generate(QUESTION).chunks
    assert next(model.model.parameters()).dtype == torch.float32, "saving leaves the model as it was"


def test_the_streaming_iterator_gives_text_and_audio_only(model):
    with model.stream(QUESTION) as stream:
        kinds = {type(event) for event in stream}
        assert kinds == {TextDelta, AudioChunk}
        assert stream.heard
        assert stream.failures == ()
        assert stream.reply().timings["rtf"] > 0
