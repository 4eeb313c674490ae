"""Typed recipes: YAML files read into nested dataclasses, unknown keys refused, types checked.

A recipe names its stage (``stage: lm``); the stage's own file registers the dataclass::

    @recipe("lm")
    @dataclass
    class LMRecipe:
        stage: str
        data: LMData
        training: TrainingConfig
        def build(self) -> Stage: ...        # training stages; others have ``run()``

`load_recipe` imports that file by name (`STAGE_MODULES`), when a recipe of the stage is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import itertools
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from echox.files import JsonObject, write_text

STAGE_MODULES: dict[str, str] = {
    "corpus": "echox.data.corpora.nano.speech",
    "bilingual_corpus": "echox.data.corpora.bilingual",
    "prepare_data": "echox.preparation.prepare",
    "questions": "echox.preparation.conversations.questions",
    "invented_questions": "echox.preparation.conversations.questions",
    "replies": "echox.preparation.conversations.replies",
    "spoken_replies": "echox.preparation.conversations.speech",
    "tool_lessons": "echox.preparation.conversations.tool_lessons",
    "talk_lessons": "echox.preparation.conversations.talk_lessons",
    "phone_units": "echox.preparation.conversations.phone_units",
    "spoken_questions": "echox.preparation.conversations.speech",
    "encoder": "echox.training.stages.hearing.encoder",
    "units": "echox.training.stages.recordings.units",
    "unit_language": "echox.training.stages.recordings.units",
    "extract_units": "echox.training.stages.recordings.extract_units",
    "align": "echox.training.stages.recordings.align",
    "vocoder": "echox.training.stages.voice.vocoder",
    "vocoder_lookahead": "echox.training.stages.voice.vocoder_lookahead",
    "lm": "echox.training.stages.dialogue.lm",
    "language_model": "echox.training.stages.ready_parts",
    "recogniser": "echox.training.stages.ready_parts",
    "hearing": "echox.training.stages.hearing.hearing",
    "published_vocoder": "echox.training.stages.ready_parts",
    "s2t": "echox.training.stages.hearing.s2t",
    "instruct": "echox.training.stages.hearing.instruct",
    "t2c": "echox.training.stages.speaking.t2c",
    "echo": "echox.training.stages.speaking.echo",
    "direct_units": "echox.training.stages.speaking.direct_units",
    "package": "echox.training.stages.package",
    "turn_head": "echox.training.stages.hearing.turn_head",
    "talk_head": "echox.training.stages.hearing.talk_head",
    "interjections": "echox.training.stages.hearing.interjections",
}
"""Stage name -> the module whose import registers its recipe dataclass."""

MUST_CHOOSE = "???"
"""A value that the user must choose: loading a recipe fails until it is overridden."""

_RECIPES: dict[str, type] = {}
_T = TypeVar("_T", bound=type)


def recipe(stage: str) -> Callable[[_T], _T]:
    """Class decorator: register a dataclass as the recipe of `stage`."""

    def register(cls: _T) -> _T:
        if not dataclasses.is_dataclass(cls):
            raise ValueError(f"@recipe({stage!r}) expects a dataclass, found {cls!r}: put @dataclass under @recipe")
        _RECIPES[stage] = cls
        return cls

    return register


@dataclasses.dataclass
class TrainingConfig:
    """Settings of the training loop: the part that all training recipes share (field ``training:``).

    Attributes:
        output_dir: folder of the final model, the logs and ``checkpoints/``.
        steps: total number of optimizer steps.
        batch_size: items, or the sum of `Stage.lengths` per batch when ``batch_by: total_length``. Per process and
            per accumulation step.
        max_batch_tokens: also at most so many text tokens a batch, padding counted, in stages that count them
            (`Stage.token_lengths`).
        packing: several short sequences of a batch share a row of the language model and of the unit decoder, instead
            of padding (`models/packing.py`), in stages that can: "s2t", "t2c", "echo".
        learning_rates: peak learning rate by name of parameter group; all groups of the stage, and no others.
        warmup_steps: linear rise from 0. hold_ratio: fraction of `steps` (after the warm-up) at the peak.
        final_lr_ratio: learning rate of the last step, as a fraction of the peak.
        clip_norm: gradient norm limit (0 = none); clip_by_group: of each group separately.
        ema_decay: 0 = none; else evaluation, samples and the final model use the averaged weights.
        evaluation_device: where a process of its own evaluates checkpoints while the training goes on, as "cpu"
            (`training/evaluation.py`); None: the run evaluates, and processes without a part in that wait.
        *_every_steps: 0 = never (the last step always evaluates and saves).
        save_in_background: checkpoints are copied to memory, and written from there while the training goes on.
        resume: continue from the newest checkpoint in `output_dir`, if there is one; False: only when a launcher starts
            this run again.
        skip_damaged: continue from the newest undamaged checkpoint; else a damaged one stops the run with an error.
        threads: CPU threads of torch (None = leave as it is).
        workers: processes that read and collate batches; 0: a thread. prefetch_batches: how many they make ahead.
        tracker: "trackio" or "wandb" is told of every log entry too (`training/records/trackers.py`).
        peak_tflop_per_s: of each device in this precision, for `flops_utilisation` in the log; None: by a GPU's name.
        parallel: each of several processes holds all weights ("ddp"), a shard of every weight ("fsdp"), or a shard of
            what its machine holds whole ("hybrid").
        cpu_offload: keep sharded weights and optimizer states in CPU memory ("fsdp" and "hybrid" on GPUs).
        max_rollbacks: after a loss or gradient that is not finite, go back to the newest checkpoint and skip the
            batches since then, at most this many times; 0: stop the run.
        overfit_one_batch: train on the first batch only: the loss of a correct stage falls to nearly zero.
    """

    output_dir: str
    steps: int
    batch_size: float
    learning_rates: dict[str, float]
    batch_by: Literal["items", "total_length"] = "items"
    max_batch_tokens: int | None = None
    packing: bool = False
    accumulation_steps: int = 1
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    clip_by_group: bool = False
    warmup_steps: int = 100
    hold_ratio: float = 0.0
    final_lr_ratio: float = 0.01
    schedule: Literal["cosine", "linear"] = "cosine"
    precision: Literal["bf16", "fp32"] = "bf16"
    ema_decay: float = 0.0
    gradient_checkpointing: bool = False
    find_unused_parameters: bool = False
    log_every_steps: int = 50
    evaluate_every_steps: int = 0
    save_every_steps: int = 0
    sample_every_steps: int = 0
    evaluation_device: str | None = None
    keep_checkpoints: int = 2
    save_in_background: bool = False
    prefetch_batches: int = 2
    workers: int = 0
    tensorboard: bool = True
    tracker: str | None = None
    peak_tflop_per_s: float | None = None
    device: str = "auto"
    threads: int | None = None
    compile: bool = False
    resume: bool = True
    skip_damaged: bool = False
    parallel: Literal["ddp", "fsdp", "hybrid"] = "ddp"
    cpu_offload: bool = False
    max_rollbacks: int = 0
    overfit_one_batch: bool = False

    def __post_init__(self) -> None:
        """Raises: ValueError for a number outside its range."""
        for name in ("steps", "batch_size", "accumulation_steps", "log_every_steps", "keep_checkpoints"):
            if getattr(self, name) <= 0:
                raise ValueError(f"training.{name}: expected a positive number, found {getattr(self, name)}")
        for name in ("hold_ratio", "final_lr_ratio", "ema_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"training.{name}: expected a number from 0 to 1, found {getattr(self, name)}")
        for name in ("max_rollbacks", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name}: expected 0 or more, found {getattr(self, name)}")
        if self.max_batch_tokens is not None and self.max_batch_tokens <= 0:
            raise ValueError(f"training.max_batch_tokens: expected a positive number, found {self.max_batch_tokens}")
        if not self.learning_rates or any(not rate >= 0 for rate in self.learning_rates.values()):
            raise ValueError(f"training.learning_rates: expected group: rate, found {self.learning_rates}")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Any:  # the dataclass of whatever stage it names
    """Read a recipe file, apply ``a.b=value`` overrides (values are YAML), build and check its dataclass.

    Raises:
        ValueError: no such file, not YAML, an unknown stage or key (with the nearest known one), a missing or
            ``???`` value, a value of the wrong type, an override that is not ``key=value``.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot read the recipe ({error.strerror}); expected a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected YAML, found: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not isinstance(values.get("stage"), str):
        raise ValueError(f"{path}: expected a mapping with a key 'stage', one of {', '.join(STAGE_MODULES)}")
    for override in overrides:
        _apply_override(values, override)
    return _build(recipe_class(values["stage"], str(path)), values, where=str(path), key="")


def recipe_class(stage: str, where: str = "recipe") -> type:
    """The dataclass registered for a stage; imports the stage's module when needed."""
    if stage not in _RECIPES and stage in STAGE_MODULES:
        importlib.import_module(STAGE_MODULES[stage])
    if stage not in _RECIPES:
        raise ValueError(
            f"{where}: unknown stage {stage!r}{_did_you_mean(str(stage), STAGE_MODULES)}; "
            f"expected one of {', '.join(STAGE_MODULES)}"
        )
    return _RECIPES[stage]


def to_dict(value: object) -> Any:
    """A recipe as plain dicts, lists and scalars (what YAML and JSON hold)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def changed_settings(saved: JsonObject, current: JsonObject) -> dict[str, tuple[object, object]]:
    """Settings of two recipes of one stage, as plain dicts, that differ: dotted key -> its value then, and now.

    A setting that the saved recipe lacks is newer than it, and had its default value; one that the stage has no more is
    left out. Mappings whose keys are free (learning rates, options) are one setting, and so is a part that is not used.
    """
    stage, now = str(current.get("stage")), json.loads(json.dumps(current))
    if stage in _RECIPES or stage in STAGE_MODULES:
        return dict(_changed(recipe_class(stage), saved, now, ""))
    parts = {"training": TrainingConfig}  # of a stage that is registered nowhere
    found = (_changed(parts.get(name), saved[name], now[name], name) for name in now.keys() & saved.keys())
    return dict(itertools.chain.from_iterable(found))


def _changed(cls: type | None, saved: object, current: object, key: str) -> Iterator[tuple[str, tuple[object, object]]]:
    if cls is None or not isinstance(saved, dict) or not isinstance(current, dict):
        if saved != current:
            yield key, (saved, current)
        return
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = field.name
        if name not in current:
            continue
        if name in saved:
            yield from _changed(_part(hints[name]), saved[name], current[name], _join(key, name))
        elif field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING:
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            yield from _changed(None, json.loads(json.dumps(to_dict(default))), current[name], _join(key, name))


def _part(hint: object) -> type | None:
    """The dataclass of a part of a recipe, which may be optional; None: it is no such part, or one of several."""
    options = [one for one in (typing.get_args(hint) or (hint,)) if dataclasses.is_dataclass(one)]
    return typing.cast(type, options[0]) if len(options) == 1 else None


def dump_recipe(value: object, path: str | Path) -> None:
    """Write a resolved recipe; `load_recipe` reads it back."""
    write_text(path, yaml.safe_dump(to_dict(value), sort_keys=False, allow_unicode=True))


def _apply_override(values: JsonObject, override: str) -> None:
    dotted, separator, text = override.partition("=")
    if not separator or not all(dotted.split(".")):
        raise ValueError(f"override {override!r}: expected key=value, for example training.steps=100")
    *parents, last = dotted.split(".")
    node = values
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ValueError(f"override {override!r}: {parent!r} holds {node!r}, expected a mapping")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not YAML: {' '.join(str(error).split())}") from error


def _build(cls: type, values: object, where: str, key: str) -> Any:
    """Dataclass `cls` from a mapping; `key` is the dotted path of that mapping in the file."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {key or 'recipe'}: expected a mapping, found {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in values:
        if name not in fields:
            raise ValueError(
                f"{where}: unknown key {_join(key, name)!r}{_did_you_mean(str(name), fields)}; "
                f"expected one of {', '.join(fields)}"
            )
    built = {}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name in values:
            built[name] = _convert(hints[name], values[name], where, _join(key, name))
        elif required and dataclasses.is_dataclass(hints[name]):
            built[name] = _build(typing.cast(type, hints[name]), {}, where, _join(key, name))
        elif required:
            raise ValueError(
                f"{where}: missing key {_join(key, name)!r}; set it in the file or as {_join(key, name)}=..."
            )
    try:
        return cls(**built)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _convert(hint: Any, value: object, where: str, key: str) -> Any:
    """`value` (from YAML) as type `hint`, or a ValueError naming file and key."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    wrong = ValueError(f"{where}: {key}: expected {_spell(hint)}, found {value!r}")
    if isinstance(value, str) and value == MUST_CHOOSE:
        raise ValueError(f"{where}: {key} must be chosen: add {key}=... to the command (expected {_spell(hint)})")
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in (option for option in arguments if option is not type(None)):
            try:
                return _convert(option, value, where, key)
            except ValueError as error:
                wrong = error if len(arguments) == 2 else wrong
        raise wrong
    if origin is Literal:
        if value not in arguments:
            raise wrong
        return value
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where, key)
    if hint in (dict, list, tuple) or origin in (dict, list, tuple):
        return _convert_container(origin or hint, arguments, value, where, key, wrong)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, float) and not isinstance(value, bool):
        return _number(hint, value, wrong)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise wrong


def _convert_container(
    kind: type, arguments: tuple[Any, ...], value: object, where: str, key: str, wrong: ValueError
) -> Any:
    if kind is dict:
        if not isinstance(value, dict):
            raise wrong
        item_hint = arguments[1] if arguments else Any
        return {str(name): _convert(item_hint, item, where, _join(key, str(name))) for name, item in value.items()}
    if not isinstance(value, list):
        raise wrong
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise wrong
        hints: Sequence[object] = arguments
    else:
        hints = [arguments[0] if arguments else Any] * len(value)
    return kind(
        _convert(hint, item, where, f"{key}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _number(hint: type, value: Any, wrong: ValueError) -> int | float:
    """A number, also one that YAML 1.1 reads as a string, such as ``2e-3``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise wrong from None
    if hint is float:
        return number
    if not math.isfinite(number) or number != int(number):
        raise wrong
    return int(number)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _spell(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
