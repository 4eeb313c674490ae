"""Keys for a while: a backend asks for one and hands it to a browser, which may open realtime sessions and no more.

Source: OpenAI Realtime API, ``POST /v1/realtime/client_secrets``.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from echox.serving.protocol.events import take

if TYPE_CHECKING:
    from echox.serving.protocol.options import SessionOptions

SECRET_PREFIX = "ek_"
_DEFAULT_S, _SHORTEST_S, _LONGEST_S = 600, 10, 7200
_MOST = 1000  # secrets kept; each may hold instructions of 20,000 characters


@dataclass(frozen=True)
class ClientSecret:
    """A key with an end.

    Attributes:
        value: what the client shows. expires_at: Unix time, s. options: those its sessions begin with.
    """

    value: str
    expires_at: int
    options: SessionOptions


class ClientSecrets:
    """The secrets of one server process; they end with it.

    Args:
        clock: Unix time, s.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._secrets: OrderedDict[str, ClientSecret] = OrderedDict()

    def create(self, lifetime_s: int, options: SessionOptions) -> ClientSecret:
        """A new secret; beyond 1,000 of them the oldest ends."""
        now_s = self._clock()
        for value in [value for value, secret in self._secrets.items() if secret.expires_at <= now_s]:
            del self._secrets[value]
        while len(self._secrets) >= _MOST:
            self._secrets.popitem(last=False)
        secret = ClientSecret(SECRET_PREFIX + secrets.token_urlsafe(32), int(now_s) + lifetime_s, options)
        self._secrets[secret.value] = secret
        return secret

    def find(self, value: str) -> ClientSecret | None:
        """The secret of that value, unless it has ended. Values are too long to be guessed."""
        secret = self._secrets.get(value)
        return secret if secret is not None and secret.expires_at > self._clock() else None


def lifetime_s(body: dict[str, Any]) -> int:
    """How long a secret is to last: ``expires_after`` of a request.

    Raises:
        EventError: another anchor, or seconds out of range.
    """
    asked = take(body, "expires_after", dict, default={})
    take(asked, "anchor", str, "expires_after", "created_at", ("created_at",))
    found = take(asked, "seconds", int, "expires_after", _DEFAULT_S, at_least=_SHORTEST_S, at_most=_LONGEST_S)
    return int(found)
