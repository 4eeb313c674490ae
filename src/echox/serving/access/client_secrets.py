"""Client secrets: keys that expire. A backend requests one and gives it to a browser to open realtime sessions.

Source: OpenAI Realtime API, ``POST /v1/realtime/client_secrets``.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echox.serving.protocol.events import OBJECT, take
from echox.serving.protocol.json_input import JsonObject

if TYPE_CHECKING:
    from echox.serving.protocol.options import SessionOptions

SECRET_PREFIX = "ek_"
_DEFAULT_LIFETIME_S, _MIN_LIFETIME_S, _MAX_LIFETIME_S = 600, 10, 7200
_MAX_SECRETS = 1000  # each may hold instructions of 20,000 characters


@dataclass(frozen=True)
class ClientSecret:
    """A key that expires.

    Attributes:
        value: the key that the client sends.
        expires_at: Unix time, s.
        options: the options that its sessions start with.
    """

    value: str
    expires_at: int
    options: SessionOptions


class ClientSecrets:
    """The client secrets of one server process. They are lost when it ends.

    A cache of a library would not be shorter: each secret has its own lifetime, and the oldest one has to go first.

    Args:
        clock: Unix time, s.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._secrets: OrderedDict[str, ClientSecret] = OrderedDict()

    def create(self, lifetime_s: int, options: SessionOptions) -> ClientSecret:
        """A new secret. If there are 1,000 already, the oldest one is removed."""
        now_s = self._clock()
        for value in [value for value, secret in self._secrets.items() if secret.expires_at <= now_s]:
            del self._secrets[value]
        while len(self._secrets) >= _MAX_SECRETS:
            self._secrets.popitem(last=False)
        secret = ClientSecret(SECRET_PREFIX + secrets.token_urlsafe(32), int(now_s) + lifetime_s, options)
        self._secrets[secret.value] = secret
        return secret

    def find(self, value: str) -> ClientSecret | None:
        """The secret with that value, unless it has expired. Values are too long to be guessed."""
        secret = self._secrets.get(value)
        return secret if secret is not None and secret.expires_at > self._clock() else None


def lifetime_s(body: JsonObject) -> int:
    """The lifetime that a request asks for: its ``expires_after``.

    Raises:
        EventError: another anchor than ``created_at``, or seconds out of range.
    """
    expires_after = take(body, "expires_after", OBJECT, default={})
    take(expires_after, "anchor", str, "expires_after", default="created_at", choices=("created_at",))
    return take(
        expires_after,
        "seconds",
        int,
        "expires_after",
        default=_DEFAULT_LIFETIME_S,
        at_least=_MIN_LIFETIME_S,
        at_most=_MAX_LIFETIME_S,
    )
