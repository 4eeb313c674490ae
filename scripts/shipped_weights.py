"""Write docs/shipped_weights.json: hashes of the embedded models, which the pages compare their records with.

python scripts/shipped_weights.py    # after a package changed; needs the packages of mini
"""

from __future__ import annotations

import json
from pathlib import Path

from echox.evaluation.subjects.local import weights_of_package
from echox.files import write_text

PATH = Path(__file__).resolve().parents[1] / "docs" / "shipped_weights.json"
EMBEDDED = ("nano", "mini")


def shipped_weights() -> dict[str, dict[str, str]]:
    """What was written: hashes of each embedded model (`weights_of_package`)."""
    return dict(json.loads(PATH.read_text(encoding="utf-8")))


if __name__ == "__main__":
    found = {name: weights_of_package(name) for name in EMBEDDED}
    write_text(PATH, json.dumps(found, indent=1) + "\n")
