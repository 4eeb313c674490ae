"""``POST /v1/responses``: answers a text or a conversation with text and calls of tools, at once or streamed.

Source: OpenAI Responses API. Replies are written, as there; spoken ones come from chat completions and realtime.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from echox.serving.access.security import presented_key
from echox.serving.protocol.events import EventError, new_id
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.usage import Usage
from echox.serving.rest.answering import StreamFault, check_size, stream_reply, whole_reply
from echox.serving.rest.common import cancel_on_disconnect, client_of, event_line, json_object
from echox.serving.rest.responses.output import ResponseOutput, StreamedEvent
from echox.serving.rest.responses.request import ResponsesRequest, read_responses
from echox.serving.service.questions import ask
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import StopStringFeed
from echox.streaming.events import ContextDropped, Event, ReplyBuilder, TextDelta
from echox.tool_calls.tools import ToolCallDelta


async def respond(service: Service, request: Request, body: bytes) -> ASGIApp:
    """Handle one request."""
    key = presented_key(dict(request.headers))
    asked = await cancel_on_disconnect(request, read_responses(service, await json_object(body), key))
    check_size(service, body, asked.items)
    feed = ask(service, asked.asked, asked.settings, "input", tools=asked.tools)
    reply = _Reply(service, asked, feed, key, client_of(request))
    if asked.streams:
        return await stream_reply(request, feed, reply.checked(feed.events()), _EventStream(reply).lines)
    await whole_reply(service, request, feed, reply.checked(feed.events()), reply.add)
    return JSONResponse(reply.finish()[-1][1]["response"])


class _Reply:
    """One response from its question to its last event; it is stored when it is finished."""

    def __init__(self, service: Service, asked: ResponsesRequest, feed: StopStringFeed, key: str, client: str) -> None:
        self.builder, self.output = ReplyBuilder(service.output_rate), ResponseOutput()
        self._service, self._asked, self._feed, self._key, self._client = service, asked, feed, key, client
        self._id, self._created_at = new_id("resp"), int(time.time())

    async def checked(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events; an error if turns had to be left out, and the request does not allow it.

        Raises:
            EventError: so it is.
        """
        async for event in events:
            if isinstance(event, ContextDropped) and not self._asked.truncates:
                message = (
                    "input: expected a conversation that the model's context holds, found a longer one; shorten it, or "
                    'set truncation to "auto" to leave out its oldest turns'
                )
                raise EventError(message, "context_length_exceeded", "input")
            yield event

    def add(self, event: Event) -> list[StreamedEvent]:
        """Take one event of the model; what it adds to the output."""
        self.builder.add(event)
        if isinstance(event, TextDelta):
            return list(self.output.add_text(event.text))
        return list(self.output.add_call(event)) if isinstance(event, ToolCallDelta) else []

    def finish(self) -> list[StreamedEvent]:
        """Store the response, if the request wants it; the last events, of which the very last one has all of it."""
        complete = self.builder.stopped != "length"
        status = "completed" if complete else "incomplete"
        last = list(self.output.end(status))
        found = self.to_dict(
            status,
            completed_at=int(time.time()) if complete else None,
            incomplete_details=None if complete else {"reason": "max_output_tokens"},
            usage=Usage.of_reply(self.builder.timings).for_responses(),
        )
        if self._asked.stores:
            said = self.output.said()
            self._service.stored_responses.add(self._id, found, self._asked.items, said, self._key, self._client)
        return [*last, (status, {"response": found})]

    def to_dict(self, status: str, **changes: object) -> JsonObject:
        """The response object; ``changes``: fields that are not those of a response at its start."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self._service.name,
            "output": self.output.items(),
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "usage": None,
            **self._asked.shown,
            **changes,
        }


class _EventStream:
    """Sends a reply as server-sent events, numbered in order."""

    def __init__(self, reply: _Reply) -> None:
        self._reply = reply
        self._number = 0

    async def lines(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """The lines of the body."""
        reply = self._reply
        for kind in ("created", "in_progress"):
            yield self._line(kind, {"response": reply.to_dict("in_progress")})
        try:
            async for event in events:
                for found in reply.add(event):
                    yield self._line(*found)
            last = reply.finish()
        except Exception as error:  # noqa: BLE001 - the status is sent already, so the error is sent in the body
            yield self._line("failed", {"response": reply.to_dict("failed", error=_response_error(error))})
            return
        for found in last:
            yield self._line(*found)

    def _line(self, kind: str, fields: JsonObject) -> str:
        event = {"type": f"response.{kind}", "sequence_number": self._number, **fields}
        self._number += 1
        return event_line(event, f"response.{kind}")


def _response_error(error: Exception) -> JsonObject:
    """The ``error`` of a failed response; the reference has few codes."""
    fault = StreamFault.of(error)
    return {"code": "invalid_prompt" if isinstance(error, ValueError) else "server_error", "message": fault.message}
