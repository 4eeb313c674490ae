"""Speech engines, word boundaries and resumable synthesis."""

import contextlib
import http.server
import io
import json
import random
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echox.audio import load_audio
from echox.data import synthesis
from echox.data.corpora.nano import world
from echox.data.corpora.nano.speech import Sizes, write_corpus
from echox.data.engines.engine import Voice
from echox.data.engines.espeak_ng import EspeakNg
from echox.data.engines.speech_server import OpenAICompatible
from echox.data.engines.word_ends import align_words
from echox.data.manifest import audio_path, read_dialogues, read_utterances
from echox.data.synthesis import SpeechJob, create_synthesizer, speak_all

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
SLT = Voice("flite", "slt")


def test_a_voice_is_found_again_by_its_speaker():
    voice = Voice("espeak-ng", "en-gb+f3", speed=1.2)
    assert Voice.of_speaker(voice.speaker, speed=1.2) == voice


def test_alignment_gives_pauses_to_the_word_before():
    phones = [("pau", 0.2), ("k", 0.3), ("ae", 0.4), ("t", 0.5), ("pau", 0.8), ("ax", 0.9), ("b", 1.0), ("pau", 1.2)]
    assert align_words(phones, [("k", "ae", "t"), ("ey", "b")]) == (0.8, 1.2)


def test_alignment_tolerates_other_phones():
    phones = [("dh", 0.1), ("ax", 0.2), ("ae", 0.3), ("n", 0.4), ("d", 0.5), ("t", 0.6), ("uw", 0.7)]
    assert align_words(phones, [("dh", "iy"), ("ae", "n"), ("t", "uw")])[0] == 0.2
    assert align_words(phones, [("dh", "iy"), (), ("ae", "n", "d"), ("t", "uw")]) == (0.2, 0.2, 0.5, 0.7)
    assert align_words([], [("a",)]) == (0.0,)
    assert align_words(phones, []) == ()


@needs_flite
def test_flite_tells_where_words_end():
    speech = create_synthesizer("flite").synthesize("Bus is spelled B, U, S.", SLT)
    assert speech.sampling_rate == 16_000
    assert speech.waveform.dtype == np.float32
    assert len(speech.word_ends_s) == 6
    assert list(speech.word_ends_s) == sorted(speech.word_ends_s)
    assert speech.word_ends_s[0] == pytest.approx(0.43, abs=0.1)
    assert speech.word_ends_s[-1] == pytest.approx(len(speech.waveform) / 16_000)
    assert speech.phones[1][0] == "b"


@needs_flite
def test_flite_is_deterministic_and_heeds_speed_and_pitch():
    engine = create_synthesizer("flite")
    plain, again = (engine.synthesize("Hello.", SLT).waveform for _ in range(2))
    assert np.array_equal(plain, again)
    assert len(engine.synthesize("Hello.", Voice("flite", "slt", speed=1.2)).waveform) < 0.9 * len(plain)
    high = engine.synthesize("Hello.", Voice("flite", "slt", pitch=1.15)).waveform
    assert not np.array_equal(high[: len(plain)], plain[: len(high)])


@needs_espeak
def test_phonemes_of_many_texts_are_those_of_each():
    texts = ["hello, (big) world. Yes", "the cat", "1. foo; bar: baz", "plain words", "zyxt?", "...", "the end"]
    engine = EspeakNg()
    assert engine.phonemes(texts, "en-us") == [engine.phonemes([text], "en-us")[0] for text in texts]


@needs_espeak
def test_espeak_speaks_at_16_khz():
    engine = create_synthesizer("espeak-ng")
    speech = engine.synthesize("Hello there.", Voice("espeak-ng", "en-gb+f3"))
    assert speech.word_ends_s is None
    assert 0.4 < len(speech.waveform) / speech.sampling_rate < 2.0
    assert np.abs(speech.waveform).max() > 0.05
    with pytest.raises(ValueError, match=r"xx-none"):
        engine.synthesize("Hello.", Voice("espeak-ng", "xx-none"))


def test_missing_program_and_unknown_engine_are_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="apt install flite"):
        synthesis.Flite()
    with pytest.raises(ValueError, match="espeak-ng"):
        create_synthesizer("festival")


@pytest.fixture
def server():
    """A speech server that answers half a second of a tone, or hangs for the text "hang"."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, self.headers.get("Authorization")))
            if body["input"] == "hang":
                time.sleep(1.0)
            audio = io.BytesIO()
            soundfile.write(audio, np.sin(np.arange(12_000) * 0.1) * 0.3, 24_000, format="WAV")
            self.send_response(200)
            self.end_headers()
            try:
                self.wfile.write(audio.getvalue())
            except BrokenPipeError:
                seen.append("client left")

        def log_message(self, *args):
            """Quiet."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/v1", seen
    listening.shutdown()
    listening.server_close()


def test_openai_compatible_server(server):
    url, seen = server
    engine = OpenAICompatible(url, model="m", api_key="k")
    speech = engine.synthesize("Hello.", Voice("openai", "alloy", speed=1.1))
    assert len(speech.waveform) == 8000
    path, body, key = seen[0]
    assert path == "/v1/audio/speech"
    assert key == "Bearer k"
    assert body == {"model": "m", "input": "Hello.", "voice": "alloy", "response_format": "wav", "speed": 1.1}
    with pytest.raises(ValueError, match="pitch"):
        engine.synthesize("Hello.", Voice("openai", "alloy", pitch=1.2))


def test_openai_compatible_wait_is_bounded(server, monkeypatch):
    url, _ = server
    with pytest.raises(ConnectionError, match="no speech for 'hang'"):
        OpenAICompatible(url, timeout_s=0.2).synthesize("hang", Voice("openai", "alloy"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL"):
        OpenAICompatible()


@needs_flite
def test_speaking_resumes_and_notices_changed_texts(tmp_path, monkeypatch):
    spoken = []
    real = synthesis._speak
    monkeypatch.setattr(synthesis, "_speak", lambda job: (spoken.append(job.id), real(job))[1])

    def job(name, text):
        return SpeechJob(name, text, SLT, str(tmp_path / "wav" / f"{name}.wav"))

    journal = tmp_path / "journal.jsonl"
    first = list(speak_all([job("a", "One."), job("b", "Two.")], journal, workers=1))
    assert spoken == ["a", "b"]
    with journal.open("a") as log:
        log.write('{"cut off')
    assert list(speak_all([job("a", "One."), job("b", "Two.")], journal, workers=1)) == first
    assert spoken == ["a", "b"]
    list(speak_all([job("a", "Ten."), job("b", "Two.")], journal, workers=1))
    assert spoken == ["a", "b", "a"]
    (tmp_path / "wav" / "b.wav").unlink()
    list(speak_all([job("b", "Two.")], journal, workers=1))
    assert spoken[-1] == "b"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_spoken_before_the_last_settings_count(seed, tmp_path, monkeypatch):
    """Other settings, interruptions, and then these to the end: files and results are those of a fresh run."""
    rng = random.Random(seed)
    left = [0]  # half jobs until the interruption, which comes before a file is written, or after it

    def speak(job):
        for written in (False, True):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            if not written:
                Path(job.path).write_text(f"{job.text} {job.voice.name}", encoding="utf-8")
        return synthesis.SpokenJob(job.id, float(len(job.text + job.voice.name)), None)

    monkeypatch.setattr(synthesis, "_speak", speak)
    settings = [("One.", "slt"), ("One.", "kal16"), ("Two words.", "slt")]

    def speech(folder, chosen):
        text, voice = chosen
        jobs = [SpeechJob(str(n), text, Voice("flite", voice), str(folder / f"{n}.wav")) for n in range(5)]
        found = list(speak_all(jobs, folder / "journal.jsonl", workers=1))
        return found, [(folder / f"{n}.wav").read_text(encoding="utf-8") for n in range(5)]

    for _ in range(6):
        left[0] = rng.randrange(12)
        with contextlib.suppress(KeyboardInterrupt):
            speech(tmp_path / "used", rng.choice(settings))
    last = rng.choice(settings)
    found = []
    for folder in ("used", "fresh"):
        left[0] = 10
        found.append(speech(tmp_path / folder, last))
    assert found[0] == found[1]
    left[0] = 0
    assert speech(tmp_path / "used", last) == found[1]  # nothing is spoken twice


@needs_flite
@needs_espeak
def test_a_tiny_corpus_is_whole(tmp_path, monkeypatch):
    every = world.build_dialogues(seed=0, multi_turn=20)
    some = [d for d in every if d.topic in ("capital", "color") and int(d.id.split("-")[1]) % 20 == 0]
    some += [d for d in every if len(d.turns) > 2][:2]
    monkeypatch.setattr(world, "build_dialogues", lambda seed, with_sealed: some)
    sizes = Sizes(0.002, 0.001, 1, 2, multi_turn=1, greetings=2, heldout_greetings=1, max_sentences=1)
    report = write_corpus(tmp_path, sizes, seed=0, workers=1)
    assert report["questions_hours"] > 0
    assert read_dialogues(tmp_path / "text" / "dialogues.jsonl") == some
    lexicon = json.loads((tmp_path / "phones.json").read_text())
    assert lexicon["lexicon"]["what"][-1] == "t"
    assert set(lexicon["phones"]) >= set(lexicon["lexicon"]["capital"])
    for name in ("questions", "replies"):
        manifest = tmp_path / "speech" / f"{name}.jsonl"
        for item in read_utterances(manifest):
            waveform = load_audio(audio_path(manifest, item.audio))
            assert len(waveform) / 16_000 == pytest.approx(item.duration_s, abs=1e-3)
            assert name == "questions" or item.word_ends_s is not None
    spoken = read_dialogues(tmp_path / "speech" / "dialogues.jsonl")
    assert {"heldout_seen_voices", "heldout_new_voices"} < {dialogue.split for dialogue in spoken}
    assert all(audio_path(tmp_path / "speech" / "d.jsonl", d.turns[0].audio).exists() for d in spoken)
    assert all(dialogue.answer in dialogue.turns[1].text for dialogue in spoken if dialogue.topic == "capital")
    assert read_dialogues(tmp_path / "speech" / "multi_turn.jsonl")[0].turns[2].audio
    greetings = read_dialogues(tmp_path / "speech" / "greetings.jsonl")
    assert {dialogue.split for dialogue in greetings} == {
        "train",
        "validation",
        "heldout_seen_voices",
        "heldout_new_voices",
    }
    assert all(audio_path(tmp_path / "speech" / "d.jsonl", d.turns[0].audio).exists() for d in greetings)
