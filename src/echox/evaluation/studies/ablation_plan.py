"""The plan of a study of ablations: its trainings, what is compared, what a result depends on beside overrides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from echox.evaluation.scoring.schema import JsonObject


@dataclass
class Ablation:
    """One ablation: a training that differs from its recipe in one thing.

    Attributes:
        what: in words.
        stage: whose recipe is run (a key of ``stages``).
        overrides: of that recipe; "{runs}" is the folder of the trainings, each in "NAME-sSEED", "{start_from}" that of
            the plan.
        seeds: number of trainings.
        train: False measures the model without training.
        folder: measure this model, which is finished ("{start_from}": the plan's).
        reference: train all its seeds first: the others are compared with their spread.
        whole: also measure replies that are spoken whole, after they are written.
        cpu_s_per_step: CPU-seconds of a training step as measured before, for the estimate of costs.
        language: of a T2C: ``{kind: unit_language or bpe, vocabulary_size: ...}``, learned from the training units.
    """

    what: str
    stage: str = "echo"
    overrides: list[str] = field(default_factory=list)
    seeds: int = 1
    train: bool = True
    folder: str | None = None
    reference: bool = False
    whole: bool = False
    language: JsonObject | None = None
    cpu_s_per_step: float | None = None

    @property
    def conditions(self) -> JsonObject:
        """What decides its result beside its overrides."""
        names = ("stage", "train", "folder", "whole", "language")
        return {name: getattr(self, name) for name in names}


@dataclass
class Plan:
    """The content of ``runs/ablations.yaml``.

    Attributes:
        questions: number of questions of each held-out set that are asked aloud; with `start_from`, of each task.
        utterances: number of held-out texts that a T2C reads aloud.
        stages: recipe and common overrides of each stage.
        runs: by name.
        rows: names of runs that are compared, the reference first.
        measuring_cpu_s: CPU-seconds of one measurement, for the estimate of costs.
        tests: pairs of runs whose difference is tested.
        same_text: runs that write the same by construction, since what writes in them is the same and frozen.
        start_from: a finished model whose parts the trainings begin with, asked the questions of tasks
            (`evaluation.sets.tasks`); None: the outputs of ``runs/nano.sh`` and nano's own held-out questions.
        typed: with `start_from`, number of questions of each task that are asked in writing.
        system: prompt of these conversations.
        judge: see `open_judge`; None: nano's.
    """

    questions: dict[str, int]
    utterances: int
    stages: dict[str, JsonObject]
    rows: dict[str, list[str]]
    runs: dict[str, Ablation]
    tests: list[list[str]] = field(default_factory=list)
    same_text: list[str] = field(default_factory=list)
    measuring_cpu_s: float = 60.0
    start_from: str | None = None
    typed: dict[str, int] = field(default_factory=dict)
    system: str = ""
    judge: str | None = None

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """From YAML.

        Raises:
            ValueError: a row, a test or `same_text` that names no run, or a run of no stage.
        """
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        plan = cls(**values | {"runs": {name: Ablation(**run) for name, run in values["runs"].items()}})
        for row, names in plan.rows.items():
            missing = [name for name in names if name not in plan.runs]
            if missing:
                raise ValueError(f"{path}: row {row}: expected names of runs, found {', '.join(missing)}")
        for pair in plan.tests:
            if len(pair) != 2 or not set(pair) <= set(plan.runs):
                raise ValueError(f"{path}: tests: expected pairs of names of runs, found {pair}")
        if unknown := sorted(set(plan.same_text) - set(plan.runs)):
            raise ValueError(f"{path}: same_text: expected names of runs, found {', '.join(unknown)}")
        for name, run in plan.runs.items():
            if run.stage not in plan.stages:
                raise ValueError(f"{path}: {name}.stage: expected one of {', '.join(plan.stages)}, found {run.stage}")
        return plan

    def jobs(self) -> Iterator[tuple[str, Ablation, int]]:
        """(name, run, seed): all seeds of the references, then seed by seed."""
        for reference in (True, False):
            runs = {name: run for name, run in self.runs.items() if run.reference == reference}
            for seed in range(max((run.seeds for run in runs.values()), default=0)):
                yield from ((name, run, seed) for name, run in runs.items() if seed < run.seeds)
