"""The Responses API over WebSockets, at ``/v1/responses``: one response after the other, as the events of a stream.

Source: OpenAI Responses API, WebSocket mode; ``responses.connect`` of the openai package.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress

from starlette.websockets import WebSocket

from echox.serving.access.admission import AdmissionRefused
from echox.serving.access.security import presented_key
from echox.serving.protocol.events import MAX_ID_CHARS, EventError, new_id, take
from echox.serving.protocol.json_input import JsonObject
from echox.serving.realtime.transport import Disconnected
from echox.serving.rest.answering import check_size
from echox.serving.rest.common import RequestError, json_object, refusal_of
from echox.serving.rest.responses.endpoint import ResponseReply
from echox.serving.rest.responses.request import read_responses
from echox.serving.service.outbox import Pace, SlowReader
from echox.serving.service.questions import ask
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import StopStringFeed
from echox.serving.websocket import WebSocketConnection, admitted
from echox.timeouts import within

log = logging.getLogger("echox.serving")
_OWN_NAMES = ("type", "stream_id", "generate")  # of requests over a WebSocket, beside those of the endpoint


async def serve_responses(service: Service, websocket: WebSocket) -> None:
    """Serve one WebSocket from handshake to close. It takes the place of a session."""
    async with admitted(service, websocket) as client:
        if client is not None:
            try:
                await _ResponseSocket(service, websocket, client).serve()
            except Disconnected:
                log.debug("a client of responses has disconnected")


class _ResponseSocket:
    """One client. What it does not want stored can be continued here only, the newest of it, until it disconnects."""

    def __init__(self, service: Service, websocket: WebSocket, client: str) -> None:
        self._service, self._connection, self._client = service, WebSocketConnection(websocket), client
        self._key = presented_key(dict(websocket.headers))
        self._own_key = f"{self._key}\n{new_id('socket')}"  # no header has a line feed
        self._own_id: str | None = None  # of the response that is kept under it
        self._running: tuple[ResponseReply, StopStringFeed] | None = None
        self._waiting: asyncio.Queue[tuple[JsonObject, int]] = asyncio.Queue(1)  # more are not read yet
        self._pace = Pace(service.limits.send_s, service.limits.min_bytes_per_s)

    async def serve(self) -> None:
        """Receive and answer until one side ends the connection.

        Raises:
            Disconnected: the client has.
        """
        tasks = {asyncio.create_task(self._receive()), asyncio.create_task(self._answer_all())}
        code, reason = 1000, "no request for too long"
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except SlowReader as error:
            code, reason = 1008, "reads too slowly"
            log.info("a client of responses is disconnected: %s", error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._forget()
        await self._connection.close(code, reason)

    async def _receive(self) -> None:
        """Receive events until nothing has come for too long."""
        limits = self._service.limits
        expires_s = time.monotonic() + limits.max_session_s
        while (left_s := expires_s - time.monotonic()) > 0:
            try:
                text = await within(min(left_s, limits.idle_s), self._connection.receive())
            except asyncio.TimeoutError:
                if self._running is None:
                    return
                continue
            try:
                event = await json_object(text.encode() if isinstance(text, str) else text)
                if take(event, "type", str, choices=("response.create", "response.cancel")) == "response.create":
                    await self._waiting.put((event, len(text)))
                else:
                    self._cancel(take(event, "response_id", str, default=None))
            except (RequestError, EventError) as error:
                await self._refuse(error)

    async def _answer_all(self) -> None:
        while True:
            event, num_bytes = await self._waiting.get()
            lane: JsonObject = {}  # a name of the client's, which is on all that answers it
            try:
                body = {name: value for name, value in event.items() if name not in _OWN_NAMES}
                name = take(event, "stream_id", str, default=None)
                lane = {} if name is None else {"stream_id": name[:MAX_ID_CHARS]}
                if not take(event, "generate", bool, default=True):
                    message = "generate: expected true, found false: this server prepares no responses; leave it out"
                    raise EventError(message, "unsupported_value", "generate")
                await self._answer(body, num_bytes, lane)
            except (Disconnected, SlowReader):
                raise
            except Exception as error:  # noqa: BLE001 - each becomes an event
                await self._refuse(error, lane)

    async def _answer(self, body: JsonObject, num_bytes: int, lane: JsonObject) -> None:
        """Answer one request.

        Raises:
            Exception: what is wrong with it, or with the connection.
        """
        try:
            if self._service.draining:
                raise AdmissionRefused
            await self._service.request_admission.acquire(self._client)
        except AdmissionRefused as error:
            code = "server_shutting_down" if self._service.draining else "server_busy"
            raise RequestError(503, code, "the server is busy; try again in a moment") from error
        try:
            asked = await read_responses(self._service, {**body, "stream": True}, (self._key, self._own_key))
            check_size(self._service, num_bytes, asked.items)
            feed = ask(self._service, asked.asked, asked.settings, "input", tools=asked.tools)
            key = self._key if asked.stores else self._own_key
            reply = ResponseReply(self._service, asked, feed, key, self._client)
            self._running = reply, feed
            try:
                async for event in reply.events_of(reply.checked(feed.events())):
                    if reply.stored and not asked.stores and self._own_id != reply.id:
                        self._forget()
                        self._own_id = reply.id
                    await self._send({**event, **lane})
            finally:
                feed.cancel()
                self._running = None
        finally:
            self._service.request_admission.release(self._client)

    def _cancel(self, response_id: str | None) -> None:
        """Stop a response; its last event says so.

        Raises:
            EventError: it is not being made.
        """
        if self._running is None or response_id not in (None, self._running[0].id):
            message = "response_id: expected a response that is being made, found none of that id"
            raise EventError(message, "response_cancel_not_active", "response_id")
        self._running[1].cancel()

    def _forget(self) -> None:
        """Forget what can be continued here only."""
        if self._own_id is not None:
            with suppress(EventError):  # dropped meanwhile
                self._service.stored_responses.delete(self._own_id, self._own_key)
            self._own_id = None

    async def _refuse(self, error: Exception, lane: JsonObject | None = None) -> None:
        found = refusal_of(self._service, error)
        body = json.loads(bytes(found.body))
        await self._send({"type": "error", "status": found.status_code, **body, **(lane or {})})

    async def _send(self, event: JsonObject) -> None:
        text = json.dumps(event)
        await self._pace.keep(self._connection.send(text), len(text))
