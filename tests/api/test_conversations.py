"""Conversations: turns and their memory, dropped turns, all kinds of questions, settings."""

import pytest

from echox.api import EchoX
from echox.models.decoding.sampling import nucleus
from echox.streaming import AudioChunk, ContextDropped, Finished, GenerationSettings, Heard, rows
from echox.streaming.prompt.messages import Audio, Message
from tiny_echox import WINDOW_S, of, tiny_echox, tone
from tiny_recogniser import tiny_hearer
from tolerance import assert_equal_up_to_rounding


@pytest.fixture(scope="module", params=[tiny_echox, tiny_hearer], ids=["ctc", "recogniser"])
def model(request) -> EchoX:
    return request.param()


@pytest.fixture(scope="module")
def nano() -> EchoX:
    return EchoX.from_pretrained("nano", device="cpu")


QUESTION = tone(1.0)
TYPED = {"role": "user", "content": "Tell me about Brazil."}


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
    held = session._context._saved.length
    ran: list[int] = []
    memory = model.scheduler.batch._memory
    advance = memory.advance
    monkeypatch.setattr(memory, "advance", lambda x, *rest: ran.append(x.shape[1]) or advance(x, *rest))
    monkeypatch.setattr(model.engine, "_features", lambda audios: pytest.fail("encoded again"))
    session.reply([{"role": "user", "content": "And the sea?"}])
    assert ran[0] == session._context._saved.length - held - ran[1:].count(1), "only the new turn was run"
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

    def counted(messages, *others):
        laid_out.append(len(messages))
        return lay_out(messages, *others)

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
    assert len(session._context._encoded) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": "hot"},
        {"temperature": None},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": "5"},
        {"top_p": True},
        {"policy_numbers": [1]},
        {"speak": "no"},
        {"speech_policy": 3},
        {"max_question_s": "a"},
        {"seed": None},
        {"speech_policy": "word_by_word", "policy_numbers": {"min_tokens": "8"}},
        {"speech_policy": "semantic", "policy_numbers": {"min_tokens": 2.5}},
        {"speech_policy": "semantic", "policy_numbers": {"threshold": None}},
        {"speech_policy": "semantic", "policy_numbers": {"trigger": 3}},
        {"speech_policy": "punctuation"},
        {"speech_policy": "whole", "policy_numbers": {"max_tokens": None}},
    ],
)
def test_settings_of_another_kind_are_refused_when_asked(model, settings):
    """When they are passed, not in the middle of a step for several replies."""
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
    together = model.engine.encode(audios)
    assert len(together[0].embeds) > len(together[1].embeds)
    for audio, heard in zip(audios, together, strict=True):
        model.engine.clear_encoded()
        assert_equal_up_to_rounding(model.engine.encode([audio])[0].embeds, heard.embeds)
    assert model.generate(long).heard


def test_other_rates_are_resampled(model):
    reply = model.generate(tone(1.0, sampling_rate=24000), sampling_rate=24000)
    assert reply.timings["question_s"] == pytest.approx(1.0, abs=1e-3)


def test_sampling_follows_the_seed(model):
    texts = [model.generate(QUESTION, seed=seed, speak=False).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_what_was_heard_is_remembered_within_bounds(model, monkeypatch):
    engine = model.scheduler.engine
    engine.clear_encoded()
    (one,) = engine.encode([Audio(tone(1.0, seed=0), engine.input_sampling_rate)])
    bound = 3 * one.embeds.nbytes
    monkeypatch.setattr("echox.streaming.engine.MAX_ENCODED_BYTES", bound)
    for seed in range(8):
        engine.encode([Audio(tone(1.0, seed=seed), engine.input_sampling_rate)])
    assert 1 < len(engine._encoded) < 8
    assert engine._encoded_bytes <= bound
    assert engine._encoded_bytes == sum(heard.embeds.nbytes for heard in engine._encoded.values())
    engine.clear_encoded()
    assert engine._encoded_bytes == 0


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


def test_messages_are_compared_by_identity():
    audio = Audio(QUESTION, 16000)
    assert Message("user", (audio,)).audios == (audio,)
    assert audio != Audio(QUESTION, 16000)
