"""Aligner "recogniser": a recogniser's own decoder writes down what was said, and the language model reads that.

Each token of the transcript, in the language model's tokenization, becomes its text embedding and a learned residual
from the states of the recogniser that its characters are from: pronunciation, doubt and alternatives, which text lacks.
The residual is 0 before training. This departs from the paper, see docs/paper_map.md.

Letters: A audios, T inputs of the tower, W windows, N tokens of the recogniser, K tokens of the language model, H its
width, D width of the recogniser.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from echox.models.echox.aligner import Aligner, Draft, EncodedAudio, TimedToken
from echox.models.echox.configuration_echox import S2TConfig
from echox.models.text.retokenization import Retokenized, Retokenizer
from echox.models.towers.auto import AutoRecogniser
from echox.models.towers.base import EncodedWindows, Recognised, Recogniser, WindowedTower, as_module, finish


class ResidualAdapter(nn.Module):
    """What a text embedding lacks: a projection of the recogniser's states, scaled like embeddings, through a gate.

    The gate starts at 0: before training the language model reads the transcript alone.
    """

    def __init__(self, state_size: int, hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(state_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.gate = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, states: Tensor) -> Tensor:
        """(K, D) -> (K, H)."""
        return self.gate * self.layer_norm(self.projection(states))


@dataclass
class RecognisedAudio(EncodedAudio):
    """See `EncodedAudio`; K is 0 where nothing was recognised.

    Attributes:
        tokens: of each audio.
    """

    tokens: list[list[TimedToken]]

    def transcripts(self) -> list[list[TimedToken]]:
        """See `EncodedAudio`."""
        return self.tokens


@dataclass(frozen=True)
class RecogniserAligner(Aligner):
    """See the module; the attributes are parts of the model.

    Times of words: the best monotonic path through the recogniser's attention to its frames (`monotonic.py`).
    """

    token_reach_s: ClassVar[float] = 0.05

    audio_tower: WindowedTower
    recogniser: Recogniser
    residual_adapter: ResidualAdapter
    embedding: nn.Module
    tokens_per_s: float
    transcript_frames_per_s: float

    @classmethod
    def build(cls, config: S2TConfig) -> dict[str, nn.Module | None]:
        """See `Aligner`."""
        recogniser = AutoRecogniser.from_config(config.audio_config)
        return {
            "recogniser": as_module(recogniser),
            "residual_adapter": ResidualAdapter(recogniser.width, config.hidden_size),
        }

    @classmethod
    def of(cls, config: S2TConfig, parts: Mapping[str, nn.Module | None], embedding: nn.Module) -> RecogniserAligner:
        """See `Aligner`."""
        tower, recogniser, adapter = parts["audio_tower"], parts["recogniser"], parts["residual_adapter"]
        assert isinstance(tower, WindowedTower)
        assert isinstance(recogniser, Recogniser)
        assert isinstance(adapter, ResidualAdapter)
        return cls(tower, recogniser, adapter, embedding, config.recogniser_tokens_per_s, tower.spec.frames_per_s)

    def trained_parts(self) -> list[nn.Module]:
        """See `Aligner`: tower and recogniser are frozen."""
        return [self.residual_adapter]

    def encode(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        ctc_labels: Tensor | None = None,
        audios_together: int = 1,
        retokenizer: Retokenizer | None = None,
        drafts: Sequence[Draft] = (),
    ) -> RecognisedAudio:
        """See `Aligner`; there is no CTC loss."""
        audios = len(input_features)
        with torch.no_grad():
            windows = self.audio_tower.encode_windows(input_features, input_features_mask)
            draft = drafts[0].token_ids if len(drafts) == len(windows.audio_of) == 1 else ()
            heard = finish(self.recogniser.transcribe_gradually(windows, self._limits(windows), draft))
        for audio, one in enumerate(drafts):
            mine = [found for found, owner in zip(heard, windows.audio_of, strict=True) if owner == audio]
            one.token_ids = mine[0].token_ids if len(mine) == 1 else []
        return self._read(windows, heard, audios, checked(retokenizer))

    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor, retokenizer: Retokenizer | None = None
    ) -> Generator[None, None, RecognisedAudio]:
        """See `Aligner`: window by window and layer by layer, then token by token."""
        windows = yield from self.audio_tower.encode_windows_gradually(input_features, input_features_mask)
        heard = yield from self.recogniser.transcribe_gradually(windows, self._limits(windows))
        yield
        return self._read(windows, heard, 1, checked(retokenizer))

    def transcribe(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        retokenizer: Retokenizer | None = None,
    ) -> list[list[int]]:
        """See `Aligner`."""
        heard = self.encode(input_features, input_features_mask, retokenizer=retokenizer)
        return [[token_id for token_id, _, _ in row] for row in heard.tokens]

    def _limits(self, windows: EncodedWindows) -> list[int]:
        """Most tokens of each window, so that a recogniser that repeats itself stops."""
        frames: list[int] = windows.mask.sum(dim=1).tolist()
        return [math.ceil(self.tokens_per_s * count / self.transcript_frames_per_s) for count in frames]

    def _read(
        self, windows: EncodedWindows, heard: Sequence[Recognised], audios: int, retokenizer: Retokenizer
    ) -> RecognisedAudio:
        """What was heard, as inputs of the language model."""
        embeds, tokens = [], []
        for audio in range(audios):
            mine = [index for index, owner in enumerate(windows.audio_of) if owner == audio]
            written = retokenizer([heard[index].token_ids for index in mine])
            frames = [
                (first + windows.first_frame[index], end + windows.first_frame[index])
                for index in mine
                for first, end in heard[index].frames
            ]
            states = [heard[index].states for index in mine if heard[index].token_ids]
            embeds.append(self._embed(written, states))
            tokens.append(
                [
                    (token_id, frames[first][0], frames[end - 1][1])
                    for token_id, (first, end) in zip(written.token_ids, written.sources, strict=True)
                ]
            )
        return RecognisedAudio(embeds, None, tokens)

    def _embed(self, written: Retokenized, states: list[Tensor]) -> Tensor:
        """(K, H): text embeddings, and the residual from the states (N, D) of all windows.

        Where nothing was recognised the adapter reads no state, but it does, so that it has gradients (`zero_loss`).
        """
        weight = self.residual_adapter.projection.weight
        text: Tensor = self.embedding(torch.tensor(written.token_ids, dtype=torch.long, device=weight.device))
        joined = torch.cat([weight.new_zeros(0, weight.shape[1]), *(state.to(weight.dtype) for state in states)])
        mixed = written.mixture(len(joined)).to(joined) @ joined
        return text + self.residual_adapter(mixed).to(text.dtype)


def checked(retokenizer: Retokenizer | None) -> Retokenizer:
    """The retokenizer that aligner "recogniser" needs.

    Raises:
        ValueError: there is none.
    """
    if retokenizer is None:
        raise ValueError(
            "retokenizer: expected the processor's (aligner 'recogniser' reads the recogniser's text in the language "
            "model's tokens), found None; pass retokenizer=processor.retokenizer"
        )
    return retokenizer
