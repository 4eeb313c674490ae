"""Stage "encoder": speech to words. Audio tower, alignment adapter and CTC heads, without a language model.

What is built: :class:`SpeechEncoderForCTC` over the language model's vocabulary. What is trained: all of it. Its
batches: utterances of many voices, half of them random words, varied in pace, vocal tract, level, tone and noise. Its
loss: CTC on the written text's tokens (25 frames/s) + ``phone_loss_weight`` x CTC on phones at an inner layer (50/s).

The result is the frozen speech encoder of S2T, the initial weights of its adapter and CTC head, and (phone head) the
judge of spoken replies, which therefore must never be trained on resynthesised speech.
"""

from __future__ import annotations

import logging
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from echox.config import TrainingConfig, recipe
from echox.data.features.corpus_features import (
    MEL_FRAMES_PER_S,
    AugmentationConfig,
    FeatureStore,
    augment,
    feature_store,
    pad_features,
)
from echox.data.lexicon import Lexicon
from echox.data.manifest import Utterance, audio_path, read_dialogues, read_utterances
from echox.data.scoring import edit_counts, word_errors
from echox.device import choose_device
from echox.files import save_model
from echox.models.echox.configuration_echox import SpeechEncoderConfig, whisper_config
from echox.models.echox.ctc import greedy_ctc
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.text.tokenization_text import AUDIO, decode_text, token_id
from echox.models.towers.whisper import WhisperTower
from echox.training.batches.collate import pad_sequences
from echox.training.batches.normalisation import Denominators, known_rows, share_of_step
from echox.training.networks.attention import tower_attention
from echox.training.stages.dialogue.lm import dialogue_tokenizer

log = logging.getLogger(__name__)


@dataclass
class EncoderData:
    """Where the speech is.

    Attributes:
        manifests: Utterance manifests; split "train" is for training, every other split for evaluation, with known
            and new voices evaluated separately.
        phones: ``{"lexicon": {word: [phone, ...]}, "phones": [...]}``.
        tokenizer: folder of the text tokenizer; trained from `dialogues` when absent.
        dialogues: text dialogues, read only to train an absent tokenizer with `vocab_size` tokens.
        extra_manifests: more training speech (train split only), at most `extra_hours` of each.
        evaluation_items: utterances per evaluation split and kind of voice.
        max_duration_s: longer utterances are left out, of training and evaluation, and counted in the log.
    """

    manifests: list[str]
    phones: str
    tokenizer: str
    dialogues: str
    vocab_size: int = 1536
    extra_manifests: list[str] = field(default_factory=list)
    extra_hours: float = 2.0
    evaluation_items: int = 120
    max_duration_s: float = 12.0


@dataclass
class EncoderModel:
    """Sizes; see ``WhisperConfig`` and :class:`SpeechEncoderConfig`.

    Attributes:
        start_from: folder of a trained encoder of the same sizes to continue from; None = from scratch.
        whisper: folder or hub id of any Whisper whose encoder is the audio tower, with its sizes; None = the sizes
            below. `num_mel_bins` must be its own.
        train_tower: False freezes the audio tower: adapter and heads learn to read it (Soundwave's stage I).
    """

    start_from: str | None = None
    whisper: str | None = None
    train_tower: bool = True
    d_model: int = 192
    encoder_layers: int = 6
    encoder_attention_heads: int = 4
    encoder_ffn_dim: int = 768
    num_mel_bins: int = 80
    max_source_positions: int = 1500
    dropout: float = 0.0
    init_std: float = 0.05
    position_scale: float = 0.2
    hidden_size: int = 256
    adapter_attention_heads: int = 4
    adapter_dropout: float = 0.1
    phone_layer: int = 4
    phone_loss_weight: float = 0.5


@recipe("encoder")
@dataclass
class EncoderRecipe:
    """The recipe of this stage."""

    stage: str
    data: EncoderData
    model: EncoderModel
    augmentation: AugmentationConfig
    training: TrainingConfig

    def build(self) -> EncoderStage:
        """Build the stage: tokenizer, features, model."""
        return EncoderStage(self)


@dataclass(frozen=True)
class SpeechItem:
    """One utterance, ready for a batch: place of its features, token ids and phone classes."""

    utterance: Utterance
    store: FeatureStore
    index: int
    labels: tuple[int, ...]
    phone_labels: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Mel frames."""
        return self.store.frames(self.index)

    def features(self) -> Tensor:
        """(frames, mels) float32."""
        return torch.from_numpy(np.array(self.store[self.index], dtype=np.float32))


class EncoderObjective(nn.Module):
    """CTC on text tokens + weight x CTC on phones."""

    def __init__(self, model: SpeechEncoderForCTC) -> None:
        super().__init__()
        self.model = model

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Audios with a transcript: CTC is nats per symbol, then a mean over audios."""
        return {"ctc_loss": known_rows(batch["labels"]), "phone_loss": known_rows(batch["phone_labels"])}

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Losses by name, from a batch of :func:`speech_batch`."""
        output = self.model(**batch)
        means = {"ctc_loss": output.ctc_loss, "phone_loss": output.phone_loss}
        losses = share_of_step(means, self, batch, denominators)
        return {"loss": losses["ctc_loss"] + self.model.config.phone_loss_weight * losses["phone_loss"], **losses}


class EncoderStage:
    """See the module."""

    name = "encoder"
    length_unit = ("audio_hours", 1 / (3600 * MEL_FRAMES_PER_S))

    def __init__(self, recipe: EncoderRecipe) -> None:
        self.recipe = recipe
        data, sizes = recipe.data, recipe.model
        self.tokenizer = text_tokenizer(data.tokenizer, data.dialogues, data.vocab_size)
        self.phones = PhoneLexicon(data.phones)
        self.train_items: list[SpeechItem] = []
        self.evaluation_items: dict[str, list[SpeechItem]] = {}
        self._read()
        torch.manual_seed(recipe.training.seed)
        config = encoder_config(sizes, self.tokenizer, self.phones.phones)
        self.model = SpeechEncoderForCTC(config)
        if sizes.whisper is not None:
            self.model.audio_tower.load_state_dict(WhisperTower.from_checkpoint(sizes.whisper).state_dict())
        if not sizes.train_tower:
            self.model.audio_tower.requires_grad_(False)
        if sizes.start_from is not None:
            self.model.load_state_dict(initial_weights(sizes.start_from, config))
        lengths = [item.frames for item in self.train_items] or [0]
        device, precision = choose_device(recipe.training.device), recipe.training.precision
        self.model.set_attn_implementation(
            tower_attention(device, sizes.train_tower, precision, statistics.median(lengths))
        )
        self.objective = EncoderObjective(self.model)

    def _read(self) -> None:
        """Read training items, and evaluation items by split and by known or new voice."""
        data, rng = self.recipe.data, random.Random(self.recipe.training.seed)
        held_out: list[SpeechItem] = []
        for manifest in [*data.manifests, *data.extra_manifests]:
            extra = manifest in data.extra_manifests
            items = self._items(Path(manifest))
            rng.shuffle(items)
            left_s = data.extra_hours * 3600 if extra else float("inf")
            for item in items:
                if item.utterance.split != "train":
                    held_out += [] if extra else [item]
                elif left_s > 0:
                    left_s -= item.utterance.duration_s
                    self.train_items.append(item)
        heard = {item.utterance.speaker for item in self.train_items}
        for item in held_out:
            voices = "seen_voices" if item.utterance.speaker in heard else "new_voices"
            group = self.evaluation_items.setdefault(f"{item.utterance.split}_{voices}", [])
            if len(group) < data.evaluation_items:
                group.append(item)

    def _items(self, manifest: Path) -> list[SpeechItem]:
        mels, longest_s = self.recipe.model.num_mel_bins, self.recipe.data.max_duration_s
        every = read_utterances(manifest)
        utterances = [item for item in every if item.duration_s <= longest_s]
        if len(utterances) < len(every):
            hours = sum(item.duration_s for item in every if item.duration_s > longest_s) / 3600
            where = "%s: %d of %d utterances are longer than %g s and left out, %.1f h (data.max_duration_s)"
            log.warning(where, manifest, len(every) - len(utterances), len(every), longest_s, hours)
        if every and not utterances:
            raise ValueError(
                f"{manifest}: expected utterances of at most {longest_s:g} s, found {len(every)} longer ones; raise "
                "data.max_duration_s, or cut the recordings"
            )
        cache = manifest.parent / "features" / f"{manifest.stem}-{mels}mels.npy"
        store = feature_store([audio_path(manifest, item.audio) for item in utterances], cache, mels)
        tokens = self.tokenizer([item.text for item in utterances], add_special_tokens=False)["input_ids"]
        return [
            SpeechItem(item, store, index, tuple(ids), self.phones.classes(item.text))
            for index, (item, ids) in enumerate(zip(utterances, tokens, strict=True))
        ]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Everything but Whisper's sinusoidal positions."""
        return {"encoder": [value for value in self.model.parameters() if value.requires_grad]}

    def dataset(self) -> Sequence[SpeechItem]:
        """Training utterances."""
        return self.train_items

    def lengths(self) -> list[int]:
        """Mel frames of each (so ``batch_by: total_length`` with ``batch_size: 5000`` means 50 s of audio)."""
        return [item.frames for item in self.train_items]

    def collate(self, items: list[SpeechItem], rng: random.Random) -> dict[str, Tensor]:
        """Augmented features, tokens and phones of a batch."""
        return speech_batch(items, [augment(item.features(), self.recipe.augmentation, rng) for item in items])

    def evaluate(self) -> dict[str, float]:
        """Greedy word error rate of the text head and phone error rate of the phone head, by split."""
        metrics = {}
        for split, items in self.evaluation_items.items():
            texts, phones = self._recognize(items)
            metrics[f"wer_{split}"] = word_errors([item.utterance.text for item in items], texts).rate
            errors = [edit_counts(item.phone_labels, found) for item, found in zip(items, phones, strict=True)]
            metrics[f"per_{split}"] = sum(e.errors for e in errors) / max(1, sum(e.reference_words for e in errors))
        return metrics

    def _recognize(self, items: list[SpeechItem]) -> tuple[list[str], list[list[int]]]:
        """Greedy text and phone classes of each item, batched by similar length."""
        order = sorted(range(len(items)), key=lambda i: items[i].frames)
        texts, phones = [""] * len(items), [[0]] * len(items)
        device = next(self.model.parameters()).device
        for start in range(0, len(order), 16):
            rows = order[start : start + 16]
            features, mask = pad_features([items[i].features() for i in rows])
            output = self.model(features.to(device), mask.to(device))
            found = greedy_ctc(output.logits, output.mask, self.model.blank_token_id)
            phone_classes = greedy_ctc(output.phone_logits, output.phone_mask, self.model.config.phone_blank_id)
            for row, ids, classes in zip(rows, found, phone_classes, strict=True):
                texts[row], phones[row] = decode_text(self.tokenizer, ids), classes
        return texts, phones

    def sample(self, folder: Path) -> None:
        """Write text and transcript of a few utterances of each evaluation split."""
        for split, items in self.evaluation_items.items():
            texts, _ = self._recognize(items[:12])
            lines = [
                f"{item.utterance.speaker}\t{item.utterance.text}\t{text}"
                for item, text in zip(items, texts, strict=False)
            ]
            (folder / f"{split}.tsv").write_text("voice\tsaid\theard\n" + "\n".join(lines) + "\n", encoding="utf-8")

    def save(self, folder: Path) -> None:
        """Model, feature extractor and tokenizer, loadable by ``from_pretrained``."""
        save_model(self.model, folder)
        WhisperFeatureExtractor(feature_size=self.recipe.model.num_mel_bins).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class PhoneLexicon(Lexicon):
    """Phone classes of written text: class 0 is the CTC blank, phone i of the inventory is class i + 1."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._classes = {phone: index + 1 for index, phone in enumerate(self.phones)}

    def classes(self, text: str) -> tuple[int, ...]:
        """Phone classes of all words of ``text``.

        Raises:
            ValueError: a word that the lexicon lacks.
        """
        return tuple(self._classes[phone] for phone in self.say(text))


def encoder_config(sizes: EncoderModel, tokenizer: PreTrainedTokenizerBase, phones: list[str]) -> SpeechEncoderConfig:
    """The model's configuration from the recipe's sizes and the tokenizer's vocabulary."""
    audio_config = (
        whisper_sizes(sizes)
        if sizes.whisper is not None
        else whisper_config(
            d_model=sizes.d_model,
            encoder_layers=sizes.encoder_layers,
            encoder_attention_heads=sizes.encoder_attention_heads,
            encoder_ffn_dim=sizes.encoder_ffn_dim,
            num_mel_bins=sizes.num_mel_bins,
            max_source_positions=sizes.max_source_positions,
            dropout=sizes.dropout,
            init_std=sizes.init_std,
            position_scale=sizes.position_scale,
        )
    )
    return SpeechEncoderConfig(
        audio_config=audio_config,
        hidden_size=sizes.hidden_size,
        vocab_size=len(tokenizer),
        blank_token_id=token_id(tokenizer, AUDIO),
        adapter_attention_heads=sizes.adapter_attention_heads,
        adapter_dropout=sizes.adapter_dropout,
        phones=phones,
        phone_layer=sizes.phone_layer,
        phone_loss_weight=sizes.phone_loss_weight,
        initializer_range=sizes.init_std,
    )


def whisper_sizes(sizes: EncoderModel) -> WhisperConfig:
    """Configuration of the Whisper that the recipe names.

    Raises:
        ValueError: no Whisper, or one of another number of mel bins than the recipe's.
    """
    assert sizes.whisper is not None
    config = AutoConfig.from_pretrained(sizes.whisper)
    if not isinstance(config, WhisperConfig):
        raise ValueError(
            f"model.whisper: expected a Whisper checkpoint, found {config.model_type!r} in {sizes.whisper}"
        )
    if config.num_mel_bins != sizes.num_mel_bins:
        raise ValueError(
            f"model.num_mel_bins: expected {config.num_mel_bins} as in {sizes.whisper}, found {sizes.num_mel_bins}"
        )
    return config


def initial_weights(folder: str, config: SpeechEncoderConfig) -> dict[str, Tensor]:
    """Weights of a trained encoder to continue from.

    Raises:
        ValueError: it has other phones or another vocabulary, so that its heads do not fit.
    """
    model = SpeechEncoderForCTC.from_pretrained(folder)
    for name in ("phones", "vocab_size", "blank_token_id"):
        expected, found = getattr(config, name), getattr(model.config, name)
        if expected != found:
            raise ValueError(f"{folder}: expected {name} {expected}, found {found}: train it on the same corpus first")
    return model.state_dict()


def text_tokenizer(folder: str | Path, dialogues: str | Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """The text tokenizer in ``folder``; trained there from the dialogues when the folder does not exist yet.

    It is the same as that of stage ``lm``: training is deterministic, so either stage may be first.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").exists():
        dialogue_tokenizer(read_dialogues(dialogues), vocab_size).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def speech_batch(items: Sequence[SpeechItem], features: Sequence[Tensor]) -> dict[str, Tensor]:
    """Batch of the encoder stage.

    Returns:
        input_features (A, mels, T), input_features_mask (A, T), labels (A, N) and phone_labels (A, M), both padded
        with -100.
    """
    padded, mask = pad_features(features)
    return {
        "input_features": padded,
        "input_features_mask": mask,
        "labels": pad_sequences([item.labels for item in items], -100),
        "phone_labels": pad_sequences([item.phone_labels for item in items], -100),
    }
