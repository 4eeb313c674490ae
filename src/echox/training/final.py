"""The final weights of a run, which replace those of an earlier one completely or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import SafetensorError

from echox.training.records.record import RECORD_NAME
from echox.training.stage import Stage


def write_final(stage: Stage, folder: Path) -> None:
    """Save a stage into the output folder of its run. Its training record is removed, to be written afterwards.

    A run that is killed between two of these files has no record, so it counts as unfinished.

    Raises:
        OSError: they cannot be written; the files of an earlier run stay.
    """
    partial = folder / ".partial_final"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        stage.save(partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, SafetensorError):  # how safetensors reports a full disk
            raise OSError(
                f"{folder}: could not write the final model ({error}); free some space, then run the "
                "same command again: it continues from the newest checkpoint"
            ) from error
        raise
    (folder / RECORD_NAME).unlink(missing_ok=True)
    for path in partial.iterdir():
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    partial.rmdir()
