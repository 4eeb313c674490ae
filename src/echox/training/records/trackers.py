"""Experiment trackers: where a run's log entries go besides its own files, by one key of the recipe.

``training.tracker: trackio`` (local; extra ``trackio``) or ``wandb`` (Weights & Biases; extra ``wandb``). Both are told
by their own environment variables where to write: ``TRACKIO_DIR``, ``TRACKIO_SPACE_ID``; ``WANDB_MODE=offline``,
``WANDB_PROJECT``. Another tracker is a function in `TRACKERS`.

Source: https://huggingface.co/docs/trackio, https://docs.wandb.ai/ref/python
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from echox.files import JsonObject, write_text

ID_NAME = "tracker_id"
"""File in the output folder: a run that continues is found again by what is in it."""


class Tracker(Protocol):
    """What is told of every log entry; of one process only."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name (``train/loss``) after an optimizer step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class WandbTracker:
    """Weights & Biases, or a library with its interface.

    Args:
        library: name of the module.
        name: of the run.
        recipe: resolved, shown beside the run.
        options: more arguments of the library's ``init``.
    """

    def __init__(self, library: str, name: str, recipe: JsonObject, **options: Any) -> None:
        project = os.environ.get("WANDB_PROJECT", "echox")
        self._library = importlib.import_module(library)
        self._library.init(project=project, name=name, config=recipe, resume="allow", **options)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._library.log(dict(values), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._library.finish()


def _trackio(folder: Path, name: str, recipe: JsonObject) -> Tracker:
    return WandbTracker("trackio", f"{name}-{_identity(folder)}", recipe)  # it finds a run by its name


def _wandb(folder: Path, name: str, recipe: JsonObject) -> Tracker:
    return WandbTracker("wandb", name, recipe, id=_identity(folder), dir=str(folder))


TRACKERS: dict[str, Callable[[Path, str, JsonObject], Tracker]] = {"trackio": _trackio, "wandb": _wandb}
"""Name in the recipe -> what opens a tracker, from output folder, name of the run, and recipe."""


def check_tracker(name: str | None) -> None:
    """Check that a tracker can be opened, before a run loads anything.

    Raises:
        ValueError: an unknown name, or a library that is not installed.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise ValueError(f"training.tracker: expected one of {', '.join(TRACKERS)}, or null, found {name!r}")
    if name in ("trackio", "wandb") and importlib.util.find_spec(name) is None:
        raise ValueError(
            f"training.tracker: expected the library {name}, found none: install it (pip install 'echox[{name}]'), or "
            "leave the key out: metrics.jsonl and TensorBoard have the same numbers"
        )


def open_tracker(tracker: str | None, folder: Path, stage: str, recipe: JsonObject) -> Tracker | None:
    """The tracker of a run, named after its stage and folder; None without one.

    Raises:
        ValueError: see `check_tracker`.
    """
    check_tracker(tracker)
    return None if tracker is None else TRACKERS[tracker](folder, f"{stage}-{folder.name}", recipe)


def _identity(folder: Path) -> str:
    path = folder / ID_NAME
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()
