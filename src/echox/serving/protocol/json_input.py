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
    check_elements(text)
    found = orjson.loads(text)
    _check_depth(found)
    return found


def check_elements(text: str | bytes) -> None:
    """Count what makes objects, without making them.

    Raises:
        ValueError: more than `MAX_ELEMENTS`.
    """
    if isinstance(text, str):
        count = sum(text.count(mark) for mark in "{[,")
    else:
        count = sum(text.count(mark) for mark in b"{[,")
    if count > MAX_ELEMENTS:
        raise ValueError(f"expected at most {MAX_ELEMENTS} objects, arrays and commas, found {count}")


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
