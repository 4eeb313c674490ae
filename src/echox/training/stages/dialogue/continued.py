"""How stages train a finished model further: its parts; new and old dialogues in fixed proportions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from echox.api.loading import load_folder
from echox.config import TrainingConfig
from echox.data.features.tower_features import TowerFeatures
from echox.data.sampling import spread
from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor, read_recogniser_tokenizer
from echox.models.pretrained import Model, load_with_report
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.t2c.modeling_unit_decoder import UnitDecoder
from echox.models.text.text_embeddings import text_embedding_table
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.models.vocoder.auto import AutoUnitVocoder
from echox.models.vocoder.modeling_unit_vocoder import UnitVocoder
from echox.training.networks.parallel import number_of_processes
from echox.training.stages.dialogue.dialogue_sources import Dialogues


def load_s2t(folder: str | Path) -> S2TForConditionalGeneration:
    """The S2T of a folder of stage "s2t", or the one inside a whole model, in float32.

    Raises:
        ValueError: weights are missing, or there are others.
    """
    model = _finished(folder, S2TForConditionalGeneration)
    return model.s2t if isinstance(model, EchoXForConditionalGeneration) else model


def speaking_processor(
    tower: TowerFeatures, tokenizer: PreTrainedTokenizerBase, language: UnitLanguage, s2t: str
) -> EchoXProcessor:
    """The processor of a model that speaks: what it hears with is that of the folder of its S2T."""
    recogniser = read_recogniser_tokenizer(s2t)
    return EchoXProcessor(tower.extractor, tokenizer, language, recogniser_tokenizer=recogniser)


def load_text_embedding(folder: str | Path) -> Tensor:
    """The text embeddings (vocabulary, width) of a language model, of stage "s2t" or of a whole model, in float32.

    Args:
        folder: of any of them, or a language model's hub id.

    Raises:
        ValueError: weights are missing, or there are others.
    """
    finished = isinstance(AutoConfig.from_pretrained(folder), S2TConfig | EchoXConfig)
    model = load_s2t(folder) if finished else AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return text_embedding_table(model.get_input_embeddings())


def load_unit_decoder(folder: str | Path, language: UnitLanguage) -> UnitDecoder:
    """The decoder of a folder of stage "t2c", or the echo decoder inside a whole model, in float32.

    Args:
        folder: of either.
        language: the unit language that the decoder is expected to speak.

    Raises:
        ValueError: weights are missing, there are others, or the unit language is another.
    """
    _check_language(folder, language)
    model = _finished(folder, T2CForUnitGeneration)
    return model.echo_decoder if isinstance(model, EchoXForConditionalGeneration) else model.decoder


def _check_language(folder: str | Path, language: UnitLanguage) -> None:
    theirs = AutoUnitLanguage.from_pretrained(folder)
    if theirs.to_dict() != language.to_dict():
        raise ValueError(
            f"{folder}: expected a decoder of the recipe's unit language ({len(language)} words), found one of "
            f"another ({len(theirs)}); set data.unit_language to the language that it was trained with"
        )


def load_t2c(folder: str | Path, language: UnitLanguage | None = None) -> T2CForUnitGeneration:
    """The T2C of a folder of stage "t2c", in float32; of a whole model, its echo decoder as a T2C that reads its text.

    Args:
        folder: of either.
        language: the unit language that it is expected to speak; None: any.

    Raises:
        ValueError: weights are missing, there are others, or the unit language is another.
    """
    if language is not None:
        _check_language(folder, language)
    model = _finished(folder, T2CForUnitGeneration)
    if not isinstance(model, EchoXForConditionalGeneration):
        return model
    t2c = T2CForUnitGeneration(model.config.echo_decoder_config)
    t2c.copy_text_embedding(text_embedding_table(model.s2t.get_input_embeddings()))
    t2c.decoder = model.echo_decoder
    return t2c


def load_vocoder(folder: str | Path) -> UnitVocoder:
    """A vocoder's folder, or the vocoder inside a whole model, in evaluation mode.

    Raises:
        ValueError: a whole model without one, or whose weights are not those of its configuration.
    """
    if not isinstance(AutoConfig.from_pretrained(folder), EchoXConfig):
        return AutoUnitVocoder.from_pretrained(folder)
    vocoder = load_folder(Path(folder), torch.device("cpu"), torch.float32, None)[0].vocoder
    if vocoder is None:
        raise ValueError(f"{folder}: expected a model with a vocoder, found none; name a vocoder's folder")
    return vocoder.eval()


def _finished(folder: str | Path, part: type[Model]) -> Model | EchoXForConditionalGeneration:
    """The part that a folder holds, or the whole model, in float32, with every weight.

    Raises:
        ValueError: weights are missing, or there are others.
    """
    if isinstance(AutoConfig.from_pretrained(folder), EchoXConfig):
        return load_folder(Path(folder), torch.device("cpu"), torch.float32, None)[0]
    model, found = load_with_report(part, folder, dtype=torch.float32)
    wrong = {name: sorted(map(str, names)) for name, names in found.items() if names}
    if wrong:
        raise ValueError(f"{folder}: expected exactly the weights of its config.json, found {str(wrong)[:400]}")
    return model


def check_same_embeddings(
    continued: S2TForConditionalGeneration, original: S2TForConditionalGeneration, folder: str
) -> None:
    """Check that a continued S2T has the text embeddings that the echo decoder of the original knows.

    Raises:
        ValueError: they differ.
    """
    ours, theirs = (text_embedding_table(model.get_input_embeddings()) for model in (continued, original))
    if ours.shape != theirs.shape or not torch.equal(ours, theirs):
        raise ValueError(
            f"parts.s2t: expected the text embeddings of parts.echo, found others in {folder}: continue that model "
            "(model.start_from of stage s2t)"
        )


def check_one_source(start_from: str | None, speech_encoder: str, language_model: str) -> None:
    """Check that a recipe names a finished model, or the two parts of a new one.

    Raises:
        ValueError: neither, or all of them.
    """
    parts = [bool(speech_encoder), bool(language_model)]
    if parts != [start_from is None] * 2:
        raise ValueError(
            "model: expected either start_from, or speech_encoder and language_model, found start_from "
            f"{start_from!r}, speech_encoder {speech_encoder!r}, language_model {language_model!r}"
        )


def training_items(sources: Sequence[Dialogues], shares: Sequence[float] | None, training: TrainingConfig) -> Dialogues:
    """All dialogues once, or with shares those that a run reads; see `shared_out`.

    Raises:
        ValueError: with shares, as `items_of_run` and `shared_out`.
    """
    together = Dialogues.joined(sources)
    if shares is None:
        return together
    return together.chosen(shared_out([len(source) for source in sources], shares, items_of_run(training)))


def items_of_run(training: TrainingConfig) -> int:
    """How many items a run reads, all its processes together.

    Raises:
        ValueError: batches that are not counted by items.
    """
    if training.batch_by != "items":
        raise ValueError(f"data.shares: expected training.batch_by items, found {training.batch_by}")
    batches = training.steps * training.accumulation_steps * number_of_processes()
    return int(batches * training.batch_size)


def shared_out(sizes: Sequence[int], shares: Sequence[float], total: int) -> list[int]:
    """Places of ``total`` items in sources one after the other; each source gives its share: all of its items equally
    often, give or take one.

    Raises:
        ValueError: not one share a source, shares that are not 1 together, or a source without items.
    """
    if len(shares) != len(sizes) or not all(sizes) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"data.shares: expected one share, together 1, for each of the {len(sizes)} data.manifests, all with "
            f"training dialogues, found shares {list(shares)} and {list(sizes)} dialogues"
        )
    chosen: list[int] = []
    first = 0
    for share, size in zip(shares, sizes, strict=True):
        repeats, rest = divmod(round(share * total), size)
        items = range(first, first + size)
        chosen += [*items] * repeats
        chosen += spread(items, rest) if rest else []
        first += size
    return chosen
