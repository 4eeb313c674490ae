"""Departures of the released EchoX weights from the published method: one named switch each.

Models that are trained with this package leave all of them off. `conversion/official.py` sets those that the official
release needs, and they are saved in the model's configuration; all parts read them from here only.

Source: behaviour of the reference code, measured by running it (docs/official-weights.md lists effects).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Compatibility:
    """Departures from the published method; the defaults are the method.

    Attributes:
        frame_wise_adapter: the alignment adapter's Transformer layer does not attend over time. (The release applies it
            along the wrong axis: each frame attends to the same frame of the dialogue's other audios, which do not
            exist at inference.)
        look_back_at_kept: the look-back attends to the kept frames only, not to the dropped ones. (The release's
            padding mask is inverted.)
        fixed_windows: audio is padded with silence to whole windows of 30 s without a mask, so that silence has frames
            in the prompt too.
        repeated_bos: the prompt has a beginning-of-text token before each of its pieces. (The release calls the
            tokenizer once per piece, and every call adds one.) The official chat template reads this.
        masked_token_id: later positions never attend to this token of the prompt. (The release masks its padding
            token; where that is also the end of a turn, ends of turns are masked.) None: no token is masked.
        stray_unit_prompt_id: an additional text token between the unit decoder's prompt and the states. (12800 in the
            release, probably a typing error for 128000; it was trained so.) None: no such token.
        extra_segment_tokens: number of tokens that are added to the trigger's minimum and maximum. (The release
            compares with "greater" and counts from 0: 20 and 50 became 21 and 51.)
    """

    frame_wise_adapter: bool = False
    look_back_at_kept: bool = False
    fixed_windows: bool = False
    repeated_bos: bool = False
    masked_token_id: int | None = None
    stray_unit_prompt_id: int | None = None
    extra_segment_tokens: int = 0

    @classmethod
    def of(cls, values: Mapping[str, bool | int | None] | None) -> Compatibility:
        """Switches from a configuration's ``compatibility``.

        Raises:
            ValueError: an unknown name.
        """
        given = dict(values or {})
        known = [item.name for item in dataclasses.fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"compatibility: expected some of {', '.join(known)}, found {', '.join(unknown)}")
        return cls(**given)  # type: ignore[arg-type]  # each switch has its own type

    def to_dict(self) -> dict[str, bool | int | None]:
        """The switches that differ from the method, for a configuration file."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != item.default
        }
