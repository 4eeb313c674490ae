"""A request that holds a whole conversation, as a question to the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from echox.serving.protocol.conversation import ConversationItem, model_messages, turns_of
from echox.serving.protocol.events import EventError
from echox.serving.service.replies import ReplyFeed
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import StopStringFeed
from echox.streaming.prompt.messages import ANSWERED_ROLES
from echox.tool_calls.tools import ToolUse

if TYPE_CHECKING:
    from echox.serving.protocol.options import NewReplySettings


def ask(
    service: Service,
    items: Sequence[ConversationItem],
    settings: NewReplySettings,
    param: str,
    stops: Sequence[str] = (),
    tools: ToolUse | None = None,
) -> StopStringFeed:
    """Ask the model the last turn of a conversation.

    Args:
        service: the service.
        items: the conversation; the texts of system items together are the system prompt.
        settings: generation settings of the reply.
        param: name of the parameter that holds the items, for errors.
        stops: stop strings of a reply without speech.
        tools: that the reply may call; None: none.

    Raises:
        EventError: too much text, or no question of the user at the end.
        QueueFull: too many replies are waiting.
    """
    num_chars, max_chars = sum(item.num_chars for item in items), service.limits.max_history_chars
    if num_chars > max_chars:
        message = f"{param}: expected at most {max_chars} characters in all of them, found {num_chars}"
        raise EventError(message, "string_too_long", param)
    calls_tools = service.calls_tools
    messages = model_messages(turns_of(list(items), calls_tools), calls_tools)
    if not messages or messages[-1].role not in ANSWERED_ROLES:
        raise EventError(f"{param}: expected a question of the user at the end", "invalid_value", param)
    session = service.model.session()
    texts = [part for item in items if item.role == "system" for part in item.model_parts]
    session.system = "\n".join(str(text) for text in texts) or None
    session.messages, session.tools = messages[:-1], tools or ToolUse()
    return StopStringFeed(ReplyFeed(session.submit, messages[-1:], **settings), stops)
