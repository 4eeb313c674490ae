"""Published parts as folders of ours: a vocoder (tests/models/test_backbones.py has the language models)."""

import pytest
import torch
from transformers import AutoModel

from echox.models.conversion.code_hifigan import find_vocoder, open_vocoder
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from echox.training.loop import run_recipe
from official_files import needs_golden, write_vocoder

needs_golden()


@torch.inference_mode()
def test_a_published_vocoder_becomes_a_folder_of_ours(tmp_path):
    published = write_vocoder(tmp_path / "published", "F_vocoder")
    recipe = tmp_path / "vocoder.yaml"
    recipe.write_text(f"stage: published_vocoder\nsource: {published}\noutput_dir: {tmp_path / 'ours'}\n")
    made = run_recipe(recipe)
    config, stored = open_vocoder(find_vocoder(published))
    reference = CodeHiFiGAN(config).eval()
    reference.load_state_dict({name: tensor.load() for name, tensor in stored.items()})
    ours = AutoModel.from_pretrained(tmp_path / "ours").eval()
    units = torch.tensor([[1, 4, 2, 0]])
    durations = torch.full_like(units, 2)
    torch.testing.assert_close(ours(units, durations).waveform, reference(units, durations).waveform)
    assert made["units"] == config.num_units
    with pytest.raises(ValueError, match="expected g_\\* and config.json"):
        run_recipe(recipe, [f"source={tmp_path / 'nothing'}"])
