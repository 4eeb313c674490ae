"""What the benchmarks share: figures as JSON, the last line of the output and, where asked for, a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def report_figures(figures: Any, output: Path | None) -> None:
    """Print figures as one line of JSON, and write the same line to ``output`` if a path is given."""
    text = json.dumps(figures)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")
    print(text)
