"""Units: extraction, assignment, words of units, phones, quality."""

import itertools
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from echox.audio import load_audio, save_audio
from echox.config import load_recipe
from echox.data.engines.engine import SynthesizedSpeech
from echox.data.engines.word_ends import PAUSE
from echox.data.manifest import Utterance, audio_path, read_unit_utterances, read_utterances, write_utterances
from echox.models.echox.configuration_echox import whisper_config
from echox.models.towers.whisper import WhisperTower
from echox.units.extract import (
    UnitExtractor,
    assign_units,
    average_frames,
    deduplicate,
    expand,
    kmeans,
    squared_distances,
    words_of_units,
)
from echox.units.phones import _without_short_pauses, frame_phones, lexicon_phones, spoken_phone_times
from echox.units.quality import unit_quality

frame_units = st.lists(st.integers(0, 5), max_size=40)


@given(frame_units)
def test_expanding_inverts_deduplicating(units):
    reduced, durations = deduplicate(units)
    assert expand(reduced, durations) == units
    assert all(a != b for a, b in itertools.pairwise(reduced))
    assert all(duration >= 1 for duration in durations)


def path_cost(distances, path, penalty):
    return sum(row[unit] for row, unit in zip(distances, path)) + penalty * sum(
        a != b for a, b in itertools.pairwise(path)
    )


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 4), st.floats(0, 3), st.integers(0, 10_000))
def test_no_path_is_cheaper_than_the_assigned_one(frames, num_units, penalty, seed):
    distances = np.random.default_rng(seed).random((frames, num_units)).astype(np.float32)
    found = assign_units(torch.from_numpy(distances)[None], [frames], penalty)[0].tolist()
    best = min(path_cost(distances, path, penalty) for path in itertools.product(range(num_units), repeat=frames))
    assert path_cost(distances, found, penalty) == pytest.approx(best, abs=1e-4)


@given(st.integers(1, 12), st.integers(0, 10_000))
def test_without_a_penalty_each_frame_takes_its_nearest_centroid(frames, seed):
    distances = torch.rand(1, frames, 5, generator=torch.Generator().manual_seed(seed))
    nearest = distances.argmin(-1)
    assert torch.equal(assign_units(distances, [frames], 0.0), nearest)
    assert torch.equal(assign_units(distances, [frames], 1e-9), nearest)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 15), min_size=1, max_size=4), st.floats(0, 2), st.integers(0, 10_000))
def test_a_batch_is_assigned_as_its_items_alone(lengths, penalty, seed):
    generator = torch.Generator().manual_seed(seed)
    distances = torch.rand(len(lengths), max(lengths), 4, generator=generator)
    together = assign_units(distances, lengths, penalty)
    for row, length in enumerate(lengths):
        alone = assign_units(distances[row : row + 1, :length], [length], penalty)[0]
        assert torch.equal(together[row, :length], alone)
        assert (together[row, length:] == -1).all()


def test_a_higher_penalty_gives_fewer_units():
    distances = torch.rand(1, 200, 8, generator=torch.Generator().manual_seed(0))
    counts = [
        len(deduplicate(assign_units(distances, [200], penalty)[0].numpy())[0]) for penalty in (0, 0.2, 0.5, 2, 100)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1
    with pytest.raises(ValueError, match=">= 0"):
        assign_units(distances, [200], -1.0)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.lists(st.floats(0, 0.4), min_size=1, max_size=6))
def test_units_get_words_in_order_and_no_word_goes_without(durations, word_durations):
    ends = np.cumsum(word_durations).tolist()
    words = words_of_units(durations, ends)
    assert words == sorted(words)
    assert all(0 <= word < len(ends) for word in words)
    if len(durations) >= len(ends):
        assert set(words) == set(range(len(ends)))


def test_a_unit_belongs_to_the_word_that_holds_its_middle():
    # Middles at .05, .15, .29, .39, .45 s.
    assert words_of_units([5, 5, 9, 1, 5], [0.2, 0.3, 1.0]) == [0, 0, 1, 2, 2]
    # The second word holds no middle: the nearest unit is given to it.
    assert words_of_units([5, 5, 5], [0.16, 0.17, 1.0]) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least one word end"):
        words_of_units([1], [])


def test_kmeans_finds_separate_clusters_and_is_repeatable():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(7, 4, generator=generator) * 20
    points = centres.repeat(200, 1) + 0.1 * torch.randn(1400, 4, generator=generator)
    found = kmeans(points, 7, seed=1, batch_size=512, steps=30)
    assert squared_distances(centres, found).amin(-1).max() < 0.1
    assert torch.equal(found, kmeans(points, 7, seed=1, batch_size=512, steps=30))
    with pytest.raises(ValueError, match="at least 1401 frames"):
        kmeans(points, 1401)


def test_kmeans_survives_fewer_points_than_it_would_like():
    assert torch.isfinite(kmeans(torch.zeros(10, 3), 4)).all()


def test_averaging_never_looks_at_padding():
    features = torch.randn(1, 6, 3)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    noisy = features.clone()
    noisy[:, 4:] = 1e6
    averaged = average_frames(noisy, mask, 3)[:, :4]
    assert torch.allclose(averaged, average_frames(features[:, :4], mask[:, :4], 3), atol=1e-5)
    assert torch.allclose(averaged[:, 1], features[:, 0:3].mean(1), atol=1e-5)
    assert torch.allclose(averaged[:, 0], features[:, 0:2].mean(1), atol=1e-5)
    with pytest.raises(ValueError, match="odd"):
        average_frames(features, mask, 2)


def tiny_whisper():
    torch.manual_seed(0)
    config = whisper_config(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=80,
        max_source_positions=64,
    )
    return WhisperTower(config).eval(), WhisperFeatureExtractor()


def tiny_hubert():
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_kernel=(10, 32),
        conv_stride=(10, 32),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    return HubertModel(config).eval(), Wav2Vec2FeatureExtractor()


@pytest.mark.parametrize("make", [tiny_whisper, tiny_hubert])
def test_extracting_is_batch_proof_and_survives_saving(make, tmp_path):
    encoder, feature_extractor = make()
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(length).astype(np.float32) * 0.1 for length in (4000, 9600, 1000)]
    centroids = torch.randn(5, 16) * 0.3
    extractor = UnitExtractor(encoder, feature_extractor, centroids, layer=1, switch_penalty=0.5, smoothing_frames=3)
    together = extractor.extract_batch(waveforms)
    for waveform, units in zip(waveforms, together):
        assert np.array_equal(extractor(waveform), units)
        assert abs(len(units) - len(waveform) / 320) <= 1
    extractor.save_pretrained(tmp_path)
    again = UnitExtractor.from_pretrained(tmp_path)
    assert (again.num_units, again.sampling_rate, again.switch_penalty) == (5, 16000, 0.5)
    assert UnitExtractor.read_num_units(tmp_path) == 5
    assert all(np.array_equal(a, b) for a, b in zip(together, again.extract_batch(waveforms)))


def test_a_wrong_extractor_is_refused(tmp_path):
    encoder, feature_extractor = tiny_whisper()
    with pytest.raises(ValueError, match="layer from 0 to 2, found 3"):
        UnitExtractor(encoder, feature_extractor, torch.zeros(5, 16), layer=3)
    with pytest.raises(ValueError, match=r"\(units, 16\), found \(5, 8\)"):
        UnitExtractor(encoder, feature_extractor, torch.zeros(5, 8), layer=1)
    with pytest.raises(ValueError, match="expected unit_extractor.json"):
        UnitExtractor.from_pretrained(tmp_path)
    extractor = UnitExtractor(encoder, feature_extractor, torch.zeros(5, 16), layer=1)
    with pytest.raises(ValueError, match="at least one frame"):
        extractor(np.zeros(10, dtype=np.float32))
    with pytest.raises(ValueError, match="one channel"):
        extractor(np.zeros((2, 3200), dtype=np.float32))


def test_frames_take_the_phone_at_their_middle():
    index = {"pau": 0, "a": 1, "b": 2}
    labels = frame_phones([("pau", 0.03), ("a", 0.06), ("b", 0.08)], 6, index)
    assert labels.tolist() == [0, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match=r"\['x'\]"):
        frame_phones([("x", 1.0)], 2, index)


def test_quality_of_perfect_and_of_useless_units():
    labels = [np.array([0, 0, 1, 1, 2, 2])]
    perfect = unit_quality([np.array([3, 3, 1, 1, 0, 0])], labels, 4)
    assert perfect == pytest.approx({"units_per_s": 25.0, "units_used": 0.75, "phone_purity": 1.0, "pnmi": 1.0})
    useless = unit_quality([np.zeros(6, dtype=int)], labels, 4)
    assert useless["pnmi"] == pytest.approx(0)
    assert useless["phone_purity"] == pytest.approx(1 / 3)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Eight utterances of two tones, which a stand-in for flite says again; the last two are held out."""
    rng = np.random.default_rng(0)
    items = []
    said = {}
    for number in range(8):
        ends = np.cumsum(rng.uniform(0.1, 0.3, 4))
        parts = [np.sin(np.arange(int(0.3 * 16000)) * (0.1 + 0.2 * (i % 2))) for i in range(4)]
        starts = np.concatenate([[0], ends[:-1]])
        waveform = np.concatenate([part[: int(16000 * (b - a))] for part, a, b in zip(parts, starts, ends)])
        save_audio(tmp_path / f"{number}.wav", 0.3 * waveform.astype(np.float32), 16000)
        text = f"ab ab{'.' * number}"
        said[text] = tuple(zip("abab", ends.tolist()))
        words = (float(ends[1]), len(waveform) / 16000)
        split = "train" if number < 6 else "heldout"
        items.append(Utterance(str(number), f"{number}.wav", text, "flite/slt", len(waveform) / 16000, split, words))
    write_utterances(tmp_path / "replies.jsonl", items)
    (tmp_path / "phones.json").write_text(json.dumps({"lexicon": {"ab": ["a", "b"]}, "phones": ["a", "b"]}))

    class Again:
        def synthesize(self, text, voice):
            return SynthesizedSpeech(np.zeros(1), 16000, said[text])

    monkeypatch.setattr("echox.units.phones.create_synthesizer", lambda engine: Again())
    return tmp_path


def test_phone_times_are_asked_once_and_must_fit_the_recording(corpus, tmp_path, monkeypatch):
    items = read_utterances(corpus / "replies.jsonl")
    times = spoken_phone_times(items, tmp_path / "cache.jsonl")
    assert [row[-1][1] for row in times] == pytest.approx([item.duration_s for item in items], abs=1e-3)
    monkeypatch.delattr("echox.units.phones.create_synthesizer")
    with (tmp_path / "cache.jsonl").open("a") as half_written:
        half_written.write('{"speaker": "fli')
    assert spoken_phone_times(items, tmp_path / "cache.jsonl") == times
    with pytest.raises(ValueError, match="another tempo"):
        spoken_phone_times([replace(items[0], duration_s=9.0)], tmp_path / "cache.jsonl")
    with pytest.raises(ValueError, match="expected a voice of flite or piper, found 'espeak-ng/en'"):
        spoken_phone_times([replace(items[0], speaker="espeak-ng/en")], tmp_path / "cache.jsonl")
    phones = [("a", 0.5), (PAUSE, 0.55), ("b", 1.0), (PAUSE, 1.1), (PAUSE, 1.15), ("a", 2.0)]
    merged = (("a", 0.55), ("b", 1.0), (PAUSE, 1.15), ("a", 2.0))
    assert _without_short_pauses(phones) == merged
    assert lexicon_phones(items[:1], corpus / "phones.json") == [["a", "b", "a", "b"]]
    with pytest.raises(ValueError, match="found no 'new'"):
        lexicon_phones([replace(items[0], text="new word", word_ends_s=None)], corpus / "phones.json")


@pytest.mark.parametrize("phone_times", ["ctc", "synthesizer"])
def test_the_stage_learns_phones_and_writes_every_reply_as_units(corpus, tmp_path, phone_times):
    recipe = load_recipe(
        "recipes/nano/units.yaml",
        [
            f"data.replies={corpus}/replies.jsonl",
            f"data.phone_times={phone_times}",
            f"data.lexicon={corpus}/phones.json",
            f"training.output_dir={tmp_path}/out",
            "model.d_model=16",
            "model.encoder_layers=2",
            "model.encoder_attention_heads=2",
            "model.encoder_ffn_dim=32",
            "clusters.num_units=8",
            "clusters.layer=1",
        ],
    )
    stage = recipe.build()
    assert len(stage.dataset()) == len(stage.lengths()) == 6
    batch = stage.collate(list(stage.dataset()), random.Random(0))
    optimizer = torch.optim.Adam(stage.parameter_groups()["encoder"], lr=5e-3)
    losses = []
    for _ in range(30):
        loss = stage.objective(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with torch.inference_mode():
        metrics = stage.evaluate()
        stage.save(tmp_path / "out")
    assert metrics["units_per_s"] > 0
    rows = read_unit_utterances(tmp_path / "out" / "replies.jsonl")
    assert [row.split for row in rows] == ["train"] * 6 + ["heldout"] * 2
    assert all(set(row.word_of_unit) == {0, 1} for row in rows)
    extractor = UnitExtractor.from_pretrained(tmp_path / "out")
    frames = extractor(load_audio(corpus / "0.wav", 16000))
    assert sum(rows[0].durations_frames) == len(frames)
    assert deduplicate(frames)[0] == list(rows[0].units)


def test_an_extractor_made_elsewhere_writes_the_same_kind_of_manifest(corpus, tmp_path):
    from echox.training.stages.recordings.extract_units import ExtractUnitsRecipe

    encoder, feature_extractor = tiny_hubert()
    extractor = UnitExtractor(encoder, feature_extractor, torch.randn(4, 16) * 0.3, layer=2)
    extractor.save_pretrained(tmp_path / "extractor")
    recipe = ExtractUnitsRecipe(
        "extract_units", f"{corpus}/replies.jsonl", f"{tmp_path}/out.jsonl", f"{tmp_path}/extractor", batch_size=3
    )
    assert recipe.run()["utterances"] == 8
    rows = read_unit_utterances(tmp_path / "out.jsonl")
    assert [row.id for row in rows] == [str(number) for number in range(8)]
    assert rows[3].units == tuple(deduplicate(extractor(load_audio(corpus / "3.wav", 16000)))[0])


def extraction(corpus, tmp_path, **changes):
    from echox.training.stages.recordings.extract_units import ExtractUnitsRecipe

    encoder, feature_extractor = tiny_hubert()
    extractor = UnitExtractor(encoder, feature_extractor, torch.randn(4, 16) * 0.3, layer=2)
    extractor.save_pretrained(tmp_path / "extractor")
    return ExtractUnitsRecipe(
        "extract_units", f"{corpus}/replies.jsonl", f"{tmp_path}/out.jsonl", f"{tmp_path}/extractor", **changes
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_extraction_goes_on_where_it_stopped_and_processes_agree(corpus, tmp_path, monkeypatch, workers):
    from echox.training.stages.recordings.extract_units import ExtractChunk

    recipe = extraction(corpus, tmp_path, batch_size=2)
    monkeypatch.setattr("echox.training.stages.recordings.utterance_stage.BATCHES_PER_CHUNK", 1)
    work, seen = ExtractChunk.__call__, []

    def stopped(self, rows):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append([row["id"] for row in rows])
        return work(self, rows)

    monkeypatch.setattr(ExtractChunk, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        recipe.run()
    monkeypatch.setattr(ExtractChunk, "__call__", work)
    recipe.workers = workers  # the rest is done by this many processes
    figures = recipe.run()
    assert figures["utterances"] == 8
    rows = read_unit_utterances(tmp_path / "out.jsonl")
    recipe.workers = 1
    assert recipe.run()["units_per_s"] == figures["units_per_s"]
    assert read_unit_utterances(tmp_path / "out.jsonl") == rows
    assert not list(tmp_path.glob(".*journal"))


def test_what_cannot_be_extracted_stops_before_the_work_or_is_left_out(corpus, tmp_path):
    items = read_utterances(corpus / "replies.jsonl")
    items = [replace(item, audio=str(audio_path(corpus / "replies.jsonl", item.audio))) for item in items]
    write_utterances(tmp_path / "some.jsonl", [*items[:2], replace(items[2], word_ends_s=None)])
    recipe = replace(extraction(corpus, tmp_path), utterances=str(tmp_path / "some.jsonl"))
    with pytest.raises(ValueError, match=r"some.jsonl: 2: expected word_ends_s, found none; align .* \(1 of 3\)"):
        recipe.run()
    figures = replace(recipe, keep_going=True).run()
    assert (figures["utterances"], figures["left_out"]) == (2, 1)
