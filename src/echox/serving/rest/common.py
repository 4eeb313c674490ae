"""What the HTTP endpoints share: a place for each request, bodies with an end, errors as the OpenAI API writes them."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse

from echox.audio import load_audio
from echox.audio_decoding.pool import DecodingJob
from echox.errors import QueueFull
from echox.serving.access.connections import client_at
from echox.serving.access.places import Full, Upload
from echox.serving.protocol.events import EventError
from echox.serving.protocol.json_input import aside, parse_json
from echox.serving.service.outbox import SlowReader
from echox.serving.service.service import Service

log = logging.getLogger("echox.serving")
T = TypeVar("T")


class Refusal(Exception):
    """A request that is not done.

    Args:
        status: of HTTP. code: for programs. message: what was expected, what was found. param: where.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def error_response(
    status: int, code: str, message: str, headers: dict[str, str] | None = None, param: str | None = None
) -> JSONResponse:
    """An error as the OpenAI API writes it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"type": kind, "code": code, "message": message, "param": param}}, status, headers)


def event_line(event: dict[str, Any]) -> str:
    """A server-sent event with JSON in it, as the OpenAI API writes them."""
    return f"data: {json.dumps(event)}\n\n"


class Ending:
    """A response that is followed by something, however it ends: sent, broken off, or never begun.

    Args:
        response: an ASGI application. last: what follows.
        send_s: how long the client may leave one part of it unread; None: for ever.
    """

    def __init__(self, response: Any, last: Callable[[], None], send_s: float | None = None) -> None:
        self._response, self._last, self._send_s = response, last, send_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""

        async def timely(message: Any) -> None:
            try:
                await asyncio.wait_for(send(message), self._send_s)
            except asyncio.TimeoutError as error:
                raise SlowReader(f"a part was not taken within {self._send_s:g} s") from error

        try:
            await self._response(scope, receive, timely)
        except SlowReader as error:
            log.info("an answer was broken off: %s", error)
        finally:
            self._last()


Handler = Callable[[Service, Request, bytes], Awaitable[Any]]


def endpoint(service: Service, handler: Handler, max_bytes: int) -> Callable[[Request], Awaitable[Any]]:
    """Wrap a handler: its request is received first, then gets a place (or a 503); its mistakes become answers.

    Args:
        service: the model.
        handler: makes the response of a request and its body.
        max_bytes: of the body.
    """

    async def run(request: Request) -> Any:
        client = client_of(request)
        with service.uploads.receiving(client) as upload:
            try:
                if service.draining:
                    raise Full
                body = await read_body(request, max_bytes, service.limits.body_s, upload)
                await service.request_places.take(client)
            except Full:
                return _busy(service)
            except (Refusal, ClientDisconnect) as error:
                return _refusal(service, error)

            def give() -> None:
                service.request_places.give(client)

            try:
                response = await _answer(service, handler, request, body)
            except BaseException:
                give()
                raise
            return Ending(response, give, service.limits.send_s)

    return run


def client_of(connection: HTTPConnection) -> str:
    """Who shares are counted for; "" if the client has no address."""
    return client_at(connection.client.host) if connection.client is not None else ""


def _busy(service: Service) -> JSONResponse:
    code = "server_shutting_down" if service.draining else "server_busy"
    service.metrics.refused.labels(code).inc()
    return error_response(503, code, "no place is free; try again in a moment", {"Retry-After": "1"})


def _refusal(service: Service, error: Refusal | ClientDisconnect) -> JSONResponse:
    """The answer to a request that was not received whole; the rest of it is not wanted."""
    found = error if isinstance(error, Refusal) else Refusal(400, "client_left", "the client left")
    service.metrics.errors.labels(found.code).inc()
    return error_response(found.status, found.code, str(found), {"Connection": "close"}, found.param)


async def _answer(service: Service, handler: Handler, request: Request, body: bytes) -> Any:
    """Call the handler; turn what it raises into a response."""
    try:
        return await handler(service, request, body)
    except Refusal as error:
        found = error_response(error.status, error.code, str(error), param=error.param)
    except EventError as error:
        found = error_response(400, error.code, str(error), param=error.param)
    except QueueFull:
        found = error_response(503, "server_busy", "too many replies are waiting; try again", {"Retry-After": "1"})
    except ValueError as error:  # what the model refuses, in words for the client
        found = error_response(400, "not_answerable", " ".join(str(error).split()))
    except ClientDisconnect:
        found = error_response(400, "client_left", "the client left")
    except Exception:
        log.exception("a request failed")
        found = error_response(500, "internal_error", "the server failed; see its log")
    service.metrics.errors.labels(json.loads(bytes(found.body))["error"]["code"]).inc()
    return found


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work, which is cancelled when the client leaves.

    Raises:
        Refusal: it has left. Exception: what the work raises.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = (asyncio.create_task(work), asyncio.create_task(gone()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise Refusal(400, "client_left", "the client left")
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


async def read_body(request: Request, limit: int, longest_s: float, upload: Upload) -> bytes:
    """The body, as long as it is not too long and does not take too long.

    Args:
        request: whose body.
        limit: bytes.
        longest_s: for it to arrive.
        upload: counts what is in memory.

    Raises:
        Refusal: 413 or 408. Full: too much is in memory already.
    """
    too_large = Refusal(413, "request_too_large", f"expected at most {limit} bytes, found more")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large

    async def read() -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            upload.add(len(part))
            parts.append(part)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), longest_s)
    except asyncio.TimeoutError as error:
        raise Refusal(408, "request_timeout", f"expected the body within {longest_s:g} s") from error


async def json_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        Refusal: 400.
    """
    try:
        found = await aside(parse_json, body)
    except ValueError as error:
        message = f"expected a JSON object, found something else ({str(error)[:100]})"
        raise Refusal(400, "invalid_json", message) from error
    if not isinstance(found, dict):
        raise Refusal(400, "invalid_json", "expected a JSON object, found something else")
    return found


async def decode(service: Service, data: bytes, max_s: float) -> np.ndarray:
    """Any audio file to samples float32 (S,) at the model's rate, in a worker process.

    A caller that is cancelled, as `unless_gone` does when the client leaves, has the worker killed.

    Raises:
        ValueError: not audio, too long, or too costly to decode.
    """
    job = DecodingJob()
    call = functools.partial(load_audio, data, service.input_rate, max_s, decoders=service.decoders, job=job)
    try:
        return await asyncio.get_running_loop().run_in_executor(service.decoding, call)
    except asyncio.CancelledError:
        job.cancel()
        raise
