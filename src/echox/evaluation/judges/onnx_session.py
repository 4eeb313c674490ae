"""Models in files of ONNX runtime, on the CPU. Imports no torch, and onnxruntime only when a file is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from echox.errors import reason


def open_session(path: Path, threads: int, remedy: str) -> Any:
    """A session of ONNX runtime on the CPU.

    Args:
        path: of an ``.onnx`` or ``.ort`` file.
        threads: of one run.
        remedy: what to do about a file that is not one, for the error.

    Raises:
        ValueError: onnxruntime is not installed, or the file is missing or damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{path}: expected onnxruntime to run it, found none; pip install onnxruntime") from error
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of ONNX runtime, found none; {remedy}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class
        raise ValueError(f"{path}: expected a file of ONNX runtime, found {reason(error)}; {remedy}") from error
