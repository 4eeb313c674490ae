"""``echox eval``: scores, latency, studies and model card of a model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echox.cli.common.options import (
    Debug,
    Device,
    Model,
    Threads,
    WordPenalty,
    guarded,
    load_model,
    refuse_given,
    set_up_torch,
)
from echox.cli.common.progress import progress_bars
from echox.cli.evaluation.evidence import agreement, listening_score, listening_sheet, open_sealed, seal
from echox.cli.evaluation.studies import gap, trigger, understanding, voice
from echox.errors import one_line

if TYPE_CHECKING:
    from echox.evaluation.judges.asr import Judge
    from echox.evaluation.subjects.subject import Subject

eval_app = typer.Typer(help="Measure a model: test sets, latency, voice, model card.", no_args_is_help=True)
eval_app.command()(voice)
eval_app.command()(trigger)
eval_app.command()(gap)
eval_app.command()(understanding)
for command in (seal, open_sealed, agreement, listening_sheet, listening_score):
    eval_app.command()(command)

RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.")]
ServerUrl = Annotated[
    str | None, typer.Option("--server", help="Evaluate a server instead: its base URL, like http://127.0.0.1:8000/v1.")
]
ServerModel = Annotated[str | None, typer.Option(help="The model's name at the server (default: its first).")]


@eval_app.command()
@guarded
def run(
    context: typer.Context,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            "-t",
            help="nano, nano-questions, llama-questions, web-questions, triviaqa, qa, big-bench-audio, uro-bench, "
            "uro-repeat, consistency, asr, translation, voicebench; several names with commas.",
        ),
    ] = "nano",
    data: Annotated[
        Path | None, typer.Option(help="File or folder of the items (default: the embedded ones, or the hub's).")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")] = Path("eval"),
    model: Model = "nano",
    server: ServerUrl = None,
    server_model: ServerModel = None,
    workers: Annotated[int, typer.Option(min=1, help="Concurrent requests to a server.")] = 1,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Recogniser of the spoken replies: 'embedded' (nano's words only), 'moonshine' or 'pocketsphinx' "
            "(any words; installed packages), a hub id or folder, http://.../v1#model, or 'none' (default: for nano "
            "judge/ in the data or the embedded one, else openai/whisper-large-v3)."
        ),
    ] = None,
    lexicon: Annotated[
        Path | None, typer.Option(help="Words of a judge made by stage encoder: its phones.json (default: nano's).")
    ] = None,
    word_penalty: WordPenalty = 0.5,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each set (default: all).")] = None,
    instruction: Annotated[str | None, typer.Option(help="Text sent beside every audio.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt of every conversation that has none.")] = None,
    typed: Annotated[bool, typer.Option("--typed", help="Also ask in writing: T2T, and S2T over T2T.")] = False,
    question_voice: Annotated[
        str | None, typer.Option(help="Ask the questions in this voice instead, as engine/name.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="Voice that also speaks the replies, for the same judge: its own errors.")
    ] = None,
    utmos: Annotated[Path | None, typer.Option(help="TorchScript file of a MOS predictor at 16 kHz.")] = None,
    dnsmos: Annotated[
        str | None,
        typer.Option(
            help="DNSMOS: its file sig_bak_ovr.onnx, a folder with it (and model_v8.onnx, of P.808), or 'speechmos', "
            "the installed package."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the order of nano's items.")] = 0,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Evaluate a model on test sets: ask, transcribe, score. The same command continues a stopped run."""
    from echox.evaluation.rating import rate_run
    from echox.evaluation.run import run_tasks, score_run
    from echox.evaluation.sets.heldout import embedded_heldout
    from echox.evaluation.sets.spoken import ask_aloud, read_voice
    from echox.evaluation.sets.tasks import NANO, open_tasks, typed_task, with_system
    from echox.evaluation.summary import render

    _check_subject(context, server)
    if workers > 1 and server is None:
        raise ValueError("expected --server with --workers: a model in this process answers one question at a time")
    names = [name.strip() for name in task.split(",")]
    tasks = [one for name in names for one in open_tasks(name, data, limit, seed, instruction)]
    if question_voice is not None:
        voice = read_voice(question_voice)
        folder = output / "questions" / question_voice.replace("/", "-")
        tasks = [ask_aloud(one, voice, folder / one.name) for one in tasks]
    if typed:
        tasks += [typed_task(one) for one in tasks]
    if system is not None:
        tasks = [with_system(one, system) for one in tasks]
    subject = _subject(model, server, server_model, device, threads)
    only_nano = names == [NANO]
    speaks = any(one.speaks for one in tasks)
    listener, unjudged = _listener(judge, lexicon, word_penalty, data or embedded_heldout(), only_nano, speaks)
    recordings = (data or embedded_heldout()) if only_nano and listener is not None else None
    with progress_bars() as progress:
        summary = run_tasks(
            tasks,
            subject,
            listener,
            output,
            workers=workers,
            unjudged=unjudged,
            recordings=recordings,
            limit=limit,
            control=read_voice(control) if control is not None else None,
            progress=progress,
        )
    if utmos is not None or dnsmos is not None:
        rate_run(output, utmos, dnsmos)
        summary = score_run(output)
    typer.echo(render(summary))
    typer.echo(f"all figures: {output / 'summary.md'}, {output / 'summary.json'}", err=True)


@eval_app.command()
@guarded
def score(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, or a .jsonl of UltraEval-Audio's records.")],
    debug: Debug = False,
) -> None:
    """Score a run again from its records, without model or judge; or score records of UltraEval-Audio by our rule."""
    from echox.evaluation.interop.ultraeval import rescore
    from echox.evaluation.run import score_run
    from echox.evaluation.summary import render

    if folder.suffix == ".jsonl":
        typer.echo(json.dumps(rescore(folder)))
        return
    typer.echo(render(score_run(folder)))


@eval_app.command()
@guarded
def latency(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Nano corpus, or a file or folder of items (default: the embedded questions).")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the figures.")] = Path("eval/latency"),
    model: Model = "nano",
    server: ServerUrl = None,
    server_model: ServerModel = None,
    questions: Annotated[int, typer.Option("--questions", "-n", min=1, help="Number of questions.")] = 50,
    warm_up: Annotated[int, typer.Option(min=0, help="Replies that are not counted.")] = 3,
    concurrency: Annotated[str, typer.Option(help="Concurrent requests to a server; several with commas.")] = "1",
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Measure time to first audio and speed of replies. It is a run of its own: nothing is scored meanwhile."""
    from echox.evaluation.latency.run import run_latency

    _check_subject(context, server)
    at_once = [int(number) for number in concurrency.split(",")]
    if at_once != [1] and server is None:
        raise ValueError(
            "expected --server with --concurrency; benchmarks/many_sessions.py measures one in this process"
        )
    subject = _subject(model, server, server_model, device, threads)
    typer.echo(run_latency(subject, data, output, questions, warm_up, at_once))


@eval_app.command()
@guarded
def export(
    folder: RunFolder,
    format_: Annotated[str, typer.Option("--format", "-f", help="ultraeval, voicebench, uro-bench or llm-judge.")],
    prompt: Annotated[
        Path | None,
        typer.Option(help="Of llm-judge: file with the prompt, {official_answer} and {candidate_answer} in it."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: export/ in the run's folder.")] = None,
    debug: Debug = False,
) -> None:
    """Write the replies of a run in the format of another tool, which then scores the same replies."""
    from echox.evaluation.interop.export import export_run

    for path in export_run(folder, format_, output or folder / "export" / format_, prompt):
        typer.echo(str(path))


@eval_app.command()
@guarded
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of scored runs.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Markdown file (default: print it).")] = None,
    debug: Debug = False,
) -> None:
    """Show a run, or several side by side."""
    from echox.evaluation.summary import compare, read_summary, render
    from echox.files import write_text

    summaries = [read_summary(folder) for folder in folders]
    text = render(summaries[0]) if len(summaries) == 1 else compare(summaries)
    if output is None:
        typer.echo(text)
    else:
        write_text(output, text)


@eval_app.command("plugins")
@guarded
def plugins(debug: Debug = False) -> None:
    """Print the registry folder that UltraEval-Audio takes as --registry_path."""
    from echox.evaluation.interop.plugins import ultraeval_registry

    typer.echo(str(ultraeval_registry()))


@eval_app.command("card")
@guarded
def model_card(
    context: typer.Context,
    model: Annotated[Path, typer.Option("--model", "-m", help="The packaged model's folder.")],
    metrics: Annotated[Path | None, typer.Option(help="Of nano: metrics.json of 'echox eval run --task nano'.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="Of mini: folder of a scored run; may be repeated.")] = None,
    cascade: Annotated[Path | None, typer.Option(help="JSON of benchmarks/mini_cascade.py --output.")] = None,
    latency: Annotated[Path | None, typer.Option(help="JSON of benchmarks/nano_latency.py --output.")] = None,
    conditions: Annotated[Path | None, typer.Option(help="JSON of benchmarks/hearing_conditions.py --output.")] = None,
    voice: Annotated[Path | None, typer.Option(help="voice.json of 'echox eval voice'.")] = None,
    agreement: Annotated[Path | None, typer.Option(help="JSON of 'echox eval agreement'.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Markdown file (default: docs/model_card_nano.md, or _mini).")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the model card from measured figures and the records of training."""
    from echox.evaluation.model_card import write_model_card
    from echox.evaluation.model_card_mini import write_mini_card

    if (metrics is None) == (not run):
        raise ValueError("expected --metrics (nano) or --run (mini), found both or none")
    if metrics is None:
        refuse_given(context, ("latency", "conditions", "voice", "agreement"), "with --metrics (nano's card)")
        typer.echo(str(write_mini_card(model, run or [], cascade, output or Path("docs/model_card_mini.md"))))
        return
    refuse_given(context, ("cascade",), "with --run (mini's card)")
    path = output or Path("docs/model_card_nano.md")
    typer.echo(str(write_model_card(model, metrics, latency, path, voice, conditions, agreement)))


def _check_subject(context: typer.Context, server: str | None) -> None:
    """Refuse options of a model in this process for a server, and the other way round."""
    if server is None:
        refuse_given(context, ("server_model",), "with --server")
    else:
        refuse_given(context, ("model", "device"), "without --server (its model: --server-model)")


def _subject(model: str, server: str | None, server_model: str | None, device: str, threads: int | None) -> "Subject":
    """The model under evaluation."""
    from echox.api.loading import find_model
    from echox.evaluation.subjects.local import LocalSubject
    from echox.evaluation.subjects.remote import RemoteSubject

    set_up_torch(threads)
    if server is not None:
        return RemoteSubject(server, server_model)
    return LocalSubject(load_model(model, device, threads), model, str(find_model(model)))


def _listener(
    judge: str | None, lexicon: Path | None, word_penalty: float, data: Path, only_nano: bool, speaks: bool
) -> "tuple[Judge | None, str]":
    """The judge, or why there is none: without the default one, spoken figures are not measured."""
    from echox.evaluation.judges.asr import DEFAULT_JUDGE, nano_judge, open_judge
    from echox.evaluation.sets.heldout import LEXICON, embedded_heldout

    if judge == "none" or not speaks:
        return None, "no judge was asked for"
    lexicon = lexicon or (data if only_nano else embedded_heldout()) / LEXICON
    if judge is None and only_nano:
        return open_judge(nano_judge(data), lexicon, word_penalty), ""
    try:
        return open_judge(judge or DEFAULT_JUDGE, lexicon, word_penalty), ""
    except (ValueError, OSError) as error:
        if judge is not None:
            raise
        return None, f"the judge {DEFAULT_JUDGE} cannot be had here ({one_line(error)[:120]})"
