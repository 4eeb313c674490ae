"""The process of an isolated EchoX: a request a line on standard input, its answer a line on standard output.

``NAME->{"prompt": ..., "settings": ...}`` is answered by ``NAME->{"output": ...}`` or ``NAME->{"error": ...}``; other
lines are messages of libraries. It ends with its input. UltraEval-Audio starts it with the Python of the environment.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from echox.errors import one_line
from echox.evaluation.interop.plugins.isolated.answering import Answerer, Transcriber
from echox.evaluation.scoring.schema import JsonObject

ARROW = "->"


def serve(answer: Callable[[JsonObject], str], requests: TextIO, replies: TextIO) -> None:
    """Answer request after request; a request that fails is answered by its error."""
    for line in requests:
        name, _, request = line.rstrip("\n").partition(ARROW)
        try:
            result = {"output": answer(json.loads(request))}
        except Exception as error:  # noqa: BLE001 - sent to the tool, which counts the item as failed
            result = {"error": one_line(error)}
        print(f"{name}{ARROW}{json.dumps(result)}", file=replies, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the model or the judge, then `serve`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--text_only", action="store_true")
    parser.add_argument("--audio_dir")
    parser.add_argument("--judge", help="transcribe instead: 'embedded', or any judge of echox eval run")
    options = parser.parse_args(arguments)
    if options.judge is not None:
        hear = Transcriber(None if options.judge == "embedded" else options.judge)
        serve(lambda request: hear(_recording(request["prompt"])), sys.stdin, sys.stdout)
        return
    answer = Answerer(options.model, not options.text_only, options.audio_dir)
    serve(lambda request: answer(request["prompt"], request["settings"]), sys.stdin, sys.stdout)


def _recording(prompt: JsonObject | list[JsonObject]) -> str:
    """The recording of a prompt: of their prompts for recognisers (an object), or of messages."""
    if isinstance(prompt, dict):
        return str(prompt["audio"])
    found = [part["value"] for message in prompt for part in message["contents"] if part["type"] == "audio"]
    if len(found) != 1:
        raise ValueError(f"expected one recording to transcribe, found {len(found)}")
    return str(found[0])


if __name__ == "__main__":
    main()
