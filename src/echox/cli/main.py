"""The command line: ``echox reply | talk | run | eval | serve | doctor``.

Every error ends in one line on stderr (expected, found, remedy) and an exit status: 1 for an error, 2 for a command
line that cannot be parsed, 130 for Ctrl-C. ``--debug`` shows the traceback instead. torch is imported inside the
commands, so that ``echox --help`` is fast.
"""

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echox.cli.common.microphone import Microphone
from echox.cli.common.options import (
    Debug,
    Device,
    Dtype,
    Output,
    Quantization,
    Seed,
    System,
    TalkingModel,
    Temperature,
    Threads,
    TopP,
    guarded,
    keep_inputs,
    load_model,
)
from echox.cli.convert import convert
from echox.cli.data import data_app
from echox.cli.doctor import doctor, estimate_memory
from echox.cli.evaluation.eval import eval_app
from echox.cli.renamed import add_old_names
from echox.cli.run import run, status
from echox.cli.serve import serve
from echox.cli.ui import ui
from echox.errors import one_line

if TYPE_CHECKING:
    from echox.streaming import Reply, Session
    from echox.streaming.prompt.messages import Question

app = typer.Typer(
    name="echox",
    help="A speech-to-speech language model: it hears a question and speaks the answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(eval_app, name="eval")
app.add_typer(data_app, name="data")
app.command()(convert)
app.command()(doctor)
app.command()(estimate_memory)
app.command()(serve)
app.command()(run)
app.command()(status)
app.command()(ui)
add_old_names(app)


@app.command()
@guarded
def reply(
    question: Annotated[Path | None, typer.Argument(help="Spoken question: any audio file.")] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="Typed question, or text beside the audio.")] = None,
    output: Output = Path("reply.wav"),
    model: TalkingModel = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantization: Quantization = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Answer one question, spoken or typed; write the spoken answer while it is being made."""
    if question is None and text is None:
        raise ValueError("expected a question, found none; name an audio file or use --text '...'")
    content: list[dict[str, object]] = [] if question is None else [{"type": "audio", "audio": question}]
    content += [] if text is None else [{"type": "text", "text": text}]
    keep_inputs([] if question is None else [question], [output])
    echox = load_model(model, device, threads, dtype, quantization)
    session = echox.session(system=system, **_given(temperature=temperature, top_p=top_p, seed=seed))
    _answer(session, {"role": "user", "content": content}, output, as_json)


@app.command()
@guarded
def talk(
    files: Annotated[list[Path] | None, typer.Argument(help="Spoken turns, in order; none: the microphone.")] = None,
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder of the spoken replies.")] = Path(),
    model: TalkingModel = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantization: Quantization = None,
    debug: Debug = False,
) -> None:
    """Hold a conversation of several turns: audio files one after the other, or the microphone."""
    turns = [(file, output_dir / f"reply-{number}.wav") for number, file in enumerate(files or [], start=1)]
    keep_inputs([file for file, _ in turns], [output for _, output in turns])
    microphone = None if files else Microphone()
    output_dir.mkdir(parents=True, exist_ok=True)
    echox = load_model(model, device, threads, dtype, quantization)
    session = echox.session(system=system, **_given(temperature=temperature, top_p=top_p, seed=seed))
    if microphone is None:
        for file, output in turns:
            _answer(session, file, output)
        return
    number = 0
    while True:
        question = microphone.record()
        if question is None:
            return
        number += 1
        try:
            output = output_dir / f"reply-{number}.wav"
            spoken = _answer(session, question, output, sampling_rate=microphone.sampling_rate)
        except ValueError as error:  # for example, no speech was found: the conversation continues
            typer.echo(f"warning: {one_line(error)}", err=True)
            continue
        microphone.play(spoken.waveform, spoken.sampling_rate)


@app.command()
@guarded
def demo(
    audio: Annotated[Path | None, typer.Argument(help="Spoken question (default: the bundled one).")] = None,
    output: Output = Path("reply.wav"),
    model: TalkingModel = None,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Answer the bundled spoken question, or AUDIO, aloud: what ``make demo`` runs."""
    from echox.api.loading import bundled_questions

    # AUDIO=~/question.wav of make is not expanded by every shell
    question = audio.expanduser() if audio is not None else bundled_questions()[0]
    keep_inputs([question], [output])
    typer.echo(f"question  {question}")
    _answer(load_model(model, device, threads).session(), question, output)


def _given(**options: float | None) -> dict[str, float]:
    """The options that were set; for the others, the model's own settings hold."""
    return {name: value for name, value in options.items() if value is not None}


def _answer(
    session: "Session", question: "Question", output: Path, as_json: bool = False, sampling_rate: int | None = None
) -> "Reply":
    """Stream one reply, to bare samples at this rate: text to the terminal, speech to a file; then the figures."""
    from echox.audio import WavWriter
    from echox.streaming.events import AudioChunk, Heard, ReplyBuilder, SpeechFailed, TextDelta

    builder = ReplyBuilder(session.output_sampling_rate)
    show = functools.partial(typer.echo, nl=False) if not as_json else (lambda text: None)
    with WavWriter(output, session.output_sampling_rate) as wav:
        for event in session.stream(question, sampling_rate=sampling_rate):
            builder.add(event)
            if isinstance(event, Heard):
                show(f"heard     {event.text}\n")
            elif isinstance(event, TextDelta):
                show(("" if len(builder.text) > len(event.text) else "reply     ") + event.text)
                sys.stdout.flush()
            elif isinstance(event, AudioChunk):
                wav.write(event.waveform)
            elif isinstance(event, SpeechFailed):
                typer.echo(f"\nwarning: not fully spoken: {event.text!r} ({event.reason})", err=True)
        if builder.text.strip() and not builder.chunks:
            raise ValueError("expected a spoken reply, found none of it could be spoken; see the warnings above")
        if not builder.text.strip():
            raise ValueError("expected a reply, found an empty one; ask in other words")
    spoken = builder.build()
    times = spoken.timings
    if as_json:
        report = {"heard": spoken.heard, "text": spoken.text, "audio": str(output), "duration_s": spoken.duration_s}
        typer.echo(json.dumps({**report, "stopped": spoken.stopped, **times}))
    else:
        figures = f"ttfa {times['ttfa_s']:.2f} s   rtf {times['rtf']:.2f}   {spoken.duration_s:.1f} s of speech"
        show(f"\n{figures}   {output}\n")
    return spoken


def main() -> None:
    """Entry point of the ``echox`` command."""
    app()


if __name__ == "__main__":
    main()
