"""Minutes of `audio_fuzz`; an hour by hand: ``python tests/audio/audio_fuzz.py --minutes 60``."""

import pytest

import audio_fuzz
from audio_fuzz import MAX_S, crafted, fuzz, seeds
from serving_help import Limits, nano, running


@pytest.mark.slow
def test_damaged_files_through_every_way_in(tmp_path):
    pytest.importorskip("gradio")
    assert len(seeds()) >= 25
    with running(nano(), Limits(max_upload_s=MAX_S)) as server:
        ways = {
            "python": audio_fuzz.through_python,
            "transcriptions": lambda data: audio_fuzz.through_transcriptions(server.url, data),
            "chat": lambda data: audio_fuzz.through_chat(server.url, data),
            "websocket": lambda data: audio_fuzz.through_websocket(server.url, data),
            "page": lambda data: audio_fuzz.through_page(nano(), tmp_path, data),
        }
        for way in ("transcriptions", "chat"):
            for name, data in crafted("canary.wav").items():
                assert ways[way](data) == "refused", (way, name)
        found = fuzz(ways, minutes=1.5, seed=13, keep=tmp_path)
    assert found["files"] > 300
    assert found["workers_ended"] <= found["files"] // 1000 + 1, "a decoder that crashes often: look at what it reads"
