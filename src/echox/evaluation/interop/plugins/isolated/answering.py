"""What UltraEval-Audio asks and is answered: its messages in, text or its JSON object out. None of it is imported."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from echox import EchoX
from echox.audio import load_audio, save_audio
from echox.evaluation.judges.asr import embedded_judge, open_judge
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.sets.heldout import LEXICON, embedded_heldout

GREEDY = {"temperature": 0.0, "echo_temperature": 0.0}


class Answerer:
    """Answers aloud, with the JSON object that ``extract_text`` and ``extract_audio`` expect, or in plain text.

    Args:
        model: folder, hub id or "nano".
        speak: whether to speak; if not, the reply is plain text.
        audio_dir: folder of spoken replies; None: a temporary one.
    """

    def __init__(self, model: str = "nano", speak: bool = True, audio_dir: str | None = None) -> None:
        self._model = EchoX.from_pretrained(model)
        self._speak = speak
        self._folder = Path(audio_dir or tempfile.mkdtemp(prefix="echox-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._asked = 0

    def __call__(self, prompt: list[JsonObject], settings: Mapping[str, float]) -> str:
        """The reply to their messages.

        Args:
            prompt: messages with ``role`` and ``contents``.
            settings: of generation; greedy where they say nothing.

        Raises:
            ValueError: audio that cannot be read, or no answer.
        """
        messages = [_message(message) for message in prompt]
        reply = self._model.generate(messages, speak=self._speak, **{**GREEDY, **settings})  # type: ignore[arg-type]
        if not self._speak:
            return reply.text
        path = ""
        if len(reply.waveform):  # without speech there is no file, and UltraEval-Audio counts an error
            path = str((self._folder / f"{self._asked:06d}.wav").resolve())
            save_audio(path, reply.waveform, reply.sampling_rate)
        self._asked += 1
        return json.dumps({"text": reply.text, "audio": path, "RTF": reply.timings["rtf"]}, ensure_ascii=False)


class Transcriber:
    """A judge of this package: the transcript of a recording.

    Args:
        judge: any that `open_judge` knows; None: the embedded one, which knows nano's words only.
    """

    def __init__(self, judge: str | None = None) -> None:
        self._judge = open_judge(judge or embedded_judge(), embedded_heldout() / LEXICON)

    def __call__(self, path: str) -> str:
        """The transcript of a file.

        Raises:
            ValueError: no such file, or no audio in it.
        """
        if not Path(path).is_file():
            raise ValueError(f"expected a spoken reply, found no file {path!r}")
        rate = self._judge.sampling_rate
        return self._judge.transcribe([load_audio(path, rate)], rate)[0]


def _message(message: JsonObject) -> JsonObject:
    """Their form of a message, converted to ours."""
    content = [
        {"type": "audio", "audio": part["value"]}
        if part["type"] == "audio"
        else {"type": "text", "text": part["value"]}
        for part in message["contents"]
    ]
    return {"role": message["role"], "content": content}
