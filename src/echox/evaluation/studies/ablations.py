"""Ablations: many small trainings that differ in one thing, measured in the same way.

``runs/ablations.yaml`` lists the trainings (a stage's recipe with overrides) and the runs that are compared. A finished
training or measurement is not repeated. The references come first with all seeds, then seed 0 of every other run, then
seed 1, and so on: whenever it is stopped, every comparison exists, with fewer seeds.

Run by ``runs/ablations.sh``; ``python -m echox.evaluation.studies.ablations --help``.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from echox.api.card import commit_text
from echox.api.loading import load_folder
from echox.config import load_recipe
from echox.data.features.tower_features import TowerFeatures
from echox.data.manifest import read_unit_utterances
from echox.data.sampling import spread
from echox.errors import one_line
from echox.evaluation.judges.asr import Judge, nano_judge, open_judge
from echox.evaluation.scoring.records import digest_of, fingerprint
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.sets.heldout import LEXICON
from echox.evaluation.sets.items import EvalItem
from echox.evaluation.sets.tasks import TYPED_SUFFIX, open_tasks
from echox.evaluation.studies.ablation_plan import Ablation, Plan
from echox.evaluation.studies.ablation_report import write_report
from echox.evaluation.studies.batched_scores.direct_scores import direct_scores
from echox.evaluation.studies.batched_scores.echo_scores import (
    NO_CUTS,
    UnitTranscriber,
    echo_scores,
    s2t_scores,
    t2c_scores,
)
from echox.evaluation.studies.batched_scores.questions import QuestionSet, reply_loss, typed_scores, write_texts
from echox.files import content_digest, write_text
from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.training.loop import run_recipe
from echox.training.records.record import RECORD_NAME
from echox.training.stages.dialogue.continued import load_s2t, load_t2c, load_vocoder
from echox.training.stages.dialogue.dialogues import spoken_dialogues
from echox.training.stages.hearing.s2t import S2TRecipe
from echox.training.stages.speaking.direct_units import DirectUnitsRecipe, UnitWriter
from echox.training.stages.speaking.echo import EchoRecipe, join
from echox.training.stages.speaking.t2c import T2CRecipe
from echox.units.bpe import learn_bpe_language
from echox.units.language import learn_unit_language, split_by_word

T = TypeVar("T")
RESULTS_FILE = "ablations.json"


class AblationRunner:
    """Trains and measures the runs of a plan.

    Args:
        plan: runs and comparisons.
        recipes: folder that the paths of recipes are relative to.
        data: outputs of ``runs/nano.sh``.
        output: folder of trainings and measurements.
        more: overrides of every training, after its own.
        tasks: where the questions of each task are; see `open_tasks`.
    """

    def __init__(
        self,
        plan: Plan,
        recipes: Path,
        data: Path,
        output: Path,
        more: Sequence[str] = (),
        tasks: Mapping[str, Path] | None = None,
    ) -> None:
        self.plan, self.recipes, self.data, self.output, self.more = plan, recipes, data, output, list(more)
        self.tasks = tasks or {}

    @cached_property
    def judge(self) -> Judge:
        """The judge; the same for every run."""
        return open_judge(self._judge, self.data / LEXICON)

    @property
    def _judge(self) -> str | Path:
        return self.plan.judge or nano_judge(self.data)

    @cached_property
    def questions(self) -> dict[str, QuestionSet]:
        """The questions that are asked aloud, by set."""
        start, asked = self.plan.start_from, self.plan.questions
        if start is None:
            manifest = self.data / "speech" / "dialogues.jsonl"
            tower = TowerFeatures(S2TConfig.from_pretrained(self.data / "s2t").audio_config)
            return {split: QuestionSet.of_manifest(manifest, split, limit, tower) for split, limit in asked.items()}
        tower = TowerFeatures(EchoXConfig.from_pretrained(start).s2t_config.audio_config)
        retokenizer = EchoXProcessor.from_pretrained(start).retokenizer
        kept = self.output / "questions"
        return {
            name: QuestionSet.of_task(self._task(name, limit), self.plan.system, tower, kept / name, retokenizer)
            for name, limit in asked.items()
        }

    @cached_property
    def typed(self) -> dict[str, QuestionSet]:
        """The questions that are asked in writing, by task."""
        return {
            name: QuestionSet.of_task(self._task(name, limit), self.plan.system)
            for name, limit in self.plan.typed.items()
        }

    def _task(self, name: str, limit: int) -> Sequence[EvalItem]:
        (task,) = open_tasks(name, self.tasks.get(name), limit)
        return task.items

    @property
    def items(self) -> dict[str, int]:
        """Numbers of questions and texts; results of different numbers are not mixed."""
        typed = {name + TYPED_SUFFIX: limit for name, limit in self.plan.typed.items()}
        return self.plan.questions | typed | {"utterances": self.plan.utterances}

    def known(self, name: str, job: Ablation, seed: int) -> JsonObject | None:
        """The result of a job that was measured before, under the same conditions; None: it was not.

        A result of an older form may lack a condition, which counts as the same.
        """
        record = self._record(name, seed)
        if not record.is_file():
            return None
        found: JsonObject = json.loads(record.read_text(encoding="utf-8"))
        now = {"items": lambda: self.items, "overrides": lambda: job.overrides}
        same = all(found[field] == value() for field, value in now.items() if field in found)
        kept = found.get("conditions", {})
        same = same and all(kept[field] == value() for field, value in self.conditions(job).items() if field in kept)
        return found if same else None

    def conditions(self, job: Ablation) -> dict[str, Callable[[], object]]:
        """What a result depends on beside its name, overrides and numbers of items, each found when it is called."""
        more, start = [*self.plan.stages[job.stage]["overrides"], *self.more], self.plan.start_from
        return {
            "more_overrides": lambda: more,
            "job": lambda: job.conditions,
            "judge": lambda: content_digest(self._judge),
            "start_from": lambda: start and content_digest(start),
            "questions": lambda: self._asked,
        }

    @cached_property
    def _asked(self) -> str:
        """A digest of what is asked and read."""
        start, asked = self.plan.start_from, self.plan.questions
        read: list[object] = [self.plan.system]
        if start is None:
            manifests = [("speech", "dialogues")] * bool(asked) + [("units", "replies")] * bool(self.plan.utterances)
            read += [content_digest(self.data / folder / f"{file}.jsonl") for folder, file in manifests]
        for name, limit in [*(asked.items() if start else ()), *self.plan.typed.items()]:
            read += [(one.digest, one.question, one.answers) for one in self._task(name, limit)]
        return digest_of(read)

    def _record(self, name: str, seed: int) -> Path:
        return self.output / "results" / f"{name}-s{seed}.json"

    def cost(self) -> JsonObject:
        """What is left to do, estimated: ``runs``, ``cpu_hours``, ``not_estimated`` (runs of unknown cost a step)."""
        left = [job for job in self.plan.jobs() if self.known(*job) is None]
        cpu_s, unknown = self.plan.measuring_cpu_s * len(left), set()
        for name, job, seed in left:
            if not job.train or job.folder:
                continue
            if job.cpu_s_per_step is None:
                unknown.add(name)
                continue
            recipe, overrides = self.recipe(name, job, seed, languages=False)
            cpu_s += job.cpu_s_per_step * load_recipe(recipe, overrides).training.steps
        return {"runs": len(left), "cpu_hours": round(cpu_s / 3600, 2), "not_estimated": sorted(unknown)}

    def run(self, name: str, job: Ablation, seed: int) -> JsonObject:
        """Train, measure and record one job, or read its record.

        Raises:
            ValueError: what was trained in its folder is of another recipe.
        """
        known = self.known(name, job, seed)
        if known is not None:
            return known
        print(f"== {name}, seed {seed}: {job.what}", flush=True)
        finished = job.folder and job.folder.replace("{start_from}", str(self.plan.start_from))
        folder = Path(finished) if finished else self.output / "runs" / f"{name}-s{seed}"
        path, overrides = self.recipe(name, job, seed)
        result: JsonObject = {
            "name": name,
            "seed": seed,
            "what": job.what,
            "overrides": job.overrides,
            "items": self.items,
            "conditions": {field: value() for field, value in self.conditions(job).items()},
        }
        if job.train and not job.folder:
            run_recipe(path, overrides)  # what is finished returns at once, and of another recipe is refused
        if (folder / RECORD_NAME).is_file():
            trained = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
            if "steps" in trained:  # a package has many stages
                cpu_s = trained["cost"]["cpu_s"]
                result |= {"steps": trained["steps"], "cpu_s": cpu_s, "cpu_s_per_step": cpu_s / trained["steps"]}
            result["commit"] = commit_text(trained["environment"])
        with torch.inference_mode():
            result |= self.measure(folder, load_recipe(path, overrides), job)
        record = self._record(name, seed)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(result, indent=1) + "\n")
        gc.collect()
        return result

    def recipe(self, name: str, job: Ablation, seed: int, languages: bool = True) -> tuple[Path, list[str]]:
        """A job's recipe file and all its overrides; ``languages`` also learns the unit language that it may need."""
        stage = self.plan.stages[job.stage]
        places = {"{runs}": str(self.output / "runs"), "{start_from}": str(self.plan.start_from)}
        chosen = [*stage["overrides"], *job.overrides]
        for name_of, place in places.items():
            chosen = [override.replace(name_of, place) for override in chosen]
        overrides = [
            *chosen,
            f"training.seed={seed}",
            f"training.output_dir={self.output / 'runs' / f'{name}-s{seed}'}",
            *self.more,
        ]
        if job.language is not None and languages:
            overrides.append(f"data.unit_language={self.unit_language(**job.language)}")
        return self.recipes / stage["recipe"], overrides

    def unit_language(self, kind: str, vocabulary_size: int) -> Path:
        """Folder of a unit language learned from the training units."""
        folder = self.output / "unit_languages" / f"{kind}-{vocabulary_size}"
        if not folder.is_dir():
            learn = {"unit_language": learn_unit_language, "bpe": learn_bpe_language}[kind]
            rows = [row for row in read_unit_utterances(self.data / "units" / "replies.jsonl") if row.split == "train"]
            segments = [segment for row in rows for segment in split_by_word(row.units, row.word_of_unit)]
            num_units = AutoUnitLanguage.from_pretrained(self.data / "unit_language").num_units
            learn(segments, num_units, vocabulary_size=vocabulary_size).save_pretrained(folder)
        return folder

    def measure(
        self, folder: Path, recipe: EchoRecipe | DirectUnitsRecipe | S2TRecipe | T2CRecipe, job: Ablation
    ) -> JsonObject:
        """Scores of a trained model, by its stage."""
        if isinstance(recipe, EchoRecipe):
            return self.measure_echo(folder, recipe, job)
        if isinstance(recipe, DirectUnitsRecipe):
            return self.measure_direct(folder, recipe)
        return self.measure_s2t(folder) if isinstance(recipe, S2TRecipe) else self.measure_t2c(folder, recipe)

    def measure_echo(self, folder: Path, recipe: EchoRecipe, job: Ablation) -> JsonObject:
        """Scores by set of questions; replies are spoken in segments, and also whole if the job says so."""
        parts = recipe.model
        t2c = load_t2c(parts.t2c).eval()
        if job.folder is not None:
            model, _ = load_folder(folder, torch.device("cpu"), torch.float32, None)
        elif (folder / RECORD_NAME).is_file():
            model = EchoXForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        else:
            model = join(load_s2t(parts.s2t), t2c, recipe)
        tokenizer, language = AutoTokenizer.from_pretrained(parts.s2t), AutoUnitLanguage.from_pretrained(parts.t2c)
        assert model.vocoder is not None, "an echo recipe names a vocoder"
        voice = UnitTranscriber(model.vocoder, self.judge)
        # Every model speaks in the segments of the shipped one; and whole, if the job says so.
        shipped = load_recipe(self.recipes / self.plan.stages["echo"]["recipe"]).trigger
        ways = {"segments": (shipped, 0)} | ({"whole": (NO_CUTS, 0)} if job.whole else {})
        if recipe.targets.context_words:
            ways["continued"] = (shipped, recipe.targets.context_words)
        scores: JsonObject = {
            way: {
                name: self._once(
                    f"{way}-{name}",
                    model,
                    questions,
                    partial(echo_scores, model.eval(), tokenizer, language, t2c, voice, questions, *cut),
                    model.config.to_json_string(),
                    fingerprint(t2c),
                )
                for name, questions in self.questions.items()
            }
            for way, cut in ways.items()
        }
        return scores | self.measure_writing(model.s2t, tokenizer, recipe)

    def measure_writing(
        self,
        s2t: S2TForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        recipe: EchoRecipe | DirectUnitsRecipe,
    ) -> JsonObject:
        """Answers to typed questions, and nats per token of the recipe's held-out replies; empty without a task."""
        if not self.plan.typed:
            return {}
        scores = {}
        for name, questions in self.typed.items():
            replies: list[str] = []
            for part in questions.parts(100):
                # Models whose language model was not trained write the same.
                write = partial(write_texts, s2t, tokenizer, part)
                replies += self._once(f"typed-{name}-{len(replies)}", s2t.language_model, part, write)
            scores[name] = typed_scores(questions, replies)
        found = [item for path in recipe.data.text for item in spoken_dialogues(path, None)]
        heldout = [item for item in found if item.dialogue.split != "train"]
        return {"typed": scores, "reply_nats": reply_loss(s2t, tokenizer, heldout)}

    def _once(
        self, what: str, model: nn.Module, questions: QuestionSet, measure: Callable[[], T], *details: object
    ) -> T:
        """What was measured of these weights, questions and details by the plan's judge; read from the output folder if
        it was measured before.
        """
        asked = [one.dialogue for one in questions.items]
        judge = content_digest(self._judge)
        key = fingerprint(model, judge, self.plan.system, asked, questions.answers, *details)
        file = self.output / "measured" / f"{what}-{key}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(measure(), indent=0))
        found: T = json.loads(file.read_text(encoding="utf-8"))
        return found

    def measure_direct(self, folder: Path, recipe: DirectUnitsRecipe) -> JsonObject:
        """Scores of a language model that writes units itself, by set of questions: aloud, and what it still writes."""
        writer, tokenizer = UnitWriter.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        language = AutoUnitLanguage.from_pretrained(folder)
        voice = UnitTranscriber(load_vocoder(self.plan.start_from or self.data / "vocoder"), self.judge)
        scores = {
            name: self._once(
                f"segments-{name}",
                writer,
                questions,
                partial(direct_scores, writer, tokenizer, language, voice, questions),
            )
            for name, questions in self.questions.items()
        }
        return {"segments": scores} | self.measure_writing(writer.s2t, tokenizer, recipe)

    def measure_s2t(self, folder: Path) -> JsonObject:
        """Scores by set of questions."""
        s2t = S2TForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return {"s2t": {name: s2t_scores(s2t, tokenizer, questions) for name, questions in self.questions.items()}}

    def measure_t2c(self, folder: Path, recipe: T2CRecipe) -> JsonObject:
        """Scores on held-out texts."""
        t2c = T2CForUnitGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        vocoder = load_vocoder(self.data / "vocoder")
        utterances = [row for row in read_unit_utterances(recipe.data.units) if row.split != "train"]
        tokenizer, language = AutoTokenizer.from_pretrained(folder), AutoUnitLanguage.from_pretrained(folder)
        voice = UnitTranscriber(vocoder, self.judge)
        return {"t2c": t2c_scores(t2c, tokenizer, language, voice, spread(utterances, self.plan.utterances))}


def _named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, found {text!r}")
    return name, Path(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m echox.evaluation.studies.ablations", description=__doc__)
    parser.add_argument("plan", type=Path, help="runs/ablations.yaml")
    parser.add_argument("overrides", nargs="*", help="for every training, for example training.steps=2")
    parser.add_argument("--data", type=Path, default=Path("out/nano"), help="outputs of runs/nano.sh")
    parser.add_argument("--start-from", help="a finished model, instead of the plan's")
    parser.add_argument("--judge", help="instead of the plan's")
    parser.add_argument(
        "--task", action="append", default=[], type=_named_path, help="NAME=PATH: where the questions of a task are"
    )
    parser.add_argument("--output", type=Path, default=Path("out/ablations"))
    parser.add_argument("--report", type=Path, help="folder for ablations.json and images/")
    parser.add_argument("--measured", action="store_true", help="train nothing: report the finished measurements")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: draw the report's ablations.json again")
    parser.add_argument("--cost", action="store_true", help="do nothing: print the estimated CPU-hours of what is left")
    parser.add_argument("--limit", type=int, help="questions and texts per set")
    parser.add_argument("--only", type=lambda names: names.split(","), help="names of runs, with commas")
    parser.add_argument("--seeds", type=int, help="at most this many per run")
    options = parser.parse_args(arguments)
    try:
        plan = Plan.read(options.plan)
        if options.limit is not None:
            plan.utterances = options.limit
            plan.questions = dict.fromkeys(plan.questions, options.limit)
            plan.typed = dict.fromkeys(plan.typed, options.limit)
        plan.start_from = options.start_from or plan.start_from
        plan.judge = options.judge or plan.judge
        if options.redraw:
            if options.report is None or not (options.report / RESULTS_FILE).is_file():
                raise ValueError(f"--redraw: expected --report, a folder with {RESULTS_FILE}, found {options.report}")
            known = json.loads((options.report / RESULTS_FILE).read_text(encoding="utf-8"))
            write_report(known, plan.rows, options.report, plan.tests)
            return 0
        unknown = [name for name in options.only or [] if name not in plan.runs]
        if unknown:
            raise ValueError(f"--only: expected some of {', '.join(plan.runs)}, found {', '.join(unknown)}")
        plan.runs = {name: run for name, run in plan.runs.items() if name in (options.only or plan.runs)}
        for run in plan.runs.values():
            run.seeds = min(run.seeds, options.seeds or run.seeds)
        recipes = options.plan.resolve().parent.parent
        tasks = dict(options.task)
        runner = AblationRunner(plan, recipes, options.data, options.output, options.overrides, tasks)
        if options.cost:
            print(json.dumps(runner.cost()))
            return 0
        jobs = [job for job in plan.jobs() if not options.measured or runner.known(*job) is not None]
        if not jobs:
            raise ValueError(f"--measured: expected finished measurements in {options.output}, found none: train first")
        results = [runner.run(*job) for job in jobs]
        if options.report is not None:
            options.report.mkdir(parents=True, exist_ok=True)
            write_text(options.report / RESULTS_FILE, json.dumps(results, indent=1) + "\n")
            write_report(results, plan.rows, options.report, plan.tests)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
