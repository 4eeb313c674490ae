"""All parameters of the OpenAI reference, by endpoint: supported, ignored or refused.

An ignored parameter need not change the answer, according to the reference (caching, accounting, effort). A refused
parameter may only have a value that changes nothing. A test reads the types of the openai package: a parameter that is
new there fails the test until it is listed here.

Source: https://platform.openai.com/docs/api-reference (chat/create, responses/create, audio/createSpeech,
audio/createTranscription, realtime-client-events).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from echox.serving.protocol.events import EventError, shorten


@dataclass(frozen=True)
class Parameters:
    """The parameters of one object.

    Attributes:
        supported: names that the code reads.
        ignored: names that are accepted without effect.
        refused: name -> values that are accepted because they change nothing (null always is).
    """

    supported: frozenset[str]
    ignored: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[object, ...]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """All names."""
        return self.supported | self.ignored | self.refused.keys()

    def check_known(self, source: Mapping[str, object], where: str = "") -> None:
        """Refuse parameters that are not in the reference.

        Raises:
            EventError: an unknown parameter is set (code ``unknown_parameter``).
        """
        for name, value in source.items():
            if name not in self.names and value is not None:
                param = f"{where}.{name[:60]}" if where else name[:60]
                message = f"{param}: expected a parameter of this endpoint, found an unknown one; leave it out"
                raise EventError(message, "unknown_parameter", param)

    def check(self, source: Mapping[str, object], where: str = "") -> None:
        """Refuse parameters that this server does not support.

        Args:
            source: the object from a client.
            where: its place in the message, for errors.

        Raises:
            EventError: a refused parameter is set (code ``unsupported_value``; ``param`` names it).
        """
        for name, neutral in self.refused.items():
            value = source.get(name)
            if value is None or any(value == one and type(value) is type(one) for one in neutral):
                continue
            param = f"{where}.{name}" if where else name
            expected = " or ".join(shorten(one) for one in neutral) or "nothing"
            message = f"{param}: expected {expected}, found {shorten(value)}: this server cannot do it; leave it out"
            raise EventError(message, "unsupported_value", param)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CHAT = Parameters(
    supported=_names(
        "messages model audio modalities stream stream_options max_tokens max_completion_tokens temperature top_p seed "
        "stop tools tool_choice parallel_tool_calls functions function_call"
    ),
    ignored=_names(
        "user safety_identifier prompt_cache_key prompt_cache_options prompt_cache_retention metadata service_tier "
        "reasoning_effort prediction"
    ),
    refused={
        "n": (1,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "logit_bias": ({},),
        "frequency_penalty": (0, 0.0),
        "presence_penalty": (0, 0.0),
        "response_format": ({"type": "text"},),
        "verbosity": ("medium",),
        "store": (False,),
        "moderation": (),
        "web_search_options": (),
    },
)
RESPONSES = Parameters(
    supported=_names(
        "input model instructions max_output_tokens metadata previous_response_id store stream stream_options "
        "temperature top_p text tools tool_choice parallel_tool_calls truncation include"
    ),
    ignored=_names(
        "user safety_identifier prompt_cache_key prompt_cache_options prompt_cache_retention service_tier reasoning "
        "max_tool_calls access_programs"
    ),
    refused={
        "background": (False,),
        "context_management": ([],),
        "conversation": (),
        "image": (),
        "moderation": (),
        "prompt": (),
        "top_logprobs": (0,),
    },
)
RESPONSES_TEXT = Parameters(frozenset(), refused={"format": ({"type": "text"},), "verbosity": ("medium",)})
RESPONSES_STREAM_OPTIONS = Parameters(frozenset(), refused={"include_obfuscation": (False,)})
STREAM_OPTIONS = Parameters(_names("include_usage"), refused={"include_obfuscation": (False,)})
CHAT_AUDIO = Parameters(_names("format voice"))
CHAT_MESSAGE = Parameters(
    supported=_names("role content audio refusal tool_calls tool_call_id function_call"), ignored=_names("name")
)
SPEECH = Parameters(
    supported=_names("input model voice response_format stream_format speed"),
    ignored=_names("instructions"),  # a hint how to speak: there is one way
)
TRANSCRIPTION = Parameters(
    supported=_names("file model response_format timestamp_granularities stream"),
    ignored=_names("language languages prompt keywords"),  # hints; Home Assistant always sends a prompt
    refused={
        "chunking_strategy": ("auto",),
        "include": ([],),
        "known_speaker_names": ([],),
        "known_speaker_references": ([],),
        "temperature": (0,),
    },
)
SESSION = Parameters(
    supported=_names(
        "type audio instructions max_output_tokens model output_modalities tools tool_choice parallel_tool_calls "
        "truncation"
    ),
    # Some clients always ask for log probabilities beside all that they need; the session shows that there are none.
    ignored=_names("include reasoning tracing"),
    refused={"prompt": ()},
)
TRANSCRIPTION_SESSION = Parameters(_names("type audio"), ignored=_names("include"))
RESPONSE = Parameters(
    supported=_names(
        "audio conversation input instructions max_output_tokens metadata output_modalities tools tool_choice "
        "parallel_tool_calls"
    ),
    ignored=_names("reasoning"),
    refused={"prompt": ()},
)
AUDIO_INPUT = Parameters(_names("format transcription turn_detection"), ignored=_names("noise_reduction"))
AUDIO_OUTPUT = Parameters(_names("format speed voice"))
INPUT_TRANSCRIPTION = Parameters(_names("model"), ignored=_names("delay keywords language languages prompt"))
TURN_DETECTION = Parameters(
    supported=_names(
        "type create_response interrupt_response threshold prefix_padding_ms silence_duration_ms eagerness"
    ),
    refused={"idle_timeout_ms": ()},
)
CLIENT_SECRET = Parameters(_names("expires_after session"))
