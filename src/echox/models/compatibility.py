"""What released EchoX weights were trained with that is not the method as written: one named switch each.

A model that is trained here leaves all of them off. `conversion/official.py` switches on what the official release
needs, and saves it in the model's configuration; every part that behaves otherwise for it asks here and nowhere else.

Source: facts of the reference code, gathered by running it (docs/official-weights.md lists them with their effects).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Compatibility:
    """Departures from the method as written; the defaults are the method.

    Attributes:
        frame_wise_adapter: the alignment adapter's Transformer layer never attends over time. (The release runs it
            along the wrong axis: each frame attends to the same frame of the dialogue's other audios, of which there
            is none at inference.)
        look_back_at_kept: the look-back sees the kept frames only, not the dropped ones. (The release's padding mask
            is inverted.)
        fixed_windows: audio is padded with silence to whole windows of 30 s, and all their frames count as true, so
            silence too gets frames in the prompt.
        repeated_bos: the prompt repeats the beginning-of-text token before every piece of it. (The release calls the
            tokenizer once per piece, and every call adds one.) Read by the official chat template.
        masked_token_id: later positions never attend to this token of the prompt. (The release hides its padding
            token; where that is also the end of a turn, the ends of turns are hidden.) None: nothing is hidden.
        stray_unit_prompt_id: one more text token between the unit decoder's prompt and the states. (12800 in the
            release, which looks like a misprint of 128000; it was trained with it.) None: no such token.
        extra_segment_tokens: a segment must hold so many tokens more than the trigger says. (The release compares with
            "greater" where it counts from 0: 20 and 50 became 21 and 51.)
    """

    frame_wise_adapter: bool = False
    look_back_at_kept: bool = False
    fixed_windows: bool = False
    repeated_bos: bool = False
    masked_token_id: int | None = None
    stray_unit_prompt_id: int | None = None
    extra_segment_tokens: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Compatibility:
        """From the part of a configuration.

        Raises:
            ValueError: an unknown name.
        """
        values = dict(values or {})
        known = [item.name for item in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"compatibility: expected some of {', '.join(known)}, found {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the method as written, for a configuration file."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != item.default
        }
