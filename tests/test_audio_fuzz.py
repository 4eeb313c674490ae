"""Minutes of `audio_fuzz`; an hour by hand: ``python tests/audio_fuzz.py --minutes 60``."""

import pytest

from audio_fuzz import MAX_S, crafted, fuzz, seeds, through_chat, through_page, through_python, through_transcriptions
from audio_fuzz import through_websocket as through_socket
from serving_help import Limits, nano, running


@pytest.mark.slow
def test_damaged_files_through_every_way_in(tmp_path):
    pytest.importorskip("gradio")
    assert len(seeds()) >= 25
    with running(nano(), Limits(max_upload_s=MAX_S)) as server:
        ways = {
            "python": through_python,
            "transcriptions": lambda data: through_transcriptions(server.url, data),
            "chat": lambda data: through_chat(server.url, data),
            "websocket": lambda data: through_socket(server.url, data),
            "page": lambda data: through_page(nano(), tmp_path, data),
        }
        for way in ("transcriptions", "chat"):
            for name, data in crafted("canary.wav").items():
                assert ways[way](data) == "refused", (way, name)
        found = fuzz(ways, minutes=1.5, seed=13, keep=tmp_path)
    assert found["files"] > 300
    assert found["workers_ended"] <= found["files"] // 1000 + 1, "a decoder that crashes often: look at what it reads"
