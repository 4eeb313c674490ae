"""What a run logs, and who is told: trackers by name, arithmetic, text tokens and padding."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from echox.config import TrainingConfig
from echox.training.loop import run_loaded
from echox.training.networks.arithmetic import CountOperations
from echox.training.records import trackers
from echox.training.records.record import log_entries
from test_loop import ToyStage, config, run


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self, folder: Path, name: str, recipe: dict) -> None:
        self.folder, self.name, self.recipe = folder, name, recipe
        self.entries: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def write(self, step, values):
        self.entries.append((step, dict(values)))

    def close(self):
        self.closed = True


@dataclass
class NeverBuilt:
    """A recipe whose stage must not be built."""

    stage: str
    training: TrainingConfig


def test_a_tracker_is_told_what_the_log_has(tmp_path, monkeypatch):
    opened: list[Kept] = []
    monkeypatch.setitem(trackers.TRACKERS, "kept", lambda *given: opened.append(Kept(*given)) or opened[-1])
    run(tmp_path / "toy_run", tracker="kept", evaluate_every_steps=6)
    (kept,) = opened
    assert (kept.name, kept.recipe["stage"], kept.closed) == ("toy-toy_run", "toy", True)
    logged = [
        (entry.pop("step"), {f"{entry['kind']}/{key}": value for key, value in entry.items() if key != "kind"})
        for entry in log_entries(tmp_path / "toy_run")
    ]
    assert kept.entries == logged
    names = kept.entries[0][1].keys()
    assert {"train/loss", "train/data_wait_s", "train/tflop_per_s", "train/peak_memory_mb"} <= names


def test_a_missing_library_is_named_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    recipe = NeverBuilt("toy", config(tmp_path, tracker="wandb"))
    with pytest.raises(ValueError, match=r"expected the library wandb, found none: install it.*'echox\[wandb\]'"):
        run_loaded(recipe)
    with pytest.raises(ValueError, match="expected one of trackio, wandb, or null, found 'mlflow'"):
        trackers.check_tracker("mlflow")


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_continued_run_is_the_same_run_there(tmp_path, monkeypatch, name):
    """Both libraries have one interface: `init`, `log`, `finish`."""
    calls: list[tuple[str, tuple, dict]] = []
    library = types.ModuleType(name)
    for called in ("init", "log", "finish"):
        setattr(library, called, lambda *a, called=called, **k: calls.append((called, a, k)))
    monkeypatch.setitem(sys.modules, name, library)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: library)
    for _ in range(2):
        tracker = trackers.open_tracker(name, tmp_path, "s2t", {"stage": "s2t"})
        tracker.write(3, {"train/loss": 1.5})
        tracker.close()
    first, second = (given for called, _, given in calls if called == "init")
    assert first == second
    assert (first["project"], first["resume"], first["config"]) == ("echox", "allow", {"stage": "s2t"})
    assert ("log", ({"train/loss": 1.5},), {"step": 3}) in calls
    assert [called for called, *_ in calls].count("finish") == 2


def test_trackio_writes_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    pytest.importorskip("trackio", reason="needs the extra trackio")
    tracker = trackers.open_tracker("trackio", tmp_path, "toy", {"stage": "toy"})
    tracker.write(1, {"train/loss": 0.5})
    tracker.close()
    assert list((tmp_path / "kept").rglob("*echox*"))


def test_weights_and_biases_write_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    pytest.importorskip("wandb", reason="needs the extra wandb")
    tracker = trackers.open_tracker("wandb", tmp_path, "toy", {"stage": "toy"})
    tracker.write(1, {"train/loss": 0.5})
    tracker.close()
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.parametrize("trained", ["all", "input", "none"])
def test_operations_are_those_that_torch_counts(trained):
    torch.manual_seed(0)
    weight, other = torch.randn(24, 16), torch.randn(16, 24)
    kernel, states = torch.randn(8, 16, 3), torch.randn(2, 10, 16)
    for value in (weight, other, kernel) if trained == "all" else ():
        value.requires_grad_()
    states.requires_grad_(trained == "input")

    def work() -> torch.Tensor:
        hidden = F.linear(states, weight)
        found = torch.matmul(hidden.reshape(2, 10, 24), other.T) @ torch.ones(16, 16)
        return F.conv1d(found.transpose(1, 2), kernel).sum()

    with FlopCounterMode(display=False) as expected:
        loss = work()
        if loss.requires_grad:
            loss.backward()
    with CountOperations() as counted:
        work()
    assert counted.operations == expected.get_total_flops()


def test_attention_counts_as_its_two_products():
    query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 10, 10))
    with CountOperations() as fused:
        F.scaled_dot_product_attention(query, key, value)
    with CountOperations() as plain:
        torch.softmax(query @ key.transpose(2, 3), dim=-1) @ value
    assert fused.operations == plain.operations > 0


def test_counting_changes_no_digit(tmp_path):
    one, _ = run(tmp_path / "often", log_every_steps=1)
    two, _ = run(tmp_path / "once", log_every_steps=12)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


def test_utilisation_text_and_padding_are_logged(tmp_path):
    class Written(ToyStage):
        def collate(self, items, rng):
            mask = torch.zeros(len(items), 10)
            mask[:, :6] = 1
            return {**super().collate(items, rng), "attention_mask": mask}

    run(tmp_path, Written(), peak_tflop_per_s=1e-6, accumulation_steps=2)
    entry = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert entry["padding_share"] == pytest.approx(0.4)
    assert entry["tokens_per_s"] == pytest.approx(6 * entry["items_per_s"])
    assert entry["flops_utilisation"] == pytest.approx(entry["tflop_per_s"] / 1e-6)
    assert entry["tflop_per_s"] > 0
