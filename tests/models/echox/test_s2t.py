"""S2T: audio takes its placeholder's place, padding changes nothing, text alone is the plain language model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from echox.models.echox.configuration_echox import S2TConfig, SpeechEncoderConfig, whisper_config
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.modeling_shrinking import ShrinkingAdapter, gather_rows, keep_mask
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from tolerance import assert_equal_up_to_rounding

MELS, WIDTH, VOCABULARY, AUDIO = 8, 16, 24, 6


def language_model(kind=LlamaForCausalLM):
    torch.manual_seed(2)
    config_class = LlamaConfig if kind is LlamaForCausalLM else Qwen2Config
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=5,
        initializer_range=0.3,
    )
    return kind(config).eval()


def model(ctc_bridge=False, drop_blanks=False, kind=LlamaForCausalLM) -> S2TForConditionalGeneration:
    torch.manual_seed(0)
    audio_config = whisper_config(
        d_model=12,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        num_mel_bins=MELS,
        max_source_positions=40,
        init_std=0.3,
    )
    encoder = SpeechEncoderForCTC(
        SpeechEncoderConfig(
            audio_config=audio_config,
            hidden_size=WIDTH,
            vocab_size=VOCABULARY,
            blank_token_id=AUDIO,
            adapter_attention_heads=2,
            initializer_range=0.4,
        )
    )
    built = S2TForConditionalGeneration.from_parts(
        encoder, language_model(kind), ctc_bridge=ctc_bridge, drop_blanks=drop_blanks
    ).eval()
    if built.ctc_bridge is not None:
        torch.nn.init.normal_(built.ctc_bridge.gate)
    return built


def audio(*lengths: int, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    features = torch.randn(len(lengths), MELS, max(lengths)) * 2
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return {"input_features": features.masked_fill(~mask[:, None], 5.0), "input_features_mask": mask.long()}


@pytest.mark.parametrize(
    "options", [{}, {"drop_blanks": True}, {"drop_blanks": True, "ctc_bridge": True}, {"ctc_bridge": True}]
)
def test_batch_equals_single_under_padding(options):
    """Three rows: two audios with text between them, text only, one short audio; padded on the right."""
    s2t = model(**options)
    sounds = audio(70, 33, 12)
    rows = [
        [1, 3, AUDIO, 5, 4, 9, 5, 3, 8, AUDIO, 5, 4, 10, 11, 5],
        [1, 3, 7, 8, 5, 4, 12, 5],
        [1, 3, AUDIO, 5, 4, 13, 5],
    ]
    labels = [[-100] * 11 + [4, 10, 11, 5][:4], [-100] * 6 + [12, 5], [-100] * 5 + [13, 5]]
    ids, mask, targets = (torch.full((3, 15), value) for value in (0, 0, -100))
    for index, (row, target) in enumerate(zip(rows, labels, strict=True)):
        ids[index, : len(row)], mask[index, : len(row)] = torch.tensor(row), 1
        targets[index, : len(target)] = torch.tensor(target)
    own = [(0, 2), (2, 2), (2, 3)]
    with torch.no_grad():
        batch = s2t(ids, mask, **sounds, labels=targets)
        losses, count = 0.0, 0
        for index, (row, target) in enumerate(zip(rows, labels, strict=True)):
            first, last = own[index]
            lengths = sounds["input_features_mask"][first:last].sum(dim=1)
            clip = {}
            if first < last:
                longest = int(lengths.max())
                clip = {name: value[first:last, ..., :longest] for name, value in sounds.items()}
            single = s2t(torch.tensor([row]), None, **clip, labels=torch.tensor([target]))
            length = single.last_hidden_state.shape[1]
            assert batch.attention_mask[index].sum() == length
            assert_equal_up_to_rounding(batch.last_hidden_state[index, :length], single.last_hidden_state[0])
            assert batch.labels[index, :length].tolist() == single.labels[0].tolist()
            scored = sum(label != -100 for label in target)
            losses, count = losses + single.s2t_loss * scored, count + scored
    assert_equal_up_to_rounding(batch.s2t_loss, losses / count)


def test_labels_stay_with_the_states_that_predict_them():
    """The classic bug: after splicing, state i must be the one whose prediction is labels[i + 1]."""
    s2t = model()
    ids = torch.tensor([[1, 3, AUDIO, 5, 4, 13, 14, 5]])
    labels = torch.tensor([[-100] * 5 + [13, 14, 5]])
    with torch.no_grad():
        output = s2t(ids, None, **audio(50), labels=labels)
        kept = output.last_hidden_state.shape[1] - ids.shape[1] + 1
        assert output.labels[0, -3:].tolist() == [13, 14, 5]
        assert output.labels.shape[1] == 7 + kept
        predicts = (output.labels[:, 1:] != -100).nonzero()[:, 1]
        prompt = s2t(ids[:, :5], None, **audio(50))
        # The state that predicts the first reply token is the last one of the prompt alone.
        assert_equal_up_to_rounding(output.last_hidden_state[0, predicts[0]], prompt.last_hidden_state[0, -1])
        logits = s2t.language_model.lm_head(output.last_hidden_state[:, predicts])
        assert_equal_up_to_rounding(output.s2t_loss, torch.nn.functional.cross_entropy(logits[0], labels[0, -3:]))


def test_text_only_is_the_plain_language_model():
    s2t = model()
    ids = torch.tensor([[0, 0, 1, 3, 9, 5, 4], [1, 3, 9, 8, 7, 5, 4]])
    mask = (ids != 0).long()
    with torch.no_grad():
        plain = s2t.language_model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0))
        ours = s2t(ids, mask)
        written = s2t.language_model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=6)
    assert torch.equal(plain.logits, ours.logits)
    assert torch.equal(s2t.generate(ids, mask, do_sample=False, max_new_tokens=6), written[:, ids.shape[1] :])
    none = s2t.generate(ids, mask, generation_config=None, do_sample=False, max_new_tokens=6)
    assert torch.equal(none, written[:, ids.shape[1] :]), "as in transformers: the model's own"
    right = torch.tensor([[1, 3, 9, 5, 4, 0, 0], [1, 3, 9, 8, 7, 5, 4]])
    assert torch.equal(s2t.generate(right, (right != 0).long(), do_sample=False, max_new_tokens=6), written[:, 7:])


def test_generation_batched_equals_single():
    s2t = model(drop_blanks=True)
    sounds = audio(60, 20)
    ids = torch.tensor([[1, 3, AUDIO, 5, 4, 0, 0, 0], [1, 3, AUDIO, 9, 9, 8, 5, 4]])
    mask = torch.tensor([[1] * 5 + [0] * 3, [1] * 8])
    together = s2t.generate(ids, mask, **sounds, do_sample=False, max_new_tokens=5, min_new_tokens=5)
    for row, (length, frames) in enumerate([(5, 60), (8, 20)]):
        clip = {name: value[row : row + 1, ..., :frames] for name, value in sounds.items()}
        alone = s2t.generate(
            ids[row : row + 1, :length], None, **clip, do_sample=False, max_new_tokens=5, min_new_tokens=5
        )
        assert alone[0].tolist() == together[row].tolist()


@pytest.mark.parametrize("ids", [[[1, 3, 9, 5]], [[1, AUDIO, AUDIO, 5]]])
def test_placeholders_and_audios_must_match(ids):
    with pytest.raises(ValueError, match="placeholder"):
        model()(torch.tensor(ids), None, **audio(20))
    with pytest.raises(ValueError, match="0 audios"):
        model()(torch.tensor([[1, AUDIO, 5]]))


def test_keep_mask():
    b = AUDIO
    ids = torch.tensor([[7, 7, b, b, 7, 8, 8], [b, b, b, b, b, b, b], [9, 9, 9, 1, 1, 1, 1]])
    mask = torch.tensor([[1] * 7, [1] * 7, [1, 1, 1, 0, 0, 0, 0]]).bool()
    assert keep_mask(ids, mask).int().tolist() == [[1, 0, 1, 0, 1, 1, 0], [1] + [0] * 6, [1] + [0] * 6]
    dropped = keep_mask(ids, mask, blank_id=b).int().tolist()
    assert dropped == [[1, 0, 0, 0, 1, 1, 0], [1] + [0] * 6, [1] + [0] * 6]


def test_gather_rows_keeps_order():
    values = torch.arange(8.0).view(2, 4, 1)
    rows, mask = gather_rows(values, torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]]).bool())
    assert rows[0, :, 0].tolist() == [1.0, 3.0]
    assert mask.tolist() == [[True, True], [True, False]]


def test_look_back_sees_exactly_the_dropped_frames():
    torch.manual_seed(0)
    adapter = ShrinkingAdapter(WIDTH, 2).eval()
    frames = torch.randn(2, 5, WIDTH)
    mask = torch.ones(2, 5).bool()
    keep = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1]]).bool()

    def first_kept(changed: torch.Tensor, row: int) -> torch.Tensor:
        return adapter(changed, mask, keep)[0][row, 0]

    with torch.no_grad():
        for place, matters in [(1, True), (2, False)]:
            moved = frames.clone()
            moved[:, place] += 3.0
            assert ((first_kept(moved, 0) - first_kept(frames, 0)).abs().max() > 1e-4) == matters
            assert torch.equal(first_kept(moved, 1), first_kept(frames, 1))  # nothing dropped: nothing to see
        assert torch.isfinite(adapter(frames, mask, keep)[0]).all()


def test_bridge_starts_as_soft_transcript_at_the_scale_of_text():
    s2t = model(ctc_bridge=True, drop_blanks=True)
    torch.nn.init.zeros_(s2t.ctc_bridge.gate)
    embedding = s2t.get_input_embeddings().weight
    with torch.no_grad():
        s2t.ctc_head.weight *= 1e4  # certain about every frame
        heard = s2t.encode_audio(**audio(60))
        transcript = s2t.transcribe(**audio(60))[0]
        if transcript:
            assert_equal_up_to_rounding(heard.embeds[0], embedding[transcript])
        scale = s2t.shrinking_adapter.layer_norm.weight
    torch.testing.assert_close(scale, embedding.square().mean().sqrt().expand_as(scale))


def test_silence_keeps_one_frame():
    s2t = model(ctc_bridge=True, drop_blanks=True)
    with torch.no_grad():
        s2t.ctc_head.weight.zero_()
        s2t.ctc_head.weight[AUDIO] = 1.0
        s2t.alignment_adapter.layer_norm.weight.zero_()
        s2t.alignment_adapter.layer_norm.bias.fill_(1.0)  # every frame is certainly blank
        embeds, transcript = s2t.encode(**audio(40, 10))
    assert transcript == [[], []]
    assert [len(row) for row in embeds] == [1, 1]
    assert all(torch.isfinite(row).all() for row in embeds)


@pytest.mark.parametrize("bridge", [False, True])
def test_save_and_load(tmp_path, bridge):
    s2t = model(ctc_bridge=bridge, drop_blanks=bridge)
    s2t.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, S2TForConditionalGeneration)
    ids = torch.tensor([[1, 3, AUDIO, 5, 4]])
    with torch.no_grad():
        assert torch.equal(s2t(ids, None, **audio(30)).logits, loaded(ids, None, **audio(30)).logits)
    assert loaded.config.to_dict().keys() == s2t.config.to_dict().keys()
    assert loaded.generation_config.eos_token_id == 5


def test_losses_are_named_and_weighted_and_reach_the_right_parts():
    s2t = model(ctc_bridge=True)
    ids = torch.tensor([[1, 3, AUDIO, 5, 4, 13, 5]])
    output = s2t(ids, None, **audio(50), labels=torch.tensor([[-100] * 5 + [13, 5]]), ctc_labels=torch.tensor([[7, 8]]))
    torch.testing.assert_close(output.loss, output.s2t_loss + s2t.config.ctc_loss_weight * output.ctc_loss)
    output.loss.backward()
    for part in (s2t.alignment_adapter, s2t.ctc_head, s2t.shrinking_adapter, s2t.ctc_bridge):
        assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in part.parameters()), part


def test_any_causal_language_model():
    s2t = model(kind=Qwen2ForCausalLM)
    with torch.no_grad():
        output = s2t(torch.tensor([[1, 3, AUDIO, 5, 4]]), None, **audio(30))
    assert output.logits.shape[-1] == VOCABULARY
    assert output.transcripts is not None


def test_parts_that_do_not_belong_together_are_refused():
    encoder = SpeechEncoderForCTC(
        SpeechEncoderConfig(
            audio_config=whisper_config(
                d_model=12, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, num_mel_bins=MELS
            ),
            hidden_size=WIDTH,
            vocab_size=30,
            blank_token_id=6,
        )
    )
    with pytest.raises(ValueError, match="vocab_size"):
        S2TForConditionalGeneration.from_parts(encoder, language_model())
    with pytest.raises(ValueError, match="audio_token_id"):
        S2TForConditionalGeneration(S2TConfig(text_config=language_model().config))


@pytest.mark.parametrize(("layers", "width", "ff", "heads"), [(28, 3072, 8192, 24), (32, 4096, 14336, 32)])
def test_official_sizes_build_on_meta(layers, width, ff, heads):
    text = LlamaConfig(
        vocab_size=128256,
        hidden_size=width,
        intermediate_size=ff,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        tie_word_embeddings=layers == 28,
    )
    audio_config = whisper_config(
        d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, num_mel_bins=128
    )
    with torch.device("meta"):
        built = S2TForConditionalGeneration(
            S2TConfig(audio_config=audio_config, text_config=text, audio_token_id=128255, adapter_attention_heads=heads)
        )
    tower = sum(value.numel() for value in built.audio_tower.parameters())
    assert 6.3e8 < tower < 6.5e8
