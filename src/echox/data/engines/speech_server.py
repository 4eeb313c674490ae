"""Any server that speaks the OpenAI protocol (``/v1/audio/speech``)."""

from __future__ import annotations

import json
import os
from http.client import HTTPException

from echox.audio import load_audio
from echox.data.engines.engine import SAMPLING_RATE, SynthesizedSpeech, Voice
from echox.keyed_requests import open_keyed


class OpenAICompatible:
    """A server with the OpenAI speech endpoint (``POST <base_url>/audio/speech``).

    Args:
        base_url: Such as "http://localhost:8000/v1"; default: the environment variable ``OPENAI_BASE_URL``.
        model: Model name the server expects.
        api_key: Default: the environment variable ``OPENAI_API_KEY`` (many local servers need none).
        timeout_s: Longest wait for one reply.

    Raises:
        ValueError: No base_url is known.
    """

    def __init__(
        self, base_url: str | None = None, model: str = "tts-1", api_key: str | None = None, timeout_s: float = 60.0
    ) -> None:
        base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        if not base_url:
            raise ValueError("base_url: expected the address of a speech server, found none; set OPENAI_BASE_URL")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.api_key = api_key or os.environ.get("OPENAI_API_KEY", "")
        self.timeout_s = timeout_s

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """See :class:`SpeechSynthesizer`. ``Voice.pitch`` is not part of the protocol and must be 1.

        Raises:
            ValueError: A pitch other than 1, or an answer that is not audio.
            ConnectionError: The server cannot be reached or refuses.
        """
        if voice.pitch != 1.0:
            raise ValueError(f"voice.pitch: expected 1.0 (the protocol has no pitch), found {voice.pitch}; leave it")
        body = {"model": self.model, "input": text, "voice": voice.name, "response_format": "wav", "speed": voice.speed}
        url, headers = f"{self.base_url}/audio/speech", {"Content-Type": "application/json"}
        try:
            with open_keyed(url, json.dumps(body).encode(), headers, self.api_key, self.timeout_s) as response:
                audio = response.read()
        except (OSError, HTTPException) as error:
            raise ConnectionError(f"speech server {self.base_url}: no speech for {text[:60]!r}: {error}") from error
        return SynthesizedSpeech(load_audio(audio, SAMPLING_RATE), SAMPLING_RATE)
