"""EchoX in the process of UltraEval-Audio: the model, and a judge that needs no download. See docs/evaluation.md.

The registry beside this file names these classes, and those of ``plugins.isolated``, which run in an environment of
their own. Over HTTP, their own client asks our server instead.
Source: https://github.com/OpenBMB/UltraEval-Audio, audio_evals/models/model.py and audio_evals/process/base.py.
"""

from __future__ import annotations

from typing import Any

from audio_evals.models.model import OfflineModel  # type: ignore[import-not-found]
from audio_evals.process.base import Process  # type: ignore[import-not-found]

from echox.evaluation.interop.plugins.isolated.answering import Answerer, Transcriber
from echox.evaluation.scoring.schema import JsonObject


class EchoXModel(OfflineModel):
    """Answers as `Answerer` does.

    Args:
        model: folder, hub id or "nano".
        speak: whether to speak; if not, the reply is plain text.
        audio_dir: folder of spoken replies; None: a temporary one.
        sample_params: settings of generation; None: greedy.
    """

    def __init__(
        self,
        model: str = "nano",
        speak: bool = True,
        audio_dir: str | None = None,
        sample_params: JsonObject | None = None,
    ) -> None:
        super().__init__(is_chat=True, sample_params=sample_params)
        self._answer = Answerer(model, speak, audio_dir)

    def _inference(self, prompt: list[JsonObject], **settings: Any) -> str:
        return self._answer(prompt, settings)


class EchoXSpeechToText(Process):
    """A judge of this package in the place of their ``speech2text``.

    Args:
        judge: any that `open_judge` knows; None: the embedded one, which knows nano's words only.
    """

    def __init__(self, judge: str | None = None) -> None:
        self._transcribe = Transcriber(judge)

    def __call__(self, answer: str) -> str:
        """The transcript of a file; a missing file is an error, as in their process."""
        return self._transcribe(answer)
