"""The common part of stages "align" and "extract_units": one result for each utterance of a manifest, resumable.

Utterances are processed in chunks, in this process or in several. Finished chunks are written to a journal beside the
output, so that a stopped run continues where it stopped. In the end the output is made from the journal.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from echox.audio import load_audio
from echox.data.manifest import Utterance, audio_path
from echox.data.sampling import in_chunks
from echox.device import choose_device
from echox.preparation.execute import Row, Workers, stage_results

BATCHES_PER_CHUNK = 8
"""A stopped run loses the chunk it works on; batches hold utterances of similar length within a chunk."""


def work_on(
    name: str,
    make: Callable[[], Callable[[Sequence[Row]], list[Row]]],
    settings: object,
    items: Sequence[Utterance],
    manifest: Path,
    output: Path,
    batch_size: int,
    workers: int,
) -> Iterator[tuple[Utterance, Row]]:
    """Yield every utterance with its result, in the manifest's order, once all are there.

    Args:
        name: of the stage, for the journal and the progress.
        make: makes the function that works on a chunk of rows (``id``, ``text``, ``audio``, ``duration_s``,
            ``word_ends_s``), once in every process; a result is a row with ``id``, or with ``dropped`` and ``detail``.
        settings: all values that the results depend on besides the rows.
        items: of the manifest.
        manifest: file that `items` are from.
        output: file that will be written; the journal is beside it until the iteration ends.
        batch_size: utterances that go through the model together.
        workers: processes.

    Raises:
        ValueError: `batch_size` or `workers` below 1.
    """
    for field, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{field}: expected at least 1, found {value}")
    rows: list[Row] = [
        {
            "id": item.id,
            "text": item.text,
            "audio": str(audio_path(manifest, item.audio).resolve()),
            "duration_s": item.duration_s,
            "word_ends_s": None if item.word_ends_s is None else list(item.word_ends_s),
            "expected_s": item.duration_s,
        }
        for item in items
    ]
    journal = output.with_name(f".{output.name}.journal")
    chunks = in_chunks(rows, BATCHES_PER_CHUNK * batch_size)
    yield from zip(items, stage_results(name, make, settings, chunks, Workers(workers), journal), strict=True)
    journal.unlink()


def kept(
    stage: str,
    found: Iterable[tuple[Utterance, Row]],
    manifest: str | Path,
    left_out: list[str] | None,
) -> Iterator[tuple[Utterance, Row]]:
    """What `work_on` yields, without the utterances that have no result; each of these is printed.

    Args:
        stage: for the line that is printed.
        found: from `work_on`.
        manifest: for the error.
        left_out: collects the ids of those without a result; None: the first of them is an error.

    Raises:
        ValueError: an utterance without a result, by its id.
    """
    for item, result in found:
        if "dropped" not in result:
            yield item, result
            continue
        if left_out is None:
            raise ValueError(f"{manifest}: {item.id}: {result['detail']}")
        print(f"{stage}: left out {item.id}: {result['detail']}", flush=True)
        left_out.append(item.id)


def batch_results(
    rows: Sequence[Row],
    batch_size: int,
    sampling_rate: int,
    work: Callable[[Sequence[Row], Sequence[np.ndarray]], Sequence[Row | ValueError]],
    stop_in: Path | None,
    check: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Read the audio of a chunk's rows and process it in batches of similar durations; results in the rows' order.

    Args:
        rows: the chunk.
        batch_size: rows of a batch.
        sampling_rate: of the audio, in hertz.
        work: rows and their waveforms, float32 (S,) each, to one result or error each.
        stop_in: the manifest, for the error, if a row without a result ends the run; None: its result is
            ``dropped`` and ``detail``.
        check: raises ValueError for a row that can have no result, before its audio is read.

    Raises:
        ValueError: with `stop_in`, the first row that cannot be read or has no result.
    """
    results: list[Row] = [{} for _ in rows]
    order = sorted(range(len(rows)), key=lambda place: rows[place]["duration_s"])
    for start in range(0, len(order), batch_size):
        read: dict[int, np.ndarray] = {}
        for place in order[start : start + batch_size]:
            try:
                check(rows[place])
                read[place] = load_audio(rows[place]["audio"], sampling_rate)
            except ValueError as error:
                results[place] = _left_out(rows[place], error, stop_in)
        if not read:
            continue
        found = work([rows[place] for place in read], list(read.values()))
        for place, result in zip(read, found, strict=True):
            if isinstance(result, ValueError):
                results[place] = _left_out(rows[place], result, stop_in)
            else:
                results[place] = {"id": rows[place]["id"], **result}
    return results


def _left_out(row: Row, error: ValueError, stop_in: Path | None) -> Row:
    """The entry of a row without a result; with `stop_in`, raises the error with the row's id."""
    if stop_in is not None:
        raise ValueError(f"{stop_in}: {row['id']}: {error}") from error
    return {"id": row["id"], "dropped": "left out", "detail": str(error)}


def worker_device(name: str, workers: int) -> torch.device:
    """The device of this process: processes are distributed over the GPUs, or use one CPU thread each."""
    device = choose_device(name)
    if workers == 1:
        return device
    if device.type == "cpu":
        torch.set_num_threads(1)
    elif name in ("auto", "cuda"):
        number = multiprocessing.current_process().name.rpartition("-")[2]  # SpawnProcess-3
        device = torch.device("cuda", int(number) % torch.cuda.device_count() if number.isdigit() else 0)
    return device
