"""Finds and reads the files of a model: the embedded model, a folder, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from echox.errors import reason
from echox.files import JsonObject, json_object
from echox.models.quantization.group_int4 import from_group_int4, held_in_int4
from echox.models.quantization.low_bits import loading_options
from echox.models.quantization.stored import holds_group_int4, read_weights
from echox.process_memory import release_free_memory

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from echox.api.parts import Part
    from echox.models.echox.configuration_echox import EchoXConfig
    from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
    from echox.models.echox.processing_echox import EchoXProcessor

EMBEDDED_MODEL = "nano"
EMBEDDED_MODELS = (EMBEDDED_MODEL, "mini")
"""Models inside this package: complete, or over published parts (`parts.json`, requirements/mini.txt)."""
TRAINING_RECORD_FILE = "training_record.json"
WEIGHTS_FILE = "model.safetensors"
HEADS = "heads"
"""In a training record: those of the heads beside the weights, by stage."""


def find_model(folder_or_id: str | Path | None = None, **hub: Any) -> Path:
    """The folder of a model: a local one, that of the embedded model, or a snapshot from the hub.

    Args:
        folder_or_id: see `EchoX.from_pretrained`.
        **hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download`` of a hub id.

    Raises:
        ValueError: there is no such model.
    """
    name = str(folder_or_id or EMBEDDED_MODEL)
    path = Path(name).expanduser()  # MODEL=~/model of make is not expanded by every shell
    if folder_or_id is None or folder_or_id in EMBEDDED_MODELS:  # a folder of that name: "./nano" or Path("nano")
        path = embedded_folder(name)
        if not (path / "config.json").is_file():
            raise ValueError(
                f"expected the embedded model in {path}, found none; train it (runs/{name}.sh) or name a model folder"
            )
        return path
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(
                f"{path}: expected a model folder, found no config.json in it; name the folder that holds it"
            )
        return path
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(f"{name}: expected a model folder, a hub id (owner/name) or 'nano', found no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, **hub))
    except Exception as error:  # a lost connection and a proxy that refuses have many kinds of exceptions
        raise ValueError(f"{name}: expected a model folder or a hub id, found neither ({reason(error)})") from error


def embedded_folder(name: str) -> Path:
    """Where the embedded model of this name is, or would be."""
    return Path(str(files("echox") / "assets" / name))


def best_embedded() -> str:
    """The largest embedded model whose parts are all installed: the default of what people talk to."""
    for name in reversed(EMBEDDED_MODELS[1:]):
        if (embedded_folder(name) / "config.json").is_file() and not missing_parts(name):
            return name
    return EMBEDDED_MODEL


def missing_parts(name: str) -> list[str]:
    """What pip would have to install for an embedded model: its parts' packages that are not there."""
    from echox.api.parts import installed_folder, read_parts

    parts = read_parts(embedded_folder(name))
    return [part.requirement for part in parts if installed_folder(part.package) is None]


def bundled_questions() -> list[Path]:
    """The spoken questions that come with the package.

    Raises:
        ValueError: there is none.
    """
    folder = Path(str(files("echox") / "assets" / "questions"))
    found = sorted(folder.glob("*.wav"))
    if not found:
        raise ValueError(f"expected a bundled question in {folder}, found none; name an audio file")
    return found


def training_record(folder: Path) -> JsonObject | None:
    """The training record of a model folder; None: it has none.

    Raises:
        ValueError: it is no JSON object.
    """
    path = folder / TRAINING_RECORD_FILE
    return json_object(path, "copy the model folder again") if path.is_file() else None


def load_folder(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    quantization_config: QuantizationConfigMixin | None,
    in_int4: bool = False,
) -> tuple[EchoXForConditionalGeneration, EchoXProcessor]:
    """Model and processor of a folder of this package; see `EchoX.from_pretrained`.

    Args:
        folder: of the model.
        device: where it is to be.
        dtype: of weights in memory; None: as stored.
        quantization_config: of transformers; None: none.
        in_int4: weights of the folder or its parts that are in 4 bits stay so; else they become floats.

    Raises:
        ValueError: a part is missing or damaged, or the quantisation is not possible here.
    """
    from echox.api.parts import read_parts
    from echox.models.conversion.foreign_folder import check_folder
    from echox.models.echox.configuration_echox import EchoXConfig
    from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
    from echox.models.echox.processing_echox import EchoXProcessor
    from echox.models.pretrained import from_weights, load_with_report

    options = loading_options(quantization_config, device)
    check_folder(folder)  # transformers would follow its paths anywhere
    with _broken_means(folder, device, quantization_config):
        config = EchoXConfig.from_pretrained(folder)
    parts, in_int4 = read_parts(folder), in_int4 and quantization_config is None  # whose layers take floats
    packed = bool(parts) or holds_group_int4(folder / WEIGHTS_FILE)
    weights = joined_state(folder, parts, config, in_int4) if packed else None
    with _broken_means(folder, device, quantization_config):
        if dtype is not None:  # else a language model whose own config has a dtype keeps it
            config.s2t_config.text_config.dtype = dtype
        kind = EchoXForConditionalGeneration
        if weights is not None and parts and quantization_config is None:
            stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
            model, found = from_weights(kind, config, weights, dtype or stored, in_int4=held_in_int4(weights))
        else:
            options |= {} if weights is None else {"state_dict": weights}
            model, found = load_with_report(
                kind, folder, config=config, dtype=dtype or "auto", use_safetensors=True, **options
            )
        processor = EchoXProcessor.from_pretrained(folder)
    _check_loaded(folder, found)
    if weights is not None:
        release_free_memory()  # of files that were read: 60 MB of holes
    return (model if quantization_config is not None else model.to(device)), processor


@contextmanager
def _broken_means(
    folder: Path, device: torch.device, quantization_config: QuantizationConfigMixin | None
) -> Iterator[None]:
    """What transformers raises for a folder that is no whole model, as one error of ours."""
    try:
        yield
    except _BROKEN_FOLDER as error:
        found = reason(error, 1000)
        if quantization_config is not None:
            raise ValueError(
                f"{folder}: expected to load it with {type(quantization_config).__name__} on {device}, found: "
                f"{found}; install what it needs, or load it as dtype=torch.bfloat16, on a CPU dtype=torch.int8"
            ) from error
        raise ValueError(f"{folder}: expected a whole EchoX model, found: {found}; copy the folder again") from error


def joined_state(folder: Path, parts: list[Part], config: EchoXConfig, in_int4: bool) -> dict[str, Tensor]:
    """The weights of a folder and of the parts that it stands on.

    Raises:
        ValueError: a part is missing or damaged.
    """
    from echox.api.parts import with_parts

    state = with_parts(read_weights(folder / WEIGHTS_FILE), parts, config)
    return state if in_int4 else from_group_int4(state)


_BROKEN_FOLDER = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    SafetensorError,
)
"""Exceptions of transformers and its parts for files with other content than their names say."""


def _check_loaded(folder: Path, found: Mapping[str, Collection[object]]) -> None:
    """Refuse a model of which some weights were initialised or ignored: transformers only logs it.

    Raises:
        ValueError: names that are missing, unexpected or of another shape.
    """
    for kind, meaning in (
        ("missing_keys", "none for"),
        ("unexpected_keys", "others:"),
        ("mismatched_keys", "another shape of"),
    ):
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in found.get(kind) or ())
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"{folder}: expected the weights of its configuration and no others, found {meaning} {names[0]}{more}; "
                "copy the folder again"
            )
