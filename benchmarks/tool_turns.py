"""Spoken tool turns through stock clients: protocol errors, the right tool, valid and right arguments, spoken answers.

    python benchmarks/tool_turns.py --model nano --client openai --choice named --template --turns 50
    python benchmarks/tool_turns.py --model out/mini/package_tools --client agents --choice auto --turns 50

Requests for six tools (`echox.data.corpora.tools`), held-out wordings and half of the values new, are spoken by a voice
and sent to a server in this process; the client runs the tool, returns its output, and hears the answer.
`--client openai` is the Python package (each event is also checked strictly against its types), `--client agents`
@openai/agents (`--agents-home` holds its node_modules; each event is also parsed by its schemas). `--choice auto`: the
model decides, and every fifth question wants no tool; "required": it must call one; "named": the one that is right.
`--template`: a model that was taught no tools gets the chat template with tools all the same: then the grammar alone
makes its calls. Without it such a model says so, and answers. `--renamed`: the client has other names for the tools and
their parameters than any lesson, so that the model has to read them; `--foreign`: it has five tools that no lesson has.
A protocol error is an `error` event, an event that does not fit the client's types, deltas that are not the arguments,
or a reply that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, Measured, run

from echox import EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio, resample
from echox.data.corpora.tools.names import NamedTool, other_names, taught_names
from echox.data.corpora.tools.others import other_requests, other_tools
from echox.data.corpora.tools.requests import ToolRequest, tool_requests
from echox.data.engines.engine import Voice
from echox.data.synthesis import create_synthesizer
from echox.data.templates.tool_templates import taught_template
from echox.evaluation.subjects.local import model_fingerprint
from echox.serving.protocol.limits import Limits
from echox.serving.server import create_app, make_server
from echox.serving.service.service import Service

RATE = 24000
STEP_S = 0.1
KINDS = {"string": str, "integer": int}


@dataclass
class Turn:
    """A question (without a request it wants no tool), and what came of it."""

    sound: bytes
    request: ToolRequest | None = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cut_off: int = 0  # calls that the greatest length of a reply cut off
    statuses: list[str] = field(default_factory=list)
    audio_s: float = 0.0


@contextlib.contextmanager
def serving(model: EchoX, wait_s: float) -> Iterator[int]:
    """A server in a thread; its port."""
    service = Service(model, "echox", Limits(idle_s=wait_s, max_session_s=100 * wait_s))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = make_server(create_app(service), service, "127.0.0.1", port)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(60)


def questions(options: argparse.Namespace) -> list[Turn]:
    """The questions, spoken, tool after tool; with "auto" every fifth is one of nano's that wants no tool."""
    voice = Voice.of_speaker(options.voice)
    names = declared_names(options)
    requests = requests_of(options)
    ordinary = [pcm16(load_audio(path, RATE)) for path in bundled_questions()]
    turns: list[Turn] = []
    while len(turns) < options.turns:
        number = len(turns)
        if options.choice == "auto" and number % 5 == 4:
            turns.append(Turn(ordinary[number // 5 % len(ordinary)]))
            continue
        request = requests[number % len(requests)]
        speech = create_synthesizer(voice.engine).synthesize(request.text, voice)
        sound = pcm16(resample(speech.waveform, speech.sampling_rate, RATE))
        turns.append(Turn(sound, replace(request, call=names[request.call.name].call(request.call))))
    return turns


def requests_of(options: argparse.Namespace) -> list[ToolRequest]:
    """What is asked, in this order."""
    if options.foreign:
        requests = other_requests("heldout", 3, options.seed)
        return random.Random(options.seed).sample(requests, len(requests))
    requests = tool_requests("heldout", 2, options.seed)
    order = sorted(range(len(requests)), key=lambda n: (n // 2 % 5, n % 2, n // 10))  # tools in turn, then wordings
    return [requests[place] for place in order]


def declared_names(options: argparse.Namespace) -> dict[str, NamedTool]:
    """The tools as this client calls them."""
    if options.foreign:
        return other_tools("heldout", random.Random(options.seed))
    return other_names("new", random.Random(options.seed)) if options.renamed else taught_names()


def pcm16(samples: np.ndarray) -> bytes:
    """Sound as PCM16."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def choice_of(turn: Turn, choice: str) -> Any:
    """The tool_choice of a question."""
    if choice == "named" and turn.request is not None:
        return {"type": "function", "name": turn.request.call.name}
    return "required" if choice == "required" else "auto"


def declared(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The tools as clients declare them."""
    tools = [one.tool for one in declared_names(options).values()]
    return [
        {"name": one.name, "description": one.description, "parameters": json.loads(one.parameters)} for one in tools
    ]


# ------------------------------------------------------------------------------------------------ openai (Python)


async def with_openai(turns: list[Turn], port: int, options: argparse.Namespace) -> list[str]:
    """Hold the turns; returns the protocol errors."""
    import openai
    import pydantic
    from openai.types.realtime import RealtimeServerEvent

    known = pydantic.TypeAdapter[Any](RealtimeServerEvent)
    client = openai.AsyncOpenAI(api_key="any", base_url=f"http://127.0.0.1:{port}/v1")
    errors: list[str] = []

    async def until_done(connection: Any, turn: Turn) -> list[Any]:
        streamed: Counter[str] = Counter()
        texts: dict[str, str] = {}
        while True:
            event = await asyncio.wait_for(connection.recv(), options.wait_s)
            text = event.to_json(indent=None)
            try:
                known.validate_json(text, strict=True)
            except pydantic.ValidationError as error:
                errors.append(f"{event.type}: {str(error)[:200]}")
            if event.type == "error":
                errors.append(text)
            elif event.type == "response.function_call_arguments.delta":
                streamed[event.call_id] += 1
                texts[event.call_id] = texts.get(event.call_id, "") + event.delta
            elif event.type == "response.function_call_arguments.done":
                if texts.get(event.call_id) != event.arguments:
                    errors.append(f"deltas of {event.call_id} are not its arguments")
            elif event.type == "response.output_audio.delta":
                turn.audio_s += len(base64.b64decode(event.delta)) / 2 / RATE
            elif event.type == "response.done":
                turn.statuses.append(event.response.status)
                return [item for item in event.response.output if item.type == "function_call"]

    for start in range(0, len(turns), options.per_session):
        async with client.realtime.connect(model="any") as connection:
            tools = [{"type": "function", **one} for one in declared(options)]
            await connection.session.update(session={"type": "realtime", "tools": tools})  # type: ignore[arg-type]
            for turn in turns[start : start + options.per_session]:
                choice = {"type": "realtime", "tool_choice": choice_of(turn, options.choice)}
                await connection.session.update(session=choice)  # type: ignore[arg-type]
                data = turn.sound + bytes(2 * RATE)  # a second of silence ends the turn
                step = int(2 * RATE * STEP_S)
                for at in range(0, len(data), step):
                    audio = base64.b64encode(data[at : at + step]).decode()
                    await connection.input_audio_buffer.append(audio=audio)
                for call in await until_done(connection, turn):
                    if call.status != "completed":
                        turn.cut_off += 1
                        continue
                    turn.calls.append((call.name, json.loads(call.arguments)))
                    output = turn.request.output if turn.request else "{}"
                    item = {"type": "function_call_output", "call_id": call.call_id, "output": output}
                    await connection.conversation.item.create(item=item)  # type: ignore[arg-type]
                if turn.calls:
                    await connection.response.create(response={"tool_choice": "none"})
                    await until_done(connection, turn)
    return errors


# ------------------------------------------------------------------------------------------------ @openai/agents


def with_agents(turns: list[Turn], port: int, options: argparse.Namespace) -> list[str]:
    """Hold the turns; returns the protocol errors."""
    errors: list[str] = []
    script = ROOT / "tests" / "js" / "agents_tools.cjs"
    environment = {**os.environ, "AGENTS_HOME": str(options.agents_home)}
    with tempfile.TemporaryDirectory() as name:
        for start in range(0, len(turns), options.per_session):
            some = turns[start : start + options.per_session]
            outputs = {turn.request.call.name: turn.request.output for turn in some if turn.request}
            tools = [{**one, "output": outputs.get(one["name"], "{}")} for one in declared(options)]
            chosen = [choice_of(turn, options.choice) for turn in some]
            settings = {"tools": tools, "choices": chosen, "stepMs": 5, "waitMs": 1000 * options.wait_s}
            path = Path(name) / "options.json"
            path.write_text(json.dumps(settings), encoding="utf-8")
            files = [Path(name) / f"{number}.pcm" for number in range(len(some))]
            for file, turn in zip(files, some, strict=True):
                file.write_bytes(turn.sound)
            command = ["node", str(script), f"ws://127.0.0.1:{port}/v1/realtime", str(path), *map(str, files)]
            found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if found.returncode:
                errors.append(found.stderr.strip()[-500:])
                continue
            told = json.loads(found.stdout.splitlines()[-1])
            errors += told["errors"] + [f"does not fit the schemas: {kind}" for kind in told["unparsed"]]
            for turn, one in zip(some, told["turns"], strict=True):
                turn.calls = [(call["name"], call["arguments"]) for call in one["calls"]]
                turn.statuses, turn.audio_s = one["statuses"], one["audioBytes"] / 2 / RATE
                turn.cut_off = sum(kinds.count("function_call") for kinds in one["responses"]) - len(turn.calls)
    return errors


# ------------------------------------------------------------------------------------------------ figures


def is_valid(tools: list[dict[str, Any]], name: str, arguments: dict[str, Any]) -> bool:
    """Whether arguments fit the schema of their tool."""
    schema = next((one["parameters"] for one in tools if one["name"] == name), None)
    if schema is None or arguments.keys() != schema["properties"].keys():
        return False
    return all(
        type(arguments[key]) is KINDS[kind["type"]] and arguments[key] in kind.get("enum", [arguments[key]])
        for key, kind in schema["properties"].items()
    )


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether arguments mean the same, whatever their capitals."""
    return {key: str(value).lower() for key, value in one.items()} == {
        key: str(value).lower() for key, value in other.items()
    }


def figures_of(turns: list[Turn], tools: list[dict[str, Any]], errors: list[str]) -> dict[str, Any]:
    """Counts of turns."""
    asked = [turn for turn in turns if turn.request is not None]
    plain = [turn for turn in turns if turn.request is None]
    calls = [call for turn in turns for call in turn.calls]

    def right(turn: Turn, arguments: bool) -> bool:
        assert turn.request is not None
        wanted = turn.request.call
        return any(
            name == wanted.name and (not arguments or same(found, json.loads(wanted.arguments)))
            for name, found in turn.calls[:1]
        )

    by_tool = {
        name: [sum(right(turn, True) for turn in some), len(some)]
        for name in dict.fromkeys(turn.request.call.name for turn in asked if turn.request)
        for some in [[turn for turn in asked if turn.request and turn.request.call.name == name]]
    }
    failed = [status for turn in turns for status in turn.statuses if status not in ("completed", "incomplete")]
    return {
        "turns": len(turns),
        "protocol_errors": len(errors) + len(failed) + sum(not turn.statuses for turn in turns),
        "first_errors": errors[:3],
        "wanting_a_tool": len(asked),
        "with_a_call": sum(bool(turn.calls) for turn in asked),
        "right_tool": sum(right(turn, False) for turn in asked),
        "right_tool_and_arguments": sum(right(turn, True) for turn in asked),
        "right_tool_and_arguments_by_tool": by_tool,
        "calls": len(calls),
        "valid_calls": sum(is_valid(tools, *call) for call in calls),
        "cut_off_calls": sum(turn.cut_off for turn in turns),
        "wanting_no_tool": len(plain),
        "called_without_need": sum(bool(turn.calls) for turn in plain),
        "needless_calls": dict(Counter(name for turn in plain for name, _ in turn.calls)),
        "answered_aloud": sum(turn.audio_s > 0 for turn in turns),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beside those of the harness."""
    parser.add_argument("--model", default="nano", help="'nano', 'mini', or a folder (default: nano)")
    parser.add_argument("--client", choices=["openai", "agents"], default="openai")
    parser.add_argument("--choice", choices=["auto", "required", "named"], default="auto")
    parser.add_argument("--template", action="store_true", help="give it the chat template with tools")
    parser.add_argument("--renamed", action="store_true", help="tools and parameters under names that no lesson has")
    parser.add_argument("--foreign", action="store_true", help="five tools that no lesson has")
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--per-session", type=int, default=10, help="turns of one conversation (default: 10)")
    parser.add_argument("--voice", default="flite/rms", help="who asks (default: flite/rms)")
    parser.add_argument("--seed", type=int, default=0, help="decides the values in the requests")
    parser.add_argument("--wait-s", type=float, default=600, help="longest wait for an event")
    parser.add_argument("--agents-home", type=Path, default=Path("/tmp/echox-agents-js-0.20.0"))


def measure(options: argparse.Namespace) -> Measured:
    """Hold the turns, count."""
    model = EchoX.from_pretrained(options.model)
    tokenizer = model.processor.tokenizer
    if options.template:
        audio_token = str(tokenizer.convert_ids_to_tokens(model.model.s2t.config.audio_token_id))
        tokenizer.chat_template = taught_template(tokenizer.chat_template, audio_token)
    turns = questions(options)
    began_s = time.process_time()
    with serving(model, options.wait_s) as port:
        if options.client == "openai":
            errors = asyncio.run(with_openai(turns, port, options))
        else:
            errors = with_agents(turns, port, options)
    figures = figures_of(turns, declared(options), errors)
    figures["tools_supported"] = model.engine.call_grammars is not None
    figures["cpu_s_per_turn"] = round((time.process_time() - began_s) / len(turns), 2)
    return Measured(figures, model_fingerprint(model, tools=True))


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
