"""Draw the tables of docs/performance.md from benchmarks/results/*.json.

python scripts/performance_page.py           # writes the page
python scripts/performance_page.py --check   # fails if the page is not what the results give

The text is written by hand; what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` comes from the results.
Below each table stand the command, date, commit and machine of its measurement, and whether it is of other weights than
those that ship (docs/shipped_weights.json).
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shipped_weights import shipped_weights

from echox.api.card import markdown_table
from echox.evaluation.studies.ablation_report import renew_tables
from echox.evaluation.subjects.local import weights_notice
from echox.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("encode_s", "prefill_s", "text_s", "echo_s", "vocoder_s")
Result = dict[str, Any]


def read_results(folder: Path = RESULTS) -> dict[str, Result]:
    """All results by the name of their file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def renew_page(page: str, results: dict[str, Result]) -> str:
    """The page with the tables that the results give.

    Raises:
        ValueError: the page lacks a table, or has one that nothing draws.
    """
    tables = {}
    for name, (files, draw) in TABLES.items():
        used = [results[file] for file in files]
        sources = [source(file, result) for file, result in zip(files, used, strict=True)]
        tables[name] = "\n".join([*draw(*used), "", *sources, ""])
    return renew_tables(page, tables)


def source(name: str, result: Result) -> str:
    """One line: where a table's figures come from."""
    where = result["machine"]
    parts = [f"`{result['command']}`" if result["command"] else None, result["date"], f"commit `{result['commit']}`"]
    parts += [where["processor"] or "processor not recorded", f"{where['cores']} cores"]
    if isinstance(where["threads"], int):
        parts.append(f"{where['threads']} {'thread' if where['threads'] == 1 else 'threads'}")
    parts.append(f"torch {result['torch']}" if result["torch"] else None)
    parts.append(f"load {load_range(where['load_average_1m'])}" if where["load_average_1m"] else None)
    parts.append(f"weights `{result['weights']}`" if result["weights"] else None)
    kind = "Stored from an older page" if "documented" in result else "Measured"
    line = f"*{kind} ([{name}.json](../benchmarks/results/{name}.json)): {', '.join(part for part in parts if part)}.*"
    line = " ".join(filter(None, [line, other_weights(name, result)]))
    return textwrap.fill(line, 120, break_long_words=False, break_on_hyphens=False)


def other_weights(name: str, result: Result) -> str | None:
    """What is said of figures of other weights than those that ship; None: they are of these, or of none."""
    model = "mini" if "mini" in name or "conversation" in name else "nano"
    kind = "tools" if name.startswith("tool_turns") else "conversation"
    return weights_notice(result["weights"], shipped_weights()[model], kind)


def load_range(load: list[float]) -> str:
    """The load of the machine before and after."""
    low, high = (f"{value:.1f}".removesuffix(".0") for value in sorted(load))
    return low if low == high else f"{low} to {high}"


def ms(seconds: float) -> str:
    """Seconds as whole milliseconds."""
    return f"{1000 * seconds:.0f}"


def number(value: float | None, unit: str = "") -> str:
    """A figure as it was stored; empty where it was not measured."""
    return "" if value is None else f"{value:g}{unit}"


def short(value: float) -> str:
    """A figure of any size with at most three digits that count: 1577.06 as 1577, 8.816 as 8.82."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def vocoder_lookahead(result: Result) -> list[str]:
    """What must be decoded before the first sample."""
    rows = []
    for row in result["figures"]["causes"]:
        counts = [f"{row[name]} {name}" for name in ("units", "frames") if row[name]]
        rows.append([row["cause"], " and ".join(counts), f"{row['speech_ms']} ms"])
    return markdown_table(["cause", "units or frames", "speech"], rows)


def vocoder_durations(result: Result) -> list[str]:
    """Durations that change where the predictor sees fewer units ahead."""
    rows = result["figures"]["durations"]
    heads = ["look-ahead, units", *(str(row["lookahead_units"]) for row in rows[:-1])]
    heads.append(f"{rows[-1]['lookahead_units']} or more")
    differ = ["durations that differ", *(number(row["differ_percent"], "%") for row in rows)]
    waited = ["speech that must be decoded, with the 15 frames", *(f"{row['waited_ms']} ms" for row in rows)]
    waited[-1] += " or more"
    return markdown_table(heads, [differ, waited])


def vocoder_chunks(result: Result) -> list[str]:
    """CPU time by length of chunks."""
    columns = {
        "whole": "whole reply",
        "chunks_1000_ms": "1.0 s",
        "chunks_400_ms": "0.4 s",
        "chunks_200_ms": "0.2 s",
        "chunks_100_ms": "0.1 s",
    }
    rows = [[row["version"], *(number(row.get(name)) for name in columns)] for row in result["figures"]["cpu_ms_per_s"]]
    return markdown_table(["CPU ms per second of speech", *columns.values()], rows)


def first_audio(result: Result) -> list[str]:
    """The engine and the published method, by the clock."""
    rows = []
    for run in result["figures"]["runs"]:
        engine, reference = run["engine"], run["reference"]
        rows.append(
            [
                f"{run['questions']}, {run['threads']} {'thread' if run['threads'] == 1 else 'threads'}",
                f"{ms(engine['ttfa_s']['p50'])}, {ms(engine['ttfa_s']['p95'])}",
                *(ms(engine["first"][part]["p50"]) for part in PARTS),
                number(engine["ttfa_tokens"]["p50"]),
                f"{engine['rtf']:.3f}",
                ms(reference["ttfa_s"]["p50"]),
                f"{reference['rtf']:.3f}",
                f"{run['gain']['p50']:.1f} x",
                f"{run['gain_same_window']['p50']:.1f} x",
            ]
        )
    heads = ["milliseconds", "first audio p50, p95", *(part.removesuffix("_s") for part in PARTS), "tokens", "rtf"]
    return markdown_table([*heads, "published: first audio", "published: rtf", "ratio", "ratio, same window"], rows)


def nano_latency(result: Result) -> list[str]:
    """First text, first audio and the whole reply, of the shipped model."""
    names = {
        "first_text_s": "first text",
        "ttfa_s": "first audio",
        "ttfa_one_segment_s": "first audio, replies of one segment",
        "total_s": "whole reply",
    }
    figures = result["figures"]
    rows = [
        [f"end of question to {label}", *(ms(figures[name][key]) for key in ("p50", "p95"))]
        for name, label in names.items()
        if figures[name] is not None
    ]
    rows.append(["real-time factor (compute per second of speech)", f"{figures['rtf_overall']:.3f}", ""])
    return markdown_table(["milliseconds", "p50", "p95"], rows)


def many_sessions(result: Result) -> list[str]:
    """Replies of sessions that ask at the same moment, and at random ones."""
    found = [("at the same moment", row) for row in result["figures"]["together"]]
    found += [("at random moments", row) for row in result["figures"]["spread"]]
    rows = [
        [
            label,
            str(row["sessions"]),
            ms(row["ttfa_s"]["p50"]) if "p50" in row["ttfa_s"] else "",
            ms(row["ttfa_s"]["p95"]),
            f"{row['stalled']} of {row['replies']}",
            ms(row["worst_stall_s"]) if "worst_stall_s" in row else "",
        ]
        for label, row in found
    ]
    heads = ["they ask", "sessions", "first audio p50, ms", "p95, ms", "replies that stalled", "longest stall, ms"]
    return markdown_table(heads, rows)


def end_of_turn(result: Result) -> list[str]:
    """How soon turns end, and how often too soon, by turn detection."""
    rows = []
    for name, row in result["figures"].items():
        if isinstance(row, dict):
            times = [f"{row['first_audio_s'][level]:.2f} s" for level in ("p50", "p75", "p95")]
            kinds = ("false_starts", "audible_false_starts", "hasty_false_starts")
            counts = [str(row[count]) for count in kinds]
            rows.append([name, *counts, *times, str(row["not_answered"])])
    first = "first audio after the last word p50"
    counted = ["false starts", "audible", "of these after less than 500 ms"]
    model = "mini" if "--model mini" in result["command"] else "nano"
    heads = [model, *counted, first, "p75", "p95", "no answer in 3 s"]
    return markdown_table(heads, rows)


def faster_steps(result: Result) -> list[str]:
    """What was made faster."""
    rows = []
    for row in result["figures"]["steps"]:
        times = [
            row.get(name, f"{row[f'{name}_ms']:g} ms" if f"{name}_ms" in row else "") for name in ("before", "after")
        ]
        rows.append([row["step"], *times, row["why"]])
    return markdown_table(["step", "before", "after", "change"], rows)


def decoding(result: Result) -> list[str]:
    """Text decoding against the bandwidth of the memory."""
    rows = [
        [way, f"{100 * found['share_of_limit']:.0f} %"]
        for way, found in result["figures"]["text"].items()
        if isinstance(found, dict)
    ]
    return markdown_table(["step of text", "share of the bandwidth limit"], rows)


def text_model(result: Result, avx2: Result) -> list[str]:
    """Forms of the weights of a small language model."""
    rows = []
    for form, found in result["figures"]["forms"].items():
        other = avx2["figures"]["forms"][form]
        rows.append(
            [
                form,
                f"{found['read_mb']:.0f} MB",
                *(f"{one['tokens_per_s']['batch_1']:.0f}" for one in (found, other)),
                f"{100 * found['share_of_limit']['batch_1']:.0f} %",
                *(f"{one['prompt_ms']:.0f}" for one in (found, other)),
                *(
                    f"{found[name]:.1f} %" if name in found else ""
                    for name in ("state_error_percent", "other_token_percent")
                ),
            ]
        )
    heads = ["weights", "read for a token", "tokens per CPU-s", "the same, AVX2", "share of the bandwidth"]
    heads += ["prompt of 40, CPU ms", "the same, AVX2", "states move by", "other tokens"]
    return markdown_table(heads, rows)


def audio_decoding(result: Result) -> list[str]:
    """An uploaded file decoded by the worker and in the process itself."""
    names = {"wav_3_s_mono": "WAV, 3 s, mono, 16 kHz", "opus_3_s_stereo": "Opus, 3 s, stereo"}
    rows = [
        [
            label,
            *(
                f"{result['figures'][name][way][key]:.2f}"
                for way in ("worker", "in_process")
                for key in ("median_ms", "p95_ms")
            ),
        ]
        for name, label in names.items()
    ]
    return markdown_table(
        ["milliseconds", "worker, median", "worker, p95", "in process, median", "in process, p95"], rows
    )


def mini_cascade(result: Result) -> list[str]:
    """A model and the cascade of its ready parts."""
    figures = result["figures"]
    runs = sorted(figures["runs"], key=lambda run: run["threads"])
    single, quick = runs[0], runs[-1]
    names = ("model", "cascade")

    def row(label: str, cell: Callable[[str], str]) -> list[str]:
        return [label, *(cell(name) for name in names)]

    rows = []
    for run in runs:
        with_threads = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"

        def first_audio(name: str, run: Result = run) -> str:
            return f"{ms(run[name]['ttfa_s']['p50'])}, {ms(run[name]['ttfa_s']['p95'])} ms"

        def first_text(name: str, run: Result = run) -> str:
            return f"{ms(run[name]['first_text_s']['p50'])} ms"

        rows.append(row(f"first audio p50, p95, {with_threads}", first_audio))
        rows.append(row(f"first text p50, {with_threads}", first_text))
    rows += [
        row(f"rtf, {single['threads']} thread", lambda name: f"{single[name]['rtf']:.3f}"),
        row("rtf, processor time", lambda name: f"{single[name]['rtf_cpu']:.3f}"),
        row("peak memory", lambda name: f"{figures[f'{name}_peak_mb']:.0f} MB"),
        row("words of the question heard wrong", lambda name: f"{single[name]['heard_wer_percent']:.1f} %"),
        row(
            "written answers right (95 %)",
            lambda name: "{mean:.1f} % ({low:.1f} to {high:.1f})".format(**single[name]["right_percent"]),
        ),
        row("replies that stalled", lambda name: f"{quick[name]['stalled_replies']} of {quick[name]['replies']}"),
    ]
    table = markdown_table([f"{figures['questions']} questions", "mini", "cascade"], rows)
    gains = " and ".join(f"{run['gain']['p50']:.1f} times sooner with {run['threads']}" for run in runs)
    return [*table, "", f"The model's first audio comes {gains} (threads; median of pairs)."]


def reference_costs(result: Result) -> list[str]:
    """Work that grows with the vocabulary."""
    names = {
        "ctc_labels_30_s": "CTC labels of 30 s",
        "prefill_logits": "logits of a prefill of 350 positions",
        "input_of_one_unit": "input of one unit",
    }
    rows = []
    for name, label in names.items():
        pair = result["figures"][name]
        cells = [
            f"{short(pair[who]['median_ms'])} ms, {short(pair[who]['largest_mb'])} MB" for who in ("reference", "ours")
        ]
        rows.append([label, *cells])
    return markdown_table(["median time, largest tensor made", "reference", "ours"], rows)


def shard_loading(result: Result) -> list[str]:
    """What it costs to train from the shards of a large corpus."""
    found = result["figures"]
    rows = [
        ["index, once, when the data are prepared", f"{found['index_core_s']:.1f} CPU-s, {found['index_mb']:.2f} MB"],
        ["start of a run until its first batch", f"{found['start_core_s']:.2f} CPU-s"],
        ["peak memory", f"{found['peak_gb']:.2f} GB"],
        ["loading, one core", f"{found['audio_hours_per_core_s']:.2f} hours of audio in a CPU-s"],
        ["cores that feed one H200 (docs/scaling.md)", f"{found['cores_for_one_h200']:.2f}"],
    ]
    return markdown_table([f"{found['hours']:.0f} hours, {found['dialogues']:,} dialogues", "cost"], rows)


def stage_three(result: Result) -> list[str]:
    """What a step of stage III costs, by how its labels are made."""
    found = dict(result["figures"])
    by_rows = found.pop("segment_core_ms")
    rows = [
        [
            case,
            f"{one['step_core_s']:.2f} CPU-s, {one['step_s']:.2f} s",
            f"{one['waited_s']:.2f} s",
            f"{100 * one['still_said']:.0f} %" if "still_said" in one else "",
            f"{100 * one['padding_share']:.1f} %, {100 * one['unit_padding_share']:.1f} %",
        ]
        for case, one in found.items()
    ]
    head = ["labels", "a step", "of it waited for labels", "words still said", "padding: language model, echo decoder"]
    teacher = markdown_table(
        ["segments decoded at a time", *by_rows], [["a segment", *(f"{ms:.1f} CPU-ms" for ms in by_rows.values())]]
    )
    return [*markdown_table(head, rows), "", *teacher]


def padding(result: Result) -> list[str]:
    """The padding of the recipes' batches, packed or not."""
    rows = [
        [
            case,
            f"{one['items_of_a_batch']:.1f}",
            f"{100 * one['padding_share']:.1f} %",
            f"{100 * one['packed_padding_share']:.1f} %",
        ]
        for case, one in result["figures"].items()
    ]
    return markdown_table(["recipe, simulated lengths", "items of a batch", "padding", "packed"], rows)


def tool_turns(*results: Result) -> list[str]:
    """Spoken turns with declared tools, one column a client."""
    figures = [result["figures"] for result in results]
    rows = [
        ["spoken turns, of which want a tool", *(f"{one['turns']}, {one['wanting_a_tool']}" for one in figures)],
        ["protocol errors", *(str(one["protocol_errors"]) for one in figures)],
        ["answered aloud", *(str(one["answered_aloud"]) for one in figures)],
        ["calls, of which valid", *(f"{one['calls']}, {one['valid_calls']}" for one in figures)],
        ["right tool", *(f"{one['right_tool']} of {one['wanting_a_tool']}" for one in figures)],
        ["and right arguments", *(f"{one['right_tool_and_arguments']}" for one in figures)],
        ["called without need", *(f"{one['called_without_need']} of {one['wanting_no_tool']}" for one in figures)],
        ["a turn", *(f"{one['cpu_s_per_turn']:.2f} CPU-s" for one in figures)],
    ]
    heads = [
        "mini, openai (Python), one question a conversation",
        "the same in Piper's voice",
        "mini, openai, ten",
        "mini, @openai/agents, ten",
        "mini, openai, ten, new names",
        "mini, openai, ten, five tools that no lesson has",
        "nano, openai, ten",
        "nano, @openai/agents, ten",
    ]
    return markdown_table(["", *heads], rows)


def thread_counts(*results: Result) -> list[str]:
    """First audio by threads, on an idle machine and beside other work."""
    names = {
        "1_thread": "1 thread, as `echox` has it for small models",
        "2_threads": "2 threads, as torch has them",
        "2_threads_asleep": "2 threads that sleep while they wait, as `echox --threads 2` has them",
    }

    def cell(figures: Result) -> str:
        wall = ", ".join(ms(figures["ttfa_s"][part]) for part in ("p50", "p95"))
        return f"{wall} ms; {ms(figures['ttfa_cpu_s']['p50'])} CPU-ms"

    rows = [[text, *(cell(one["figures"][name]) for one in results)] for name, text in names.items()]
    heads = [f"{'beside other work' if one['figures']['busy'] else 'alone'}" for one in results]
    return markdown_table(["first audio p50, p95; processor time p50", *heads], rows)


def conversation(*results: Result) -> list[str]:
    """Conversations on held-out wordings, with the talk adapter and without it; typed, then spoken."""
    sides = [one["figures"][side] for one in results for side in ("with", "without") if side in one["figures"]]
    what = {
        "talk": "small talk answered as taught",
        "told": "what the user told of before, given back",
        "unknown": "what was never told, said to be unknown",
        "sums": "sums right",
        "knowledge": "nano's questions in between, right",
    }
    rows = [
        [text, *(f"{one[f'{kind}_right']} of {one[f'{kind}_asked']}" for one in sides)] for kind, text in what.items()
    ]
    words = (f"{one['reply_words']['p50']:.0f}, {one['reply_words']['p95']:.0f}" for one in sides)
    rows.append(["words of a reply p50, p95", *words])
    rows.append(["a turn", *(f"{one['cpu_s_per_turn']:.2f} CPU-s" for one in sides)])
    heads = [
        f"{'spoken' if '--voice' in one['command'] else 'typed'}, {name}"
        for one in results
        for side, name in (("with", "mini"), ("without", "without the adapter"))
        if side in one["figures"]
    ]
    return markdown_table(["", *heads], rows)


def serving_load(result: Result) -> list[str]:
    """Conversations in real time on two servers in turn, one of which begins replies in pauses."""
    figures = result["figures"]
    sides = [figures["with"], figures["without"]]
    rows = [
        ["replies", *(str(one["replies"]) for one in sides)],
        ["lost, mixed", *(f"{one['lost']}, {one['mixed']}" for one in sides)],
        ["underruns", *(str(one["underruns"]) for one in sides)],
    ]
    for what, name in (("from the decision", "first_audio_s"), ("from the last voice", "first_audio_after_speech_s")):
        cells = (f"{ms(one[name]['p50'])}, {ms(one[name]['p95'])}" for one in sides)
        rows.append([f"first audio {what} p50, p95, ms", *cells])
    memory = (f"{one['memory_mb']['first_quarter']:.0f}, {one['memory_mb']['last_quarter']:.0f}" for one in sides)
    rows.append(["memory in the first and last quarter, MB", *memory])
    rows.append(["CPU-s for a second of speech", *(number(one["cpu_s_per_second_of_speech"]) for one in sides)])
    what = f"{figures['conversations']} conversations, {figures['minutes'] / 2:g} minutes each way"
    return markdown_table([what, "begun in pauses", "begun after the decision"], rows)


TABLES: dict[str, tuple[tuple[str, ...], Callable[..., list[str]]]] = {
    "nano_latency": (("nano_latency",), nano_latency),
    "first_audio": (("nano_streaming",), first_audio),
    "many_sessions": (("many_sessions",), many_sessions),
    "serving_load": (("serving_load",), serving_load),
    "vocoder_lookahead": (("vocoder_lookahead",), vocoder_lookahead),
    "vocoder_durations": (("vocoder_lookahead",), vocoder_durations),
    "vocoder_chunks": (("vocoder_chunks",), vocoder_chunks),
    "faster_steps": (("faster_steps",), faster_steps),
    "decoding": (("decoding",), decoding),
    "text_model": (("text_model", "text_model_avx2"), text_model),
    "audio_decoding": (("audio_decoding",), audio_decoding),
    "reference_costs": (("reference_costs",), reference_costs),
    "mini_cascade": (("mini_cascade",), mini_cascade),
    "thread_counts": (("thread_counts_mini", "thread_counts_mini_busy"), thread_counts),
    "end_of_turn": (("end_of_turn_nano",), end_of_turn),
    "conversation": (("conversation", "conversation_spoken"), conversation),
    "end_of_turn_fluent": (("end_of_turn_fluent",), end_of_turn),
    "end_of_turn_mini": (("end_of_turn_mini",), end_of_turn),
    "tool_turns": (
        (
            "tool_turns_mini_single",
            "tool_turns_mini_neural",
            "tool_turns_mini_openai",
            "tool_turns_mini_agents",
            "tool_turns_mini_renamed",
            "tool_turns_mini_foreign",
            "tool_turns_nano_openai",
            "tool_turns_nano_agents",
        ),
        tool_turns,
    ),
    "shard_loading": (("shard_loading",), shard_loading),
    "stage_three": (("stage_three",), stage_three),
    "padding": (("padding",), padding),
}
"""Each table of the page: the files of results that it needs, and the function that draws it."""


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page would change")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    renewed = renew_page(page, read_results())
    if renewed != page and options.check:
        raise SystemExit(f"{PAGE}: expected the tables that the results give; run python scripts/performance_page.py")
    write_text(PAGE, renewed)


if __name__ == "__main__":
    main()
