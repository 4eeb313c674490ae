"""``POST /v1/responses``: answers a text or a conversation with text, at once or streamed; stored responses by id.

Source: OpenAI Responses API. Replies are written, as there; spoken ones come from chat completions and realtime.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse
from starlette.types import ASGIApp

from echox.serving.access.security import presented_key
from echox.serving.protocol.conversation import Content, ConversationItem
from echox.serving.protocol.events import EventError, new_id
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.usage import Usage
from echox.serving.rest.answering import StreamFault, check_size, stream_reply, whole_reply
from echox.serving.rest.common import (
    RequestError,
    cancel_on_disconnect,
    client_of,
    error_response,
    event_line,
    json_object,
)
from echox.serving.rest.responses_request import ResponsesRequest, read_responses
from echox.serving.service.questions import ask
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import StopStringFeed
from echox.streaming.events import ContextDropped, Event, ReplyBuilder, TextDelta


async def respond(service: Service, request: Request, body: bytes) -> ASGIApp:
    """Handle one request."""
    key = presented_key(dict(request.headers))
    asked = await cancel_on_disconnect(request, read_responses(service, await json_object(body), key))
    check_size(service, body, asked.items)
    feed = ask(service, asked.asked, asked.settings, "input")
    reply = _Reply(service, asked, feed, key, client_of(request))
    if asked.streams:
        return await stream_reply(request, feed, reply.checked(feed.events()), _EventStream(reply).lines)
    await whole_reply(service, request, feed, reply.checked(feed.events()), reply.builder)
    return JSONResponse(reply.finish())


class _Reply:
    """One response from its question to its last event; it is stored when it is finished."""

    def __init__(self, service: Service, asked: ResponsesRequest, feed: StopStringFeed, key: str, client: str) -> None:
        self.builder = ReplyBuilder(service.output_rate)
        self._service, self._asked, self._feed, self._key, self._client = service, asked, feed, key, client
        self._id, self.message_id = new_id("resp"), new_id("msg")
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

    def finish(self) -> JsonObject:
        """Store the response, if the request wants it, and return it."""
        complete = self.builder.stopped != "length"
        found = self.to_dict(
            "completed" if complete else "incomplete",
            completed_at=int(time.time()) if complete else None,
            incomplete_details=None if complete else {"reason": "max_output_tokens"},
            output=[self.message("completed" if complete else "incomplete")],
            usage=Usage.of_reply(self.builder.timings).for_responses(),
        )
        if self._asked.stores:
            said = ConversationItem(self.message_id, "assistant", [Content("output_text", self.builder.text)])
            items = [*self._asked.items, said]
            self._service.stored_responses.add(self._id, found, items, self._key, self._client)
        return found

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
            "output": [],
            "parallel_tool_calls": True,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": "none",
            "tools": [],
            "usage": None,
            **self._asked.shown,
            **changes,
        }

    def message(self, status: str) -> JsonObject:
        """The output item, with the text so far; without content while it is in progress."""
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.message_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def part(self) -> JsonObject:
        """The content of the output item."""
        return {"type": "output_text", "text": self.builder.text, "annotations": [], "logprobs": []}


class _EventStream:
    """Sends a reply as server-sent events, numbered in order."""

    def __init__(self, reply: _Reply) -> None:
        self._reply = reply
        self._number = 0

    async def lines(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """The lines of the body."""
        reply = self._reply
        place: JsonObject = {"output_index": 0}
        inside: JsonObject = {**place, "item_id": reply.message_id, "content_index": 0}
        for name in ("created", "in_progress"):
            yield self._line(f"response.{name}", response=reply.to_dict("in_progress"))
        yield self._line("response.output_item.added", **place, item=reply.message("in_progress"))
        yield self._line("response.content_part.added", **inside, part=reply.part())
        try:
            async for event in events:
                reply.builder.add(event)
                if isinstance(event, TextDelta):
                    yield self._line("response.output_text.delta", **inside, delta=event.text, logprobs=[])
        except Exception as error:  # noqa: BLE001 - the status is sent already, so the error is sent in the body
            yield self._line("response.failed", response=reply.to_dict("failed", error=_response_error(error)))
            return
        text, found = reply.builder.text, reply.finish()
        yield self._line("response.output_text.done", **inside, text=text, logprobs=[])
        yield self._line("response.content_part.done", **inside, part=reply.part())
        yield self._line("response.output_item.done", **place, item=reply.message(str(found["status"])))
        yield self._line(f"response.{found['status']}", response=found)

    def _line(self, kind: str, **fields: object) -> str:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event_line(event, kind)


def _response_error(error: Exception) -> JsonObject:
    """The ``error`` of a failed response; the reference has few codes."""
    fault = StreamFault.of(error)
    return {"code": "invalid_prompt" if isinstance(error, ValueError) else "server_error", "message": fault.message}


# ---------------------------------------------------------------------------------------------- stored responses


def stored_response(service: Service) -> Callable[[Request], Awaitable[HttpResponse]]:
    """The endpoint ``/v1/responses/{id}``: GET returns a stored response, DELETE forgets it."""

    async def run(request: Request) -> HttpResponse:
        response_id, key = str(request.path_params["id"]), presented_key(dict(request.headers))
        try:
            if request.method == "DELETE":
                service.stored_responses.delete(response_id, key)
                return JSONResponse({"id": response_id, "object": "response", "deleted": True})
            if request.query_params:
                message = f"expected no parameters, found {', '.join(request.query_params)[:60]}"
                raise RequestError(400, "unsupported_value", message)
            return JSONResponse(service.stored_responses.find(response_id, key).body)
        except EventError as error:
            return error_response(404, error.code, str(error), param=error.param)
        except RequestError as error:
            return error_response(error.status, error.code, str(error))

    return run
