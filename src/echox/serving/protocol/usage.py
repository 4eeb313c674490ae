"""Numbers of tokens (``usage``) of replies, speech and transcripts, in the words of each endpoint.

Input: positions of the prompt, of which those of sound are audio tokens. Output: tokens of the text, and the unit words
of its speech as audio tokens. ``max_output_tokens`` and its like limit the text; its speech follows from it.

Source: OpenAI reference, objects ``usage`` of realtime, chat, responses, speech and transcriptions.
"""

from __future__ import annotations

from dataclasses import dataclass

from echox.serving.protocol.json_input import JsonObject
from echox.streaming.events import Heard, Timings


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens.

    Attributes:
        text_in, audio_in: of the input; cached_in of both together were in the model's memory already.
        text_out, audio_out: of the output.
    """

    text_in: int = 0
    audio_in: int = 0
    cached_in: int = 0
    text_out: int = 0
    audio_out: int = 0

    @classmethod
    def of_reply(cls, timings: Timings) -> Usage:
        """Of a reply of the model."""
        audio_in = timings.num_prompt_audio_tokens
        text_in = timings.num_prompt_tokens - audio_in
        return cls(text_in, audio_in, timings.num_cached_tokens, timings.num_tokens, timings.num_unit_words)

    @classmethod
    def of_speech(cls, timings: Timings) -> Usage:
        """Of a given text that was spoken."""
        return cls(text_in=timings.num_tokens, audio_out=timings.num_unit_words)

    @classmethod
    def of_transcript(cls, heard: Heard) -> Usage:
        """Of a transcript."""
        return cls(audio_in=heard.num_audio_tokens, text_out=heard.num_text_tokens)

    def for_realtime(self) -> JsonObject:
        """As ``response.done`` has it."""
        return {
            **self._totals("input_tokens", "output_tokens"),
            "input_token_details": {**self._input(), "cached_tokens": self.cached_in},
            "output_token_details": self._output(),
        }

    def for_chat(self) -> JsonObject:
        """As chat completions have it."""
        return {
            **self._totals("prompt_tokens", "completion_tokens"),
            "prompt_tokens_details": {**self._input(), "cached_tokens": self.cached_in},
            "completion_tokens_details": {**self._output(), "reasoning_tokens": 0},
        }

    def for_responses(self) -> JsonObject:
        """As the Responses API has it; the split into text and audio is an extension there."""
        return {
            **self._totals("input_tokens", "output_tokens"),
            "input_tokens_details": {**self._input(), "cached_tokens": self.cached_in, "cache_write_tokens": 0},
            "output_tokens_details": {**self._output(), "reasoning_tokens": 0},
        }

    def for_speech(self) -> JsonObject:
        """As ``speech.audio.done`` has it, with the details of realtime."""
        return {
            **self._totals("input_tokens", "output_tokens"),
            "input_token_details": self._input(),
            "output_token_details": self._output(),
        }

    def for_transcription(self) -> JsonObject:
        """As transcriptions have it, over HTTP and in realtime sessions."""
        return {
            "type": "tokens",
            **self._totals("input_tokens", "output_tokens"),
            "input_token_details": self._input(),
        }

    def _totals(self, name_in: str, name_out: str) -> JsonObject:
        num_in, num_out = self.text_in + self.audio_in, self.text_out + self.audio_out
        return {name_in: num_in, name_out: num_out, "total_tokens": num_in + num_out}

    def _input(self) -> JsonObject:
        return {"text_tokens": self.text_in, "audio_tokens": self.audio_in}

    def _output(self) -> JsonObject:
        return {"text_tokens": self.text_out, "audio_tokens": self.audio_out}
