"""Malicious folders: weights, indexes, configurations. All are refused, and no file outside is read."""

import contextlib
import json
import shutil
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from echox import EchoX
from echox.api.loading import find_model
from echox.models.conversion.checkpoint import open_checkpoint, open_weights, read_json

FIXTURE = [HealthCheck.function_scoped_fixture]


def safetensors_bytes(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


TWO = json.dumps(entry()).encode()


def refused(folder):
    with pytest.raises(ValueError, match="expected") as found:
        for tensor in open_checkpoint(folder).values():
            tensor.load()
    return str(found.value)


# ------------------------------------------------------------------------------------------------ shards


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "../../x/secret.bin",
        "sub/../../secret.safetensors",
        "sub/inner.safetensors",
        "C:secret.safetensors",
        "..\\secret.safetensors",
        "",
        ".",
        "..",
        "secret",
        "secret.safetensors\0",
        "config.json",
        None,
        3,
        [],
        {},
        True,
    ],
)
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_in_the_folder(tmp_path, shard, kind):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "secret.safetensors")
    (folder / f"{kind}.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    assert "secret" not in refused(folder).replace(repr(shard), "")


def test_absolute_shards_are_refused_and_not_opened(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.safetensors"
    save_file({"a": torch.zeros(2)}, secret)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": str(secret)}}))
    assert "beside it" in refused(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000, "\x00", "nul"])
def test_odd_indexes(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert refused(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for number in (1, 2):
        save_file({"a": torch.zeros(2)}, tmp_path / f"{number}.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "one shard" in refused(tmp_path)


# ------------------------------------------------------------------------------------------------ headers


@pytest.mark.parametrize(
    ("header", "num_bytes"),
    [
        ({"a": entry(offsets=(-8, 0))}, 8),
        ({"a": entry(offsets=(8, 0))}, 8),
        ({"a": entry(offsets=(4, 12))}, 12),  # a hole
        ({"a": entry(), "b": entry()}, 8),  # overlapping
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12),
        ({"a": entry()}, 9),  # something behind
        ({"a": entry(shape=(-2,), offsets=(0, 8))}, 8),
        ({"a": entry(shape=(-1, -2), offsets=(0, 8))}, 8),
        ({"a": entry(shape=(True, 2))}, 8),
        ({"a": entry(shape=(2.0,))}, 8),
        ({"a": entry(shape=("2",))}, 8),
        ({"a": {**entry(), "shape": 2}}, 8),
        ({"a": {**entry(), "shape": {"0": 2}}}, 8),
        ({"a": {**entry(), "dtype": []}}, 8),
        ({"a": {**entry(), "dtype": "F3"}}, 8),
        ({"a": {**entry(), "data_offsets": [0]}}, 8),
        ({"a": {**entry(), "data_offsets": "08"}}, 8),
        ({"a": {**entry(), "data_offsets": {"0": 0, "8": 8}}}, 8),
        ({"a": {**entry(), "data_offsets": [0, 8.0]}}, 8),
        ({"a": entry(shape=(2**62,), offsets=(0, 2**64))}, 8),
        ({"a": entry(shape=(0, 2**63), offsets=(0, 0))}, 0),  # empty, yet no tensor can have it
        ({"a": entry(shape=(2**62, 2**62, 0), offsets=(0, 0))}, 0),
        ({"a": entry(dtype="U8", shape=(1,) * 65, offsets=(0, 1))}, 1),
        ({"a": []}, 8),
        ({"a": None}, 8),
        ([], 0),
        (3, 0),
        (b'{"a":' + b"[" * 100_000, 0),
        (b'{"a":' + TWO + b',"a":' + TWO + b"}", 8),  # twice
        (b"\xff\xfe", 0),
    ],
)
def test_headers_are_read_as_the_format_has_them(tmp_path, header, num_bytes):
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(header, bytes(num_bytes)))
    assert "model.safetensors" in refused(tmp_path)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 200_000_000, 0])
def test_header_lengths(tmp_path, length):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"a": entry()}, bytes(8), length))
    assert refused(tmp_path)


def test_what_the_format_s_own_writer_makes_is_read(tmp_path):
    tensors = {"b": torch.randn(3, 2), "a": torch.arange(5), "empty": torch.zeros(0, 3), "scalar": torch.tensor(1.5)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    opened = open_checkpoint(tmp_path)
    assert all(torch.equal(opened[name].load(), value) for name, value in tensors.items())


numbers = st.one_of(st.integers(-20, 40), st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=2))
entries = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "BF16", "X", "", None, 3]),
            "shape": st.one_of(st.lists(numbers, max_size=3), numbers),
            "data_offsets": st.one_of(st.lists(numbers, max_size=3), numbers),
        }
    ),
    st.recursive(numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=5),
)


@settings(max_examples=300, deadline=None, suppress_health_check=FIXTURE)
@given(header=st.dictionaries(st.text(max_size=3), entries, max_size=3), data=st.binary(max_size=40))
def test_any_header_is_read_or_refused(tmp_path, header, data):
    path = tmp_path / "any.safetensors"
    path.write_bytes(safetensors_bytes(header, data))
    read_or_refused(path, len(data))


def read_or_refused(path, num_bytes):
    try:
        opened = open_weights(path)
        found = [tensor.load() for tensor in opened.values()]
    except ValueError as error:
        assert "weights_only" not in str(error)
    else:
        assert sum(tensor.nbytes for tensor in found) <= num_bytes


@settings(max_examples=200, deadline=None, suppress_health_check=FIXTURE)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 40), suffix=st.booleans())
def test_mutated_files_are_read_or_refused(tmp_path, place, value, cut, suffix):
    path = tmp_path / ("any.safetensors" if suffix else "any.bin")
    if suffix:
        save_file({"a": torch.zeros(4), "b": torch.ones(2, 2)}, path)
    else:
        torch.save({"a": torch.zeros(4), "b": torch.ones(2, 2)}, path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(bytes(data[: len(data) - cut]))
    read_or_refused(path, len(data))


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [Evil(), {"a": Evil()}, {3: torch.zeros(2)}, [torch.zeros(2)], {"a": 3}])
def test_torch_files_hold_tensors_by_name(tmp_path, content, capsys):
    torch.save(content, tmp_path / "pytorch_model.bin")
    message = refused(tmp_path)
    assert "weights_only" not in message
    assert "run" not in capsys.readouterr().out


@settings(max_examples=100, deadline=None, suppress_health_check=FIXTURE)
@given(data=st.binary(max_size=60))
def test_no_bytes_crash_the_json_reader(tmp_path, data):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    try:
        assert isinstance(read_json(path), dict)
    except ValueError as error:
        assert str(path) in str(error)


# ------------------------------------------------------------------------------------------------ our own folders


@pytest.fixture
def nano(tmp_path):
    """A copy of the embedded model."""
    return shutil.copytree(find_model("nano"), tmp_path / "nano")


def load(folder):
    with pytest.raises(ValueError, match="expected") as found:
        EchoX.from_pretrained(folder, device="cpu")
    assert "weights_only" not in str(found.value)
    return str(found.value)


def changed_weights(folder, change):
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_renamed_weights_are_refused(nano):
    def rename(tensors):
        name = next(name for name in tensors if name.endswith("weight"))
        tensors[f"{name}_renamed"] = tensors.pop(name)

    changed_weights(nano, rename)
    assert "weights of its configuration" in load(nano)


def test_further_weights_are_refused(nano):
    changed_weights(nano, lambda tensors: tensors.update(other=torch.zeros(2)))
    assert "others: other" in load(nano)


def test_weights_of_another_shape_are_refused(nano):
    def grow(tensors):
        name = next(name for name, value in tensors.items() if value.dim() == 2)
        tensors[name] = torch.zeros(3, 3, dtype=tensors[name].dtype)

    changed_weights(nano, grow)
    assert str(nano) in load(nano)


def test_our_folders_hold_no_pickles(nano):
    torch.save({"a": Evil()}, nano / "pytorch_model.bin")
    (nano / "model.safetensors").unlink()
    assert str(nano) in load(nano)


def test_our_shards_are_in_the_folder_too(nano):
    secret = nano.parent / "secret.safetensors"
    shutil.move(nano / "model.safetensors", secret)
    index = {"metadata": {}, "weight_map": {"a": "../secret.safetensors"}}
    (nano / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "beside it" in load(nano)


def changed_json(path, change):
    content = json.loads(path.read_text()) if path.is_file() else {}
    change(content)
    path.write_text(json.dumps(content))


KERNEL = "kernels-community/flash-attn2"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda found: found.update(attn_implementation=KERNEL), "attn_implementation"),
        (lambda found: found.update(_attn_implementation={"": "sdpa", "s2t_config": KERNEL}), "s2t_config"),
        (lambda found: found["s2t_config"]["text_config"].update(_experts_implementation=KERNEL), "experts"),
        (lambda found: found["s2t_config"]["text_config"].update(num_hidden_layers=10**9), "num_hidden_layers"),
        (lambda found: found["s2t_config"]["audio_config"].update(encoder_layers=10**9), "encoder_layers"),
        (lambda found: found["echo_decoder_config"].update(num_hidden_layers=10**9), "num_hidden_layers"),
    ],
)
def test_a_configuration_fetches_no_code_and_makes_no_more_than_there_is(nano, change, word):
    changed_json(nano / "config.json", change)
    assert word in load(nano)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.T", "code.T"]}, "tokenizer_class": "T"}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "code.T"}, "processor_class": "T"}),
        ("preprocessor_config.json", {"auto_map": {"AutoFeatureExtractor": "code.T"}, "feature_extractor_type": "T"}),
        ("config.json", {"auto_map": {"AutoConfig": "code.T", "AutoModel": "code.T"}}),
    ],
)
def test_code_in_a_folder_is_not_run_nor_asked_about(nano, file, change, monkeypatch):
    def ask(*_):
        raise AssertionError("the user was asked whether to run it")

    monkeypatch.setattr("builtins.input", ask)
    (nano / "code.py").write_text(f"open({str(nano / 'ran')!r}, 'w')\nclass T: ...\n")
    changed_json(nano / file, lambda found: found.update(change))
    with contextlib.suppress(ValueError):
        EchoX.from_pretrained(nano, device="cpu")
    assert not (nano / "ran").exists()


ODD = ["[]", "[" * 100_000] + [
    pytest.param(text, marks=pytest.mark.slow) for text in ("null", "{", '{"a":' * 100_000, "\x00", "3")
]


@pytest.mark.parametrize("name", sorted(path.name for path in find_model("nano").glob("*.json")))
@pytest.mark.parametrize("text", ODD)
def test_odd_json_in_any_file_of_a_folder(nano, name, text):
    (nano / name).write_text(text)
    try:
        EchoX.from_pretrained(nano, device="cpu")
    except ValueError as error:
        assert str(error)
