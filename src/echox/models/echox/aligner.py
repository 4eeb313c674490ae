"""The interface of aligners: what audio becomes before the language model reads it.

`S2TConfig.aligner` names one: "ctc" (`aligner_ctc.py`, the method as published) or "recogniser"
(`aligner_recogniser.py`). An aligner is a view of parts of the model, made for a call: weights stay where they are.

Letters: A audios, T inputs of the tower, C frames of the transcript, K positions, H width of the language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from echox.models.echox.configuration_echox import S2TConfig
from echox.models.text.retokenization import Retokenizer

TimedToken = tuple[int, int, int]
"""A token of the language model's vocabulary that was heard: id, first frame, and frame after its last."""


@dataclass
class EncodedAudio(ABC):
    """Audios in the form that the language model reads.

    Attributes:
        embeds: (K, H) of each audio.
        ctc_loss: nats per transcript token; None where it was not asked for, or the aligner has none.
    """

    embeds: list[Tensor]
    ctc_loss: Tensor | None

    @abstractmethod
    def transcripts(self) -> list[list[TimedToken]]:
        """What was heard in each audio."""


@dataclass
class Draft:
    """What was heard of an audio so far, which more of the same audio probably begins with. It costs nothing but time.

    Attributes:
        token_ids: of a recogniser, in one window; empty: nothing is known.
    """

    token_ids: list[int] = field(default_factory=list)


class Aligner(ABC):
    """Audio to inputs of the language model."""

    transcript_frames_per_s: float
    """Rate of the frames in which tokens are timed."""
    token_reach_s: ClassVar[float]
    """Most seconds of a word's sound before and after the frames of its tokens."""

    @classmethod
    @abstractmethod
    def build(cls, config: S2TConfig) -> dict[str, nn.Module | None]:
        """Its parts with new weights, by the names that they have in the model (None: a part that is left out)."""

    @classmethod
    @abstractmethod
    def of(cls, config: S2TConfig, parts: Mapping[str, nn.Module | None], embedding: nn.Module) -> Aligner:
        """The aligner of a model.

        Args:
            config: of the model.
            parts: of the model, by name: those of `build`, and ``audio_tower``.
            embedding: the language model's input embedding.
        """

    @abstractmethod
    def trained_parts(self) -> list[nn.Module]:
        """Parts that stage I trains."""

    @abstractmethod
    def encode(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        ctc_labels: Tensor | None = None,
        audios_together: int = 1,
        retokenizer: Retokenizer | None = None,
        drafts: Sequence[Draft] = (),
    ) -> EncodedAudio:
        """Audios, see `AudioTower.forward`, to inputs of the language model.

        Args:
            input_features: of A audios.
            input_features_mask: (A, T).
            ctc_labels: (A, M) transcripts, -100 padded, for the CTC loss.
            audios_together: see `AlignmentAdapter.forward`.
            retokenizer: of the processor; aligner "recogniser" needs it.
            drafts: of each audio; aligner "recogniser" uses them, and puts what it heard in their place.
        """

    @abstractmethod
    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor, retokenizer: Retokenizer | None = None
    ) -> Generator[None, None, EncodedAudio]:
        """`encode`, without drafts, for one audio of any length, in steps of bounded time and memory."""

    @abstractmethod
    def transcribe(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        retokenizer: Retokenizer | None = None,
    ) -> list[list[int]]:
        """Token ids of each audio's transcript."""
