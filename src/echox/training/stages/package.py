"""Stage "package": the trained model as one small folder for distribution.

Nothing is trained. The echo stage's model (its LoRA merged, as that stage saves it), the vocoder, the
processor and the unit language are stored in few bits, checked, and written as one folder that
``EchoX.from_pretrained`` loads, with the records of all stages in ``training_record.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from echox.api import EchoX
from echox.api.about import About
from echox.api.loading import HEADS, load_folder, training_record
from echox.config import dump_recipe, recipe, to_dict
from echox.files import JsonObject, folder_bytes
from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.turns.conversation_adapters import load_adapters
from echox.models.turns.sequence_head import SequenceHead
from echox.models.turns.talk_head import TalkHead
from echox.models.turns.turn_head import TurnHead
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.vocoder.auto import AutoUnitVocoder
from echox.streaming import GenerationSettings
from echox.streaming.reply_text.trigger import Trigger
from echox.training.networks.lora import lora_beside
from echox.training.records.record import RECORD_NAME, environment
from echox.training.stages.dialogue.continued import check_same_embeddings, load_s2t

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}


@dataclass
class PackageParts:
    """Where the parts are.

    Attributes:
        echo: output of the echo stage, or of this one. Its turn head is kept, unless `s2t` replaces
            what it judges by.
        s2t: output of a stage "s2t" that continued the S2T inside `echo` (``model.start_from``); it replaces that one.
            None: the one inside `echo`. A chat template with tools (stage "instruct") comes with it.
        tool_adapter: output of a stage "instruct" that taught the S2T inside `echo` to call tools. What it learned is
            kept beside the weights, for conversations with tools only, and its chat template comes with it; None: the
            one inside `echo`, if it has one and `s2t` does not replace what it belongs to.
        talk_adapter: likewise of one that taught it to talk, for conversations without tools.
        vocoder: folder of a unit vocoder; None: the one inside `echo`.
        unit_language: folder; None: the one inside `echo`.
        records: folders of the stages whose ``training_record.json`` is included, in order; of a package, those that
            it includes.
    """

    echo: str
    s2t: str | None = None
    tool_adapter: str | None = None
    talk_adapter: str | None = None
    vocoder: str | None = None
    unit_language: str | None = None
    records: list[str] = field(default_factory=list)


@recipe("package")
@dataclass
class PackageRecipe:
    """The recipe of this stage.

    Attributes:
        name: of the model, for its card; None: that of the output folder.
        trigger: when a segment may be spoken; None: as the echo stage was trained.
        system_prompt: of conversations that have none of their own; None: none.
        generation: default settings of writing and speaking.
        about: the text about the model that pages show before the first question.
        published_parts: a ``parts.json`` (`api/parts.py`): weights that those parts hold are left out;
            None: the folder holds all weights.
        max_megabytes: of all files together (1 MB = 10^6 bytes); a larger package is refused.
    """

    stage: str
    parts: PackageParts
    output_dir: str
    name: str | None = None
    trigger: Trigger | None = None
    system_prompt: str | None = None
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    about: About = field(default_factory=About)
    dtype: str = "float16"
    published_parts: str | None = None
    max_megabytes: float = 25.0

    def run(self) -> JsonObject:
        """Write the folder; returns its size and the number of parameters.

        Raises:
            ValueError: a part is missing or does not fit, weights that half precision cannot hold, too large a package.
        """
        return write_package(self)


def write_package(settings: PackageRecipe) -> JsonObject:
    """See :meth:`PackageRecipe.run`. The folder is written whole or not at all."""
    if settings.dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, found {settings.dtype!r}")
    records = [record for folder in settings.parts.records for record in _read_records(Path(folder))]
    model = _assemble(settings)
    dtype = DTYPES[settings.dtype]
    _check_range(model, dtype)
    processor = EchoXProcessor.from_pretrained(settings.parts.echo)
    if settings.parts.unit_language is not None:
        processor.unit_language = AutoUnitLanguage.from_pretrained(settings.parts.unit_language)
    parts, head, talk_head, adapters = settings.parts, None, None, {}
    apart = {"talk": parts.talk_adapter, "tools": parts.tool_adapter}
    learned = {kind: folder for kind, folder in apart.items() if folder is not None}
    if parts.s2t is not None and learned:
        raise ValueError(
            f"parts: expected s2t or adapters, found both ({parts.s2t}, {', '.join(learned.values())}): an adapter "
            "belongs to the weights that it was trained on, those inside parts.echo"
        )
    if parts.s2t is None:
        width = model.s2t.config.hidden_size
        head, talk_head = TurnHead.load(Path(parts.echo), width), TalkHead.load(Path(parts.echo), width)
        adapters = load_adapters(Path(parts.echo), model.s2t.language_model)
    for kind, folder in learned.items():
        adapters[kind] = lora_beside(folder)
        adapters[kind].check(model.s2t.language_model)
    if (taught := parts.tool_adapter or parts.s2t) is not None:
        template = EchoXProcessor.from_pretrained(taught).tokenizer.chat_template
        processor.tokenizer.chat_template = processor.chat_template = template
    parameters = sum(value.numel() for value in model.parameters())
    record = {
        "stage": settings.stage,
        "recipe": to_dict(settings),
        "environment": environment(),
        "parameters": parameters,
        "parameters_by_part": {
            name: sum(value.numel() for value in part.parameters()) for name, part in model.parts().items()
        },
        "stages": records,
        HEADS: _head_records(Path(parts.echo), [one for one in (head, talk_head) if one is not None]),
    }
    final = Path(settings.output_dir)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        EchoX(model, processor, settings.generation, record, settings.about, head, adapters, talk_head).save_pretrained(
            partial, dtype=dtype, card={"name": settings.name or final.name}, parts=settings.published_parts
        )
        dump_recipe(settings, partial / "recipe.yaml")
        size_mb = folder_bytes(partial) / 1e6
        if size_mb > settings.max_megabytes:
            shares = ", ".join(f"{name} {count / 1e6:.1f}M" for name, count in record["parameters_by_part"].items())
            raise ValueError(
                f"{final}: expected at most {settings.max_megabytes:g} MB, found {size_mb:.1f} MB (parameters: "
                f"{shares}); use smaller parts or raise max_megabytes"
            )
        EchoX.from_pretrained(partial, device="cpu")  # before it replaces an older package: it must load
        _swap(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return {"megabytes": round(size_mb, 3), "parameters": parameters}


def _assemble(settings: PackageRecipe) -> EchoXForConditionalGeneration:
    """The whole model in float32, with its vocoder and the trigger's numbers."""
    folder = Path(settings.parts.echo)
    config = EchoXConfig.from_pretrained(folder)
    if config.vocoder_config is None and settings.parts.vocoder is None:
        raise ValueError(f"{folder}: expected a vocoder inside or in parts.vocoder, found neither; name its folder")
    model, _ = load_folder(folder, torch.device("cpu"), torch.float32, None)
    if settings.parts.s2t is not None:
        continued = load_s2t(settings.parts.s2t)
        check_same_embeddings(continued, model.s2t, settings.parts.s2t)
        model.s2t = continued
        model.config.s2t_config = continued.config
    if settings.parts.vocoder is not None:
        model.vocoder = AutoUnitVocoder.from_pretrained(settings.parts.vocoder, dtype=torch.float32)
        model.config.vocoder_config = model.vocoder.config
    if settings.trigger is not None:
        for name in ("min_tokens", "max_tokens", "lookahead_tokens", "threshold"):
            setattr(model.config, f"trigger_{name}", getattr(settings.trigger, name))
    model.config.system_prompt = settings.system_prompt
    return model.eval()


def _check_range(model: torch.nn.Module, dtype: torch.dtype) -> None:
    if dtype == torch.int8:
        return  # a scale per row represents any finite weight; storing checks that they are finite
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value.to(dtype)).all()):
            raise ValueError(
                f"{name}: expected weights that {dtype} can hold, found {float(value.abs().max()):g}; "
                "choose dtype: bfloat16 or float32"
            )


def _read_records(folder: Path) -> list[JsonObject]:
    path = folder / RECORD_NAME
    try:
        record: JsonObject = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected the record of a finished stage, found {error}; run the stage") from error
    stages: list[JsonObject] | None = record.get("stages")
    return [record] if stages is None else stages


def _head_records(folder: Path, heads: Sequence[SequenceHead]) -> JsonObject:
    """Those of the heads of a model folder that are kept, as far as it has records of them."""
    known = (training_record(folder) or {}).get(HEADS, {})
    stages = [Path(head.file).stem for head in heads]
    return {stage: known[stage] for stage in stages if stage in known}


def _swap(new: Path, final: Path) -> None:
    """Replace a folder by another; a kill in between leaves the old one as ``.<name>.old``."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.replace(old)
    new.replace(final)
    shutil.rmtree(old, ignore_errors=True)
