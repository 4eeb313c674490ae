"""Stage "s2t" (I): understand speech. A speech encoder, or a recogniser, is joined to the language model.

What is built: S2T from both parts. What is trained: the adapters of the aligner ("adapters": alignment adapter,
shrinking adapter, CTC head and bridge; or the residual adapter) and a LoRA on the language model ("lora"); audio tower,
recogniser and language model are frozen. Its batches: dialogues whose user turns are spoken (a few stay text, so that
the model does not forget to read). Its loss: cross-entropy on the replies; with aligner "ctc" + ``ctc_loss_weight`` x
CTC on what the user said.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 3, stage I).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from echox.config import TrainingConfig, recipe
from echox.data.features.corpus_features import MEL_FRAMES_PER_S, AugmentationConfig
from echox.data.features.tower_features import TowerFeatures
from echox.data.scoring import same_words, word_errors
from echox.files import JsonObject, save_model
from echox.models.echox.configuration_echox import SpeechEncoderConfig
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.packing import check_packing, padding_shares
from echox.models.pretrained import CausalLM
from echox.models.text.retokenization import Retokenizer
from echox.models.text.text_embeddings import weight_of
from echox.models.text.tokenization_text import AUDIO, decode_text, token_id
from echox.training.batches.normalisation import Denominators, known_rows, share_of_step
from echox.training.networks.lora import LoRASettings, add_lora, lora_parameters, merged_state_dict, save_lora
from echox.training.stages.dialogue.continued import check_one_source, load_s2t, training_items
from echox.training.stages.dialogue.dialogue_sources import Dialogues, dialogue_source, tokens_by_bytes
from echox.training.stages.dialogue.dialogues import SpokenDialogue, dialogue_batch, question


@dataclass
class S2TData:
    """Dialogues with spoken user turns (their text is the transcript).

    Attributes:
        manifests: files (``dialogues.jsonl``), or folders or addresses of shards (``dialogue_shards`` of stage
            prepare_data). Split "train" is for training; of every other split `evaluation_items` are answered.
        shares: fraction of the whole run's items that each of `manifests` gives; None: all dialogues equally often.
        as_served: recordings are cut to their speech, at one level, as a loaded model hears them (`heard_waveform`).
        text_turns: fraction of the spoken user turns that are given as text instead.
        max_new_tokens: of a reply in evaluation.
    """

    manifests: list[str]
    shares: list[float] | None = None
    as_served: bool = False
    text_turns: float = 0.1
    evaluation_items: int = 120
    max_new_tokens: int = 96


@dataclass
class S2TModel:
    """Parts and options; see :class:`echox.models.echox.configuration_echox.S2TConfig`.

    Attributes:
        speech_encoder: output of stage "encoder", or any audio tower (folder or hub id), whose adapter and CTC head are
            then trained here. With aligner "recogniser": a recogniser with its tokenizer (output of stage "recogniser",
            or a hub id).
        language_model: folder or hub id; an audio placeholder is added to its vocabulary where it has none.
        start_from: instead of all others: a finished model (of "s2t", "echo" or "package", also in 8 bits) to train
            further, with a new LoRA. `package` puts the result back into the whole model (``parts.s2t``).
        aligner: "ctc" or "recogniser"; the next fields, up to `fresh_adapters`, are of "ctc".
        recogniser_tokens_per_s: of "recogniser".
        fresh_adapters: take only the tower of stage "encoder"; alignment adapter and CTC head are trained here.
        compatibility: departures from the method, as in the released adapters (`Compatibility`), for comparison.
    """

    speech_encoder: str = ""
    language_model: str = ""
    aligner: str = "ctc"
    drop_blanks: bool = True
    ctc_bridge: bool = True
    ctc_loss_weight: float = 0.3
    fresh_adapters: bool = False
    recogniser_tokens_per_s: float = 6.5
    compatibility: JsonObject = field(default_factory=dict)
    start_from: str | None = None


@recipe("s2t")
@dataclass
class S2TRecipe:
    """The recipe of this stage."""

    stage: str
    data: S2TData
    model: S2TModel
    training: TrainingConfig
    lora: LoRASettings = field(default_factory=LoRASettings)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def build(self) -> S2TStage:
        """Load both parts, join them, read the dialogues."""
        return S2TStage(self)


class S2TObjective(nn.Module):
    """Cross-entropy on replies + weighted CTC on questions, where the aligner has one."""

    def __init__(
        self, model: S2TForConditionalGeneration, retokenizer: Retokenizer | None = None, packed: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.retokenizer = retokenizer
        self.packed = packed

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Reply tokens; audios with a transcript."""
        audios = known_rows(batch["ctc_labels"]) if "ctc_labels" in batch else torch.zeros(())
        return {"s2t_loss": (batch["labels"][:, 1:] >= 0).sum(), "ctc_loss": audios}

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Losses by name, from a batch of :meth:`S2TStage.collate`."""
        output = self.model(**batch, retokenizer=self.retokenizer, packed=self.packed)
        means = {"s2t_loss": output.s2t_loss}
        if output.ctc_loss is not None:
            means["ctc_loss"] = output.ctc_loss
        losses = share_of_step(means, self, batch, denominators)
        loss = losses["s2t_loss"]
        if "ctc_loss" in losses:
            loss = loss + self.model.config.ctc_loss_weight * losses["ctc_loss"]
        return {"loss": loss, **losses, **padding_shares(output.attention_mask, self.packed)}


class S2TStage:
    """See the module."""

    name = "s2t"
    packs = True
    length_unit = ("audio_hours", 1 / (3600 * MEL_FRAMES_PER_S))

    def __init__(self, recipe: S2TRecipe) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.training.seed)
        self.model, self.tokenizer, self.recogniser_tokenizer = open_model(recipe.model)
        self.tower = TowerFeatures(self.model.config.audio_config)
        self.processor = EchoXProcessor(
            self.tower.extractor, self.tokenizer, recogniser_tokenizer=self.recogniser_tokenizer
        )
        self.model.requires_grad_(False)
        for part in self.model.aligner.trained_parts():
            part.requires_grad_(True)
        for value in add_lora(self.model.language_model, recipe.lora):
            value.requires_grad_(True)
        self.model.audio_tower.set_attn_implementation("sdpa")  # frozen: `training/networks/attention.py`
        if recipe.training.packing:
            check_packing(self.model.language_model.base_model, "language model")
        self.objective = S2TObjective(self.model, self.processor.retokenizer, recipe.training.packing)
        data = recipe.data
        sources = [dialogue_source(path, self.tower, data.evaluation_items, data.as_served) for path in data.manifests]
        self.train_items = training_items([source.training for source in sources], data.shares, recipe.training)
        items = [item for source in sources for item in source.listed]
        if not self.train_items.frames.any():
            raise ValueError(
                f"data.manifests: expected training dialogues whose user turns have audio, found none among "
                f"{len(items)} dialogues ({len(self.train_items)} of split train) of "
                f"{', '.join(recipe.data.manifests)}: stage s2t needs speech"
            )
        self.evaluation_items: dict[str, list[SpokenDialogue]] = {}
        for item in random.Random(0).sample(items, len(items)):
            if item.dialogue.split != "train":
                group = self.evaluation_items.setdefault(item.dialogue.split, [])
                if len(group) < recipe.data.evaluation_items:
                    group.append(item)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The aligner's adapters (with CTC head and bridge) and the LoRA; all other weights are frozen."""
        adapters = [value for part in self.model.aligner.trained_parts() for value in part.parameters()]
        return {"adapters": adapters, "lora": lora_parameters(self.model.language_model)}

    def dataset(self) -> Dialogues:
        """Training dialogues."""
        return self.train_items

    def lengths(self) -> list[int]:
        """Mel frames (1/100 s) of each dialogue; of a typed one, those of a spoken one, so that batches hold both."""
        rng, frames = random.Random(0), self.train_items.frames.tolist()
        spoken = [count for count in frames if count]
        return [count or rng.choice(spoken) for count in frames]

    def token_lengths(self) -> list[int]:
        """About the text tokens of each dialogue; see `tokens_by_bytes`."""
        return tokens_by_bytes(self.train_items, self.tokenizer)

    def collate(self, items: list[SpokenDialogue], rng: random.Random) -> dict[str, Tensor]:
        """Augmented features, tokens, labels and transcripts of a batch; see :func:`dialogue_batch`."""
        data = self.recipe.data
        spoken = [{turn for turn in item.rows if not self._as_text(item, turn, data, rng)} for item in items]
        features = [
            self.tower.augmented(item.features(turn), self.recipe.augmentation, rng)
            for item, turns in zip(items, spoken, strict=True)
            for turn in sorted(turns)
        ]
        return dialogue_batch(self.tokenizer, items, spoken, features)

    @staticmethod
    def _as_text(item: SpokenDialogue, turn: int, data: S2TData, rng: random.Random) -> bool:
        return item.dialogue.turns[turn].text is not None and rng.random() < data.text_turns

    def evaluate(self) -> dict[str, float]:
        """By split: word error rate of the transcript (by the aligner's name), exact replies to speech and text.

        The rate is of dialogues whose last question was spoken and is known in words; without any, there is none.
        """
        metrics = {}
        aligner = self.model.config.aligner
        for split, items in self.evaluation_items.items():
            heard, replies = self.answer(items)
            _, read = self.answer(items, as_text=True)
            if pairs := [(question(item), said) for item, said in zip(items, heard, strict=True) if _is_heard(item)]:
                metrics[f"{aligner}_wer_{split}"] = word_errors(*zip(*pairs, strict=True)).rate
            metrics[f"s2t_exact_{split}"] = _exact(items, replies)
            metrics[f"t2t_exact_{split}"] = _exact(items, read)
        return metrics

    def answer(self, items: list[SpokenDialogue], as_text: bool = False, size: int = 24) -> tuple[list[str], list[str]]:
        """Transcript of the last user turn of each dialogue, and the greedy reply to it."""
        heard, replies = [""] * len(items), [""] * len(items)
        order = sorted(range(len(items)), key=lambda i: items[i].frames)
        device = self.model.device
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            chosen = [items[i] for i in rows]
            spoken = [set() if as_text else set(item.rows) for item in chosen]
            features = [
                item.features(turn) for item, turns in zip(chosen, spoken, strict=True) for turn in sorted(turns)
            ]
            batch = dialogue_batch(self.tokenizer, chosen, spoken, features, last_reply=False)
            batch = {name: value.to(device) for name, value in batch.items() if not name.endswith("labels")}
            retokenizer = self.processor.retokenizer
            written = self.model.generate(
                **batch, retokenizer=retokenizer, do_sample=False, max_new_tokens=self.recipe.data.max_new_tokens
            )
            texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
            transcripts = iter(
                self.model.transcribe(batch["input_features"], batch["input_features_mask"], retokenizer)
                if features
                else []
            )
            for row, turns, text in zip(rows, spoken, texts, strict=True):
                replies[row] = text
                for _ in sorted(turns):
                    heard[row] = decode_text(self.tokenizer, next(transcripts))
        return heard, replies

    def sample(self, folder: Path) -> None:
        """Write question, transcript, reply and expected reply of a few dialogues of each split."""
        for split, items in self.evaluation_items.items():
            heard, replies = self.answer(items[:16])
            lines = ["said\theard\treply\texpected"]
            for item, text, reply in zip(items, heard, replies, strict=False):
                lines.append(f"{question(item)}\t{text}\t{reply}\t{item.dialogue.turns[-1].text}")
            (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def save(self, folder: Path) -> None:
        """Merged weights that load with transformers alone, the LoRA beside them, the processor."""
        save_model(self.model, folder, merged_state_dict(self.model))
        save_lora(self.model, self.recipe.lora, folder)
        self.processor.save_pretrained(folder)


def _is_heard(item: SpokenDialogue) -> bool:
    """Whether the last question is speech, and its words are known."""
    last = max(turn for turn, said in enumerate(item.dialogue.turns) if said.role == "user")
    return last in item.rows and bool(question(item))


def _exact(items: Sequence[SpokenDialogue], replies: Sequence[str]) -> float:
    return sum(
        same_words(item.dialogue.turns[-1].text or "", text) for item, text in zip(items, replies, strict=True)
    ) / len(items)


def open_model(
    parts: S2TModel,
) -> tuple[S2TForConditionalGeneration, PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    """The model to train, its tokenizer, and the tokenizer of its recogniser if it has one."""
    check_one_source(parts.start_from, parts.speech_encoder, parts.language_model)
    if parts.start_from is not None:
        processor = EchoXProcessor.from_pretrained(parts.start_from)
        return load_s2t(parts.start_from), processor.tokenizer, processor.recogniser_tokenizer
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(parts.language_model)
    model, recogniser = join_parts(parts, tokenizer, AutoModelForCausalLM.from_pretrained(parts.language_model))
    return model, tokenizer, recogniser


def join_parts(
    parts: S2TModel, tokenizer: PreTrainedTokenizerBase, language_model: CausalLM
) -> tuple[S2TForConditionalGeneration, PreTrainedTokenizerBase | None]:
    """The model of this stage before training, and the tokenizer of its recogniser if it has one.

    Raises:
        ValueError: parts that do not belong together, or that are none.
    """
    if parts.aligner == "recogniser":
        add_placeholder(tokenizer, language_model)
        recogniser_tokenizer = AutoTokenizer.from_pretrained(parts.speech_encoder)
        model = S2TForConditionalGeneration.from_recogniser(
            AutoModelForSpeechSeq2Seq.from_pretrained(parts.speech_encoder, dtype=torch.float32),
            language_model,
            token_id(tokenizer, AUDIO),
            recogniser_tokens_per_s=parts.recogniser_tokens_per_s,
        )
        return model, recogniser_tokenizer
    model = S2TForConditionalGeneration.from_parts(
        open_speech_encoder(parts, tokenizer, language_model),
        language_model,
        aligner=parts.aligner,
        drop_blanks=parts.drop_blanks,
        ctc_bridge=parts.ctc_bridge,
        ctc_loss_weight=parts.ctc_loss_weight,
        compatibility=parts.compatibility,
    )
    return model, None


def add_placeholder(tokenizer: PreTrainedTokenizerBase, language_model: CausalLM) -> None:
    """Add the audio placeholder to a vocabulary that has none."""
    tokenizer.add_tokens([AUDIO], special_tokens=True)
    if len(tokenizer) > len(weight_of(language_model.get_input_embeddings())):
        language_model.resize_token_embeddings(len(tokenizer))


def open_speech_encoder(
    parts: S2TModel, tokenizer: PreTrainedTokenizerBase, language_model: CausalLM
) -> SpeechEncoderForCTC:
    """The speech encoder to start from; with a tower alone, the audio placeholder may be added to the vocabulary.

    Raises:
        ValueError: a trained encoder over another vocabulary, or a folder that is neither.
    """
    if isinstance(AutoConfig.from_pretrained(parts.speech_encoder), SpeechEncoderConfig):
        check_same_vocabulary(tokenizer, AutoTokenizer.from_pretrained(parts.speech_encoder), parts)
        encoder = SpeechEncoderForCTC.from_pretrained(parts.speech_encoder)
        if not parts.fresh_adapters:
            return encoder
        fresh = SpeechEncoderForCTC(encoder.config)
        fresh.audio_tower.load_state_dict(encoder.audio_tower.state_dict())
        return fresh
    add_placeholder(tokenizer, language_model)
    text_config = language_model.config.get_text_config()
    return SpeechEncoderForCTC.from_tower(
        parts.speech_encoder,
        hidden_size=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        blank_token_id=token_id(tokenizer, AUDIO),
        adapter_attention_heads=text_config.num_attention_heads,  # as in the official models
    )


def check_same_vocabulary(text: PreTrainedTokenizerBase, speech: PreTrainedTokenizerBase, parts: S2TModel) -> None:
    """Check that CTC head and language model have one vocabulary.

    Raises:
        ValueError: they differ.
    """
    if text.get_vocab() != speech.get_vocab():
        raise ValueError(
            f"expected one tokenizer in {parts.language_model} and {parts.speech_encoder}, found two that differ: "
            "train both stages on the same dialogues, the second with the first's tokenizer"
        )
