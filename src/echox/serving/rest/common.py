"""Common parts of the HTTP endpoints: admission, limited bodies, and errors in the format of the OpenAI API."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echox.audio import load_audio
from echox.audio_decoding.pool import DecodingJob
from echox.errors import QueueFull
from echox.serving.access.admission import AdmissionRefused, UploadReservation
from echox.serving.access.connections import client_at
from echox.serving.protocol.events import EventError, refusal_code
from echox.serving.protocol.json_input import JsonObject, parse_json, read_off_loop
from echox.serving.protocol.limits import Limits
from echox.serving.service.outbox import Pace, SlowReader
from echox.serving.service.service import Service
from echox.timeouts import within

log = logging.getLogger("echox.serving")
T = TypeVar("T")


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        code: for programs.
        message: what was expected and what was found.
        param: the parameter.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def error_response(
    status: int, code: str, message: str, headers: dict[str, str] | None = None, param: str | None = None
) -> JSONResponse:
    """An error in the format of the OpenAI API."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"type": kind, "code": code, "message": message, "param": param}}, status, headers)


def event_line(event: JsonObject, name: str | None = None) -> str:
    """A server-sent event with JSON, in the format of the OpenAI API; ``name``: its line ``event:``."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(event)}\n\n"


class ResponseWithCleanup:
    """A response with a cleanup that runs after it, also if it is interrupted or never started.

    Args:
        response: an ASGI application.
        cleanup: called at the end.
        limits: of the pace at which the client must take the response; None: no limit.
    """

    def __init__(self, response: ASGIApp, cleanup: Callable[[], None], limits: Limits | None = None) -> None:
        self._response, self._cleanup, self._limits = response, cleanup, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        pace = None if self._limits is None else Pace(self._limits.send_s, self._limits.min_bytes_per_s)

        async def send_at_pace(message: Message) -> None:
            assert pace is not None

            async def sending() -> None:
                await send(message)

            await pace.keep(sending(), len(message.get("body", b"")))

        try:
            await self._response(scope, receive, send if pace is None else send_at_pace)
        except SlowReader as error:
            log.info("a response was interrupted: %s", error)
        finally:
            self._cleanup()


Handler = Callable[[Service, Request, bytes], Awaitable[ASGIApp]]


def endpoint(service: Service, handler: Handler, max_bytes: int) -> Callable[[Request], Awaitable[ASGIApp]]:
    """Wrap a handler: receive the body, then wait to be admitted (or answer 503); turn errors into responses.

    Args:
        service: the service.
        handler: makes the response from a request and its body.
        max_bytes: limit of the body.
    """

    async def run(request: Request) -> ASGIApp:
        client = client_of(request)
        with service.upload_memory.reserve(client) as reservation:
            try:
                if service.draining:
                    raise AdmissionRefused
                body = await read_body(request, max_bytes, service.limits.body_s, reservation)
                await service.request_admission.acquire(client)
            except AdmissionRefused:
                return _busy(service)
            except (RequestError, ClientDisconnect) as error:
                return _incomplete_request(service, error)

            def release() -> None:
                service.request_admission.release(client)

            try:
                response = await _handle(service, handler, request, body)
            except BaseException:
                release()
                raise
            return ResponseWithCleanup(response, release, service.limits)

    return run


def client_of(connection: HTTPConnection) -> str:
    """The client that limits are counted for, as `client_at` names it; "" if it has no address."""
    return client_at(connection.client.host) if connection.client is not None else ""


def _busy(service: Service) -> JSONResponse:
    code = "server_shutting_down" if service.draining else "server_busy"
    service.metrics.refused.labels(code).inc()
    return error_response(503, code, "the server is busy; try again in a moment", {"Retry-After": "1"})


def _incomplete_request(service: Service, error: RequestError | ClientDisconnect) -> JSONResponse:
    """The response to a request that was not received completely. The rest of it is not read."""
    found = error if isinstance(error, RequestError) else RequestError(400, "client_left", "the client left")
    service.metrics.errors.labels(found.code).inc()
    return error_response(found.status, found.code, str(found), {"Connection": "close"}, found.param)


async def _handle(service: Service, handler: Handler, request: Request, body: bytes) -> ASGIApp:
    """Call the handler and turn its errors into responses."""
    try:
        return await handler(service, request, body)
    except Exception as error:  # noqa: BLE001 - each becomes a response
        return refusal_of(service, error)


def refusal_of(service: Service, error: Exception) -> JSONResponse:
    """The response to a request that has failed, which is counted; of faults of the server, the details are logged."""
    if isinstance(error, RequestError):
        found = error_response(error.status, error.code, str(error), param=error.param)
    elif isinstance(error, EventError):
        found = error_response(400, error.code, str(error), param=error.param)
    elif isinstance(error, QueueFull):
        found = error_response(503, "server_busy", "too many replies are waiting; try again", {"Retry-After": "1"})
    elif isinstance(error, ValueError):  # a question that the model refuses, with a message for the client
        found = error_response(400, refusal_code(error), " ".join(str(error).split()))
    elif isinstance(error, ClientDisconnect):
        found = error_response(400, "client_left", "the client left")
    else:
        log.error("a request failed", exc_info=error)
        found = error_response(500, "internal_error", "the server failed; see its log")
    service.metrics.errors.labels(json.loads(bytes(found.body))["error"]["code"]).inc()
    return found


async def cancel_on_disconnect(request: Request, work: Coroutine[object, object, T]) -> T:
    """Run work, and cancel it if the client disconnects.

    Raises:
        RequestError: the client has disconnected.
        Exception: any error of the work.
    """

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = (asyncio.create_task(work), asyncio.create_task(disconnect()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise RequestError(400, "client_left", "the client left")
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


async def read_body(request: Request, limit: int, max_s: float, reservation: UploadReservation) -> bytes:
    """Receive the body of a request.

    Args:
        request: the request.
        limit: largest size, bytes.
        max_s: time in which it must arrive.
        reservation: counts the bytes in memory.

    Raises:
        RequestError: too large (413) or too slow (408).
        AdmissionRefused: the limit of all uploads in memory is reached.
    """
    too_large = RequestError(413, "request_too_large", f"expected at most {limit} bytes, found more")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large

    async def read() -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            reservation.add(len(part))
            parts.append(part)
        return b"".join(parts)

    try:
        return await within(max_s, read())
    except asyncio.TimeoutError as error:
        raise RequestError(408, "request_timeout", f"expected the body within {max_s:g} s") from error


async def json_object(body: bytes) -> JsonObject:
    """Parse the body as a JSON object.

    Raises:
        RequestError: it is not a JSON object (400).
    """
    try:
        found = await read_off_loop(parse_json, body)
    except ValueError as error:
        message = f"expected a JSON object, found something else ({str(error)[:100]})"
        raise RequestError(400, "invalid_json", message) from error
    if not isinstance(found, dict):
        raise RequestError(400, "invalid_json", "expected a JSON object, found something else")
    return found


async def decode_audio(service: Service, data: bytes, max_s: float) -> np.ndarray:
    """Decode an audio file to samples float32 (S,) at the model's rate, in a worker process.

    If the caller is cancelled (as by `cancel_on_disconnect`), the worker is killed.

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
