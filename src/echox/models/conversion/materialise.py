"""Builds a model from tensors that are read one by one, with one copy of the model and one tensor in memory.

The model is built without memory (on torch's ``meta`` device); then each parameter is set. No weight is initialised at
random, and none is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers.utils import is_accelerate_available

from echox.models.conversion.checkpoint import StoredTensor
from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.text.text_embeddings import weight_of

UNDIVIDED = {"WhisperEncoderLayer", "LlamaDecoderLayer", "AlignmentAdapter", "ShrinkingAdapter", "CodeHiFiGAN"}
"""Modules that are not split over devices."""
DeviceMap = str | Mapping[str, str | int | torch.device]
"""As in transformers: "auto", or places by module name ({"": "cuda:0"}, {"s2t": 0, "echo_decoder": "cpu"})."""


def materialise(
    config: EchoXConfig,
    tensors: dict[str, StoredTensor],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    device_map: DeviceMap | None = None,
) -> EchoXForConditionalGeneration:
    """Build the model and read its weights.

    Args:
        config: of the model.
        tensors: by name; missing ones must be empty or tied.
        dtype: of all floating-point weights but the vocoder's, which stay float32.
        device: where the model goes.
        device_map: places of its parts instead of `device`; several places need the package ``accelerate``.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: a device map without accelerate, or one that leaves parts without a place.
    """
    with torch.device("meta"):
        model = EchoXForConditionalGeneration(config)
    places = {"": torch.device(device)} if device_map is None else _places(model.to(dtype), device_map)
    tied = id(weight_of(model.get_input_embeddings()))
    for name, empty in list(model.named_parameters()):
        place = _place_of(name, places)
        if name in tensors:
            value = tensors[name].load()
        elif empty.numel() == 0:
            value = torch.empty(empty.shape)
        else:
            raise ValueError(f"{name}: expected its weights, found none")
        precise = name.startswith("vocoder.")  # small, and rounding would be audible
        value = value.to(place, (torch.float32 if precise else dtype) if value.is_floating_point() else value.dtype)
        _put(model, name, nn.Parameter(value, requires_grad=empty.requires_grad and value.is_floating_point()))
    head = model.get_output_embeddings()
    if id(head.weight) == tied:  # the same parameter under a second name, which named_parameters leaves out
        head.weight = model.get_input_embeddings().weight
    _compute_buffers(model, places)
    left = [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]
    assert not left, f"never given a value: {left}"
    if len(set(places.values())) > 1:
        _need_accelerate()
        from transformers.integrations.accelerate import dispatch_model

        dispatch_model(model, device_map=places)
    return model.eval()


def _put(model: nn.Module, name: str, value: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, value)


def _compute_buffers(model: nn.Module, places: dict[str, torch.device]) -> None:
    """Make modules with computed tables (rotary positions) again, with memory: their buffers are not stored."""
    for name, module in list(model.named_modules()):
        if any(value.is_meta for value in module.buffers(recurse=False)):
            owner, _, leaf = name.rpartition(".")
            fresh = type(module)(module.config).to(_place_of(name, places))
            setattr(model.get_submodule(owner), leaf, fresh)


def _need_accelerate() -> None:
    if not is_accelerate_available():
        raise ValueError(
            "device_map: expected the package accelerate for more than one device, found none; pip "
            "install accelerate, or name one device"
        )


def _places(model: EchoXForConditionalGeneration, device_map: DeviceMap) -> dict[str, torch.device]:
    if device_map == "auto":
        _need_accelerate()
        from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

        memory = get_balanced_memory(model, no_split_module_classes=UNDIVIDED)
        device_map = dict(infer_auto_device_map(model, max_memory=memory, no_split_module_classes=UNDIVIDED))
    elif isinstance(device_map, str):
        device_map = {"": device_map}
    places = {name: torch.device(place) for name, place in device_map.items()}
    lost = [name for name, _ in model.named_parameters() if not any(_inside(name, part) for part in places)]
    if lost:
        raise ValueError(f"device_map: expected a place for every part, found none for {lost[0]}; add a place for ''")
    return places


def _place_of(name: str, places: dict[str, torch.device]) -> torch.device:
    return places[max((part for part in places if _inside(name, part)), key=len)]


def _inside(name: str, part: str) -> bool:
    return part == "" or name == part or name.startswith(f"{part}.")
