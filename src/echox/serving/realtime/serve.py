"""Serves one session over its connection, from the first event to the close."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from echox.serving.access.security import OPTIONS_KEY
from echox.serving.protocol.events import EventError
from echox.serving.protocol.options import SessionOptions
from echox.serving.realtime.session import RealtimeSession
from echox.serving.realtime.transport import Connection, Disconnected
from echox.serving.service.outbox import SlowReader
from echox.serving.service.service import Service
from echox.timeouts import within

log = logging.getLogger("echox.serving")
_CLOSE_S = 2.0  # time for the last events to be sent


def first_options(service: Service, scope: Mapping[str, Any], query: Mapping[str, str]) -> SessionOptions:
    """The options that a session starts with: of its client secret, or for the ``intent`` in its address.

    Args:
        service: the service.
        scope: of the request, as the access policy left it.
        query: parameters of its address.
    """
    found: SessionOptions | None = scope.get(OPTIONS_KEY)
    if found is not None:
        return copy.copy(found)
    options = service.session_options()
    if query.get("intent") == "transcription":
        options.update({"type": "transcription"})
    return options


async def serve_session(service: Service, connection: Connection, options: SessionOptions) -> None:
    """Serve a client that was admitted, until one side closes the connection.

    Args:
        service: the service.
        connection: the connection; it is closed at the end.
        options: the options that the session starts with.
    """
    session = RealtimeSession(service, connection, options)
    service.sessions.add(session)
    try:
        await _run(service, session, connection)
    finally:
        service.sessions.discard(session)
        await session.close()


async def _run(service: Service, session: RealtimeSession, connection: Connection) -> None:
    """Receive and send at the same time until one of them ends; then close with the reason."""
    session.start()
    tasks = {
        asyncio.create_task(_receive(service, session, connection)),
        asyncio.create_task(session.outbox.run()),
        asyncio.create_task(_wait_for(session.closing)),
    }
    code, reason = 1000, ""
    try:
        done, _ = await asyncio.wait(tasks, timeout=service.limits.max_session_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            code, reason = 1000, "session expired"
            session.send_error(EventError("the session has reached its longest duration", "session_expired"))
        elif session.closing.is_set():
            code, reason = 1012, "server restart"
        for task in done:
            task.result()
        await within(_CLOSE_S, session.outbox.wait_until_sent())
    except SlowReader as error:
        code, reason = 1008, "reads too slowly"
        service.metrics.refused.labels("slow_reader").inc()
        log.info("%s: disconnected, %s", session.id, error)
    except asyncio.TimeoutError:
        log.debug("%s: the last events were not received", session.id)
    except Disconnected:
        return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    try:
        await within(_CLOSE_S, connection.close(code, reason))
    except (Disconnected, asyncio.TimeoutError):
        log.debug("%s: disconnected before it was closed", session.id)


async def _receive(service: Service, session: RealtimeSession, connection: Connection) -> None:
    """Receive events and sound until the client disconnects or sends nothing for too long."""
    while True:
        await session.outbox.wait_for_room()
        try:
            left_s = session.active_at + service.limits.idle_s - time.monotonic()
            message = await within(max(0.0, left_s), connection.receive())
        except asyncio.TimeoutError:
            session.send_error(EventError("no event for too long", "session_idle"))
            return
        if isinstance(message, np.ndarray):
            await session.hear(message)
        else:
            await session.receive(message)


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()
