"""What the model gets for a reply. Two replies with equal input are equal, whoever asked for them and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from echox.serving.protocol.conversation import system_prompt
from echox.serving.protocol.options import NewReplySettings
from echox.serving.realtime.response_request import ResponseRequest
from echox.serving.service.replies import ReplyFeed
from echox.streaming.events import Judged
from echox.streaming.prompt.messages import Message
from echox.streaming.session import Session
from echox.tool_calls.tools import ToolUse


@dataclass(frozen=True)
class ReplyInput:
    """The input of one reply.

    Attributes:
        system: the system prompt; None: that of the model.
        tools: that the reply may call.
        messages: the conversation; the last one is answered.
        settings: generation settings.
    """

    system: str | None
    tools: ToolUse
    messages: Sequence[Message]
    settings: NewReplySettings

    @classmethod
    def of(cls, request: ResponseRequest) -> ReplyInput:
        """The input for a response: of the request's own items, if it has some, nothing else of the conversation."""
        system = system_prompt(request.options.instructions, request.items)
        return cls(system, request.options.tools.use, request.messages, request.settings)

    def search_audio(self) -> None:
        """Search the audio for speech, unless that was done: milliseconds per second, so not in the event loop."""
        for message in self.messages:
            for audio in message.audios:
                _ = audio.digest

    def equals(self, other: ReplyInput) -> bool:
        """Whether the model gets the same. Not in the event loop, as `search_audio`."""
        return (
            (self.system, self.tools, self.settings) == (other.system, other.tools, other.settings)
            and len(self.messages) == len(other.messages)
            and all(one.reads_as(too) for one, too in zip(self.messages, other.messages, strict=True))
        )

    def begin(
        self,
        session: Session,
        speculative: bool = False,
        on_judged: Callable[[Judged | None], None] | None = None,
    ) -> ReplyFeed:
        """Ask the model.

        Args:
            session: the conversation of the model; it finds what is in its memory already.
            speculative: the reply may be dropped.
            on_judged: of a speculation, see `ReplyFeed`.

        Raises:
            ValueError: a question that cannot be answered.
            QueueFull: too many replies are waiting, or, for a speculation, any.
        """
        session.system, session.tools = self.system, self.tools
        session.messages = list(self.messages[:-1])
        start = session.speculate if speculative else session.submit
        return ReplyFeed(start, self.messages[-1:], on_judged, **self.settings)
