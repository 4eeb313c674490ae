"""Stage "vocoder": units -> speech of the reply voice. Which vocoder, and how it is trained: ``model.kind``.

light, istft: `light_vocoder.py`; istft with section ``adversarial``: `adversarial_istft.py`; code_hifigan:
`adversarial.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from echox.config import recipe
from echox.training.stages.voice.adversarial import AdversarialVocoderStage
from echox.training.stages.voice.adversarial_istft import AdversarialISTFTStage
from echox.training.stages.voice.light_vocoder import LightVocoderStage
from echox.training.stages.voice.vocoder_recipe import VocoderSettings


@recipe("vocoder")
@dataclass
class VocoderRecipe(VocoderSettings):
    """The recipe of this stage, for all vocoders."""

    def build(self) -> LightVocoderStage | AdversarialVocoderStage:
        """The stage for the loop.

        Raises:
            ValueError: sizes that the vocoder does not know.
        """
        if self.model.kind == "code_hifigan":
            return AdversarialVocoderStage(self)
        return LightVocoderStage(self) if self.adversarial is None else AdversarialISTFTStage(self)
