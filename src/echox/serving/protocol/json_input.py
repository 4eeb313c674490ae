"""JSON from clients: read strictly, and limited before objects are built from it, so that reading takes milliseconds.

Eight million empty objects fit into 25 MB of text. To build them takes seconds and gigabytes, and no other client is
served meanwhile. So the characters that start and separate values are counted first. Base64 audio, the only long value
of a real request, has none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import orjson

T = TypeVar("T")
JsonObject: TypeAlias = dict[str, object]
"""A JSON object: from a client, before its values are checked; or for a client, ready to be written."""
MAX_ELEMENTS = 50_000  # "{", "[" and "," together, also inside strings: about 10 ms of parsing at most
MAX_DEPTH = 32
_SHORT_TEXT = 64 * 1024  # shorter text is parsed faster than a thread is started


def parse_json(text: str | bytes) -> object:
    """Parse strict JSON (RFC 8259): UTF-8, whole characters only, no NaN, limited in elements and depth.

    Raises:
        ValueError: not JSON, more than `MAX_ELEMENTS` elements, or nested deeper than `MAX_DEPTH`.
    """
    check_elements(text)
    found = orjson.loads(text)
    _check_depth(found)
    return found


def check_elements(text: str | bytes) -> None:
    """Count the elements of a JSON text without building them.

    Raises:
        ValueError: more than `MAX_ELEMENTS`.
    """
    if isinstance(text, str):
        count = sum(text.count(mark) for mark in "{[,")
    else:
        count = sum(text.count(mark) for mark in b"{[,")
    if count > MAX_ELEMENTS:
        raise ValueError(f"expected at most {MAX_ELEMENTS} objects, arrays and commas, found {count}")


async def read_off_loop(read: Callable[[str | bytes], T], text: str | bytes) -> T:
    """Return ``read(text)``. A long text is read in a thread, so that the event loop can serve other clients.

    Raises:
        Exception: any error of `read`.
    """
    return read(text) if len(text) <= _SHORT_TEXT else await asyncio.to_thread(read, text)


def _check_depth(value: object) -> None:
    """Check the depth level by level, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [item for one in containers for item in (one.values() if isinstance(one, dict) else one)]
    raise ValueError(f"expected at most {MAX_DEPTH} levels, found more")
