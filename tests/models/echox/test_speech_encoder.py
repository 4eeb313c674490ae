"""The speech encoder: Whisper's numbers at full length, and true lengths that padding cannot change."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, WhisperConfig, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from echox.models.echox.configuration_echox import SpeechEncoderConfig, whisper_config
from echox.models.echox.ctc import ctc_loss_per_symbol, greedy_ctc
from echox.models.echox.modeling_speech_encoder import AlignmentAdapter, SpeechEncoderForCTC
from echox.models.towers.whisper import WhisperTower
from tolerance import assert_equal_up_to_rounding

MELS, WIDTH = 8, 16


def tiny_audio_config(max_source_positions: int = 50, **values) -> WhisperConfig:
    return whisper_config(
        d_model=WIDTH,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=MELS,
        max_source_positions=max_source_positions,
        init_std=0.2,
        **values,
    )


def tiny_ctc(**values) -> SpeechEncoderForCTC:
    torch.manual_seed(0)
    config = SpeechEncoderConfig(
        audio_config=tiny_audio_config(position_scale=0.5),
        hidden_size=16,
        vocab_size=20,
        blank_token_id=6,
        adapter_attention_heads=2,
        phones=["a", "b", "c"],
        phone_layer=1,
        initializer_range=0.3,
        **values,
    )
    return SpeechEncoderForCTC(config).eval()


def padded(lengths: list[int], seed: int = 0, garbage: float = 9.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with garbage, not zeros, in the padding: masks must do the work."""
    torch.manual_seed(seed)
    features = torch.randn(len(lengths), MELS, max(lengths))
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return features.masked_fill(~mask[:, None], garbage), mask.long()


def test_full_window_equals_whisper():
    torch.manual_seed(0)
    reference = WhisperEncoder(tiny_audio_config()).eval()
    ours = WhisperTower(tiny_audio_config()).eval()
    ours.load_state_dict(reference.state_dict())
    features = torch.randn(2, MELS, 100)
    with torch.no_grad():
        expected = reference(features).last_hidden_state
        assert_equal_up_to_rounding(ours(features).last_hidden_state, expected)


def test_published_weights_load_unchanged(tmp_path):
    whisper = WhisperModel(tiny_audio_config())
    whisper.save_pretrained(tmp_path)
    ours = WhisperTower.from_checkpoint(str(tmp_path))
    for name, value in whisper.encoder.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_batch_equals_single_under_padding(implementation):
    torch.manual_seed(1)
    encoder = WhisperTower(tiny_audio_config()).eval()
    encoder.set_attn_implementation(implementation)
    lengths = [31, 100, 2, 46]
    features, mask = padded(lengths)
    with torch.no_grad():
        batch = encoder(features, mask, output_hidden_states=True)
        for row, length in enumerate(lengths):
            single = encoder(features[row : row + 1, :, :length], output_hidden_states=True)
            frames = (length + 1) // 2
            assert int(batch.mask[row].sum()) == frames == single.last_hidden_state.shape[1]
            assert_equal_up_to_rounding(batch.last_hidden_state[row, :frames], single.last_hidden_state[0])
            assert_equal_up_to_rounding(batch.hidden_states[1][row, :frames], single.hidden_states[1][0])


def test_longer_than_the_window_is_encoded_in_windows():
    torch.manual_seed(1)
    encoder = WhisperTower(tiny_audio_config(max_source_positions=10)).eval()
    features, mask = padded([47, 20, 21])
    with torch.no_grad():
        whole = encoder(features, mask, output_hidden_states=True)
        parts = [encoder(features[:1, :, start : min(start + 20, 47)]).last_hidden_state for start in (0, 20, 40)]
        short = encoder(features[1:2, :, :20]).last_hidden_state
    assert whole.last_hidden_state.shape == whole.hidden_states[-1].shape == (3, 24, WIDTH)
    assert whole.mask.sum(dim=1).tolist() == [24, 10, 11]
    assert_equal_up_to_rounding(whole.last_hidden_state[:1], torch.cat(parts, dim=1))
    assert_equal_up_to_rounding(whole.last_hidden_state[1:2, :10], short)


def test_positions_are_scaled_at_initialisation_only():
    plain, scaled = WhisperTower(tiny_audio_config()), WhisperTower(tiny_audio_config(position_scale=0.1))
    torch.testing.assert_close(scaled.embed_positions.weight, plain.embed_positions.weight * 0.1)
    assert torch.equal(plain.embed_positions.weight, WhisperEncoder(tiny_audio_config()).embed_positions.weight)


@pytest.mark.parametrize(
    ("shape", "mask_shape", "message"),
    [
        ((1, MELS + 1, 20), None, "mels|expected"),
        ((1, MELS, 20), (1, 19), "input_features_mask"),
        ((1, MELS, 0), None, "empty"),
    ],
)
def test_bad_input_is_refused(shape, mask_shape, message):
    encoder = WhisperTower(tiny_audio_config())
    mask = torch.ones(mask_shape) if mask_shape else None
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(shape), mask)


def test_adapter_attends_over_time_and_ignores_padding():
    torch.manual_seed(0)
    adapter = AlignmentAdapter(WIDTH, 16, 2).eval()
    states = torch.randn(2, 9, WIDTH)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4]).bool()
    with torch.no_grad():
        both, out_mask = adapter(states, mask)
        alone, _ = adapter(states[1:, :5], mask[1:, :5])
        assert out_mask.sum(dim=1).tolist() == [5, 3]
        assert_equal_up_to_rounding(both[1, :3], alone[0])
        moved = states.clone()
        moved[0, 0] += 1.0
        assert (adapter(moved, mask)[0][0, -1] - both[0, -1]).abs().max() > 1e-4


def test_ctc_batch_equals_single_and_losses_add_up():
    model = tiny_ctc()
    features, mask = padded([60, 33])
    labels = torch.tensor([[7, 8, 8], [9, -100, -100]])
    phones = torch.tensor([[1, 2, 3], [2, 2, -100]])
    with torch.no_grad():
        both = model(features, mask, labels, phones)
        alone = [
            model(features[i : i + 1, :, :n], None, labels[i : i + 1], phones[i : i + 1])
            for i, n in enumerate((60, 33))
        ]
    assert_equal_up_to_rounding(both.ctc_loss, (alone[0].ctc_loss + alone[1].ctc_loss) / 2)
    torch.testing.assert_close(both.loss, both.ctc_loss + model.config.phone_loss_weight * both.phone_loss)
    assert model.transcribe(features, mask)[1] == model.transcribe(features[1:, :, :33])[0]
    assert model.phone_ids() == {"a": 1, "b": 2, "c": 3}


def test_greedy_ctc_collapses_and_masks():
    path = torch.tensor([[6, 7, 7, 6, 7, 8, 9]])
    logits = torch.nn.functional.one_hot(path, 10).float()
    assert greedy_ctc(logits, torch.tensor([[1, 1, 1, 1, 1, 1, 0]]).bool(), 6) == [[7, 7, 8]]


def test_labels_that_cannot_fit_do_not_break_the_loss():
    logits = torch.zeros(1, 2, 10, requires_grad=True)
    loss = ctc_loss_per_symbol(logits, torch.ones(1, 2).bool(), torch.tensor([[1, 2, 3]]), 0)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.isfinite(logits.grad).all()


def test_save_and_load(tmp_path):
    model = tiny_ctc()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    features, mask = padded([40, 21])
    with torch.no_grad():
        assert torch.equal(model(features, mask).logits, loaded(features, mask).logits)
    assert loaded.config.phones == ["a", "b", "c"]
    assert loaded.config.audio_config.position_scale == 0.5


def test_blank_must_be_in_the_vocabulary():
    with pytest.raises(ValueError, match="blank_token_id"):
        SpeechEncoderForCTC(SpeechEncoderConfig(audio_config=tiny_audio_config(), blank_token_id=None))
