"""Sessions: what is said is what the parts say at once, every word is spoken or reported, cancelling stops."""

import itertools

import numpy as np
import pytest
import torch

from echox.models.choosing import nucleus
from echox.models.tokenization_text import word_index
from echox.models.tokenization_unit_language import UnitReader
from echox.streaming import (
    AudioChunk,
    ContextDropped,
    EchoX,
    Finished,
    GenerationSettings,
    Heard,
    SpeechFailed,
    TextDelta,
    rows,
)
from echox.streaming.messages import Audio, Message
from echox.streaming.policies import POLICIES
from echox.streaming.speech import Speech
from tiny_echox import WINDOW_S, tiny_echox, tone
from tolerance import assert_equal_up_to_rounding


@pytest.fixture(scope="module")
def model() -> EchoX:
    return tiny_echox()


@pytest.fixture(scope="module")
def nano() -> EchoX:
    return EchoX.from_pretrained("nano", device="cpu")


QUESTION = tone(1.0)
TYPED = {"role": "user", "content": "Tell me about Brazil."}


def of(kind: type | tuple[type, ...], events: list) -> list:
    return [event for event in events if isinstance(event, kind)]


def waveform(chunks: list[AudioChunk]) -> np.ndarray:
    return np.concatenate([chunk.waveform for chunk in chunks])


# ---------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize("policy", ["word_by_word", "whole"])
def test_streaming_equals_the_parts_at_once(nano, policy, monkeypatch):
    """The echo decoder over all states of a segment, the vocoder over all units of the reply."""
    written: list[tuple[int, torch.Tensor]] = []
    push = Speech.push
    monkeypatch.setattr(
        Speech, "push", lambda self, i, state, *rest: written.append((i, state)) or push(self, i, state, *rest)
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
@pytest.mark.parametrize("form", ["word_synchronous", "prefix"])
def test_every_word_is_spoken_or_reported(form, policy):
    echox = tiny_echox(form=form, max_positions=2048)
    for seed in range(3):
        events = list(echox.session().stream(QUESTION, seed=seed, speech_policy=policy, max_new_tokens=60))
        text = events[-1].text
        assert "".join(event.text for event in of(TextDelta, events)) == text
        chunks, failed = of(AudioChunk, events), of(SpeechFailed, events)
        assert "".join(chunk.text for chunk in chunks)
        spoken, reported = ("".join(event.text for event in kind).split() for kind in (chunks, failed))
        if form == "word_synchronous":  # each word alone is one or the other
            assert sorted(spoken + reported) == sorted(text.split())
        else:  # a segment that breaks off is spoken so far, and reported
            assert words_of(text) == words_of(" ".join(spoken)) | words_of(" ".join(reported))
        marks = events[-1].timeline
        assert all(a.text_end <= b.text_start and a.end_s <= b.start_s for a, b in itertools.pairwise(marks))
        assert "".join(text[mark.text_start : mark.text_end] for mark in marks).split() == spoken
        assert marks[-1].end_s <= events[-1].timings.audio_s + 1e-6


def test_policies_say_the_same_text_and_differ_in_when(nano):
    tokens, texts = {}, set()
    for policy in ("word_by_word", "punctuation", "whole"):
        reply = nano.generate(TYPED, speech_policy=policy)
        tokens[policy] = reply.timings["ttfa_tokens"]
        texts.add(reply.text)
        assert not reply.failures
        assert "".join(chunk.text for chunk in reply.chunks) == reply.text
    assert len(texts) == 1
    assert tokens["word_by_word"] <= 8 < tokens["punctuation"] < tokens["whole"] == reply.timings["num_tokens"]


def test_order_of_events_and_their_times(model):
    model.engine.forget_audios()
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
    """When a chunk comes, its words have been told."""
    told, spoken = "", ""
    for event in model.session().stream(QUESTION):
        if isinstance(event, TextDelta):
            told += event.text
        elif isinstance(event, AudioChunk):
            spoken += event.text
            assert set(spoken.split()) <= set(told.split())


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


# ---------------------------------------------------------------------------------------------- conversations


def test_several_turns_equal_the_whole_conversation_at_once(model):
    session = model.session(system="Be brief.", temperature=0.0, max_new_tokens=12)
    first = session.reply(QUESTION)
    second = session.reply(tone(0.6, seed=2))
    whole = model.generate(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "audio", "audio": QUESTION}]},
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": [{"type": "audio", "audio": tone(0.6, seed=2)}]},
        ],
        temperature=0.0,
        max_new_tokens=12,
    )
    assert whole.text == second.text
    assert second.heard == whole.heard
    assert [message.role for message in session.messages] == ["user", "assistant"] * 2


def test_earlier_turns_are_not_computed_again(model, monkeypatch):
    session = model.session(max_new_tokens=6)
    session.reply(QUESTION)
    held = session._saved.length
    ran: list[int] = []
    memory = model.scheduler._memory
    advance = memory.advance
    monkeypatch.setattr(memory, "advance", lambda x, *rest: ran.append(x.shape[1]) or advance(x, *rest))
    monkeypatch.setattr(model.engine, "_features", lambda audios: pytest.fail("encoded again"))
    session.reply([{"role": "user", "content": "And the sea?"}])
    assert ran[0] == session._saved.length - held - ran[1:].count(1), "only the new turn was run"
    model.session().reply(QUESTION)  # another session, the same sound


def test_the_oldest_turns_are_dropped_and_told():
    echox = tiny_echox(max_positions=160)
    session = echox.session(system="Be brief.", max_new_tokens=12)
    dropped = []
    for turn in range(8):
        events = list(session.stream({"role": "user", "content": f"What is the number {turn}? Tell me about the sea."}))
        dropped += of(ContextDropped, events)
        assert isinstance(events[-1], Finished)
        assert session.messages[0].role == "user"
        assert session.messages[-2].parts == (f"What is the number {turn}? Tell me about the sea.",), "never the newest"
    assert dropped
    assert sum(event.messages for event in dropped) + len(session.messages) == 16
    fresh = echox.session(system="Be brief.", max_new_tokens=12)  # what is left is the whole conversation
    fresh.messages = list(session.messages)
    question = {"role": "user", "content": "And?"}
    assert fresh.reply(question, temperature=0.0).text == session.reply(question, temperature=0.0).text


def test_a_long_history_is_laid_out_a_few_times_only(monkeypatch):
    echox = tiny_echox(max_positions=160)
    session = echox.session(max_new_tokens=2)
    laid_out, engine, lay_out = [], session.engine, session.engine.lay_out

    def counted(messages, heard):
        laid_out.append(len(messages))
        return lay_out(messages, heard)

    monkeypatch.setattr(engine, "lay_out", counted)
    pair = [Message("user", ("Tell me about the sea.",)), Message("assistant", ("It is deep.",))]
    session.messages = pair * 200
    events = list(session.stream({"role": "user", "content": "And?"}))
    assert isinstance(events[-1], Finished)
    assert of(ContextDropped, events)
    assert session.messages[0].role == "user"
    assert len(laid_out) < 20
    assert max(laid_out) < 400, "never the whole"


def test_the_system_prompt_is_never_dropped():
    session = tiny_echox(max_positions=160).session(max_new_tokens=8)
    session.reply([{"role": "system", "content": "Be brief."}, TYPED])
    for _ in range(6):
        session.reply({"role": "user", "content": "A dog barks. Tell me about the sea."})
    assert session.messages[0].role == "system"
    assert session.messages[1].role == "user"
    assert len(session.messages) < 15


def test_a_refused_question_drops_nothing():
    session = tiny_echox(max_positions=160).session(max_new_tokens=8)
    session.reply(TYPED)
    before, events = list(session.messages), []
    with pytest.raises(ValueError, match="too long"):
        events.extend(session.stream({"role": "user", "content": "word " * 200}))
    assert session.messages == before
    assert events == []


def test_audios_that_left_the_conversation_are_forgotten(model):
    session = model.session(max_new_tokens=2)
    for seed in range(3):
        session.messages = []
        session.reply(tone(1.0, seed=seed))
    assert len(session._heard) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": "hot"}, {"temperature": None}, {"max_new_tokens": 2.5}, {"max_new_tokens": "5"},
        {"top_p": True}, {"policy_numbers": [1]}, {"speak": "no"}, {"speech_policy": 3},
        {"max_question_s": "a"}, {"seed": None},
        {"speech_policy": "fixed", "policy_numbers": {"every_tokens": "8"}},
        {"speech_policy": "semantic", "policy_numbers": {"min_tokens": 2.5}},
        {"speech_policy": "semantic", "policy_numbers": {"threshold": None}},
        {"speech_policy": "semantic", "policy_numbers": {"trigger": 3}},
        {"speech_policy": "early_first", "policy_numbers": {"inner": []}},
        {"speech_policy": "whole", "policy_numbers": {"max_tokens": None}},
    ],
)  # fmt: skip
def test_settings_of_another_kind_are_refused_when_asked(model, settings):
    """At the door, not in the middle of a step for many."""
    with pytest.raises(ValueError, match="expected"):
        model.session().submit(TYPED, **settings)


def test_settings_that_transformers_leaves_open_are_the_defaults(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"temperature": null, "top_p": 0.9, "eos_token_id": [1]}')
    assert GenerationSettings.load(tmp_path) == GenerationSettings(top_p=0.9)


def test_bfloat16_replies_and_what_was_asked_is_not_rounded(monkeypatch):
    echox = tiny_echox()
    half = EchoX(echox.model.bfloat16(), echox.processor, echox.settings)
    half.model.vocoder.float()
    seen = []
    monkeypatch.setattr(rows, "nucleus", lambda *inputs: seen.append(inputs) or nucleus(*inputs))
    reply = half.generate(QUESTION, top_p=0.999, temperature=0.7, max_new_tokens=6)
    assert reply.chunks
    assert all(top_ps.max() == 0.999 or top_ps.max() == 1.0 for _, _, top_ps, _ in seen)
    assert any(temperatures[0] == 0.7 for _, temperatures, _, _ in seen)


def test_a_question_longer_than_the_model_is_refused():
    echox = tiny_echox(max_positions=40)
    with pytest.raises(ValueError, match="too long"):
        echox.generate([{"role": "user", "content": "word " * 60}])
    reply = echox.generate([{"role": "user", "content": "What is the sea?"}], max_new_tokens=100)
    assert reply.timings["num_tokens"] <= 40


@pytest.mark.parametrize(
    "content",
    [
        "What is the sea?",
        [{"type": "audio", "audio": QUESTION}, {"type": "text", "text": "Say it again."}],
        [{"type": "audio", "audio": QUESTION}, {"type": "audio", "audio": tone(0.5, seed=3)}],
    ],
    ids=["text only", "text beside audio", "two audios"],
)
def test_questions_of_every_kind(model, content):
    events = list(model.session(system="Be brief.").stream({"role": "user", "content": content}))
    assert of(AudioChunk, events)
    assert len(of(Heard, events)) == (not isinstance(content, str))
    assert isinstance(events[-1], Finished)


def test_more_audio_than_the_window_is_heard_in_windows(model):
    long = tone(2.6 * WINDOW_S)
    audios = [Audio(long[: int(seconds * 16000)], 16000) for seconds in (2.6 * WINDOW_S, WINDOW_S)]
    together = model.engine.hear(audios)
    assert len(together[0].embeds) > len(together[1].embeds)
    for audio, heard in zip(audios, together, strict=True):
        model.engine.forget_audios()
        assert_equal_up_to_rounding(model.engine.hear([audio])[0].embeds, heard.embeds)
    assert model.generate(long).heard


def test_other_rates_are_resampled(model):
    reply = model.generate(tone(1.0, sampling_rate=24000), sampling_rate=24000)
    assert reply.timings["question_s"] == pytest.approx(1.0, abs=1e-3)


def test_sampling_follows_the_seed(model):
    texts = [model.generate(QUESTION, seed=seed, speak=False).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


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
    told = ""
    for event in stream:
        told += event.text if isinstance(event, TextDelta) else ""
        if isinstance(event, AudioChunk):
            break
    before = model.scheduler.num_steps
    stream.close()
    assert list(stream) == []
    assert model.scheduler.num_running == model.scheduler.num_waiting == 0
    assert not model.scheduler.step()
    assert model.scheduler.num_steps == before
    assert session.messages[-1] == session.messages[1]
    assert session.messages[-1].parts[0].startswith(told)
    assert session.reply(QUESTION).text  # the session goes on


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
    assert session._heard == {}
    assert session.reply(QUESTION).text == model.generate(QUESTION).text


def test_what_was_heard_is_remembered_within_bounds(model, monkeypatch):
    engine = model.scheduler.engine
    engine.forget_audios()
    (one,) = engine.hear([Audio(tone(1.0, seed=0), engine.input_sampling_rate)])
    monkeypatch.setattr("echox.streaming.engine.HEARD_BYTES", 3 * one.embeds.nbytes)
    for seed in range(8):
        engine.hear([Audio(tone(1.0, seed=seed), engine.input_sampling_rate)])
    assert len(engine._heard) == 3
    assert engine._heard_bytes == sum(heard.embeds.nbytes for heard in engine._heard.values())
    engine.forget_audios()
    assert engine._heard_bytes == 0


def test_an_interrupted_reply_is_cut_to_what_was_heard(nano):
    session = nano.session()
    reply = session.reply(TYPED)
    assert session.truncate(reply.duration_s + 1) == reply.text
    middle = reply.timeline[4]
    assert reply.heard_text(middle.end_s) == reply.text[: middle.text_end]
    kept = session.truncate(middle.end_s + 0.01)
    assert kept == reply.text[: middle.text_end] == session.messages[-1].parts[0]
    assert reply.heard_text(0.0) == ""
    assert session.reply({"role": "user", "content": "What is the capital of France?"}).text
    with pytest.raises(ValueError, match="found none"):
        nano.session().truncate(1.0)


def test_one_reply_at_a_time(model):
    session = model.session()
    stream = session.stream(QUESTION)
    next(stream)
    with pytest.raises(ValueError, match="one reply at a time"):
        session.reply(QUESTION)
    with pytest.raises(ValueError, match="still running"):
        session.truncate(1.0)
    stream.close()
    assert session.reply(QUESTION).text


@pytest.mark.parametrize("form", ["word_synchronous", "prefix"])
@pytest.mark.parametrize("fault", ["hangs", "emits nothing", "not finite"])
def test_speech_that_fails_is_reported_with_its_text(form, fault, monkeypatch):
    echox = tiny_echox(form=form)
    decoder, vocoder = echox.model.echo_decoder, echox.model.vocoder
    if fault == "not finite":
        go_on = vocoder.go_on
        monkeypatch.setattr(
            vocoder, "go_on", lambda *inputs: (lambda sound, state: (sound * float("nan"), state))(*go_on(*inputs))
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
    memory = model.scheduler._memory
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
    mine, theirs = model.generate(QUESTION), loaded.generate(QUESTION)
    assert mine.text == theirs.text
    np.testing.assert_array_equal(mine.waveform, theirs.waveform)
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


def test_messages_are_compared_by_identity():
    audio = Audio(QUESTION, 16000)
    assert Message("user", (audio,)).audios == (audio,)
    assert audio != Audio(QUESTION, 16000)
