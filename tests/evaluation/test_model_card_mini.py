"""The card of mini: every figure comes from a file, and what was not measured is said."""

import json

import pytest

from echox.api.card import size_table, training_table
from echox.api.loading import EMBEDDED_MODELS, embedded_folder, training_record
from echox.evaluation.model_card_mini import write_mini_card
from echox.files import folder_bytes
from paths import ROOT

SHARE = {"mean": 0.32, "low": 0.25, "high": 0.4, "count": 150}
RATIO = {"mean": 0.981, "low": 0.93, "high": 1.0, "count": 150}


@pytest.fixture
def measured(tmp_path):
    model, run = tmp_path / "mini", tmp_path / "run"
    model.mkdir()
    run.mkdir()
    stage = {
        "stage": "t2c",
        "seed": 7,
        "steps": 2000,
        "cost": {"wall_s": 600, "cpu_s": 1200},
        "metrics": {"loss": 0.125},
    }
    record = {"stages": [stage], "parameters": 10_000_000, "parameters_by_part": {"vocoder": 10_000_000}}
    (model / "training_record.json").write_text(json.dumps(record), "utf-8")
    side = {"acc_strict": SHARE, "acc_ultraeval": SHARE, "fail_rate": 0.0}
    task = {"t2t": side, "s2t": side, "s2s": side, "s2t_over_t2t": RATIO, "s2s_over_s2t": RATIO, "reply_wer": SHARE}
    tasks = {"llama-questions": task, "llama-questions-typed": task}
    (run / "summary.json").write_text(json.dumps({"tasks": tasks}), "utf-8")
    return model, run


def test_figures_of_runs_and_records(measured, tmp_path):
    model, run = measured
    text = write_mini_card(model, [run], None, tmp_path / "card.md").read_text("utf-8")
    row = "| llama-questions " + 3 * "| 32.0 % (25.0 % to 40.0 %) "
    assert row + "| 0.981 (0.930 to 1.000) | 0.981 (0.930 to 1.000) |" in text
    assert "llama-questions-typed" not in text
    assert "| 2000 | 10 | 20 | loss 0.125 |" in text
    assert "Not measured." in text


def test_the_cascade_stands_beside_it(measured, tmp_path, monkeypatch):
    model, run = measured
    found = {
        "ttfa_s": {"p50": 0.4, "p95": 0.5},
        "rtf": 0.25,
        "right_percent": {"mean": 33.0, "low": 20.0, "high": 50.0},
    }
    runs = [{"threads": 2, "model": found, "cascade": found | {"rtf": 0.125}}]
    figures = {"questions": 40, "runs": runs, "model_peak_mb": 1100.0, "cascade_peak_mb": 900.0}
    result = {"figures": figures, "machine": {"processor": "A CPU"}, "weights": "0123456789ab"}
    (tmp_path / "cascade.json").write_text(json.dumps(result), "utf-8")
    text = write_mini_card(model, [run], tmp_path / "cascade.json", tmp_path / "card.md").read_text("utf-8")
    assert "Not of what ships" not in text  # of a folder without weights nothing is known
    ships = {"conversation": "a" * 12, "tools": "b" * 12, "alone": "c" * 12, "subject": "d" * 12}
    monkeypatch.setattr("echox.evaluation.model_card_mini.weights_of_package", lambda folder: ships)
    other = write_mini_card(model, [run], tmp_path / "cascade.json", tmp_path / "card.md").read_text("utf-8")
    assert "**Not of what ships (`aaaaaaaaaaaa`)**: of earlier weights (`0123456789ab`)." in other
    assert "| mini | 2 | 400, 500 ms | 0.250 | 1100 MB | 33.0 % (20.0 to 50.0) |" in text
    assert "| cascade | 2 | 400, 500 ms | 0.125 | 900 MB |" in text
    assert "40 questions, in turn in one process, A CPU, weights `0123456789ab`" in " ".join(text.split())


def test_a_folder_without_records_is_refused(measured, tmp_path):
    with pytest.raises(ValueError, match="expected training_record.json, found none"):
        write_mini_card(tmp_path, [measured[1]], None, tmp_path / "card.md")


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_the_cards_have_the_stages_and_the_size_of_what_ships(name):
    folder = embedded_folder(name)
    record = training_record(folder)
    card = (ROOT / "docs" / f"model_card_{name}.md").read_text("utf-8").splitlines()
    tables = [*training_table(record), *size_table(record, folder_bytes(folder) / 1e6)]
    rows = [line for line in tables if line.startswith("| ") or " MB in one folder" in line]
    assert len(rows) > 5
    assert not set(rows) - set(card)


def test_all_of_mini_was_made_by_committed_code():
    """Every weight that ships has a record: its stage, or its head, and the commit that made it."""
    folder = embedded_folder("mini")
    record = training_record(folder)
    heads = {path.name.removesuffix(".safetensors") for path in folder.glob("*_head.safetensors")}
    assert set(record["heads"]) == heads != set()
    for made in (record, *record["stages"], *record["heads"].values()):
        environment = made["environment"]
        assert environment["commit"], made["stage"]
        assert environment["dirty"] is False, made["stage"]
    trained = [made for made in (*record["stages"], *record["heads"].values()) if "steps" in made]
    assert all(made["cost"]["cpu_s"] > 0 and made["seed"] == 0 for made in trained)
    assert len(trained) >= 10
