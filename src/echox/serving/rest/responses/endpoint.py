"""``POST /v1/responses``: answers a text or a conversation with text and calls of tools, at once or streamed.

Source: OpenAI Responses API. Replies are written, as there; spoken ones come from chat completions and realtime.
"""

from __future__ import annotations

import itertools
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
    asked = await cancel_on_disconnect(request, read_responses(service, await json_object(body), (key,)))
    check_size(service, len(body), asked.items)
    feed = ask(service, asked.asked, asked.settings, "input", tools=asked.tools)
    reply = ResponseReply(service, asked, feed, key if asked.stores else None, client_of(request))
    if asked.streams:

        async def lines(events: AsyncIterator[Event]) -> AsyncIterator[str]:
            async for event in reply.events_of(events):
                yield event_line(event, str(event["type"]))

        return await stream_reply(request, feed, reply.checked(feed.events()), lines)
    await whole_reply(service, request, feed, reply.checked(feed.events()), reply.add)
    return JSONResponse(reply.finish()[-1][1]["response"])


class ResponseReply:
    """One response from its question to its last event; it is stored when it is finished.

    Args:
        service: the service.
        asked: the request.
        feed: the reply of the model.
        key: under which it is stored; None: it is not stored.
        client: address of the client.

    Attributes:
        id: of the response.
        stored: whether it has been stored.
    """

    def __init__(
        self, service: Service, asked: ResponsesRequest, feed: StopStringFeed, key: str | None, client: str
    ) -> None:
        self.id, self.stored = new_id("resp"), False
        self._builder, self._output = ReplyBuilder(service.output_rate), ResponseOutput()
        self._service, self._asked, self._feed, self._key, self._client = service, asked, feed, key, client
        self._created_at = int(time.time())

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
        self._builder.add(event)
        if isinstance(event, TextDelta):
            return list(self._output.add_text(event.text))
        return list(self._output.add_call(event)) if isinstance(event, ToolCallDelta) else []

    def finish(self) -> list[StreamedEvent]:
        """Store the response, unless it was cancelled or shall not be; its last events. The very last one has all."""
        status = {"length": "incomplete", "cancelled": "cancelled"}.get(self._builder.stopped, "completed")
        complete = status == "completed"
        last = list(self._output.end("completed" if complete else "incomplete"))
        found = self._to_dict(
            status,
            completed_at=int(time.time()) if complete else None,
            incomplete_details={"reason": "max_output_tokens"} if status == "incomplete" else None,
            usage=Usage.of_reply(self._feed.timings).for_responses(),
        )
        if self._key is not None and status != "cancelled":
            said, self.stored = self._output.said(), True
            self._service.stored_responses.add(self.id, found, self._asked.items, said, self._key, self._client)
        # The reference has no event of its own for a response that its client has cancelled.
        return [*last, ("completed" if complete else "incomplete", {"response": found})]

    async def events_of(self, events: AsyncIterator[Event]) -> AsyncIterator[JsonObject]:
        """All events of the response as clients get them, numbered in order; an error is the last of them."""
        number = itertools.count()

        def numbered(kind: str, fields: JsonObject) -> JsonObject:
            return {"type": f"response.{kind}", "sequence_number": next(number), **fields}

        for kind in ("created", "in_progress"):
            yield numbered(kind, {"response": self._to_dict("in_progress")})
        try:
            async for event in events:
                for found in self.add(event):
                    yield numbered(*found)
            last = self.finish()
        except Exception as error:  # noqa: BLE001 - the status is sent already, so the error is sent in the body
            yield numbered("failed", {"response": self._to_dict("failed", error=_response_error(error))})
            return
        for found in last:
            yield numbered(*found)

    def _to_dict(self, status: str, **changes: object) -> JsonObject:
        """The response object; ``changes``: fields that are not those of a response at its start."""
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self._service.name,
            "output": self._output.items(),
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "usage": None,
            **self._asked.shown,
            **changes,
        }


def _response_error(error: Exception) -> JsonObject:
    """The ``error`` of a failed response; the reference has few codes."""
    fault = StreamFault.of(error)
    return {"code": "invalid_prompt" if isinstance(error, ValueError) else "server_error", "message": fault.message}
