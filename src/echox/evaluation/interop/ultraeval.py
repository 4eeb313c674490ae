"""The records of UltraEval-Audio: fields of a model's output, and their runs scored by our rule.

Source: the published behaviour of https://github.com/OpenBMB/UltraEval-Audio (2026-08), restated.
"""

from __future__ import annotations

import json
from pathlib import Path

from echox.evaluation.scoring.metrics import exist_match
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.scoring.schema import JsonObject


def extract_field(output: str, key: str) -> object:
    """A field of a model's output, as their ``extract_text`` and ``extract_audio`` read it.

    Output that is no JSON passes unchanged. In their code an exception makes the item an error, which they leave out of
    the accuracy.

    Args:
        output: of the model.
        key: "text" or "audio".

    Raises:
        TypeError: JSON, but no object ("42", "null").
        KeyError: an object without the field.
    """
    try:
        found = json.loads(output.strip())
    except ValueError:
        return output
    if not isinstance(found, dict):
        raise TypeError(f"expected a JSON object or plain text, found {output.strip()[:80]!r}")
    return found[key]


def rescore(records: Path) -> JsonObject:
    """Accuracies of one of their result files (``res/<model>/<dataset>/<time>.jsonl``) by our rule.

    Returns:
        ``acc_ultraeval``, ``fail_rate`` and ``acc_strict`` as shares, ``items``, and the ids that ``failed`` or whose
        score differs from theirs (``disagree``).

    Raises:
        ValueError: no such file, or no item in it was scored.
    """
    if not records.is_file():
        raise ValueError(f"{records}: expected records of UltraEval-Audio, found no such file")
    items: dict[str, JsonObject] = {}
    for record in read_lines(records):
        if "type" not in record or "id" not in record:
            raise ValueError(
                f"{records}: expected records with type and id, found {sorted(record)}: not a result file "
                "of UltraEval-Audio"
            )
        items.setdefault(str(record["id"]), {})[record["type"]] = record["data"]
    failed = [name for name, item in items.items() if "eval" not in item]
    matches: dict[str, bool] = {}
    disagree = []
    for name, item in items.items():
        if name in failed:
            continue
        matches[name] = exist_match(str(item["post_process"]["content"]), item["eval"]["ref"])
        if matches[name] != bool(item["eval"]["match"]):
            disagree.append(name)
    if not matches:
        raise ValueError(f"{records}: expected at least one scored item, found none of {len(items)}")
    return {
        "items": len(items),
        "acc_ultraeval": sum(matches.values()) / len(matches),
        "fail_rate": len(failed) / len(items),
        "acc_strict": sum(matches.values()) / len(items),
        "failed": failed,
        "disagree": disagree,
    }
