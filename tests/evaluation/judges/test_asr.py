"""The judges: what they hear of posteriors, of nothing, and over a wire."""

import json
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from echox.audio import load_audio
from echox.evaluation.judges.asr import (
    OpenAICompatibleASR,
    PhoneCTCJudge,
    embedded_judge,
    homophones,
    read_pronunciations,
)
from echox.models.echox.configuration_echox import SpeechEncoderConfig, whisper_config
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC

PHONES = ["ae", "ax", "b", "dh", "iy", "k", "t"]
LEXICON = {"the": [["dh", "ax"], ["dh", "iy"]], "Cat": ["k", "ae", "t"], "cat": ["k", "ae", "t"], "B": ["b", "iy"]}


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "phones.json"
    path.write_text(json.dumps({"lexicon": LEXICON, "phones": PHONES}), encoding="utf-8")
    return path


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    audio = whisper_config(d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=16, num_mel_bins=80)
    config = SpeechEncoderConfig(audio, hidden_size=16, vocab_size=8, blank_token_id=0, phones=PHONES, phone_layer=1)
    SpeechEncoderForCTC(config).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def spell(judge: PhoneCTCJudge, phones: list[str]) -> np.ndarray:
    """Posteriors of a voice that says the phones, clearly, with a blank between."""
    ids = judge.model.phone_ids()
    labels = [0, *(label for phone in phones for label in (ids[phone], ids[phone], 0))]
    log_probs = np.full((len(labels), len(PHONES) + 1), np.log(1e-4), dtype=np.float32)
    log_probs[np.arange(len(labels)), labels] = np.log(0.99)
    return log_probs


def test_words_are_normalised_and_may_sound_in_several_ways(lexicon):
    entries = read_pronunciations(lexicon)
    assert ("the", ("dh", "iy")) in entries
    assert ("the", ("dh", "ax")) in entries
    assert [word for word, _ in entries].count("cat") == 1
    assert ("b", ("b", "iy")) in entries


@pytest.mark.parametrize("content", ["", "[]", '{"phones": []}', '{"lexicon": {"two words": ["t"]}, "phones": ["t"]}'])
def test_a_broken_lexicon_is_refused(tmp_path, content):
    path = tmp_path / "phones.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"phones\.json: expected"):
        read_pronunciations(path)


def test_the_judge_hears_what_is_said(encoder, lexicon, monkeypatch):
    judge = PhoneCTCJudge(encoder, lexicon)
    said = spell(judge, ["dh", "iy", "k", "ae", "t", "b", "iy"])
    monkeypatch.setattr(judge, "phone_log_probs", lambda waveform, rate: said)
    assert judge.transcribe([np.ones(1600, np.float32)], 16000) == ["the cat b"]


def test_the_judge_hears_any_rate_and_nothing_in_nothing(encoder, lexicon):
    judge = PhoneCTCJudge(encoder, lexicon)
    noise = np.random.default_rng(0).standard_normal(4800).astype(np.float32) * 0.1
    heard, silence = judge.transcribe([noise, np.zeros(0, np.float32)], 24000)
    assert set(heard.split()) <= {"the", "cat", "b"}
    assert silence == ""
    log_probs = judge.phone_log_probs(noise, 24000)
    assert log_probs.shape == (10, len(PHONES) + 1)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=1e-5)


def test_the_judges_name_changes_with_its_weights_and_penalty(encoder, lexicon):
    names = {PhoneCTCJudge(encoder, lexicon).name, PhoneCTCJudge(encoder, lexicon, word_penalty=3.0).name}
    model = SpeechEncoderForCTC.from_pretrained(encoder)
    with torch.no_grad():
        model.phone_head[1].bias[0] += 1
    model.save_pretrained(encoder)
    assert len(names | {PhoneCTCJudge(encoder, lexicon).name}) == 3


def test_phones_unknown_to_the_model_are_refused(encoder, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"lexicon": {"shoe": ["sh", "uw"]}, "phones": ["sh", "uw"]}), encoding="utf-8")
    with pytest.raises(ValueError, match="'sh', 'uw'"):
        PhoneCTCJudge(encoder, path)


class Recogniser(BaseHTTPRequestHandler):
    """Answers every recording with its length; the model "broken" fails, "slow" waits for ever."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message = BytesParser().parsebytes(f"Content-Type: {self.headers['Content-Type']}\n\n".encode() + body)
        fields = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
        model = fields["model"].get_payload().strip()
        if model == "slow":
            self.server.stopped.wait(5)
        samples = len(load_audio(fields["file"].get_payload(decode=True)))
        answer = json.dumps({"text": f" {samples} {self.headers['Authorization']} "}).encode()
        self.send_response(500 if model == "broken" else 200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    server = HTTPServer(("127.0.0.1", 0), Recogniser)
    server.stopped = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_recogniser_behind_http(url):
    judge = OpenAICompatibleASR(url, "tiny", api_key="secret")
    assert judge.transcribe([np.zeros(1600, np.float32), np.ones(800, np.float32)], 16000) == [
        "1600 Bearer secret",
        "800 Bearer secret",
    ]


@pytest.mark.parametrize(("model", "message"), [("broken", "HTTP 500"), ("slow", "timed out")])
def test_a_failing_recogniser_says_so_in_time(url, model, message):
    with pytest.raises(ValueError, match=message):
        OpenAICompatibleASR(url, model, timeout_s=0.5).transcribe([np.zeros(1600, np.float32)], 16000)


def test_a_url_without_scheme_is_refused():
    with pytest.raises(ValueError, match="http://"):
        OpenAICompatibleASR("localhost:8000", "tiny")


def test_words_that_sound_the_same_are_spelled_the_same():
    spelling = homophones([("for", ("f", "ao", "r")), ("four", ("f", "ao", "r")), ("cat", ("k", "ae", "t"))])
    assert spelling == {"for": "for", "four": "for", "cat": "cat"}


def test_the_embedded_judge_reads_every_word_of_the_demo(tmp_path):
    """It knows the phones that the corpus stage writes; what it hears of nano is measured in the model card."""
    model = SpeechEncoderForCTC.from_pretrained(embedded_judge())
    lexicon = tmp_path / "phones.json"
    phones = sorted(model.phone_ids())
    lexicon.write_text(json.dumps({"lexicon": {"echo": phones[:3]}, "phones": phones}))
    judge = PhoneCTCJudge(embedded_judge(), lexicon)
    assert judge.transcribe([np.zeros(8000, dtype=np.float32)], 16000) == [""]
