"""A LoRA beside the weights of a small Llama, added for some rows of a step and not for others.

A model may need other weights for one kind of conversation only: to call tools, say. Merged into its weights they would
change all conversations, and weights of 4 bits could not hold them. Beside the weights, a row without it is computed as
if there were none. The folder is one of peft: ``adapter_config.json`` and ``adapter_model.safetensors``.

Letters: N rows of inputs; r rank.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; rows of a batch that differ in it, as in Chen et al. 2023,
Punica, https://arxiv.org/abs/2310.18547.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the names of a language model's modules in files of peft."""
_MAPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The maps that `LeanWeights` computes together."""
_REMEDY = "copy the folder again, or train the adapter again (stage instruct)"


@dataclass(frozen=True)
class LowRankMap:
    """What one map of a layer adds."""

    down: Tensor
    up: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) to (N, out)."""
        return F.linear(F.linear(x, self.down), self.up)


class LeanAdapter:
    """A LoRA on all linear layers of a Llama.

    Args:
        shapes: of the matrices, by peft's names without the prefix: ``model.layers.0.mlp.down_proj.lora_A.weight`` ...
        scale: of the product of both matrices, alpha / r.
        read: gives the matrices; called when they are needed.

    Raises:
        ValueError: matrices are missing or do not fit each other.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], scale: float, read: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        self.shapes, self.scale, self._read = dict(shapes), scale, read
        found = {int(name.split(".")[2]) for name in self.shapes if name.startswith("model.layers.")}
        self.num_layers = len(found)
        names = {f"{one}.lora_{part}.weight" for layer in found for one in _names(layer) for part in "AB"}
        if not names or names != set(self.shapes) or found != set(range(self.num_layers)):
            odd = sorted(names ^ set(self.shapes))[:3]
            raise ValueError(
                f"expected the matrices of all linear layers of a Llama, found others: {odd or 'none'}; {_REMEDY}"
            )
        for name, shape in self.shapes.items():
            down = self.shapes[name.replace("lora_B", "lora_A")]
            if len(shape) != 2 or len(down) != 2 or shape[0 if "lora_A" in name else 1] != down[0]:
                raise ValueError(f"{name}: expected a matrix of rank {[*down, 0][0]}, found {tuple(shape)}; {_REMEDY}")

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], scale: float) -> LeanAdapter:
        """One of matrices in memory."""
        return cls({name: value.shape for name, value in weights.items()}, scale, lambda: weights)

    @classmethod
    def load(cls, folder: Path) -> LeanAdapter:
        """The adapter of a folder; its matrices are read when they are needed first.

        Raises:
            ValueError: there is none, or it is damaged or another kind.
        """
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{folder / CONFIG_FILE}: expected settings of peft, found: {error}; {_REMEDY}") from error
        config = config if isinstance(config, dict) else {}
        rank, alpha = config.get("r"), config.get("lora_alpha")
        other = any(config.get(name) for name in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern"))
        plain = config.get("peft_type") == "LORA" and not other
        if not plain or not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
            raise ValueError(f"{folder / CONFIG_FILE}: expected a plain LoRA, found {config}; {_REMEDY}")
        path = folder / WEIGHTS_FILE
        try:
            with safe_open(path, "pt") as stored:
                shapes = {name.removeprefix(PREFIX): stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: expected its weights, found: {error}; {_REMEDY}") from error

        def read() -> Mapping[str, Tensor]:
            try:
                found = {name.removeprefix(PREFIX): value for name, value in load_file(path).items()}
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{path}: expected its weights, found: {error}; {_REMEDY}") from error
            if {name: list(value.shape) for name, value in found.items()} != shapes:
                raise ValueError(f"{path}: expected the file that was there, found another; load the model again")
            return found

        try:
            return cls(shapes, alpha / rank, read)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def config(self) -> dict[str, object]:
        """What `CONFIG_FILE` holds."""
        rank = next(shape[0] for name, shape in self.shapes.items() if "lora_A" in name)
        modules = sorted({name.rpartition(".")[2] for name in _names(0)})
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": self.scale * rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": modules,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What `WEIGHTS_FILE` holds: half precision."""
        return {PREFIX + name: value.to(torch.float16) for name, value in self._read().items()}

    def check(self, language_model: PreTrainedModel) -> None:
        """Whether it is one of this language model.

        Raises:
            ValueError: it is of another one.
        """
        for name, module in language_model.named_modules():
            if (down := self.shapes.get(f"{name}.lora_A.weight")) is None:
                continue
            found = down[1], self.shapes[f"{name}.lora_B.weight"][0]
            if found != (module.in_features, module.out_features):
                raise ValueError(
                    f"{name}: expected {module.in_features} inputs and {module.out_features} outputs, found {found[0]} "
                    f"and {found[1]}; {_REMEDY}"
                )
        layers = int(language_model.config.get_text_config().num_hidden_layers)
        if layers != self.num_layers:
            raise ValueError(f"expected an adapter of {layers} layers, found {self.num_layers}; {_REMEDY}")

    def layers(self, like: Tensor) -> list[dict[str, LowRankMap]]:
        """By layer and joint map, on the device and in the dtype of a tensor.

        Raises:
            ValueError: weights that are not finite.
        """
        weights = self._read()
        for name, value in weights.items():
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: expected finite weights, found others; {_REMEDY}")

        def joined(layer: int, maps: tuple[str, ...]) -> LowRankMap:
            names = [f"model.layers.{layer}.{one}" for one in maps]
            down = torch.cat([weights[f"{name}.lora_A.weight"] for name in names])
            up = torch.block_diag(*(weights[f"{name}.lora_B.weight"].float() * self.scale for name in names))
            return LowRankMap(down.to(like), up.to(like))

        return [{name: joined(layer, maps) for name, maps in _MAPS.items()} for layer in range(self.num_layers)]


def _names(layer: int) -> list[str]:
    return [f"model.layers.{layer}.{one}" for maps in _MAPS.values() for one in maps]
