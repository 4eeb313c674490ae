"""Responses that later requests continue by ``previous_response_id``: in memory, limited, each for one key only."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from echox.serving.protocol.conversation import ConversationItem
from echox.serving.protocol.events import EventError, shorten
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.limits import Limits

_ITEM_BYTES = 1024  # of the objects around an item's text
_CHARACTER_BYTES = 4  # of text in memory, at most


@dataclass(frozen=True)
class StoredResponse:
    """A response that is kept.

    Attributes:
        body: the response object, as the client got it.
        items: the conversation up to and with its reply; its instructions are not in it.
        num_inputs: of these items, those before its reply.
        owner: digest of the key that made it; no other key finds it.
        client: address that made it, whose share of the memory it takes.
        expires_s: time of its expiry.
        num_bytes: memory that it takes, as if it shared no item with others.
    """

    body: JsonObject
    items: tuple[ConversationItem, ...]
    num_inputs: int
    owner: str
    client: str
    expires_s: float
    num_bytes: int


@dataclass
class _KeptItem:
    """An item, and how many of the responses that are kept have it."""

    item: ConversationItem
    num_responses: int = 0


class StoredResponses:
    """The responses that are kept.

    If there are too many, or they take too much memory, the oldest of the client that takes most of it is dropped. So
    nobody can push out the responses of others.

    Args:
        limits: limits of the server.
        clock: the time, s.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._bytes: Counter[str] = Counter()  # by client
        self._items: dict[tuple[str, str], _KeptItem] = {}  # by owner and id

    @property
    def num_bytes(self) -> int:
        """Memory that all of them take."""
        return self._bytes.total()

    def __len__(self) -> int:
        return len(self._responses)

    def add(
        self,
        response_id: str,
        body: JsonObject,
        inputs: Sequence[ConversationItem],
        outputs: Sequence[ConversationItem],
        key: str,
        client: str,
    ) -> None:
        """Keep a response.

        Args:
            response_id: its id.
            body: the response object.
            inputs: the conversation before its reply.
            outputs: its reply.
            key: the key that the client presented; "": none.
            client: its address.
        """
        items, owner = (*inputs, *outputs), _owner(key)
        num_bytes, expires_s = _size(body, items), self._clock() + self._limits.stored_s
        self._responses[response_id] = StoredResponse(body, items, len(inputs), owner, client, expires_s, num_bytes)
        self._bytes[client] += num_bytes
        for item in items:
            kept = self._items.setdefault((owner, item.id), _KeptItem(item))
            kept.item, kept.num_responses = item, kept.num_responses + 1
        self.drop_expired()
        limits = self._limits
        while len(self._responses) > limits.max_stored_responses or self.num_bytes > limits.max_stored_bytes:
            largest = max(self._bytes, key=lambda one: self._bytes[one])
            self._drop(next(name for name, one in self._responses.items() if one.client == largest))

    def find(self, response_id: str, key: str, param: str | None = None) -> StoredResponse:
        """Find a response of this key.

        Raises:
            EventError: there is none with that id, it has expired, or it belongs to another key.
        """
        found = self._responses.get(response_id)
        if found is None or found.expires_s < self._clock() or found.owner != _owner(key):
            message = (
                f"{param or 'id'}: expected the id of a response that this key has made and that is still stored, "
                f"found {shorten(response_id)}; send the whole conversation as input instead"
            )
            code = "response_not_found" if param is None else "previous_response_not_found"
            raise EventError(message, code, param)
        return found

    def find_item(self, item_id: str, key: str) -> ConversationItem | None:
        """An item of a response that this key has made; None: there is none with that id any more."""
        self.drop_expired()
        found = self._items.get((_owner(key), item_id))
        return None if found is None else found.item

    def delete(self, response_id: str, key: str) -> None:
        """Forget a response of this key; responses that continue it stay.

        Raises:
            EventError: as `find`.
        """
        self.find(response_id, key)
        self._drop(response_id)

    def drop_expired(self) -> None:
        """Forget the responses that have expired."""
        now_s = self._clock()
        while self._responses and next(iter(self._responses.values())).expires_s < now_s:
            self._drop(next(iter(self._responses)))

    def _drop(self, response_id: str) -> None:
        dropped = self._responses.pop(response_id)
        self._bytes[dropped.client] -= dropped.num_bytes
        if self._bytes[dropped.client] <= 0:
            del self._bytes[dropped.client]
        for place in ((dropped.owner, item.id) for item in dropped.items):
            self._items[place].num_responses -= 1
            if not self._items[place].num_responses:
                del self._items[place]


def _owner(key: str) -> str:
    """Digest of a key: the key itself is not kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _size(body: JsonObject, items: Sequence[ConversationItem]) -> int:
    texts = [value for value in body.values() if isinstance(value, str)]
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        texts += [str(one) for pair in metadata.items() for one in pair]
    num_chars = sum(map(len, texts)) + sum(item.num_chars for item in items)
    parts = [part for item in items for part in item.content]
    audio = sum(part.audio.waveform.nbytes for part in parts if part.audio is not None)
    return audio + _CHARACTER_BYTES * num_chars + _ITEM_BYTES * (4 + len(items) + len(parts))
