"""Every parameter of the OpenAI reference is supported, ignored, or refused by its name; none is unknown.

The list of parameters is read from the types of the installed openai package, and every verdict is tried on a server.
"""

import json
import typing

import httpx
import pytest

from echox.serving.protocol import parameters
from serving_help import check_event, connected, nano, pcm16, question, run, running, user_text

pytest.importorskip("openai")
from openai.types import chat, realtime, responses
from openai.types.audio import speech_create_params, transcription_create_params
from openai.types.chat import completion_create_params
from openai.types.realtime import client_secret_create_params, realtime_audio_input_turn_detection_param
from openai.types.realtime import realtime_response_create_audio_output_param as response_audio
from openai.types.responses import response_create_params

FRANCE = "What is the capital of France?"


def keys(*types):
    return {name for one in types for name in one.__required_keys__ | one.__optional_keys__}


MESSAGES = typing.get_args(chat.ChatCompletionMessageParam)
TYPES = {
    "CHAT": keys(completion_create_params.CompletionCreateParamsStreaming),
    "STREAM_OPTIONS": keys(chat.ChatCompletionStreamOptionsParam),
    "CHAT_AUDIO": keys(chat.ChatCompletionAudioParam),
    "CHAT_MESSAGE": keys(*MESSAGES),
    "RESPONSES": keys(response_create_params.ResponseCreateParamsStreaming),
    "RESPONSES_TEXT": keys(responses.ResponseTextConfigParam),
    "RESPONSES_STREAM_OPTIONS": keys(response_create_params.StreamOptions),
    "SPEECH": keys(speech_create_params.SpeechCreateParams),
    "TRANSCRIPTION": keys(transcription_create_params.TranscriptionCreateParamsStreaming),
    "SESSION": keys(realtime.RealtimeSessionCreateRequestParam),
    "TRANSCRIPTION_SESSION": keys(realtime.RealtimeTranscriptionSessionCreateRequestParam),
    "RESPONSE": keys(realtime.RealtimeResponseCreateParamsParam),
    "AUDIO_INPUT": keys(realtime.RealtimeAudioConfigInputParam),
    "AUDIO_OUTPUT": keys(realtime.RealtimeAudioConfigOutputParam, response_audio.Output),
    "INPUT_TRANSCRIPTION": keys(realtime.AudioTranscriptionParam),
    "TURN_DETECTION": keys(
        realtime_audio_input_turn_detection_param.ServerVad, realtime_audio_input_turn_detection_param.SemanticVad
    ),
    "CLIENT_SECRET": keys(client_secret_create_params.ClientSecretCreateParams),
}
# A value of each that asks for something.
CHAT_SAMPLES = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"17": -100},
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "response_format": {"type": "json_object"},
    "verbosity": "low",
    "store": True,
    "moderation": {"model": "x"},
    "web_search_options": {},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "metadata": {"a": "b"},
    "service_tier": "flex",
    "reasoning_effort": "high",
    "prediction": {"type": "content", "content": "Paris"},
}
SPEECH_SAMPLES = {"instructions": "Whisper."}
FORM_SAMPLES = {
    "chunking_strategy": '{"type": "server_vad"}',
    "include[]": "logprobs",
    "keywords[]": "Brazil",
    "known_speaker_names[]": "Ann",
    "known_speaker_references[]": "data:audio/wav;base64,AAAA",
    "prompt": "Brazil",
    "temperature": "0.7",
    "language": "en",
    "languages[]": "en",
}
SESSION_SAMPLES = {
    "include": ["item.input_audio_transcription.logprobs"],
    "prompt": {"id": "p"},
    "reasoning": {"effort": "low"},
    "tracing": {"workflow_name": "w"},
}


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


@pytest.mark.parametrize("name", list(TYPES))
def test_no_parameter_is_unknown(name):
    table = getattr(parameters, name)
    kinds = [table.supported, table.ignored, table.refused.keys()]
    assert sum(map(len, kinds)) == len(set().union(*kinds)), "a parameter has two verdicts"
    assert TYPES[name] == set().union(*kinds)


def ask(server, **changes):
    body = {"messages": [{"role": "user", "content": FRANCE}], "max_tokens": 8, **changes}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


@pytest.mark.parametrize("name", list(parameters.CHAT.refused))
def test_chat_refuses_by_name(server, name):
    found = ask(server, **{name: CHAT_SAMPLES[name]})
    assert found.status_code == 400
    error = found.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_value")
    assert name in error["message"]
    for neutral in (None, *parameters.CHAT.refused[name]):
        assert ask(server, **{name: neutral}).status_code == 200


def test_ignored_chat_parameters_change_nothing(server):
    plain = ask(server).json()["choices"]
    hints = {name: CHAT_SAMPLES[name] for name in parameters.CHAT.ignored}
    assert ask(server, **hints).json()["choices"] == plain


def text_of(found):
    assert found.status_code == 200, found.text
    return found.json()["choices"][0]["message"]["content"]


def spoken(found):
    return found.json()["choices"][0]["message"]["audio"]


def refused(found, param):
    return found.status_code == 400 and found.json()["error"]["param"] == param


TOOL = {"type": "function", "function": {"name": "f"}}
CHAT_DONE = {
    "messages": lambda s: text_of(ask(s, messages=[{"role": "user", "content": "Say hello."}])) != text_of(ask(s)),
    "model": lambda s: ask(s, model="gpt-4o").json()["model"] == "nano",
    "modalities": lambda s: "Paris" in spoken(ask(s, modalities=["text", "audio"]))["transcript"],
    "audio": lambda s: spoken(ask(s, modalities=["audio"], audio={"format": "flac"}))["data"].startswith("Zkxh"),
    "stream": lambda s: ask(s, stream=True).text.startswith("data: "),
    "stream_options": lambda s: '"usage": {' in ask(s, stream=True, stream_options={"include_usage": True}).text,
    "max_tokens": lambda s: ask(s, max_tokens=2).json()["usage"]["completion_tokens"] == 2,
    "max_completion_tokens": lambda s: ask(s, max_completion_tokens=3).json()["usage"]["completion_tokens"] == 3,
    "temperature": lambda s: len({text_of(ask(s, temperature=3.0, seed=seed)) for seed in range(4)}) > 1,
    "top_p": lambda s: text_of(ask(s, temperature=3.0, top_p=1e-6, seed=1)) == text_of(ask(s)),
    "seed": lambda s: len({text_of(ask(s, temperature=3.0, seed=5)) for _ in range(3)}) == 1,
    "stop": lambda s: text_of(ask(s, stop=" of")) == text_of(ask(s)).split(" of")[0],
    "tools": lambda s: text_of(ask(s, tools=[TOOL])) == text_of(ask(s)) and refused(ask(s, tools=[1]), "tools[0]"),
    "tool_choice": lambda s: refused(ask(s, tools=[TOOL], tool_choice="required"), "tool_choice"),
    "parallel_tool_calls": lambda s: refused(ask(s, tools=[TOOL], parallel_tool_calls=1), "parallel_tool_calls"),
    "functions": lambda s: text_of(ask(s, functions=[{"name": "f"}])) == text_of(ask(s)),
    "function_call": lambda s: refused(ask(s, functions=[{"name": "f"}], function_call={"name": "f"}), "function_call"),
}


@pytest.mark.parametrize("name", sorted(parameters.CHAT.supported))
def test_supported_chat_parameters_have_their_effect(server, name):
    assert CHAT_DONE[name](server)


def say(server, **changes):
    body = {"input": "The capital of France is Paris.", "voice": "x", "model": "tts-1", **changes}
    return httpx.post(f"{server.url}/v1/audio/speech", json={"response_format": "pcm", **body}, timeout=60)


SPEECH_DONE = {
    "input": lambda s: len(say(s, input="Paris.").content) < len(say(s).content),
    "model": lambda s: say(s, model="any").status_code == 200,
    "voice": lambda s: say(s, voice={"id": "v"}).status_code == 200 and refused(say(s, voice=7), "voice"),
    "response_format": lambda s: say(s, response_format="flac").content[:4] == b"fLaC",
    "stream_format": lambda s: b"speech.audio.delta" in say(s, stream_format="sse").content,
    "speed": lambda s: len(say(s, speed=2.0).content) == pytest.approx(len(say(s).content) / 2, rel=0.03),
}


@pytest.mark.parametrize("name", sorted(parameters.SPEECH.supported))
def test_supported_speech_parameters_have_their_effect(server, name):
    assert SPEECH_DONE[name](server)


def test_ignored_speech_parameters_change_nothing(server):
    assert SPEECH_SAMPLES.keys() == parameters.SPEECH.ignored
    assert say(server, **SPEECH_SAMPLES).content == say(server).content


def write_down(server, **fields):
    from echox.audio import encode_audio

    file = ("x.wav", encode_audio(question(0, 16000), 16000))
    return httpx.post(f"{server.url}/v1/audio/transcriptions", data=fields, files={"file": file}, timeout=60)


@pytest.mark.parametrize("name", list(parameters.TRANSCRIPTION.refused))
def test_transcriptions_refuse_by_name(server, name):
    field = f"{name}[]" if f"{name}[]" in FORM_SAMPLES else name
    assert refused(write_down(server, **{field: FORM_SAMPLES[field]}), name)


def test_transcriptions_accept_ignored_parameters(server):
    plain = write_down(server, model="whisper-1", temperature="0", chunking_strategy="auto", prompt="").json()
    assert "Brazil" in plain["text"]
    hints = {name: FORM_SAMPLES[name] for name in FORM_SAMPLES if name.strip("[]") in parameters.TRANSCRIPTION.ignored}
    assert len(hints) == len(parameters.TRANSCRIPTION.ignored)
    assert write_down(server, **hints).json() == plain


TRANSCRIPTION_DONE = {
    "file": lambda s: "Brazil" in write_down(s).json()["text"],
    "model": lambda s: write_down(s, model="any").status_code == 200,
    "response_format": lambda s: write_down(s, response_format="vtt").text.startswith("WEBVTT\n\n00:00:0"),
    "timestamp_granularities": lambda s: (
        "words" in write_down(s, response_format="verbose_json", **{"timestamp_granularities[]": "word"}).json()
    ),
    "stream": lambda s: "transcript.text.done" in write_down(s, stream="true").text,
}


@pytest.mark.parametrize("name", sorted(parameters.TRANSCRIPTION.supported))
def test_supported_transcription_parameters_have_their_effect(server, name):
    assert TRANSCRIPTION_DONE[name](server)


def converse(server, work):
    async def talk():
        async with connected(server) as client:
            return await work(client)

    return run(talk())


@pytest.mark.parametrize("name", list(parameters.SESSION.refused))
def test_a_session_refuses_by_name_and_stays_as_it_was(server, name):
    async def work(client):
        session = {"type": "realtime", "instructions": "never kept", name: SESSION_SAMPLES[name]}
        await client.send("session.update", session=session, event_id="e")
        error = (await client.until("error"))["error"]
        assert (error["param"], error["code"], error["event_id"]) == (f"session.{name}", "unsupported_value", "e")
        await client.send("session.update", session={"type": "realtime", name: None})
        assert (await client.until("session.updated"))["session"]["instructions"] == ""

    converse(server, work)


TRUNCATIONS = [
    ("disabled", "unsupported_value", "session.truncation"),
    ({"type": "retention_ratio"}, "missing_required_parameter", "session.truncation.retention_ratio"),
    ({"type": "retention_ratio", "retention_ratio": 1.5}, "invalid_value", "session.truncation.retention_ratio"),
    ({"type": "newest"}, "invalid_value", "session.truncation.type"),
    (7, "invalid_type", "session.truncation"),
]


def test_a_session_refuses_a_truncation_that_it_cannot_do(server):
    async def work(client):
        for wanted, code, param in TRUNCATIONS:
            await client.send("session.update", session={"type": "realtime", "truncation": wanted})
            error = (await client.until("error"))["error"]
            assert (error["code"], error["param"]) == (code, param)

    converse(server, work)


def test_a_session_refuses_a_timeout_of_its_turn_detection(server):
    async def work(client):
        detection = {"type": "server_vad", "idle_timeout_ms": 6000}
        await client.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
        error = (await client.until("error"))["error"]
        assert error["param"] == "session.audio.input.turn_detection.idle_timeout_ms"

    converse(server, work)


def test_a_session_accepts_ignored_options(server):
    async def work(client):
        hints = {name: SESSION_SAMPLES[name] for name in parameters.SESSION.ignored}
        await client.send("session.update", session={**hints, "instructions": "Be brief."})
        shown = (await client.until("session.updated"))["session"]
        assert shown["instructions"] == "Be brief."
        assert not hints.keys() & shown.keys()  # it shows what is in effect

    converse(server, work)


SESSION_DONE = {
    "type": ("realtime", "realtime"),
    "instructions": ("Be brief.", "Be brief."),
    "max_output_tokens": (7, 7),
    "model": ("gpt-realtime", "nano"),
    "output_modalities": (["text"], ["text"]),
    "tools": ([{"type": "function", "name": "f"}], []),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (False, True),
    "truncation": ({"type": "retention_ratio", "retention_ratio": 0.8, "token_limits": {}}, "auto"),
}


def test_a_session_shows_what_is_in_effect(server):
    assert SESSION_DONE.keys() | {"audio"} == parameters.SESSION.supported

    async def work(client):
        await client.send("session.update", session={name: asked for name, (asked, _) in SESSION_DONE.items()})
        shown = (await client.until("session.updated"))["session"]
        assert {name: shown[name] for name in SESSION_DONE} == {name: kept for name, (_, kept) in SESSION_DONE.items()}

    converse(server, work)


@pytest.mark.parametrize("name", list(parameters.RESPONSE.refused))
def test_a_response_refuses_by_name(server, name):
    async def work(client):
        await client.send("conversation.item.create", item=user_text(FRANCE))
        await client.send("response.create", response={name: SESSION_SAMPLES[name]})
        assert (await client.until("error"))["error"]["param"] == f"response.{name}"
        assert not client.of("response.created")

    converse(server, work)


MESSAGE_FORMS = [
    ({"role": "assistant", "content": None, "tool_calls": [{"id": "c", **TOOL}]}, None),
    (
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f"}}]},
        None,
    ),
    ({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, None),
    ({"role": "assistant", "content": None, "refusal": "No."}, None),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}, {"type": "text", "text": "x"}]}, None),
    ({"role": "assistant", "content": None, "audio": None, "tool_calls": [{"id": "c", **TOOL}]}, None),
    ({"role": "developer", "content": "Be brief."}, None),
    ({"role": "user", "content": "Hello.", "name": "ann"}, None),
    ({"role": "assistant"}, "messages[0]"),
    ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages[0].tool_calls[0].function"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0].type"),
    ({"role": "user", "content": None}, "messages[0]"),
]


@pytest.mark.parametrize(("message", "param"), MESSAGE_FORMS, ids=range(len(MESSAGE_FORMS)))
def test_forms_of_messages(server, message, param):
    found = ask(server, messages=[message, {"role": "user", "content": FRANCE}])
    if param is None:
        assert found.status_code == 200, found.text
    else:
        assert found.json()["error"]["param"] == param


@pytest.mark.parametrize("role", ["tool", "function"])
def test_the_output_of_a_tool_is_answered(server, role):
    history = [
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", **TOOL}]},
    ]
    result = {"role": role, "tool_call_id": "c", "name": "f", "content": FRANCE}
    expected = (
        nano()
        .session()
        .reply(
            [
                {"role": "user", "content": "Look it up."},
                {"role": "assistant", "content": "f()"},
                {"role": "user", "content": FRANCE},
            ],
            speak=False,
            max_new_tokens=8,
        )
    )
    assert text_of(ask(server, messages=[*history, result])) == expected.text


def test_events_of_a_session_with_everything_are_well_formed(server):
    """The strict check of every event, in a conversation that uses what is new."""

    async def work(client):
        await client.send(
            "session.update", session={"audio": {"output": {"speed": 1.2}}, "output_modalities": ["audio"]}
        )
        await client.say(question(2, lead_s=0.3, tail_s=0.8), chunk_s=5)
        done = await client.until("response.done")
        assert check_event(json.dumps(done))["response"]["usage"]["input_token_details"]["audio_tokens"] > 0
        assert len(pcm16(client.sound())) > 0

    converse(server, work)
