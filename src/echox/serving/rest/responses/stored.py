"""``/v1/responses/{id}`` and ``/v1/responses/{id}/input_items``: stored responses, and what they answered.

Source: OpenAI Responses API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from echox.serving.access.security import presented_key
from echox.serving.protocol.conversation import Content, ConversationItem
from echox.serving.protocol.events import EventError, shorten
from echox.serving.protocol.json_input import JsonObject
from echox.serving.rest.common import RequestError, error_response
from echox.serving.rest.responses.output import text_part
from echox.serving.service.service import Service

_LIST_PARAMETERS = ("after", "limit", "order", "include")
_DEFAULT_ITEMS, _MAX_ITEMS = 20, 100
Endpoint = Callable[[Request], Awaitable[Response]]


def stored_response(service: Service) -> Endpoint:
    """The endpoint ``/v1/responses/{id}``: GET returns a stored response, DELETE forgets it."""

    def run(request: Request, response_id: str, key: str) -> JsonObject:
        if request.method == "DELETE":
            service.stored_responses.delete(response_id, key)
            return {"id": response_id, "object": "response", "deleted": True}
        _check_parameters(request, ())
        return service.stored_responses.find(response_id, key).body

    return _endpoint(run)


def input_items(service: Service) -> Endpoint:
    """The endpoint ``/v1/responses/{id}/input_items``: what a stored response answered, by pages."""

    def run(request: Request, response_id: str, key: str) -> JsonObject:
        _check_parameters(request, _LIST_PARAMETERS)
        stored = service.stored_responses.find(response_id, key)
        items = list(stored.items[: stored.num_inputs])
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise RequestError(400, "invalid_value", f"order: expected asc or desc, found {shorten(order)}", "order")
        if order == "desc":
            items.reverse()
        return _page(items, request.query_params.get("after"), _limit(request))

    return _endpoint(run)


def _endpoint(run: Callable[[Request, str, str], JsonObject]) -> Endpoint:
    """An endpoint for the id in the path and the key that is presented; errors become responses."""

    async def respond(request: Request) -> Response:
        try:
            return JSONResponse(run(request, str(request.path_params["id"]), presented_key(dict(request.headers))))
        except EventError as error:
            return error_response(404, error.code, str(error), param=error.param)
        except RequestError as error:
            return error_response(error.status, error.code, str(error), param=error.param)

    return respond


def _check_parameters(request: Request, known: tuple[str, ...]) -> None:
    """Raises RequestError: parameters of the address that the endpoint does not have."""
    unknown = [name for name in request.query_params if name.removesuffix("[]") not in known]
    if unknown:
        expected = ", ".join(known) or "no parameters"
        message = f"expected {expected}, found {', '.join(unknown)[:60]}"
        raise RequestError(400, "unsupported_value", message)


def _limit(request: Request) -> int:
    """Raises RequestError: no number from 1 to 100."""
    given = request.query_params.get("limit", str(_DEFAULT_ITEMS))
    if not (given.isdecimal() and len(given) < 4 and 1 <= int(given) <= _MAX_ITEMS):
        message = f"limit: expected a number from 1 to {_MAX_ITEMS}, found {shorten(given)}"
        raise RequestError(400, "invalid_value", message, "limit")
    return int(given)


def _page(items: list[ConversationItem], after: str | None, limit: int) -> JsonObject:
    """Raises RequestError: no item has the id ``after``."""
    begin = 0
    if after is not None:
        begin = next((place for place, item in enumerate(items, 1) if item.id == after), 0)
        if not begin:
            message = f"after: expected the id of an item of this response, found {shorten(after)}"
            raise RequestError(404, "item_not_found", message, "after")
    shown = [_shown(item) for item in items[begin : begin + limit]]
    ends: JsonObject = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
    return {"object": "list", "data": shown, **ends, "has_more": begin + limit < len(items)}


def _shown(item: ConversationItem) -> JsonObject:
    """An item as this endpoint has it."""
    if item.call is not None:
        return {"id": item.id, "status": item.status, **item.call}
    content = [_shown_part(part, item.role) for part in item.content]
    return {"id": item.id, "type": "message", "role": item.role, "status": item.status, "content": content}


def _shown_part(part: Content, role: str) -> JsonObject:
    """A part of a message; a recording without its data, which only its sender has as it was."""
    if part.audio is not None:
        return {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    if role == "assistant":
        return text_part(part.text or "")
    return {"type": "input_text", "text": part.text or ""}
