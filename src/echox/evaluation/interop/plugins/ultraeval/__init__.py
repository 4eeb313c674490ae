"""EchoX in the process of UltraEval-Audio: the model, and a judge that needs no download. See docs/evaluation.md.

The registry beside this file names these classes. Over HTTP, their own client asks our server instead.
Source: https://github.com/OpenBMB/UltraEval-Audio, audio_evals/models/model.py and audio_evals/process/base.py.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from audio_evals.models.model import OfflineModel  # type: ignore[import-not-found]
from audio_evals.process.base import Process  # type: ignore[import-not-found]

from echox import EchoX
from echox.audio import load_audio, save_audio
from echox.evaluation.judges.asr import embedded_judge, open_judge
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.sets.heldout import LEXICON, embedded_heldout


class EchoXModel(OfflineModel):
    """Answers aloud, with the JSON object that ``extract_text`` and ``extract_audio`` expect, or in plain text.

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
        super().__init__(
            is_chat=True, sample_params={"temperature": 0.0, "echo_temperature": 0.0, **(sample_params or {})}
        )
        self._model = EchoX.from_pretrained(model)
        self._speak = speak
        self._folder = Path(audio_dir or tempfile.mkdtemp(prefix="echox-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._asked = 0

    def _inference(self, prompt: list[JsonObject], **settings: Any) -> str:
        reply = self._model.generate([_message(message) for message in prompt], speak=self._speak, **settings)
        if not self._speak:
            return reply.text
        path = ""
        if len(reply.waveform):  # without speech there is no file, and UltraEval-Audio counts an error
            path = str(self._folder / f"{self._asked:06d}.wav")
            save_audio(path, reply.waveform, reply.sampling_rate)
        self._asked += 1
        return json.dumps({"text": reply.text, "audio": path, "RTF": reply.timings["rtf"]}, ensure_ascii=False)


class EchoXSpeechToText(Process):
    """A judge of this package in the place of their ``speech2text``.

    Args:
        judge: any that `open_judge` knows; None: the embedded one, which knows nano's words only.
    """

    def __init__(self, judge: str | None = None) -> None:
        self._judge = open_judge(judge or embedded_judge(), embedded_heldout() / LEXICON)

    def __call__(self, answer: str) -> str:
        """The transcript of a file; a missing file is an error, as in their process."""
        if not Path(answer).is_file():
            raise ValueError(f"expected a spoken reply, found no file {answer!r}")
        rate = self._judge.sampling_rate
        return self._judge.transcribe([load_audio(answer, rate)], rate)[0]


def _message(message: JsonObject) -> JsonObject:
    """Their form of a message, converted to ours."""
    content = [
        {"type": "audio", "audio": part["value"]}
        if part["type"] == "audio"
        else {"type": "text", "text": part["value"]}
        for part in message["contents"]
    ]
    return {"role": message["role"], "content": content}
