"""Centroids of other projects: every published format is read, and no pickle is executed."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from echox.models.conversion.file_formats.kmeans import read_centroids

joblib = pytest.importorskip("joblib")
cluster = pytest.importorskip("sklearn.cluster")


@pytest.fixture(scope="module")
def fitted():
    frames = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    return cluster.MiniBatchKMeans(7, n_init=1, max_iter=5, random_state=np.random.RandomState(3)).fit(frames)


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_joblib_files_of_sklearn(fitted, tmp_path, compress):
    path = tmp_path / "km.bin"
    joblib.dump(fitted, path, compress=compress)
    expected = torch.from_numpy(fitted.cluster_centers_.astype(np.float32))
    assert torch.equal(read_centroids(path), expected)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["KMeans", "MiniBatchKMeans"])
def test_pickles_of_every_protocol(tmp_path, protocol, kind):
    frames = np.random.default_rng(1).standard_normal((60, 5))
    model = getattr(cluster, kind)(4, n_init=1, max_iter=3, random_state=0).fit(frames)
    model.cluster_centers_ = np.asfortranarray(model.cluster_centers_)
    path = tmp_path / "km.pkl"
    path.write_bytes(pickle.dumps(model, protocol=protocol))
    assert np.allclose(read_centroids(path).numpy(), model.cluster_centers_)
    joblib.dump(model, path, protocol=protocol)
    assert np.allclose(read_centroids(path).numpy(), model.cluster_centers_)


def test_arrays_and_dictionaries(tmp_path):
    centers = np.random.default_rng(2).standard_normal((3, 4))
    expected = torch.from_numpy(centers.astype(np.float32))
    np.save(tmp_path / "k.npy", centers)
    save_file({"centroids": torch.from_numpy(centers).half()}, tmp_path / "k.safetensors")
    (tmp_path / "array.pkl").write_bytes(pickle.dumps(centers))
    (tmp_path / "dict.pkl").write_bytes(pickle.dumps({"n": 3, "cluster_centers_": centers.astype(">f4")}))
    for name in ("k.npy", "array.pkl", "dict.pkl"):
        assert torch.equal(read_centroids(tmp_path / name), expected), name
    assert torch.equal(read_centroids(tmp_path / "k.safetensors"), expected.half().float())


class Exploit:
    """Runs a command where it is unpickled by a careless reader."""

    def __init__(self, call, argument):
        self.call, self.argument = call, argument

    def __reduce__(self):
        return self.call, (self.argument,)


@pytest.mark.parametrize("compress", [0, 3])
@pytest.mark.parametrize("call", [os.system, eval, exec, __import__])
def test_malicious_pickles_are_refused_and_not_run(tmp_path, call, compress):
    marker = tmp_path / "owned"
    argument = f"touch {marker}" if call is os.system else f"open({str(marker)!r}, 'w')"
    path = tmp_path / "km.bin"
    joblib.dump({"cluster_centers_": np.eye(3), "extra": Exploit(call, argument)}, path, compress=compress)
    with pytest.raises(ValueError, match=r"km\.bin: .*found a call of (posix|nt|builtins)\."):
        read_centroids(path)
    assert not marker.exists()


def test_names_inside_the_allowed_packages_are_not_called_either(tmp_path):
    """Numpy has ways to run code too; here a name is only ever a name."""
    marker = tmp_path / "owned"
    program = f"cnumpy.testing._private.utils\nrunstring\n(Vopen({str(marker)!r}, 'w')\n(dtR."
    path = tmp_path / "km.pkl"
    path.write_bytes(program.encode())
    with pytest.raises(ValueError, match="expected centroids of numbers"):
        read_centroids(path)
    assert not marker.exists()


def test_dotted_names_do_not_escape(tmp_path):
    path = tmp_path / "km.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0eos.path.system\x93\x8c\x04true\x85R.")
    with pytest.raises(ValueError, match="expected centroids of numbers"):
        read_centroids(path)


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, -1])
def test_damaged_files(fitted, tmp_path, keep):
    for compress in (0, 3):
        path = tmp_path / f"km{compress}.bin"
        joblib.dump(fitted, path, compress=compress)
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
        with pytest.raises(ValueError, match=r"km\d\.bin: expected"):
            read_centroids(path)


def test_what_are_no_centroids(tmp_path):
    for name, content in {"1d": np.zeros(3), "nan": np.full((2, 2), np.nan), "object": np.array([[None]])}.items():
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="expected"):
            read_centroids(path)
    np.save(tmp_path / "object.npy", np.array([[None]]), allow_pickle=True)
    with pytest.raises(ValueError, match="expected"):
        read_centroids(tmp_path / "object.npy")
    with pytest.raises(ValueError, match="found none"):
        read_centroids(tmp_path / "absent.npy")
