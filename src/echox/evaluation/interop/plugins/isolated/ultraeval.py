"""EchoX as an isolated model of UltraEval-Audio 1.1: this class in its process, `worker` in an environment of its own.

Its own environment needs this package's files only (``pip install --no-deps``): nothing but it and the standard library
is imported here. Source: https://github.com/OpenBMB/UltraEval-Audio, audio_evals/isolate.py (2025-12 to 2026-08).
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import uuid
from collections import deque
from pathlib import Path
from typing import IO, Any

from audio_evals.isolate import isolated  # type: ignore[import-not-found]
from audio_evals.models.model import OfflineModel  # type: ignore[import-not-found]

logger = logging.getLogger(__name__)
KEPT_LINES = 20
READER_WAIT_S = 5.0
"""Time for the last words of a worker that has ended."""


@isolated(str(Path(__file__).with_name("worker.py")))
class IsolatedEchoX(OfflineModel):
    """A model or a judge. UltraEval-Audio adds ``env_path`` and ``requirements_path`` to the arguments.

    Args:
        model: folder, hub id or "nano".
        speak: whether to speak; if not, the reply is plain text.
        audio_dir: folder of spoken replies; None: a temporary one.
        judge: transcribe instead of answering: "embedded", or any judge of ``echox eval run``.
        sample_params: settings of generation; None: greedy.
    """

    process: subprocess.Popen[str]

    def __init__(
        self,
        model: str = "nano",
        speak: bool = True,
        audio_dir: str | None = None,
        judge: str | None = None,
        sample_params: dict[str, float] | None = None,
    ) -> None:
        super().__init__(is_chat=True, sample_params=sample_params)
        options = {"model": model, "audio_dir": audio_dir, "judge": judge, "text_only": None if speak else ""}
        self.command_args = {name: value for name, value in options.items() if value is not None}
        self._errors: deque[str] = deque(maxlen=KEPT_LINES)
        self._reader: threading.Thread | None = None

    def _inference(self, prompt: Any, **settings: float) -> str:
        """The worker's answer.

        Raises:
            RuntimeError: the request failed, or the worker has ended.
        """
        requests, replies, errors = self.process.stdin, self.process.stdout, self.process.stderr
        if requests is None or replies is None or errors is None:
            raise RuntimeError(
                "expected a worker with pipes, found one without; UltraEval-Audio 1.1 or later starts it so"
            )
        if self._reader is None:
            self._reader = threading.Thread(target=_keep, args=(errors, self._errors), daemon=True)
            self._reader.start()
        start = f"{uuid.uuid4()}->"
        try:
            requests.write(f"{start}{json.dumps({'prompt': prompt, 'settings': settings})}\n")
            requests.flush()
        except OSError as error:
            raise self._ended() from error
        for line in replies:
            if line.startswith(start):
                result = json.loads(line[len(start) :])
                if "error" in result:
                    raise RuntimeError(result["error"])
                return str(result["output"])
            logger.info(line.rstrip())
        raise self._ended()

    def _ended(self) -> RuntimeError:
        if self._reader is not None:
            self._reader.join(timeout=READER_WAIT_S)
        last = "\n".join(self._errors)
        return RuntimeError(
            f"expected an answer of the isolated EchoX, found that it has ended; its last words:\n{last}"
        )


def _keep(stream: IO[str], lines: deque[str]) -> None:
    """Read what the worker says, so that it never waits for a reader."""
    for line in stream:
        lines.append(line.rstrip())
        logger.info(line.rstrip())
