"""Stage "hearing": a recogniser and a language model joined to an S2T model, without training.

With aligner "recogniser" such a model already answers a spoken question as it answers the transcript when typed. So it
is the model to compare stage "s2t" with, and one to build on where nothing needs to be learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from echox.config import recipe
from echox.files import JsonObject, save_model
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.towers.auto import AutoAudioTower
from echox.training.stages.hearing.s2t import S2TModel, join_parts


@recipe("hearing")
@dataclass
class HearingRecipe:
    """The recipe of stage "hearing" (it has `run`, not `build`).

    Attributes:
        recogniser: folder of stage "recogniser", or a hub id.
        language_model: folder of stage "language_model", or a hub id.
        output_dir: folder to write, as stage "s2t" writes it.
        recogniser_tokens_per_s: see `S2TConfig`.
    """

    stage: str
    recogniser: str
    language_model: str
    output_dir: str
    recogniser_tokens_per_s: float = 6.5

    def run(self) -> JsonObject:
        """Write the folder; returns the number of parameters by part.

        Raises:
            ValueError: parts that are none, or that do not belong together.
        """
        tokenizer = AutoTokenizer.from_pretrained(self.language_model)
        torch.manual_seed(0)  # of the residual adapter, which a gate keeps shut
        language_model = AutoModelForCausalLM.from_pretrained(self.language_model)
        parts = S2TModel(
            self.recogniser,
            self.language_model,
            aligner="recogniser",
            recogniser_tokens_per_s=self.recogniser_tokens_per_s,
        )
        model, recogniser_tokenizer = join_parts(parts, tokenizer, language_model)
        extractor = AutoAudioTower.feature_extractor(model.config.audio_config)
        save_model(model, self.output_dir)
        EchoXProcessor(extractor, tokenizer, recogniser_tokenizer=recogniser_tokenizer).save_pretrained(self.output_dir)
        return {name: sum(value.numel() for value in part.parameters()) for name, part in model.named_children()}
