"""``POST /v1/realtime/calls``: an SDP offer is answered, and the call begins; and the end of a call by its id.

Source: OpenAI Realtime API, Calls ("Create call", "Hang up call").
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from echox.serving.protocol.events import EventError
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.options import SessionOptions
from echox.serving.realtime.serve import first_options, serve_session
from echox.serving.realtime.transport import Disconnected
from echox.serving.rest.common import RequestError, cancel_on_disconnect, client_of, error_response, json_object
from echox.serving.rest.forms import read_form
from echox.serving.service.service import Service
from echox.serving.webrtc.call import Call
from echox.serving.webrtc.ice import IceSettings
from echox.serving.webrtc.offer import Offer, read_offer

log = logging.getLogger("echox.serving")
CALLS_PATH = "/v1/realtime/calls"


def is_installed() -> bool:
    """Whether calls can be made: the extra ``webrtc`` is installed."""
    return importlib.util.find_spec("aiortc") is not None


class Calls:
    """The calls of one server process.

    Args:
        settings: addresses and servers for the media; None: this server takes no calls.
    """

    def __init__(self, settings: IceSettings | None) -> None:
        self._settings = settings if is_installed() else None
        self._why_not = (
            "this server takes no calls (WebRTC); use a WebSocket at /v1/realtime"
            if settings is None
            else "WebRTC is not installed here (pip install 'echox[webrtc]', Python 3.11 or newer); use a WebSocket"
        )
        self._calls: dict[str, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def available(self) -> bool:
        """Whether this server takes calls."""
        return self._settings is not None

    async def create(self, service: Service, request: Request, body: bytes) -> Response:
        """Answer an offer: 201, the SDP answer, and the place of the call.

        Raises:
            RequestError: no calls are taken here (501), or the body is neither SDP nor a form.
            EventError: a wrong offer (code "invalid_sdp") or option.
        """
        if self._settings is None:
            raise RequestError(501, "webrtc_unavailable", self._why_not)
        sdp, change = await _read(request, body)
        offer = read_offer(sdp, with_candidates=bool(self._settings.servers))
        options = first_options(service, request.scope, request.query_params)
        options.update(change)
        await service.prepare_tools(options.tools.use, "session.tools")
        client = client_of(request)
        try:
            # Who has left while it waited gets no place.
            await cancel_on_disconnect(request, service.admit_session(client))
        except EventError as error:
            service.metrics.refused.labels(error.code).inc()
            return error_response(503, error.code, str(error), {"Retry-After": "1"})
        try:
            call, answer = await cancel_on_disconnect(request, self._begin(service, offer, options, client))
        except BaseException:
            service.session_admission.release(client)
            raise
        place = f"{request.scope.get('root_path', '')}{CALLS_PATH}/{call.id}"
        return Response(answer, 201, {"Location": place}, media_type="application/sdp")

    async def _begin(self, service: Service, offer: Offer, options: SessionOptions, client: str) -> tuple[Call, str]:
        """Answer an offer and serve the call, in a task; it releases the admission."""
        assert self._settings is not None
        call = Call(self._settings, service.limits)
        try:
            answer = await call.answer(offer)
        except BaseException as error:
            await call.close()
            if isinstance(error, ValueError):
                raise RequestError(400, "invalid_sdp", f"sdp: expected an offer, found: {error}", "sdp") from error
            raise
        self._calls[call.id] = call
        task = asyncio.create_task(self._serve(service, call, options, client), name=call.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call, answer

    async def _serve(self, service: Service, call: Call, options: SessionOptions, client: str) -> None:
        try:
            await call.connect()
            await serve_session(service, call, options)
        except Disconnected:
            service.metrics.refused.labels("call_not_connected").inc()
        except Exception:
            log.exception("%s: a call has failed", call.id)
        finally:
            self._calls.pop(call.id, None)
            await call.close()
            service.session_admission.release(client)

    async def hang_up(self, request: Request) -> Response:
        """End a call by its id: 200; 404 if there is none."""
        call = self._calls.get(str(request.path_params["id"]))
        if call is None:
            return error_response(404, "call_not_found", "expected the id of a call that goes on, found another")
        call.hang_up()
        return Response(status_code=200)


async def _read(request: Request, body: bytes) -> tuple[str, JsonObject]:
    """The offer and the options of a request: SDP alone, or a form with ``sdp`` and ``session``.

    Raises:
        RequestError: neither, or a malformed one.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/sdp":
        return _text(body), {}
    if content_type != "multipart/form-data":
        message = "expected application/sdp, or a multipart form with sdp and session, found something else"
        raise RequestError(415, "unsupported_media_type", message)
    form = await read_form(request, body)
    try:
        fields = {}
        for name in ("sdp", "session"):
            value = form.get(name)
            fields[name] = await value.read() if isinstance(value, UploadFile) else (value or "").encode()
    finally:
        await form.close()
    if not fields["sdp"]:
        raise RequestError(400, "missing_required_parameter", "sdp: expected an SDP offer, found none", "sdp")
    return _text(fields["sdp"]), await json_object(fields["session"] or b"{}")


def _text(data: bytes) -> str:
    """Raises RequestError: no UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RequestError(400, "invalid_sdp", "sdp: expected UTF-8, found something else", "sdp") from error
