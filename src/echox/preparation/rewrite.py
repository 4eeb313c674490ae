"""Rewrites text as people would speak it, with a language model of an OpenAI-compatible server."""

from __future__ import annotations

import json
import os
from http.client import HTTPException

from echox.keyed_requests import open_keyed

INSTRUCTION = (
    "Rewrite the text as a person would say it aloud: short, natural sentences, the same meaning and language, "
    "no lists, no markup, numbers and signs as words. Answer with the rewritten text only."
)


class Rewriter:
    """Rewrites texts one by one; deterministic as far as the server is (temperature 0).

    Args:
        base_url: Ending in ``/v1``.
        model: Its name there.
        timeout_s: Longest wait for one answer.
    """

    def __init__(self, base_url: str, model: str, timeout_s: float = 60.0) -> None:
        self.base_url, self.model, self.timeout_s = base_url.rstrip("/"), model, timeout_s

    def __call__(self, text: str) -> str:
        """The text, rewritten.

        Raises:
            ConnectionError: the server cannot be reached, refuses, or answers something else.
        """
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages, "temperature": 0}
        url, headers = f"{self.base_url}/chat/completions", {"Content-Type": "application/json"}
        key = os.environ.get("OPENAI_API_KEY")
        try:
            with open_keyed(url, json.dumps(body).encode(), headers, key, self.timeout_s) as response:
                return str(json.load(response)["choices"][0]["message"]["content"]).strip()
        except (OSError, HTTPException, ValueError, RecursionError, LookupError, TypeError) as error:
            raise ConnectionError(f"{self.base_url}: no rewritten text for {text[:60]!r}: {error!r}") from error
