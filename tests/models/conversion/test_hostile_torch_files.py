"""Torch files that are small on the disk and large in memory: refused in our words before they are read."""

import io
import tracemalloc
import zipfile

import pytest
import torch

from echox.models.conversion.checkpoint import open_weights
from echox.models.conversion.file_formats.torch_file import check_torch_file


def repacked(path, compression=zipfile.ZIP_STORED, pickle=None):
    """What `torch.save` wrote, in another zip; pickle: other instructions."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(4.0)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            is_pickle = name.endswith("data.pkl")
            target.writestr(name, pickle if is_pickle and pickle is not None else source.read(name))
    return path


def refused(path):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="expected") as found:
            open_weights(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**20
    assert "weights_only" not in str(found.value)
    return str(found.value)


LISTS = b"\x80\x02" + b"]0" * (9 * 2**20) + b"}."


SLOW_BZIP2 = pytest.param(zipfile.ZIP_BZIP2, marks=pytest.mark.slow)  # to make, not to refuse


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, SLOW_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(tmp_path, compression):
    assert "compressed" in refused(repacked(tmp_path / "a.bin", compression, LISTS))
    assert "compressed" in refused(repacked(tmp_path / "b.bin", compression))  # whatever is in them


def test_a_pickle_of_many_instructions_is_refused(tmp_path):
    assert "names and shapes" in refused(repacked(tmp_path / "a.bin", pickle=LISTS))


def test_members_hold_no_more_than_the_file(tmp_path):
    path = repacked(tmp_path / "a.bin")
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")  # of the directory: one entry says that its member is larger
    content[place + 24 : place + 28] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected"):
        check_torch_file(path)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(torch.zeros(1).expand(2**40), id="one number repeated"),
        pytest.param(torch.zeros(2**11).as_strided((2**9, 2**9, 2**9), (1, 1, 1)), id="overlapping rows"),
        pytest.param(torch.eye(3).to_sparse(), id="sparse"),
    ],
)
def test_a_tensor_takes_no_more_than_it_has_stored(tmp_path, value, old):
    torch.save({"a": value}, tmp_path / "a.bin", _use_new_zipfile_serialization=not old)
    assert "use safetensors" in refused(tmp_path / "a.bin")


@pytest.mark.parametrize("old", [False, True])
def test_views_of_a_larger_tensor_are_read(tmp_path, old):
    whole = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": whole[1:, ::2], "b": whole.T}, tmp_path / "a.bin", _use_new_zipfile_serialization=not old)
    found = open_weights(tmp_path / "a.bin")
    assert torch.equal(found["a"].load(), whole[1:, ::2])
    assert torch.equal(found["b"].load(), whole.T)
