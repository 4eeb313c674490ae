"""Stage "vocoder_lookahead": a light vocoder learns to wait for less of what comes, from itself, without recordings.

What is built: the vocoder of a finished model ("teacher"), and the same with shorter look-aheads ("student"), which
begins as the teacher without what it may no longer see. What is trained: the student. Its batches: units of the
finished model's own spoken replies. Its loss: that of stage "vocoder", with the teacher's durations, envelope, pitch
and voicing in place of a recording's.

A reply's first sound waits until the units are known that its durations and frames depend on, so a shorter look-ahead
is a sooner reply. That a model may learn from what another one that sees more would do: Hinton et al. 2015,
https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from echox.api import EchoX
from echox.config import TrainingConfig, recipe
from echox.data.manifest import read_dialogues
from echox.data.sampling import spread
from echox.files import save_model
from echox.models.vocoder.configuration_vocoder import LightVocoderConfig
from echox.models.vocoder.modeling_light_vocoder import ConvNeXtBlock, LightVocoder
from echox.training.batches.normalisation import Denominators, RunningMeans
from echox.training.stages.voice.light_vocoder import LightVocoderObjective, feature_errors
from echox.training.stages.voice.vocoder_recipe import VocoderLossWeights


@dataclass
class QuestionData:
    """What the finished model is asked.

    Attributes:
        dialogues: manifest; the first typed question of a dialogue is asked, that of split "heldout" to measure.
        replies: number of training questions, evenly spaced. heldout_replies: of held-out ones.
    """

    dialogues: str
    replies: int = 1500
    heldout_replies: int = 100


@dataclass
class LookaheadModel:
    """The finished model, and the new sizes.

    Attributes:
        start_from: folder of a finished model (stage "package").
        duration_lookahead_units, frame_lookahead_frames, fine_lookahead_features: as in `LightVocoderConfig`.
    """

    start_from: str
    duration_lookahead_units: int = 3
    frame_lookahead_frames: int = 6
    fine_lookahead_features: int = 1


@recipe("vocoder_lookahead")
@dataclass
class VocoderLookaheadRecipe:
    """The recipe of this stage."""

    stage: str
    data: QuestionData
    model: LookaheadModel
    training: TrainingConfig
    weights: VocoderLossWeights = field(default_factory=lambda: VocoderLossWeights(duration=1.0))

    def build(self) -> VocoderLookaheadStage:
        """Load the model, and ask it for replies."""
        return VocoderLookaheadStage(self)


class VocoderLookaheadObjective(nn.Module):
    """The distance between two vocoders. Batch: units (B, U), padded with -1."""

    def __init__(self, student: LightVocoder, teacher: LightVocoder, weights: VocoderLossWeights) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.acoustics = LightVocoderObjective(student, weights)

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `LightVocoderObjective`; of a prepared batch."""
        return self.acoustics.denominators(batch)

    def forward(
        self, batch: dict[str, Tensor], denominators: Denominators | None = None, prepare: bool = False
    ) -> dict[str, Tensor]:
        """Losses by name; `loss` is their weighted sum.

        Args:
            batch: prepared, or units alone.
            denominators: of the whole step.
            prepare: return the batch with what the teacher says instead (`training/batches/step_batches.py`): its
                counts are needed before the losses.
        """
        complete = batch if "log_mel" in batch else self.targets(batch["units"])
        return complete if prepare else self.acoustics(complete, denominators)

    def begin_targets(self, batches: Sequence[dict[str, Tensor]], ahead: bool) -> Callable[[], list[dict[str, Tensor]]]:
        """Prepared batches are complete."""
        return lambda: list(batches)

    @torch.no_grad()
    def targets(self, units: Tensor) -> dict[str, Tensor]:
        """The batch of `LightVocoderObjective` as the teacher would speak it."""
        durations = self.teacher.predict_durations(units)
        said = self.teacher.features(units, durations)
        return {
            "units": units,
            "durations_frames": durations,
            "log_mel": said.log_mel,
            "f0_hz": said.f0_hz,
            "voiced": (said.voicing > 0) & said.inside,
        }


class VocoderLookaheadStage:
    """See the module.

    Raises:
        ValueError: a vocoder of another kind, a look-ahead that is no shorter, or no replies to learn from.
    """

    name = "vocoder_lookahead"

    def __init__(self, recipe: VocoderLookaheadRecipe) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.training.seed)
        finished = EchoX.from_pretrained(recipe.model.start_from, device="cpu", dtype=torch.float32)
        teacher = copy.deepcopy(finished.model.vocoder)
        if type(teacher) is not LightVocoder:
            raise ValueError(
                f"{recipe.model.start_from}: expected a light vocoder, found {type(teacher).__name__}; one of another "
                "kind is trained with its look-ahead (model.sizes of stage vocoder)"
            )
        self.model = with_lookaheads(teacher, recipe.model)
        self.objective = VocoderLookaheadObjective(self.model, teacher, recipe.weights)
        dialogues = read_dialogues(recipe.data.dialogues)
        asked = {
            split: list(dict.fromkeys(one.turns[0].text or "" for one in dialogues if one.split == split))
            for split in ("train", "heldout")
        }
        self.items = _spoken(finished, spread(asked["train"], recipe.data.replies), recipe.data.dialogues)
        self.evaluation_items = _spoken(
            finished, spread(asked["heldout"], recipe.data.heldout_replies), recipe.data.dialogues
        )

    @property
    def length_unit(self) -> tuple[str, float]:
        """Units."""
        return "units", 1.0

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The student."""
        return {"vocoder": list(self.model.parameters())}

    def dataset(self) -> list[list[int]]:
        """The units of each reply."""
        return self.items

    def lengths(self) -> list[int]:
        """Units of each reply."""
        return [len(units) for units in self.items]

    def collate(self, items: list[list[int]], rng: random.Random) -> dict[str, Tensor]:
        """``units`` (B, U), padded with -1."""
        return {"units": nn.utils.rnn.pad_sequence([torch.tensor(units) for units in items], True, -1)}

    def evaluate(self) -> dict[str, float]:
        """Over held-out replies: durations that differ, envelope, pitch where voiced, voicing; against the teacher."""
        device = next(self.model.parameters()).device
        running = RunningMeans()
        for item in self.evaluation_items:
            batch = self.objective.targets(torch.tensor([item], device=device))
            durations = batch["durations_frames"]
            said = self.model.features(batch["units"], durations)
            different = self.model.predict_durations(batch["units"]) != durations
            errors = {"durations_that_differ": different.float().mean(), **feature_errors(said, batch)}
            counts = self.objective.denominators(batch)
            of = ("duration_loss", "mel_loss", "f0_loss", "voicing_loss")
            running.add(errors, {name: counts[loss] for name, loss in zip(errors, of, strict=True)})
        return running.means()

    def save(self, folder: Path) -> None:
        """The student."""
        save_model(self.model, folder)


def with_lookaheads(teacher: LightVocoder, sizes: LookaheadModel) -> LightVocoder:
    """The same vocoder with shorter look-aheads: kernels keep their weights for what they still see, and see more of
    the past, with weights 0.

    Raises:
        ValueError: a look-ahead that is longer than before.
    """
    names = ("duration_lookahead_units", "frame_lookahead_frames", "fine_lookahead_features")
    shorter = {name: getattr(sizes, name) for name in names}
    student = LightVocoder(LightVocoderConfig.from_dict({**teacher.config.to_dict(), **shorter}))
    student.load_state_dict(teacher.state_dict())
    blocks = zip(student.modules(), teacher.modules(), strict=True)
    for new, old in ((new, old) for new, old in blocks if isinstance(new, ConvNeXtBlock)):
        assert isinstance(old, ConvNeXtBlock)
        if (later := old.lookahead - new.lookahead) < 0:
            raise ValueError(
                f"model: expected look-aheads of at most {old.lookahead} in a layer, found {new.lookahead}"
            )
        if later:
            with torch.no_grad():
                new.depthwise.weight.zero_()
                new.depthwise.weight[..., later:] = old.depthwise.weight[..., :-later]
    return student.train()


def _spoken(model: EchoX, questions: Sequence[str], source: str) -> list[list[int]]:
    """Units of the replies, those that were spoken in whole.

    Raises:
        ValueError: there are none.
    """
    replies = (model.generate([{"role": "user", "content": question}]) for question in questions)
    spoken = [list(reply.units) for reply in replies if reply.units and not reply.failures]
    if not spoken:
        raise ValueError(f"{source}: expected questions whose replies are spoken, found none of {len(questions)}")
    return spoken
