"""JSON of clients: strict, and bounded before objects are built from it, so that reading it takes milliseconds.

Eight million empty objects fit into 25 MB of text and take seconds and gigabytes to build, during which nobody else is
served. So the marks that begin and separate values are counted first; base64 audio, the only thing that is long in a
real request, has none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

T = TypeVar("T")
MAX_ELEMENTS = 50_000  # "{", "[" and "," together, those within texts included: at most some 10 ms of parsing
MAX_DEPTH = 32
_SHORT = 64 * 1024  # text that is parsed in a moment: a thread would cost more


def parse_json(text: str | bytes) -> Any:
    """Strict JSON (RFC 8259): UTF-8, whole characters only, no NaN; bounded in elements and depth.

    Raises:
        ValueError: something else, more than `MAX_ELEMENTS` elements, or nested deeper than `MAX_DEPTH`.
    """
    opening = [text.count("{"), text.count("[")] if isinstance(text, str) else [text.count(b"{"), text.count(b"[")]
    commas = text.count(",") if isinstance(text, str) else text.count(b",")
    if sum(opening) + commas > MAX_ELEMENTS:
        raise ValueError(f"expected at most {MAX_ELEMENTS} elements, found {sum(opening) + commas}")
    found = orjson.loads(text)
    if sum(opening) > MAX_DEPTH:
        _check_depth(found)
    return found


async def aside(read: Callable[[str | bytes], T], text: str | bytes) -> T:
    """``read(text)``; a long text is read in a thread, while the event loop serves others.

    Raises:
        Exception: what `read` raises.
    """
    return read(text) if len(text) <= _SHORT else await asyncio.to_thread(read, text)


def _check_depth(value: Any) -> None:
    """Walk level by level, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [item for one in containers for item in (one.values() if isinstance(one, dict) else one)]
    raise ValueError(f"expected at most {MAX_DEPTH} levels, found more")
