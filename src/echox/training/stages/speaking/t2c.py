"""Stage "t2c" (II): text to codec. Text tokens, as the language model embeds them, to unit words.

What is built: :class:`T2CForUnitGeneration` over the language model's token embedding, frozen. What is trained: the
unit decoder. Its batches: spoken replies as unit words aligned with text words, whole or cut as in
streaming (sentences, and any run of words). Its loss: cross-entropy on unit words, teacher-forced.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 3.2); the word-synchronous form is ours (docs/paper_map.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from echox.audio import save_audio
from echox.config import TrainingConfig, recipe
from echox.data.manifest import UnitUtterance, read_unit_utterances
from echox.data.sampling import spread
from echox.files import JsonObject, save_model
from echox.models.packing import check_packing, padding_shares
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_letters import letters_of, pad_letters
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.t2c.modeling_unit_decoder import UnitSequence
from echox.models.text.tokenization_text import word_index
from echox.models.text.word_breaks import check_spaces, white_space_words
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.models.vocoder.auto import AutoUnitVocoder
from echox.training.batches.collate import IGNORE_INDEX, pad_sequences
from echox.training.batches.normalisation import Denominators, share_of_step
from echox.training.stages.dialogue.continued import load_text_embedding, load_unit_decoder

SENTENCE_ENDS = (".", "?", "!")
_NOT_OF_THE_CONFIGURATION = ("start_from", "options", "attn_implementation")
_FOR_TRAINING_ALONE = ("unit_noise", "dropout", "word_token_dropout")


@dataclass
class T2CData:
    """The spoken replies, and how they are cut: `sentences` and `spans` are probabilities; other items stay whole.

    Attributes:
        units: manifest of :class:`UnitUtterance`; split "train" is for training, every other split for evaluation.
        unspoken: manifest of texts with units that nobody spoke (stage phone_units), for training too; None: none.
        unit_language: folder of the unit language.
        language_model: folder of the tokenizer and the token embedding: a language model, or a model that has one.
        vocoder: folder of a unit vocoder, to write samples as audio.
        sentences: fraction of the items cut to one or more neighbouring sentences.
        spans: fraction of the items cut to a run of words, of at least `min_span_words`.
    """

    units: str
    unit_language: str
    language_model: str
    unspoken: str | None = None
    vocoder: str | None = None
    sentences: float = 0.25
    spans: float = 0.25
    min_span_words: int = 2
    max_evaluation_items: int = 256
    samples: int = 8


@dataclass
class T2CModel:
    """Form and sizes; see :class:`UnitDecoderConfig`, to which `options` may add.

    Attributes:
        start_from: folder of a T2C, or of a whole model, of the same sizes and unit language, whose decoder is trained
            further; None: a new one.
    """

    start_from: str | None = None
    form: str = "word_synchronous"
    hidden_size: int = 256
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 640
    max_position_embeddings: int = 2048
    unit_noise: float = 0.05
    dropout: float = 0.0
    attn_implementation: str = "sdpa"
    options: JsonObject = field(default_factory=dict)

    def sizes(self) -> list[str]:
        """Names of the settings that shape the weights; the others are for training alone, and may change."""
        named = [*asdict(self), *self.options]
        return [name for name in named if name not in (*_NOT_OF_THE_CONFIGURATION, *_FOR_TRAINING_ALONE)]

    def configuration(self, text_hidden_size: int, text_vocab_size: int, num_unit_words: int) -> UnitDecoderConfig:
        """The model's configuration, from the sizes of text embedding and unit language."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_OF_THE_CONFIGURATION}
        return UnitDecoderConfig(
            text_hidden_size=text_hidden_size,
            text_vocab_size=text_vocab_size,
            num_unit_words=num_unit_words,
            **(values | self.options),
        )


@recipe("t2c")
@dataclass
class T2CRecipe:
    """The recipe of this stage."""

    stage: str
    data: T2CData
    model: T2CModel
    training: TrainingConfig

    def build(self) -> T2CStage:
        """Build the stage: tokenizer, text embedding, unit language, decoder."""
        return T2CStage(self)


@dataclass(frozen=True)
class SpokenText:
    """A text and the unit words of its speech.

    Attributes:
        token_ids: tokens of the text. word_ids: white-space word of each token.
        unit_words: of the speech. unit_word_of: text word of each unit word.
        sentence_ends: words at which a sentence ends.
        first_word: number of the text's first word in `word_ids`.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    word_ids: tuple[int, ...]
    unit_words: tuple[int, ...]
    unit_word_of: tuple[int, ...]
    sentence_ends: tuple[int, ...]
    first_word: int = 0

    @property
    def num_words(self) -> int:
        """White-space words."""
        return len(self.text.split())

    def letters(self, limit: int) -> list[list[int]]:
        """Letters of each word that has tokens, in order; `limit` is the largest number of a word."""
        words = self.text.split()
        return [
            letters_of("".join(words[name - self.first_word :][:1]), limit)
            for name in sorted(set(self.word_ids))
            if name >= 0
        ]

    def cut(self, first: int, last: int) -> SpokenText:
        """The words `first` to `last`, both included, with their ids unchanged."""
        tokens = [place for place, word in enumerate(self.word_ids) if first <= word <= last]
        units = [place for place, word in enumerate(self.unit_word_of) if first <= word <= last]
        words = self.text.split()[max(0, first - self.first_word) : max(0, last + 1 - self.first_word)]
        return SpokenText(
            self.id,
            " ".join(words),
            tuple(self.token_ids[place] for place in tokens),
            tuple(self.word_ids[place] for place in tokens),
            tuple(self.unit_words[place] for place in units),
            tuple(self.unit_word_of[place] for place in units),
            tuple(word for word in self.sentence_ends if first <= word <= last),
            max(first, self.first_word),
        )

    def random_cut(self, data: T2CData, rng: random.Random) -> SpokenText:
        """Whole, some neighbouring sentences, or a run of words, by the probabilities of `data`: as in streaming."""
        drawn, count = rng.random(), self.num_words
        if drawn < data.sentences and len(self.sentence_ends) > 1:
            ends = (-1, *self.sentence_ends)
            first = rng.randrange(len(ends) - 1)
            return self.cut(ends[first] + 1, ends[rng.randrange(first + 1, len(ends))])
        if data.sentences <= drawn < data.sentences + data.spans and count > data.min_span_words:
            length = rng.randint(data.min_span_words, count)
            start = rng.randint(0, count - length)
            return self.cut(start, start + length - 1)
        return self


class T2CObjective(nn.Module):
    """Cross-entropy on unit words."""

    def __init__(self, model: T2CForUnitGeneration, packed: bool = False) -> None:
        super().__init__()
        self.model = model
        self.packed = packed

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unit words with their ends."""
        targets = self.model.decoder.num_targets(batch["word_ids"], batch["unit_words"])
        return {"loss": targets, "accuracy": targets}

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Loss, and the fraction of targets that are the most likely output, from a batch of :func:`spoken_batch`."""
        output = self.model(**batch, packed=self.packed)
        means = {"loss": output.loss, "accuracy": accuracy(output.logits, output.targets)}
        return share_of_step(means, self, batch, denominators) | padding_shares(output.input_mask, self.packed)


class T2CStage:
    """See the module."""

    name = "t2c"
    packs = True

    def __init__(self, recipe: T2CRecipe) -> None:
        self.recipe = recipe
        data = recipe.data
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(data.language_model)
        self.language = AutoUnitLanguage.from_pretrained(data.unit_language)
        embedding = load_text_embedding(data.language_model)
        vocabulary, width = embedding.shape
        torch.manual_seed(recipe.training.seed)
        self.model = T2CForUnitGeneration(recipe.model.configuration(width, vocabulary, len(self.language)))
        self.model.copy_text_embedding(embedding)
        self.model.text_embedding.requires_grad_(False)
        if recipe.model.start_from is not None:
            self._continue(recipe.model.start_from)
        self.model.set_attn_implementation(recipe.model.attn_implementation)
        if recipe.training.packing:
            check_packing(self.model.decoder.backbone, "unit decoder")
        self.objective = T2CObjective(self.model, recipe.training.packing)
        self.train_items: list[SpokenText] = []
        self.evaluation_items: list[SpokenText] = []
        for utterance in read_unit_utterances(data.units):
            items = self.train_items if utterance.split == "train" else self.evaluation_items
            items.append(spoken_text(utterance, self.tokenizer, self.language))
        unspoken = () if data.unspoken is None else read_unit_utterances(data.unspoken)
        self.train_items += [spoken_text(utterance, self.tokenizer, self.language) for utterance in unspoken]
        self.evaluation_items = spread(self.evaluation_items, data.max_evaluation_items)

    def _continue(self, folder: str) -> None:
        """Take the weights of a finished decoder over.

        Raises:
            ValueError: it has another form, other sizes or another unit language.
        """
        decoder = load_unit_decoder(folder, self.language)
        ours, theirs = self.model.config.to_dict(), decoder.config.to_dict()
        other = [name for name in self.recipe.model.sizes() if ours[name] != theirs.get(name)]
        if other:
            raise ValueError(
                f"{folder}: expected the recipe's {', '.join(f'{name} {ours[name]}' for name in other)}, found "
                f"{', '.join(str(theirs.get(name)) for name in other)}; what is trained further keeps its sizes"
            )
        self.model.decoder.load_state_dict(decoder.state_dict())

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The unit decoder; the text embedding is frozen."""
        return {"decoder": list(self.model.decoder.parameters())}

    def dataset(self) -> Sequence[SpokenText]:
        """Training utterances."""
        return self.train_items

    def lengths(self) -> list[int]:
        """Unit words and words of each: about its number of steps."""
        return [len(item.unit_words) + item.num_words for item in self.train_items]

    def collate(self, items: list[SpokenText], rng: random.Random) -> dict[str, Tensor]:
        """Utterances, some of them cut."""
        return self._batch([item.random_cut(self.recipe.data, rng) for item in items])

    def _batch(self, items: Sequence[SpokenText]) -> dict[str, Tensor]:
        return spoken_batch(items, self.model.config.max_word_letters)

    def evaluate(self) -> dict[str, float]:
        """Teacher-forced loss and accuracy; of free greedy decoding, the fraction that ended and the length."""
        if not self.evaluation_items:
            return {}
        items = sorted(self.evaluation_items, key=lambda item: len(item.unit_words))
        loss = correct = targets = said = finished = 0.0
        for start in range(0, len(items), 32):
            chosen = items[start : start + 32]
            batch = {name: value.to(self.model.device) for name, value in self._batch(chosen).items()}
            output = self.model(**batch)
            count = float((output.targets != IGNORE_INDEX).sum())
            loss, targets = loss + float(output.loss) * count, targets + count
            correct += float(accuracy(output.logits, output.targets)) * count
            if start % 128 == 0:  # free decoding takes longest: every fourth batch
                sequences = read_batch(self.model, batch)
                finished += sum(sequence.finished for sequence in sequences) / len(sequences)
                spoken = sum(len(sequence.unit_words) for sequence in sequences)
                said += spoken / sum(len(item.unit_words) for item in chosen)
        decoded = len(range(0, len(items), 128))
        return {
            "heldout_loss": loss / targets,
            "heldout_accuracy": correct / targets,
            "heldout_finished": finished / decoded,
            "heldout_length_ratio": said / decoded,
        }

    def sample(self, folder: Path) -> None:
        """Units of a few held-out texts; also as audio when the recipe names a vocoder."""
        items = spread(self.evaluation_items or self.train_items, self.recipe.data.samples)
        batch = {name: value.to(self.model.device) for name, value in self._batch(items).items()}
        sequences = read_batch(self.model, batch)
        write_unit_samples(folder, [item.text for item in items], sequences, self.language, self.recipe.data.vocoder)

    def save(self, folder: Path) -> None:
        """Model, tokenizer and unit language."""
        save_model(self.model, folder)
        self.tokenizer.save_pretrained(folder)
        self.language.save_pretrained(folder)


def spoken_text(utterance: UnitUtterance, tokenizer: PreTrainedTokenizerBase, language: UnitLanguage) -> SpokenText:
    """Tokens and unit words of an utterance; no unit word crosses the border of two text words.

    Raises:
        ValueError: a text in a script without spaces.
    """
    try:
        check_spaces(utterance.text)
    except ValueError as error:
        raise ValueError(f"{utterance.id}: {error}") from error
    ids = tokenizer(utterance.text, add_special_tokens=False)["input_ids"]
    unit_words, unit_word_of = language.encode_words(utterance.units, utterance.word_of_unit)
    words = utterance.text.split()
    ends = [place for place, word in enumerate(words) if word.endswith(SENTENCE_ENDS) or place == len(words) - 1]
    word_ids = white_space_words(utterance.text, word_index(tokenizer, ids))
    return SpokenText(
        utterance.id, utterance.text, tuple(ids), tuple(word_ids), tuple(unit_words), tuple(unit_word_of), tuple(ends)
    )


def spoken_batch(items: Sequence[SpokenText], max_word_letters: int = 0) -> dict[str, Tensor]:
    """Batch of this stage.

    Args:
        items: of one batch.
        max_word_letters: of the model; 0: it does not read letters.

    Returns:
        input_ids (B, R) padded with -1, word_ids (B, R) with -1, unit_words (B, U) with -100, unit_word_of (B, U)
        with -1; with letters word_letters (B, W, C) with -1.
    """
    letters = {"word_letters": pad_letters([item.letters(max_word_letters) for item in items])}
    return (letters if max_word_letters else {}) | {
        "input_ids": pad_sequences([item.token_ids for item in items], -1),
        "word_ids": pad_sequences([item.word_ids for item in items], -1),
        "unit_words": pad_sequences([item.unit_words for item in items], IGNORE_INDEX),
        "unit_word_of": pad_sequences([item.unit_word_of for item in items], -1),
    }


def read_batch(model: T2CForUnitGeneration, batch: dict[str, Tensor]) -> list[UnitSequence]:
    """Greedy unit words of the texts of a batch."""
    return model.generate(batch["input_ids"], batch["word_ids"], word_letters=batch.get("word_letters"))


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Fraction of the targets (B, T), -100 left out, that are the largest of `logits` (B, T, V)."""
    real = targets != IGNORE_INDEX
    return ((logits.detach().argmax(-1) == targets) & real).sum() / real.sum().clamp(min=1)


def write_unit_samples(
    folder: Path,
    texts: Sequence[str],
    sequences: Sequence[UnitSequence],
    language: UnitLanguage,
    vocoder_folder: str | None,
) -> None:
    """``units.jsonl`` (text, unit words, units), and with a vocoder one WAV per text."""
    spoken = [language.decode_reduced(sequence.unit_words) for sequence in sequences]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "units.jsonl").open("w", encoding="utf-8") as file:
        for text, sequence, units in zip(texts, sequences, spoken, strict=True):
            row = {"text": text, "unit_words": sequence.unit_words, "units": units, "finished": sequence.finished}
            file.write(json.dumps(row) + "\n")
    if vocoder_folder is None:
        return

    vocoder = AutoUnitVocoder.from_pretrained(vocoder_folder)
    with torch.autocast("cpu", enabled=False):
        for number, units in enumerate(spoken):
            if units:
                waveform = vocoder(torch.tensor([units])).waveform[0]
                save_audio(folder / f"{number:02d}.wav", waveform.float().numpy(), vocoder.sampling_rate)
