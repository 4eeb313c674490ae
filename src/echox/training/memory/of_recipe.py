"""The `Workload` of a recipe, read from the recipe and the files that it names.

The type of the frozen language model is not in the recipes of stages "s2t" and "echo": it is that of the folder they
read, or, if that does not exist yet, the type that the recipe beside it will write. So is whether stage "s2t" begins
with a CTC head that has been trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from echox.config import TrainingConfig, load_recipe
from echox.data.features.corpus_features import MEL_FRAMES_PER_S
from echox.files import JsonObject
from echox.models.echox.configuration_echox import SpeechEncoderConfig
from echox.training.memory.estimate import BYTES, KEPT_AT_FIRST_PER_S, STAGES, Workload
from echox.training.networks.lora import SETTINGS_FILE, base_dtype_of
from echox.training.stages.dialogue.dialogue_sources import SPOKEN_FRAMES_PER_WORD
from echox.training.stages.hearing.s2t import S2TRecipe
from echox.training.stages.ready_parts import LanguageModelRecipe
from echox.training.stages.speaking.echo import EchoRecipe


def workload_of(path: str | Path, overrides: Sequence[str], work: Workload) -> tuple[str, Workload]:
    """Stage and workload of a recipe with overrides.

    Args:
        path: recipe of one of `STAGES`.
        overrides: ``key=value``, as for ``echox run``.
        work: values that are not in a recipe: positions, seconds of audio, processes.

    Raises:
        ValueError: no recipe, or one of a stage that has no estimate.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a recipe, found none")
    recipe = load_recipe(path, overrides)
    if recipe.stage not in STAGES:
        raise ValueError(f"{path}: expected a recipe of one of the stages {', '.join(STAGES)}, found {recipe.stage!r}")
    training = recipe.training
    values: JsonObject = {
        "precision": training.precision,
        "gradient_checkpointing": training.gradient_checkpointing,
        "ema": bool(training.ema_decay),
        "parallel": training.parallel,
        "cpu_offload": training.cpu_offload,
        "frozen_dtype": frozen_dtype(recipe, path.parent),
    }
    rows = int(training.batch_size) if training.batch_by == "items" else rows_of_length(recipe.stage, training, work)
    values |= {"batch_size": rows, "audios": 0}
    if recipe.stage in ("s2t", "echo"):
        values["lora_rank"] = lora_rank(recipe, path.parent)
    if begins_with_new_head(recipe, path.parent):
        kept = round(KEPT_AT_FIRST_PER_S * work.audio_s)
        values |= {"kept_frames": kept, "tokens": work.tokens - work.kept_frames + kept}
    model = recipe.model if isinstance(recipe.model, dict) else vars(recipe.model)
    if model.get("attn_implementation"):
        values["attention"] = model["attn_implementation"]
    return recipe.stage, replace(work, **values)


def rows_of_length(stage: str, training: TrainingConfig, work: Workload) -> int:
    """Rows like that of `work` in a batch that is limited by total length, as `Stage.lengths` counts; at least one."""
    frames = MEL_FRAMES_PER_S * work.audio_s
    length = {
        "lm": work.tokens,
        "encoder": frames,
        "s2t": frames,
        "t2c": work.unit_words + work.words,
        "echo": frames + SPOKEN_FRAMES_PER_WORD * work.words,
    }[stage]
    limits = [training.batch_size / length]
    if training.max_batch_tokens is not None:
        limits.append(training.max_batch_tokens / max(1, work.tokens - work.kept_frames))
    return max(1, int(min(limits)))


def frozen_dtype(recipe: object, beside: Path) -> str:
    """Type of the frozen language model of stages s2t and echo; other stages have float32 weights."""
    if isinstance(recipe, EchoRecipe):
        found = base_dtype_of(recipe.model.s2t)
        if found is not None:
            return found
        s2t = _s2t_recipe(recipe, beside)
        return frozen_dtype(s2t, beside) if s2t is not None else "float32"
    if not isinstance(recipe, S2TRecipe) or recipe.model.start_from is not None:
        return "float32"
    config = Path(recipe.model.language_model) / "config.json"
    if config.is_file():
        stored = json.loads(config.read_text(encoding="utf-8"))
        found = str(stored.get("dtype") or stored.get("torch_dtype") or "float32")
        return found if found in BYTES else "float32"
    ready = _recipe_in(beside / "language_model.yaml")
    if isinstance(ready, LanguageModelRecipe) and Path(ready.output_dir) == Path(recipe.model.language_model):
        return ready.dtype
    return "float32"


def begins_with_new_head(recipe: object, beside: Path) -> bool:
    """Whether the CTC head of stage s2t is untrained, so that the language model reads many frames at first."""
    if not isinstance(recipe, S2TRecipe) or recipe.model.start_from is not None or recipe.model.aligner != "ctc":
        return False
    encoder = Path(recipe.model.speech_encoder)
    if recipe.model.fresh_adapters:
        return True
    if (encoder / "config.json").is_file():
        kind = json.loads((encoder / "config.json").read_text(encoding="utf-8")).get("model_type")
        return bool(kind != SpeechEncoderConfig.model_type)
    others = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in beside.glob("*.yaml")]
    encoders = [one for one in others if isinstance(one, dict) and one.get("stage") == "encoder"]
    return not any(Path(one["training"]["output_dir"]) == encoder for one in encoders)


def lora_rank(recipe: object, beside: Path) -> int:
    """Rank of the LoRA that stage s2t adds and stage echo continues; 0: none."""
    if isinstance(recipe, S2TRecipe):
        return recipe.lora.r
    if not isinstance(recipe, EchoRecipe) or not recipe.model.train_lora:
        return 0
    settings = Path(recipe.model.s2t) / SETTINGS_FILE
    if settings.is_file():
        return int(json.loads(settings.read_text(encoding="utf-8"))["r"])
    s2t = _s2t_recipe(recipe, beside)
    return s2t.lora.r if s2t is not None else Workload().lora_rank


def _s2t_recipe(recipe: EchoRecipe, beside: Path) -> S2TRecipe | None:
    """The recipe in the same folder that will write the S2T of an echo recipe, if there is one."""
    other = _recipe_in(beside / "s2t.yaml")
    if isinstance(other, S2TRecipe) and Path(other.training.output_dir) == Path(recipe.model.s2t):
        return other
    return None


def _recipe_in(path: Path) -> object | None:
    return load_recipe(path) if path.is_file() else None
