"""Multipart forms of requests, whose body was received already."""

from __future__ import annotations

import asyncio
import re

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from echox.serving.rest.common import RequestError

_MAX_PADDING_BYTES = 100


async def read_form(request: Request, body: bytes) -> FormData:
    """Read a form with at most one file and 32 fields. Close it afterwards.

    Raises:
        RequestError: it is no form (415), or a malformed one (400).
    """
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        raise RequestError(415, "unsupported_media_type", "expected a multipart form, found something else")
    await asyncio.to_thread(_check_padding, content_type, body)

    async def receive_body() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def parse() -> FormData:
        return await Request(request.scope, receive_body).form(max_files=1, max_fields=32)

    try:  # in a thread with its own event loop, because the parser never yields
        return await asyncio.to_thread(lambda: asyncio.run(parse()))
    except (HTTPException, ValueError, KeyError) as error:
        raise RequestError(400, "invalid_form", "expected a multipart form, found something else") from error


def _check_padding(content_type: str, body: bytes) -> None:
    """Refuse long padding after a boundary (RFC 2046, 5.1.1, allows some): the parser reads it byte by byte.

    Raises:
        RequestError: more than 100 spaces and tabs.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if boundary and re.search(b"--" + re.escape(boundary) + b"(?:--)?[ \\t]{%d}" % (_MAX_PADDING_BYTES + 1), body):
        message = f"expected at most {_MAX_PADDING_BYTES} spaces after a boundary of the form, found more"
        raise RequestError(400, "invalid_form", message)
