"""What stage III costs: pseudo-labels of more or fewer batches together, a teacher beside the training, packed rows.

    python benchmarks/stage_three.py
    python benchmarks/stage_three.py --steps 4 --batch-size 2 --rows 2 8

The bundled nano is trained further by the stage itself, with a new LoRA, on typed dialogues of its small world, without
a cache of labels; its echo decoder, reading text embeddings, is the teacher. CPU seconds are the process's, all threads
counted; `waited_s` is the time that a step waited for labels, by the clock. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from harness import Measured, run

from echox.api.loading import find_model, load_folder
from echox.config import load_recipe, to_dict
from echox.data.corpora.nano.world import build_dialogues
from echox.data.manifest import write_dialogues
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.text.text_embeddings import text_embedding_table
from echox.training.batches.stream import seed_everything
from echox.training.loop import train
from echox.training.networks.lora import LoRASettings, add_lora, merged_state_dict, save_lora
from echox.training.stages.speaking.echo import EchoRecipe, EchoStage
from echox.training.stages.speaking.echo_teacher import OnlineTargets

RECIPE = Path(__file__).parent.parent / "recipes" / "nano" / "echo.yaml"
CASES: dict[str, dict[str, Any]] = {
    "each step": {},
    "8 steps together": {"steps_together": 8},
    "8 steps together, ahead": {"steps_together": 8, "ahead": True},
    "each step, packed": {"packing": True},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=24, help="that count, of each case")
    parser.add_argument("--batch-size", type=int, default=4, help="dialogues of a step, as a process of 3B has")
    parser.add_argument("--dialogues", type=int, default=400)
    parser.add_argument("--rows", nargs="+", type=int, default=[4, 12, 32, 128], help="segments decoded at a time")


def write_parts(folder: Path, dialogues: int) -> None:
    """Folders ``s2t`` and ``t2c`` of the bundled nano, and typed dialogues."""
    model, _ = load_folder(find_model("nano"), torch.device("cpu"), torch.float32, None)[:2]
    processor = EchoXProcessor.from_pretrained(find_model("nano"))
    teacher = T2CForUnitGeneration(model.echo_decoder.config)
    teacher.decoder.load_state_dict(model.echo_decoder.state_dict())
    teacher.copy_text_embedding(text_embedding_table(model.s2t.get_input_embeddings()))
    teacher.save_pretrained(folder / "t2c")
    processor.unit_language.save_pretrained(folder / "t2c")
    settings = LoRASettings(r=8, alpha=16, dropout=0.0)
    add_lora(model.s2t.language_model, settings)
    model.s2t.save_pretrained(folder / "s2t", state_dict=merged_state_dict(model.s2t))
    save_lora(model.s2t, settings, folder / "s2t")
    processor.tokenizer.save_pretrained(folder / "s2t")
    found = [item for item in build_dialogues() if item.split == "train"]
    write_dialogues(folder / "dialogues.jsonl", random.Random(0).sample(found, min(dialogues, len(found))))


def recipe_of(folder: Path, options: argparse.Namespace, case: dict[str, Any]) -> EchoRecipe:
    recipe: EchoRecipe = load_recipe(RECIPE)
    targets = {name: value for name, value in case.items() if name != "packing"}
    training = replace(
        recipe.training,
        output_dir=str(folder / "echo"),
        steps=options.steps,
        batch_size=options.batch_size,
        packing=case.get("packing", False),
        log_every_steps=1,
        evaluate_every_steps=0,
        sample_every_steps=0,
        save_every_steps=0,
        tensorboard=False,
        device="cpu",
        resume=False,
    )
    return replace(
        recipe,
        data=replace(recipe.data, speech=[], text=[str(folder / "dialogues.jsonl")], audio_fraction=0.0),
        model=replace(recipe.model, s2t=str(folder / "s2t"), t2c=str(folder / "t2c"), vocoder=None),
        targets=replace(recipe.targets, remember=0, allow_silence=True, **targets),
        training=training,
    )


def cost_of_training(folder: Path, options: argparse.Namespace, case: dict[str, Any]) -> dict[str, float]:
    """A whole run: CPU and clock seconds a step, what was waited for labels, padding, words that are still said."""
    recipe = recipe_of(folder, options, case)
    seed_everything(0)
    stage = recipe.build()
    began_core_s, began_s = time.process_time(), time.perf_counter()
    with redirect_stdout(StringIO()):
        train(stage, recipe.training, to_dict(recipe))
    spent_core_s, spent_s = time.process_time() - began_core_s, time.perf_counter() - began_s
    lines = (folder / "echo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    log = [entry for entry in map(json.loads, lines) if entry["kind"] == "train"]
    shares = [name for name in log[0] if name.endswith("padding_share")]
    named = {"waited_s": "target_s", "segments": "segments", "still_said": "still_said"} | {
        name: name for name in shares
    }
    figures = {name: mean(entry[key] for entry in log) for name, key in named.items() if key in log[0]}
    return {"step_core_s": spent_core_s / options.steps, "step_s": spent_s / options.steps, **figures}


def cost_of_rows(stage: EchoStage, rows: list[int]) -> dict[str, float]:
    """CPU milliseconds a segment of the teacher's decoding, by how many it decodes at a time."""
    objective = stage.objective.eval()
    items = list(stage.train_items)
    batches = []
    with torch.no_grad():
        for start in range(0, 128, 16):
            batch = stage._batch(items[start : start + 16], None)
            batches.append(objective(batch, prepare=True))
    found = {}
    for count in rows:
        targets = objective.targets
        assert isinstance(targets, OnlineTargets)
        targets.rows_together = count
        began_s = time.process_time()
        made = targets.begin([(batch["said"].segments, batch) for batch in batches])()
        labelled = sum(len(segments) for segments, _, _ in made)
        found[str(count)] = 1000 * (time.process_time() - began_s) / labelled
    return found


def measure(options: argparse.Namespace) -> Measured:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parts(folder, options.dialogues)
        figures: dict[str, Any] = {
            "segment_core_ms": cost_of_rows(recipe_of(folder, options, {}).build(), options.rows)
        }
        print(figures, flush=True)
        for case, settings in CASES.items():
            figures[case] = cost_of_training(folder, options, settings)
            print(case, figures[case], flush=True)
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
