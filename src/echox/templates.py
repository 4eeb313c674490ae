"""Renders chat templates of others in a separate process, with limits on time and memory.

A chat template is a program that came with a model. Jinja's sandbox keeps it from files and modules; it does not stop
``{% for i in range(99999) %}`` inside another, nor a text that doubles itself. A process can be killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from echox import template_worker

_ENVIRONMENT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_START_S = 60.0  # for the process to start, on a busy machine


class TemplateWorker:
    """Renders templates; the first one starts its process, and so does the next one after a process was stopped.

    Args:
        longest_s: most wall time of one rendering.
    """

    def __init__(self, longest_s: float = 5.0) -> None:
        self._longest_s = longest_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, template: str, variables: Mapping[str, object]) -> str:
        """The text that a template makes of plain variables (values that JSON can hold).

        Raises:
            ValueError: the template has a fault, takes too long, or too much memory.
        """
        line = json.dumps({"template": template, "variables": dict(variables)}).encode() + b"\n"
        with self._lock:
            process = self._running()
            answer = self._exchange(process, line, self._longest_s)
            if answer is None or not answer.endswith(b"\n"):
                self._end()
        if answer is None:
            raise ValueError(
                f"chat template: expected one that ends within {self._longest_s:g} s, found one that does not"
            )
        if not answer.endswith(b"\n"):
            raise ValueError("chat template: expected one of modest size, found that its process was stopped")
        found = json.loads(answer)
        if "error" in found:
            raise ValueError(f"chat template: expected one that can be rendered, found: {found['error']}")
        return str(found["text"])

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def __enter__(self) -> TemplateWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            script = Path(template_worker.__file__)
            command = [sys.executable, "-I", str(script), str(2 * self._longest_s)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},  # no keys, no tokens
            )
            weakref.finalize(self, _stop, self._process)
            if self._exchange(self._process, b"", _START_S) != b"ready\n":
                self._end()
                raise ValueError(f"chat template: expected {script.name} to start, found that it did not")
        return self._process

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], line: bytes, longest_s: float) -> bytes | None:
        """Send a line and read one; None: no line came in time."""
        answers: list[bytes] = []

        def talk() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
                answers.append(process.stdout.readline())
            except (OSError, ValueError):  # it has ended, or was ended
                answers.append(b"")

        thread = threading.Thread(target=talk, name="echox-template", daemon=True)
        thread.start()
        thread.join(longest_s)
        return answers[0] if answers else None

    def _end(self) -> None:
        if self._process is not None:
            _stop(self._process)
            self._process = None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what could not be written any more
                pipe.close()


class SpecialTokens(Protocol):
    """A tokenizer, as far as templates need it."""

    @property
    def special_tokens_map(self) -> Mapping[str, str | list[str]]:
        """Special tokens by name."""
        ...


def template_variables(
    tokenizer: SpecialTokens, messages: Sequence[Mapping[str, object]], **options: object
) -> dict[str, object]:
    """The variables that transformers gives to a chat template: messages, options, and special tokens by name."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)}
    return {**special, "messages": messages, "tools": None, "documents": None, **options}
