"""``echox eval voice | trigger | gap | understanding``: studies of one part of a model."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echox.cli.common.options import (
    Data,
    Debug,
    Device,
    JudgeName,
    Model,
    Threads,
    WordPenalty,
    guarded,
    judge_of,
    load_model,
    set_up_torch,
)

if TYPE_CHECKING:
    from echox.evaluation.studies.gap import Similarities


@guarded
def voice(
    data: Data = Path("out/nano"),
    judge: JudgeName = None,
    units: Annotated[Path | None, typer.Option(help="Units manifest (default: units/replies.jsonl).")] = None,
    vocoder: Annotated[Path | None, typer.Option(help="Vocoder folder (default: vocoder/).")] = None,
    unit_language: Annotated[Path | None, typer.Option(help="Its folder (default: unit_language/).")] = None,
    t2c: Annotated[Path | None, typer.Option(help="T2C folder (default: t2c/ if it is there).")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the figures and samples.")] = Path("eval"),
    limit: Annotated[int | None, typer.Option(min=1, help="Held-out replies (default: all).")] = None,
    word_penalty: WordPenalty = 0.5,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Find where words get lost between text and sound: recordings, units, durations and T2C, each transcribed."""
    from echox.evaluation.studies.voice import evaluate_voice

    set_up_torch(threads)
    scores = evaluate_voice(
        judge_of(judge, data, word_penalty),
        data,
        units or data / "units" / "replies.jsonl",
        vocoder or data / "vocoder",
        unit_language or data / "unit_language",
        t2c or (data / "t2c" if (data / "t2c" / "config.json").is_file() else None),
        limit,
        output / "voice",
    )
    (output / "voice.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(scores))


@guarded
def understanding(
    model: Annotated[str, typer.Option("--model", "-m", help="Folder of stage s2t or hearing.")],
    task: Annotated[str, typer.Option("--task", "-t", help="llama-questions, web-questions, triviaqa, qa.")] = (
        "llama-questions"
    ),
    data: Annotated[Path | None, typer.Option(help="File or folder of the items (default: the hub's).")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the figures.")] = Path("eval/understanding"),
    system: Annotated[str, typer.Option(help="System prompt.")] = "Answer in one short sentence.",
    replies: Annotated[bool, typer.Option(help="Also answer; else it only measures what is heard.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Items (default: all).")] = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Ask a model without a voice, aloud and in writing: what it hears, and how much of what it knows survives that."""
    from echox.evaluation.sets.tasks import open_tasks
    from echox.evaluation.studies.understanding import measure_understanding

    set_up_torch(threads)
    items = [item for one in open_tasks(task.replace("_", "-"), data, limit) for item in one.items]
    typer.echo(json.dumps(measure_understanding(model, items, output, system, replies)))


@guarded
def trigger(
    model: Model = "nano",
    data: Data = Path("out/nano"),
    judge: JudgeName = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the figures.")] = Path("trigger"),
    limit: Annotated[int, typer.Option(min=1, help="Questions of each group (replies of one sentence, of more).")] = 40,
    only: Annotated[list[str] | None, typer.Option(help="Labels of policies (default: all).")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the questions.")] = 0,
    word_penalty: WordPenalty = 0.5,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Draw first audio against reply errors and accuracy for every speech policy: the latency-quality curve."""
    from echox.evaluation.studies.speech_policies.policy_comparison import (
        CANDIDATES,
        compare_policies,
        policy_questions,
    )
    from echox.evaluation.studies.speech_policies.policy_figure import draw_curve, policy_table
    from echox.files import write_text

    known = [candidate.label for candidate in CANDIDATES]
    for label in only or []:
        if label not in known:
            raise ValueError(f"--only: expected one of {', '.join(known)}, found {label!r}")
    chosen = [candidate for candidate in CANDIDATES if not only or candidate.label in only]
    items = policy_questions(data, limit, seed)
    echox = load_model(model, device, threads)
    result = compare_policies(
        echox,
        judge_of(judge, data, word_penalty),
        items,
        chosen,
        progress=lambda line: typer.echo(line, err=True),
    )
    output.mkdir(parents=True, exist_ok=True)
    table = "\n".join(policy_table(result))
    write_text(output / "trigger.json", json.dumps(result, indent=1) + "\n")
    write_text(output / "trigger.md", table + "\n")
    draw_curve(result, output / "trigger.png")
    typer.echo(table)
    typer.echo(json.dumps(result))


@guarded
def gap(
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model folder, or 'nano'; may be given several times.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="Echo recipe: also the model it starts from, before any echo training.")
    ] = None,
    dialogues: Annotated[Path, typer.Option(help="Manifest of written dialogues whose replies hold the words.")] = Path(
        "out/nano/text/dialogues.jsonl"
    ),
    pairs: Annotated[Path | None, typer.Option(help="YAML of pairs (default: nano's).")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file.")] = Path("gap.png"),
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Draw the paper's Hi, Hello and High: is each space of a model ordered by meaning or by sound?"""
    set_up_torch(threads)
    from echox.evaluation.studies.gap import draw_gap, measure_gap, read_pairs, tested_gap
    from echox.training.stages.dialogue.dialogues import spoken_dialogues

    if not model and before is None:
        raise ValueError("expected a model, found none; use --model (a folder, or nano) or --before (an echo recipe)")
    chosen = read_pairs(pairs)
    items = spoken_dialogues(dialogues, None)
    found: dict[str, Similarities] = {}
    if before is not None:
        found["before echo training"] = measure_gap(before, items, chosen)
    for name in model or []:
        found[name] = measure_gap(name, items, chosen)
    draw_gap(found, output)
    results = {
        name: {space: asdict(one) for space, one in tested_gap(spaces).items()} for name, spaces in found.items()
    }
    typer.echo(json.dumps(results))
