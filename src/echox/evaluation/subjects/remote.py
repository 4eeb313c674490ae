"""A model behind a URL, with OpenAI's chat completions, as the subject of an evaluation."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from echox.audio import encode_audio, load_audio
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.sets.items import ChatMessage, ContentPart
from echox.evaluation.subjects.endpoint import Endpoint
from echox.streaming.events import Reply

SERVER_RATE_HZ = 24000
"""The audio of a server's answers is resampled to this rate."""


class RemoteSubject:
    """A model behind ``POST {url}/chat/completions`` with audio in and out, as OpenAI documents it.

    Args:
        url: base, ending in ``/v1``.
        model: its name there; None: the first that ``{url}/models`` lists.
        voice: the interface asks for one; EchoX has one voice.
        timeout_s: of one reply.
        spoken_language: of its replies; the interface does not tell it.

    Raises:
        ValueError: the server cannot be reached, or lists no model.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        voice: str = "default",
        timeout_s: float = 300.0,
        spoken_language: str = "en",
    ) -> None:
        self._endpoint = Endpoint(url, timeout_s=timeout_s)
        self._model = model or _first_model(self._endpoint)
        self._voice = voice
        self.folder: str | None = None
        self.spoken_language = spoken_language
        self.name = f"{self._model} at {self._endpoint.url}"
        self.key = f"server {self._endpoint.url} {self._model}"

    def answer(self, messages: Sequence[ChatMessage], speak: bool = True) -> Reply:
        """See :class:`echox.evaluation.subjects.subject.Subject`."""
        began_s = time.perf_counter()
        found = self._endpoint.post("/chat/completions", self.request(messages, speak))
        try:
            choice = found["choices"][0]
            message = choice["message"]
            audio = message.get("audio") or {}
            text = message.get("content") or audio.get("transcript") or ""
            spoken = base64.b64decode(audio.get("data") or "")
            if not isinstance(text, str):
                raise TypeError(f"a text of type {type(text).__name__}")
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self.name}: expected a chat completion, found {str(found)[:200]}") from error
        waveform = load_audio(spoken, SERVER_RATE_HZ) if speak and spoken else np.zeros(0, np.float32)
        timings: dict[str, float | int | None] = {"client_s": time.perf_counter() - began_s}
        stopped = "length" if choice.get("finish_reason") == "length" else "end"
        return Reply(text, waveform, SERVER_RATE_HZ, "", timings, stopped=stopped)

    def events(self, body: JsonObject) -> Iterator[JsonObject]:
        """The chunks of a streamed reply; ``body`` is from :meth:`request`. Raises as :meth:`answer`."""
        return self._endpoint.stream("/chat/completions", body)

    def request(self, messages: Sequence[ChatMessage], speak: bool, stream: bool = False) -> JsonObject:
        """The body of a request. A streamed answer carries 16-bit samples, a whole one a WAV file."""
        body: JsonObject = {
            "model": self._model,
            "messages": [{"role": message["role"], "content": _content(message["content"])} for message in messages],
            "modalities": ["text", "audio"] if speak else ["text"],
            "temperature": 0,
        }
        if speak:
            body["audio"] = {"voice": self._voice, "format": "pcm16" if stream else "wav"}
        return body | ({"stream": True} if stream else {})


def _first_model(endpoint: Endpoint) -> str:
    found = endpoint.get("/models")
    try:
        return str(found["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{endpoint.url}/models: expected a model, found {str(found)[:200]}; name one") from error


def _content(content: str | list[ContentPart]) -> str | list[JsonObject]:
    if isinstance(content, str):
        return content
    return [_input_audio(part["audio"]) if part["type"] == "audio" else {**part} for part in content]


def _input_audio(audio: Path | bytes) -> JsonObject:
    """An audio file of any format as the WAV that the interface takes."""
    wav = encode_audio(load_audio(audio, 16000), 16000)
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav).decode(), "format": "wav"}}
