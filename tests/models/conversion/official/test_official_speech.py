"""Scores to segments, unit text to units, units to sound, and all of these together: fixtures C to F."""

import pytest
import torch
import torch.nn.functional as F
from transformers import WhisperFeatureExtractor

from echox.api.model import trigger_of
from echox.models.conversion.code_hifigan import find_vocoder, open_vocoder
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.unit_language.tokenization_unit_pieces import UnitPieces, parse_unit_text
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from official_files import (
    GOLDEN,
    close,
    golden_json,
    golden_tensors,
    needs_golden,
    release_weights,
    released_model,
    write_vocoder,
)

needs_golden()
PERIOD_ID = 13  # "." of Llama 3
MARK = "\u2581"
PCM_SCALE = 32767


@pytest.fixture(scope="module")
def model():
    return released_model(release_weights())


# ------------------------------------------------------------------------------------------------ C: segments


def test_every_segmentation(model):
    """The trigger of an official model, offline and token by token, cuts where the reference cut, and when."""
    trigger = trigger_of(model.config)
    stored = golden_tensors("C_segmentation")
    offsets = stored["offsets"].tolist()
    for number, case in enumerate(golden_json("C_segmentation")["cases"]):
        scores = stored["scores"][offsets[number] : offsets[number + 1]].double().tolist()
        assert [[one.start, one.end] for one in trigger.segment(scores)] == case["segments"], case["kind"]
        state, found, decided = trigger.state(), [], []
        for score in scores:
            segment = state.push(score)
            if segment is not None:
                found.append([segment.start, segment.end])
                decided.append(state.num_tokens)
        rest = state.flush()
        if rest is not None:
            found.append([rest.start, rest.end])
            decided.append(len(scores))
        assert (found, decided) == (case["segments"], case["decided_after_tokens"]), case["kind"]


# ------------------------------------------------------------------------------------------------ D: vocoders

VOCODERS = sorted(path.name.removesuffix("_config.json") for path in GOLDEN.glob("D_vocoder_*_config.json"))


@pytest.mark.parametrize("name", VOCODERS)
@torch.inference_mode()
def test_vocoder(name, tmp_path):
    config, stored = open_vocoder(find_vocoder(write_vocoder(tmp_path, name)))
    vocoder = CodeHiFiGAN(config).eval()
    vocoder.load_state_dict({key: tensor.load() for key, tensor in stored.items()})
    kind = name.removeprefix("D_vocoder_")
    expected, meta = golden_tensors("D_vocoder"), golden_json("D_vocoder")[kind]
    for case, facts in meta["cases"].items():
        codes = torch.tensor([facts["codes"]])
        speaker = None if facts["speaker"] is None else torch.tensor([facts["speaker"]])
        durations = None if facts["dur_prediction"] else torch.ones_like(codes)
        output = vocoder(codes, durations, speaker)
        close(output.waveform[0], expected[f"{case}.wav"])
        if facts["dur_prediction"]:
            real = codes[codes >= 0][None]
            close(vocoder.log_durations(real)[0], expected[f"{case}.log_dur"])
            assert output.durations_frames[0].tolist() == facts["durations"]
        if f"{case}.int16" in expected:
            int16 = (output.waveform[0] * PCM_SCALE).to(torch.int16)
            assert int((int16.int() - expected[f"{case}.int16"].int()).abs().max()) <= 4  # 1e-4 of full scale
    if config.num_speakers:
        assert config.default_speaker_id == meta["gen_wav_defaults"]["speaker_id"]
        default = vocoder(torch.tensor([meta["cases"][meta["gen_wav_equals_case"][0]]["codes"]]))
        close(default.waveform[0], expected[f"{meta['gen_wav_equals_case'][0]}.wav"])


# ------------------------------------------------------------------------------------------------ E: unit text


@pytest.mark.parametrize("case", golden_json("E_unit_text"), ids=lambda case: case["decoded"][:30])
def test_unit_text(case):
    assert parse_unit_text(case["decoded"]) == case["unit_ids"]


def test_pieces_are_read_like_their_text_but_for_what_it_loses():
    pieces = ["12", "7", f"{MARK}12", f"{MARK}7", f"{MARK}1", "2", f"{MARK}837{MARK}81", "9", f"{MARK}9", "", "1000"]
    language = UnitPieces(pieces, num_units=1000)
    for words in ([0, 1], [2, 3], [4, 5, 3], [6, 4], [9, 3], [], [10, 1], [5, 5]):
        text = "".join(f"<|unit_{pieces[word]}|>" for word in words)
        assert language.decode(words) == parse_unit_text(text), text
    assert language.decode([8, 7, 7, 7]) == [999, 9]  # the reference makes 9999 of it, and drops it
    assert language.decode([4, 9, 5]) == [1, 2]
    with pytest.raises(ValueError, match="unit word ids from 0 to 10"):
        language.decode([11])


def test_pieces_are_saved_and_loaded(tmp_path):
    language = UnitPieces([f"{MARK}1", "2"], num_units=20)
    language.save_pretrained(tmp_path)
    loaded = AutoUnitLanguage.from_pretrained(tmp_path)
    assert isinstance(loaded, UnitPieces)
    assert loaded.decode([0, 1]) == [12]
    with pytest.raises(ValueError, match="known segmentation"):
        loaded.encode([1, 2])


# ------------------------------------------------------------------------------------------------ F: end to end


@torch.inference_mode()
def test_from_waveform_to_waveform(model):
    facts, stored = golden_json("F_e2e"), golden_tensors("F_e2e")
    extractor = WhisperFeatureExtractor(feature_size=model.config.s2t_config.audio_config.num_mel_bins)
    processor = EchoXProcessor.__new__(EchoXProcessor)
    processor.feature_extractor = extractor
    waveform = stored["wav_int16"].float().numpy() / 32768
    inputs = processor.extract_features([waveform], extractor.sampling_rate, model.config.compatible.fixed_windows)
    log_mel = inputs["input_features"]
    assert list(log_mel.shape) == facts["log_mel_shape"]
    assert bool(inputs["input_features_mask"].all())
    close(log_mel[0, :, : stored["log_mel_first220"].shape[1]], stored["log_mel_first220"])
    tail = log_mel[0, :, facts["log_mel_tail_is_constant_from"] :]
    close(tail, torch.full_like(tail, facts["log_mel_tail_constant"]))

    s2t = model.s2t
    embeds, transcript = s2t.encode(**inputs)
    assert len(transcript) == 1
    prompt, mask, _ = s2t.splice(torch.tensor([facts["prompt_ids"]]), audio_embeds=embeds)
    assert prompt.shape[1] == facts["expanded_len"]
    spoken = stored["hidden_per_token"]
    tokens = facts["forced_tokens"]
    told = s2t.get_input_embeddings()(torch.tensor([tokens[:-1]]))
    states = s2t._run(torch.cat([prompt, told], 1), torch.cat([mask, mask.new_ones(told.shape[:2])], 1))
    states = states[0, prompt.shape[1] - 1 :]
    head = s2t.get_output_embeddings()
    assert head(states).argmax(-1).tolist() == facts["natural_argmax"]
    states = states[: len(spoken)]
    close(states, spoken)
    scores = F.cosine_similarity(states, head.weight[PERIOD_ID], dim=-1)
    close(scores, torch.tensor(facts["sims"]))
    segments = trigger_of(model.config).segment(scores.double().tolist())
    assert [[one.start, one.end] for one in segments] == facts["segments"]

    limit = facts["unit_max_new_tokens"]
    for number, segment in enumerate(segments):
        expected = [int(unit) for unit in facts["units"][number].split()]
        denoised = model.denoise(states[None, segment.start : segment.end])
        words = torch.zeros(denoised.shape[:2], dtype=torch.long)
        sequence = model.echo_decoder.generate(denoised, words, max_unit_words=limit)[0]
        # The reference counts text tokens among its outputs too: after them it says less.
        units = sequence.unit_words[: len(expected)]
        assert units == expected
        output = model.vocoder(torch.tensor([units]))
        assert output.waveform.shape[1] == facts["wav_lens"][number]
        close(output.waveform[0], stored[f"segment{number}.wav_f32"])
        int16 = (output.waveform[0] * PCM_SCALE).to(torch.int16)
        assert int((int16.int() - stored[f"segment{number}.int16"].int()).abs().max()) <= 4


def test_pieces_come_in_parts():
    """However the unit words are cut, the same units come, and none before it is certain."""
    pieces = [f"{MARK}1", "2", f"{MARK}37", "9", f"{MARK}5{MARK}6", ""]
    language = UnitPieces(pieces, num_units=400)
    words = [0, 1, 2, 3, 4, 5, 3, 0, 0, 1]
    for size in range(1, len(words) + 1):
        reader, units = language.reader(), []
        for start in range(0, len(words), size):
            units += reader.push(words[start : start + size])
        assert units + reader.finish() == language.decode_reduced(words)
