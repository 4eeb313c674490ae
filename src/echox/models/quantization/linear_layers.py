"""The linear layers of a language model that may have fewer bits: those of an adapter stay as they were trained."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_BASE = "base_layer"
"""In a layer of peft: what it stands on. Everything else in it is the adapter's."""


def linear_layers(model: nn.Module, keep: nn.Module | None = None) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Parent, name and layer of each plain linear layer; what was found may be replaced before the next is taken.

    Args:
        model: which is searched.
        keep: a part that is left out, with all that is in it (a language model's head, perhaps with an adapter).
    """
    waiting = [model]
    while waiting:
        parent = waiting.pop()
        of_adapter = type(parent).__module__.startswith("peft.")
        for name, child in list(parent.named_children()):
            if child is keep or (of_adapter and name != _BASE):
                continue
            if type(child) is nn.Linear:
                yield parent, name, child
            else:
                waiting.append(child)
