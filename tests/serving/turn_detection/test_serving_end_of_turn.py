"""The optional end-of-turn model: a tiny ONNX model of the same shape, written by hand, decides about pauses."""

import asyncio
import struct
import time

import numpy as np
import pytest

from echox.serving.turn_detection.end_of_turn import EndOfTurn
from serving_help import connected, nano, question, running


def field(number, value):
    """A protobuf field: an integer, text, bytes, or a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value):
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def tensor_type(name, sizes):
    dims = b"".join(field(1, field(2, size) if isinstance(size, str) else field(1, size)) for size in sizes)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def onnx_model(path, sizes=("batch", 80, 800), scale=4.0, shift=0.0):
    """An ONNX file (opset 13): probability = sigmoid(scale * mean(features) + shift)."""

    def node(kind, inputs, output, attributes=b""):
        return b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind) + attributes

    def constant(name, value):
        return field(2, 1) + field(8, name) + field(9, struct.pack("<f", value))

    axes = field(1, "axes") + field(20, 7) + b"".join(field(8, axis) for axis in (1, 2))
    keep = field(1, "keepdims") + field(20, 2) + field(3, 0)
    nodes = [
        node("ReduceMean", ["input_features"], "mean", field(5, axes) + field(5, keep)),
        node("Mul", ["mean", "scale"], "scaled"),
        node("Add", ["scaled", "shift"], "moved"),
        node("Sigmoid", ["moved"], "logits"),
    ]
    graph = b"".join(field(1, one) for one in nodes) + field(2, "graph")
    graph += field(5, constant("scale", scale)) + field(5, constant("shift", shift))
    graph += field(11, tensor_type("input_features", sizes)) + field(12, tensor_type("logits", ["batch"]))
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13)))
    return str(path)


def test_the_model_gets_the_last_eight_seconds(tmp_path):
    pytest.importorskip("onnxruntime")
    judge = EndOfTurn(onnx_model(tmp_path / "m.onnx"))
    rng = np.random.default_rng(0)
    short, long = (rng.standard_normal(16000 * seconds).astype(np.float32) * 0.1 for seconds in (1, 12))
    assert 0 <= judge(short) <= 1
    assert judge(long) == judge(long[-8 * 16000 :])
    assert judge(short) != judge(long)


def test_other_files_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="check the path"):
        EndOfTurn(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ValueError, match="expected an ONNX model"):
        EndOfTurn(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match="smart-turn v3"):
        EndOfTurn(onnx_model(tmp_path / "other.onnx", sizes=("batch", 80, 3000)))


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "pause_ms"), [(50.0, (50, 1500)), (-50.0, (1900, 2300))])
def test_the_model_ends_a_turn_early_or_late(tmp_path, shift, pause_ms):
    pytest.importorskip("onnxruntime")
    path = onnx_model(tmp_path / "m.onnx", shift=shift)

    async def all_of(server):
        async with connected(server) as client:
            detection = {"type": "semantic_vad", "eagerness": "high"}
            audio = {"input": {"turn_detection": detection}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            await client.until("session.updated")
            await client.say(
                question(2, tail_s=2.5), pace=0.3
            )  # the judge has its time in ours: a busy machine is late
            stopped = await client.until("input_audio_buffer.speech_stopped")
            speech_ends_ms = 1632
            assert pause_ms[0] <= stopped["audio_end_ms"] - speech_ends_ms <= pause_ms[1]

    with running(nano(), end_of_turn=path) as server:
        asyncio.run(all_of(server))


def test_pauses_that_come_faster_than_answers_do_not_pile_up(tmp_path):
    """Each question would hold all the sound of its turn."""
    pytest.importorskip("onnxruntime")
    words = question(2)[int(0.3 * 24000) : int(0.9 * 24000)]
    sound = np.tile(np.concatenate([words, np.zeros(int(0.4 * 24000), np.float32)]), 60)  # a minute, 60 pauses

    async def all_of(server):
        judge, asked, most = server.service.end_of_turn, [], [0]

        def slow(samples):
            asked.append(len(samples))
            most[0] = max(most[0], server.service.executor._work_queue.qsize())
            time.sleep(0.05)  # fixed time: a slow model
            return judge(samples)

        server.service.end_of_turn = slow
        async with connected(server) as client:
            detection = {"type": "semantic_vad", "eagerness": "low"}
            await client.send(
                "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
            )
            await client.until("session.updated")
            await client.say(sound, chunk_s=5.0)
            await client.send("input_audio_buffer.clear")
            await client.until("input_audio_buffer.cleared", 60)
        assert asked
        assert max(asked) <= 8 * 16000 + 512  # what the model hears, whatever the length of the turn
        assert most[0] <= 1

    with running(nano(), end_of_turn=onnx_model(tmp_path / "m.onnx", shift=-50.0)) as server:
        asyncio.run(all_of(server))
