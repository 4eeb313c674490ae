"""Stage "echo" (III): echo training. Speech targets are made, during training, from the model's own replies.

What is built: :class:`EchoXForConditionalGeneration` from the S2T of stage I and a copy of the T2C of stage II; the T2C
itself is kept, frozen, as the teacher. What is trained: the echo decoder, the denoising adapter, and (slowly) the LoRA
of stage I. Its batches: dialogues, spoken or written. Its loss: `EchoObjective`.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 3.3).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from echox.config import TrainingConfig, recipe
from echox.data.features.corpus_features import AugmentationConfig
from echox.data.features.tower_features import TowerFeatures
from echox.data.manifest import read_unit_utterances
from echox.data.sampling import spread
from echox.data.scoring import edit_counts
from echox.files import save_model
from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.packing import check_packing
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.t2c.modeling_unit_decoder import UnitSequence
from echox.models.text.text_embeddings import text_embedding_table
from echox.models.text.tokenization_text import decode_text
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.streaming.reply_text.trigger import Trigger
from echox.training.batches.normalisation import RunningMeans
from echox.training.networks.lora import (
    LoRASettings,
    base_dtype_of,
    continue_lora,
    lora_parameters,
    merged_state_dict,
    save_lora,
)
from echox.training.networks.modules import on_device
from echox.training.stages.dialogue.continued import load_s2t, load_t2c, load_vocoder, speaking_processor
from echox.training.stages.dialogue.dialogue_sources import Dialogues, dialogue_source, tokens_by_bytes
from echox.training.stages.dialogue.dialogues import SpokenDialogue, dialogue_batch, replies
from echox.training.stages.speaking.echo_objective import EchoObjective, EchoWeights
from echox.training.stages.speaking.echo_targets import EchoBatch, RecordedTargets, Targets
from echox.training.stages.speaking.echo_teacher import OfflineTargets, OnlineTargets
from echox.training.stages.speaking.label_cache import LabelCache
from echox.training.stages.speaking.t2c import spoken_text, write_unit_samples


@dataclass
class EchoData:
    """Dialogues, spoken and written.

    Attributes:
        speech: dialogues with spoken user turns, text: dialogues in text: manifests, or folders of shards as in stage
            s2t.
        audio_fraction: fraction of the training dialogues that are spoken (1: no text manifests needed).
        recordings: unit manifest, only for ``targets: recorded``.
        evaluation_items: dialogues of each held-out split. samples: dialogues spoken as samples.
    """

    speech: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    audio_fraction: float = 0.5
    recordings: str | None = None
    evaluation_items: int = 96
    samples: int = 8


@dataclass
class EchoModel:
    """Parts and options.

    Attributes:
        s2t: folder of stage I. t2c: folder of stage II. vocoder: folder of a unit vocoder, saved with the model. Each
            may be a whole model, which has it as a part.
        train_lora: continue the LoRA of stage I; False: the language model stays as it is.
        fuse_text_embeddings: see :class:`EchoXConfig`.
        denoising_intermediate_size: inner width of the denoising adapter (None: that of the language model).
        denoise: train the denoising adapter; False (for comparison): it is the identity and stays so.
        hear_states: the echo decoder reads hidden states; False (for comparison): only the text embeddings of the
            tokens, through a gate that is closed and stays so.
    """

    s2t: str
    t2c: str
    vocoder: str | None = None
    train_lora: bool = True
    fuse_text_embeddings: bool = False
    denoising_intermediate_size: int | None = None
    denoising_dropout: float = 0.1
    denoise: bool = True
    hear_states: bool = True


@dataclass
class EchoTargets:
    """Where unit words come from: ``online`` (the method), ``offline`` or ``recorded`` (for comparison).

    Attributes:
        remember: number of segments whose pseudo-labels are cached: the frozen, greedy T2C would only repeat them.
        cache: file on this machine's disk where they are kept too, for all its processes and for a run that continues
            (`LabelCache`); the log says what was found (``targets_known``).
        rows_together: most segments that the teacher decodes at a time.
        steps_together: steps whose replies are labelled together, by what the model says before the first of them; the
            log says how much of that it still says when it learns from it (``still_said``). 1: labels of each step's
            own words, as in the paper.
        ahead: the teacher labels the next steps in another thread while these are trained, so what it reads was said
            as many steps earlier again.
        max_unit_words: limit of a segment.
        context_words: number of last words of the previous segment that are read, with their unit words, before each
            segment, without loss: in streaming their unit words are known and continued (word-synchronous form).
        allow_silence: continue with an echo loss of 0 where no segment of a whole batch has a target, instead of
            stopping (for trials with a hardly trained T2C).
    """

    source: str = "online"
    remember: int = 50_000
    cache: str | None = None
    rows_together: int = 128
    steps_together: int = 1
    ahead: bool = False
    max_unit_words: int = 512
    context_words: int = 0
    allow_silence: bool = False

    def __post_init__(self) -> None:
        """Raises: ValueError for a number outside its range."""
        for name in ("rows_together", "steps_together"):
            if getattr(self, name) < 1:
                raise ValueError(f"targets.{name}: expected 1 or more, found {getattr(self, name)}")


@recipe("echo")
@dataclass
class EchoRecipe:
    """The recipe of this stage."""

    stage: str
    data: EchoData
    model: EchoModel
    trigger: Trigger
    training: TrainingConfig
    weights: EchoWeights = field(default_factory=EchoWeights)
    targets: EchoTargets = field(default_factory=EchoTargets)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def build(self) -> EchoStage:
        """Load both stages' models, join them, read the dialogues."""
        return EchoStage(self)


class EchoStage:
    """See the module."""

    name = "echo"
    packs = True

    def __init__(self, recipe: EchoRecipe) -> None:
        self.recipe = recipe
        parts = recipe.model
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(parts.s2t)
        self.language = AutoUnitLanguage.from_pretrained(parts.t2c)
        s2t, t2c = load_s2t(parts.s2t), load_t2c(parts.t2c)
        check_same_embedding(s2t, t2c, parts)
        self.model = join(s2t, t2c, recipe)
        self.model.requires_grad_(False)
        t2c.requires_grad_(False)
        self.lora: LoRASettings | None = None
        # Also to hold a frozen language model in the type of its own weights: merged ones are float32.
        if parts.train_lora or base_dtype_of(parts.s2t) not in (None, "float32"):
            self.lora = continue_lora(self.model.s2t, parts.s2t)
        for values in self.parameter_groups().values():
            for value in values:
                value.requires_grad_(True)
        self.model.s2t.audio_tower.set_attn_implementation("sdpa")  # frozen: `training/networks/attention.py`
        self.tower = TowerFeatures(s2t.config.audio_config)
        self.processor = speaking_processor(self.tower, self.tokenizer, self.language, parts.s2t)
        if recipe.training.packing:
            check_packing(self.model.s2t.language_model.base_model, "language model")
            check_packing(self.model.echo_decoder.backbone, "echo decoder")
        targets = self._targets(t2c)
        context_words = recipe.targets.context_words
        if context_words and t2c.config.form != "word_synchronous":
            raise ValueError(
                "targets.context_words: expected 0 for a T2C that does not know its words (form "
                f"{t2c.config.form}), found {context_words}"
            )
        self.objective = EchoObjective(
            self.model,
            t2c,
            targets,
            recipe.weights,
            recipe.trigger,
            self.tokenizer,
            context_words,
            recipe.targets.allow_silence,
            self.processor.retokenizer,
            recipe.targets.steps_together,
            recipe.targets.ahead,
            recipe.training.packing,
        )
        self.train_items, self.evaluation_items = echo_dialogues(recipe.data, self.tower)

    def _targets(self, t2c: T2CForUnitGeneration) -> Targets:
        chosen, recordings = self.recipe.targets, self.recipe.data.recordings
        if chosen.source in ("online", "offline"):
            cache = None if chosen.cache is None else LabelCache(chosen.cache, t2c, chosen.max_unit_words)
            kind = OnlineTargets if chosen.source == "online" else OfflineTargets
            return kind(t2c, chosen.remember, chosen.max_unit_words, cache, chosen.rows_together)
        if chosen.source != "recorded" or recordings is None:
            raise ValueError(
                "targets.source: expected online, offline, or recorded with data.recordings, found "
                f"{chosen.source!r} and data.recordings {recordings!r}"
            )
        utterances = read_unit_utterances(recordings)
        return RecordedTargets([spoken_text(utterance, self.tokenizer, self.language) for utterance in utterances])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Echo decoder, denoising adapter with the gate, and LoRA, those that exist and are trained."""
        parts = self.recipe.model
        adapter = list(self.model.denoising_adapter.parameters()) if parts.denoise else []
        if self.model.embedding_gate is not None and parts.hear_states:
            adapter += self.model.embedding_gate.parameters()
        groups = {"echo_decoder": list(self.model.echo_decoder.parameters()), "denoising_adapter": adapter}
        groups["lora"] = lora_parameters(self.model.s2t.language_model) if parts.train_lora else []
        return {name: values for name, values in groups.items() if values}

    def dataset(self) -> Dialogues:
        """Training dialogues."""
        return self.train_items

    def lengths(self) -> list[int]:
        """See `Dialogues.spoken_lengths`."""
        return self.train_items.spoken_lengths()

    def token_lengths(self) -> list[int]:
        """About the text tokens of each dialogue; see `tokens_by_bytes`."""
        return tokens_by_bytes(self.train_items, self.tokenizer)

    def collate(self, items: list[SpokenDialogue], rng: random.Random) -> EchoBatch:
        """``s2t``: inputs of S2T with labels; ``reply_texts``: the reply of each dialogue, empty if it has several."""
        return self._batch(items, rng)

    def _batch(self, items: list[SpokenDialogue], rng: random.Random | None) -> EchoBatch:
        heard = [item.features(turn) for item in items for turn in sorted(item.rows)]
        if rng is not None:
            heard = [self.tower.augmented(features, self.recipe.augmentation, rng) for features in heard]
        batch = dialogue_batch(self.tokenizer, items, [set(item.rows) for item in items], heard)
        batch.pop("ctc_labels", None)  # the speech encoder is frozen
        texts = [replies(item) for item in items]
        return {"s2t": batch, "reply_texts": [text[0] if len(text) == 1 else "" for text in texts]}

    def evaluate(self) -> dict[str, float]:
        """By held-out split: the losses, and the error rate of greedy unit words against the targets (per unit)."""
        metrics: dict[str, float] = {}
        for split, items in self.evaluation_items.items():
            metrics[f"{split}_unit_error"] = self._unit_error(spread(items, 32))
            items = sorted(items, key=lambda item: item.frames)
            running = RunningMeans()
            for part in (items[start : start + 16] for start in range(0, len(items), 16)):
                running.add(*self.objective.measure(on_device(self._batch(part, None), self.model.device)))
            metrics |= {f"{split}_{name}": value for name, value in running.means().items()}
        return metrics

    def _unit_error(self, items: list[SpokenDialogue]) -> float:
        _, sequences, targets = self._speak(items)
        errors = count = 0
        for sequence, target in zip(sequences, targets, strict=True):
            reference = self.language.decode(target)
            errors += edit_counts(reference, self.language.decode(sequence.unit_words)).errors
            count += len(reference)
        return errors / max(1, count)

    def _speak(self, items: list[SpokenDialogue]) -> tuple[list[str], list[UnitSequence], list[list[int]]]:
        """Text, greedy speech and target unit words of every segment of some dialogues."""
        batch = on_device(self._batch(items, None), self.model.device)
        _, reply_states, reply_ids, _ = self.objective.reply_states(batch)
        scores = self.objective.trigger_scores(reply_states)
        segments = self.objective.cut(reply_ids, scores)
        segments, unit_words, _ = self.objective.targets(segments, batch)
        sequences = self.model.generate_unit_words(
            segments.of(reply_states), segments.token_ids, segments.word_ids, word_letters=segments.word_letters
        )
        texts = [
            decode_text(self.tokenizer, [token for token in row if token >= 0]) for row in segments.token_ids.tolist()
        ]
        return texts, sequences, [[word for word in row if word >= 0] for row in unit_words.tolist()]

    def sample(self, folder: Path) -> None:
        """Every segment of a few held-out replies as units, with a vocoder also as audio."""
        for split, items in self.evaluation_items.items():
            texts, sequences, _ = self._speak(spread(items, self.recipe.data.samples))
            write_unit_samples(folder / split, texts, sequences, self.language, self.recipe.model.vocoder)

    def save(self, folder: Path) -> None:
        """The whole model with the LoRA merged in, the LoRA beside it, the processor with its unit language."""
        state = {name: value for name, value in self.model.state_dict().items() if not name.startswith("s2t.")}
        state |= {f"s2t.{name}": value for name, value in merged_state_dict(self.model.s2t).items()}
        save_model(self.model, folder, state)
        if self.lora is not None:
            save_lora(self.model.s2t, self.lora, folder)
        self.processor.save_pretrained(folder)


def echo_dialogues(data: EchoData, tower: TowerFeatures) -> tuple[Dialogues, dict[str, list[SpokenDialogue]]]:
    """Training dialogues in the recipe's proportion, and held-out ones by split.

    Raises:
        ValueError: a fraction outside 0 to 1, or no training dialogues.
    """
    if not 0 <= data.audio_fraction <= 1:
        raise ValueError(f"data.audio_fraction: expected a number from 0 to 1, found {data.audio_fraction}")
    held_out: dict[str, list[SpokenDialogue]] = {}
    of_kind: dict[str, Dialogues] = {}
    for kind, places in (("speech", data.speech), ("text", data.text)):
        sources = [dialogue_source(place, tower, data.evaluation_items) for place in places]
        of_kind[kind] = Dialogues.joined([source.training for source in sources])
        for item in (item for source in sources for item in source.held_out):
            held_out.setdefault(f"{kind}_{item.dialogue.split}", []).append(item)
    spoken, written = of_kind["speech"], of_kind["text"]
    fraction = data.audio_fraction
    if fraction < 1 and spoken:  # as many of either kind as the fraction allows beside the other
        count = round(len(spoken) * (1 - fraction) / fraction) if fraction else len(written)
        written = written.chosen(spread(range(len(written)), count))
        spoken = spoken.chosen(spread(range(len(spoken)), round(len(written) * fraction / (1 - fraction))))
    elif fraction == 1:
        written = written.chosen([])
    if not spoken and not written:
        raise ValueError(
            f"data.audio_fraction: expected training dialogues, found none at {fraction}: set "
            "data.speech to spoken ones and, for a fraction below 1, data.text to written ones"
        )
    evaluated = {name: spread(items, data.evaluation_items) for name, items in held_out.items()}
    return Dialogues.joined([spoken, written]), evaluated


def join(
    s2t: S2TForConditionalGeneration, t2c: T2CForUnitGeneration, recipe: EchoRecipe
) -> EchoXForConditionalGeneration:
    """The whole model: S2T unchanged, the echo decoder a copy of the T2C's decoder, the denoising adapter new."""
    parts, trigger = recipe.model, recipe.trigger
    if not parts.hear_states and parts.denoise:
        raise ValueError(
            "model.denoise: expected false with model.hear_states=false (no state is left to denoise), found true"
        )
    vocoder = load_vocoder(parts.vocoder) if parts.vocoder is not None else None
    config = EchoXConfig(
        s2t_config=s2t.config,
        echo_decoder_config=t2c.config,
        vocoder_config=vocoder.config if vocoder is not None else None,
        denoising_intermediate_size=parts.denoising_intermediate_size,
        denoising_dropout=parts.denoising_dropout if parts.denoise else 0.0,
        fuse_text_embeddings=parts.fuse_text_embeddings or not parts.hear_states,
        echo_context_words=recipe.targets.context_words,
        trigger_min_tokens=trigger.min_tokens,
        trigger_max_tokens=trigger.max_tokens,
        trigger_lookahead_tokens=trigger.lookahead_tokens,
        trigger_threshold=trigger.threshold,
    )
    torch.manual_seed(recipe.training.seed)
    model = EchoXForConditionalGeneration(config)
    model.s2t = s2t
    model.echo_decoder.load_state_dict(t2c.decoder.state_dict())
    if not parts.denoise:
        model.denoising_adapter.become_identity()
    if not parts.hear_states:
        assert model.embedding_gate is not None
        model.embedding_gate.close()
    if vocoder is not None:
        model.vocoder = vocoder
    return model


def check_same_embedding(s2t: S2TForConditionalGeneration, t2c: T2CForUnitGeneration, parts: EchoModel) -> None:
    """Check that teacher and language model have the same text embedding.

    Raises:
        ValueError: they differ.
    """
    ours = text_embedding_table(s2t.get_input_embeddings())
    theirs = t2c.text_embedding.weight
    if ours.shape != theirs.shape or not torch.allclose(ours.float(), theirs.float(), atol=1e-4):
        raise ValueError(
            f"expected one text embedding in {parts.s2t} and {parts.t2c}, found two that differ ({tuple(ours.shape)}, "
            f"{tuple(theirs.shape)}): train the T2C on this language model"
        )
