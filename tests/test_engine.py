"""Sessions: streaming equals off-line, sessions are alone, every token is spoken or reported, cancelling stops."""

import dataclasses

import numpy as np
import pytest
import torch

from echox.streaming import AudioChunk, EchoX, Finished, Heard, Segment, SpeechFailed, TextDelta
from echox.streaming.messages import Audio, Message
from tiny_echox import WINDOW_S, tiny_echox, tone


@pytest.fixture(scope="module")
def model() -> EchoX:
    return tiny_echox()


QUESTION = tone(1.0)


def of(kind: type, events: list) -> list:
    return [event for event in events if isinstance(event, kind)]


def waveform(chunks: list[AudioChunk]) -> np.ndarray:
    return np.concatenate([chunk.waveform for chunk in chunks])


@pytest.mark.parametrize("form", ["word_synchronous", "prefix"])
@pytest.mark.parametrize("echo_temperature", [0.0, 1.0])
def test_streaming_equals_offline(form, echo_temperature):
    echox = tiny_echox(form=form)
    events = list(echox.session().stream(QUESTION, echo_temperature=echo_temperature))
    reply = echox.generate(QUESTION, echo_temperature=echo_temperature)
    chunks = of(AudioChunk, events)
    assert len(chunks) >= 2, "one segment would prove nothing"
    assert "".join(event.text for event in of(TextDelta, events)) == reply.text
    assert [chunk.text for chunk in chunks] == [chunk.text for chunk in reply.chunks]
    np.testing.assert_allclose(waveform(chunks), reply.waveform, atol=1e-5)
    assert of(SpeechFailed, events) == list(reply.failures)
    assert reply.heard == of(Heard, events)[0].text != ""


def test_order_of_events_and_their_times(model):
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
    assert 0 < timings.ttfa_s < timings.compute_s == pytest.approx(sum(getattr(timings, part) for part in parts))
    assert timings.ttfa_tokens < timings.num_tokens == 24
    assert timings.rtf == pytest.approx(timings.compute_s / timings.audio_s)
    assert events[-1].stopped == "length"


def test_audio_follows_the_text_it_says(model):
    """When a chunk comes, its words have been told, and it was not held back for text that came after."""
    told, spoken = "", ""
    lookahead = model.engine.trigger.lookahead_tokens
    for event in model.session().stream(QUESTION):
        if isinstance(event, TextDelta):
            told += event.text
        elif isinstance(event, AudioChunk):
            spoken += event.text
            assert told.startswith(spoken.rstrip("\ufffd"))
            assert len(model.engine.tokenizer.encode(told[len(spoken) :])) <= 8 * (lookahead + 1)


@pytest.mark.parametrize("seed", range(4))
def test_every_token_belongs_to_exactly_one_spoken_segment(model, seed, monkeypatch):
    segments: list[Segment] = []
    session_module = __import__("echox.streaming.session", fromlist=["Session"])
    speak = session_module.Session._speak

    def watched(self, found, settings, writing):
        segments.extend(found)
        return speak(self, found, settings, writing)

    monkeypatch.setattr(session_module.Session, "_speak", watched)
    events = list(model.session().stream(QUESTION, seed=seed))
    count = events[-1].timings.num_tokens
    assert [token for segment in segments for token in range(segment.start, segment.end)] == list(range(count))
    said = "".join(event.text for event in events if isinstance(event, AudioChunk | SpeechFailed))
    assert said.replace("\ufffd", "").split() == events[-1].text.replace("\ufffd", "").split()


def test_sessions_do_not_notice_each_other(model):
    questions = [tone(1.0), tone(0.7, seed=1)]
    alone = [list(model.session(seed=i).stream(question)) for i, question in enumerate(questions)]
    streams = [model.session(seed=i).stream(question) for i, question in enumerate(questions)]
    mixed: list[list] = [[], []]
    running = [0, 1]
    while running:
        for index in list(running):
            event = next(streams[index], None)
            if event is None:
                running.remove(index)
            else:
                mixed[index].append(event)
    for together, single in zip(mixed, alone, strict=True):
        assert together[-1].text == single[-1].text
        np.testing.assert_array_equal(waveform(of(AudioChunk, together)), waveform(of(AudioChunk, single)))


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


def test_the_cache_of_earlier_turns_is_continued(model, monkeypatch):
    session = model.session(max_new_tokens=6)
    session.reply(QUESTION)
    ran: list[int] = []
    advance = model.engine.advance
    monkeypatch.setattr(
        model.engine, "advance", lambda embeds, cache: ran.append(len(embeds)) or advance(embeds, cache)
    )
    session.reply([{"role": "user", "content": "And the sea?"}])
    assert ran[0] < session._cache.get_seq_length() - 6, "only the new turn was run"


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
    engine = model.engine
    states = [engine.hear(Audio(long[: int(seconds * 16000)], 16000)).embeds for seconds in (2.6 * WINDOW_S, WINDOW_S)]
    assert len(states[0]) > len(states[1])
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


# ---------------------------------------------------------------------------------------------- cancelling, failing


def test_cancel_stops_all_work_and_keeps_what_was_written(model, monkeypatch):
    session = model.session()
    steps: list[int] = []
    advance = model.engine.advance
    monkeypatch.setattr(model.engine, "advance", lambda *inputs: steps.append(1) or advance(*inputs))
    stream = session.stream(QUESTION)
    told = ""
    for event in stream:
        told += event.text if isinstance(event, TextDelta) else ""
        if isinstance(event, AudioChunk):
            break
    before = len(steps)
    stream.close()
    assert list(stream) == []
    assert len(steps) == before
    assert session.messages[-1] == session.messages[1]
    assert session.messages[-1].parts == (told,)
    assert session.reply(QUESTION).text  # the session goes on


def test_a_question_cancelled_before_a_word_was_never_asked(model):
    session = model.session()
    stream = session.stream(QUESTION)
    assert isinstance(next(stream), Heard)
    stream.close()
    assert session.messages == []
    assert session._heard == {}
    assert session.reply(QUESTION).text == model.generate(QUESTION).text


def test_one_reply_at_a_time(model):
    session = model.session()
    stream = session.stream(QUESTION)
    next(stream)
    with pytest.raises(ValueError, match="one reply at a time"):
        session.reply(QUESTION)
    stream.close()
    assert session.reply(QUESTION).text


def test_a_segment_without_units_is_tried_again_and_then_reported(model, monkeypatch):
    calls: list[bool] = []
    generate = model.model.generate_unit_words

    def mute(*inputs, **choices):
        calls.append(choices["do_sample"])
        return [dataclasses.replace(row, unit_words=[], word_of=[]) for row in generate(*inputs, **choices)]

    monkeypatch.setattr(model.model, "generate_unit_words", mute)
    events = list(model.session().stream(QUESTION))
    failed = of(SpeechFailed, events)
    assert not of(AudioChunk, events)
    assert calls == [False, True] * len(failed), "greedy once, sampled once"
    assert "".join(event.text for event in failed).split() == events[-1].text.split()
    assert all("no units" in event.reason for event in failed)


def test_the_second_try_can_save_a_segment(model, monkeypatch):
    generate = model.model.generate_unit_words

    def mute_greedy(*inputs, **choices):
        rows = generate(*inputs, **choices)
        return rows if choices["do_sample"] else [dataclasses.replace(row, unit_words=[], word_of=[]) for row in rows]

    monkeypatch.setattr(model.model, "generate_unit_words", mute_greedy)
    reply = model.generate(QUESTION)
    assert reply.chunks
    assert not reply.failures


def test_a_runaway_segment_is_spoken_and_reported(model, monkeypatch):
    generate = model.model.generate_unit_words
    monkeypatch.setattr(
        model.model,
        "generate_unit_words",
        lambda *inputs, **choices: [dataclasses.replace(row, finished=False) for row in generate(*inputs, **choices)],
    )
    reply = model.generate(QUESTION)
    assert len(reply.chunks) == len(reply.failures) >= 2
    assert "not finished" in reply.failures[0].reason


def test_a_waveform_that_is_not_finite_is_reported(model, monkeypatch):
    vocode = model.model.vocoder.vocode
    monkeypatch.setattr(model.model.vocoder, "vocode", lambda *inputs, **voice: vocode(*inputs, **voice) * float("nan"))
    reply = model.generate(QUESTION)
    assert not reply.chunks
    assert all("not finite" in failure.reason for failure in reply.failures)


def test_an_error_leaves_a_usable_session(model, monkeypatch):
    session = model.session()
    expected = model.generate(QUESTION).text
    with monkeypatch.context() as broken:
        broken.setattr(model.engine, "logits", lambda state: torch.full((10,), float("nan")))
        with pytest.raises(FloatingPointError, match="not finite"):
            session.reply(QUESTION)
    assert session.messages == []
    assert session.reply(QUESTION).text == expected


def test_ctrl_c_leaves_a_usable_session(model, monkeypatch):
    session = model.session(temperature=0.0)
    expected = model.generate(QUESTION, temperature=0.0).text
    layers = model.model.s2t.language_model.base_model.layers
    with monkeypatch.context() as pressed:

        def stop(*inputs, **options):
            raise KeyboardInterrupt

        pressed.setattr(layers[1], "forward", stop)  # the first layer has written into the cache by then
        with pytest.raises(KeyboardInterrupt):
            session.reply(QUESTION)
    assert session.reply(QUESTION).text == expected


# ---------------------------------------------------------------------------------------------- one folder, the API


def test_save_equals_load(model, tmp_path):
    echox = EchoX(model.model, model.processor, model.settings, {"recipe": "tiny", "seed": 0})
    echox.save_pretrained(tmp_path)
    loaded = EchoX.from_pretrained(tmp_path, device="cpu")
    assert loaded.settings == echox.settings
    assert loaded.training_record == {"recipe": "tiny", "seed": 0}
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


def test_a_conversation_longer_than_the_model_is_refused():
    echox = tiny_echox(max_positions=40)
    with pytest.raises(ValueError, match="too long"):
        echox.generate([{"role": "user", "content": "word " * 60}])
    reply = echox.generate([{"role": "user", "content": "What is the sea?"}], max_new_tokens=100)
    assert reply.stopped == "length"


def test_messages_are_compared_by_identity():
    audio = Audio(QUESTION, 16000)
    assert Message("user", (audio,)).audios == (audio,)
    assert audio != Audio(QUESTION, 16000)
