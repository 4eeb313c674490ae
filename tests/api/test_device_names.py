"""Names of devices: what is not there is a ValueError that says so; a GPU that torch cannot use is named and left."""

import subprocess

import pytest
import torch

from echox.api import EchoX
from echox.device import Gpu, choose_device, nvidia_gpus

NOT_HERE = ["mps", "mps:1", "xpu", "xla", "hpu", "vulkan", "meta", "cuda:9", "cuda:1000", "cuda:-1", "gpu", "", "cpu:"]


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("echox.device.run_kernel", lambda device: None)


@pytest.mark.parametrize("name", NOT_HERE)
def test_a_device_that_is_not_here(name):
    if name.startswith("mps") and torch.backends.mps.is_available():
        pytest.skip("this is a Mac")
    with pytest.raises(ValueError, match=r"device: expected .*"):
        choose_device(name)
    with pytest.raises(ValueError, match=r"device: expected .*"):
        EchoX.from_pretrained("nano", device=name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "cpu", "auto"])
def test_devices_that_are_here(name, two_gpus):
    expected = "cuda:0" if name == "auto" else name
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:9", "cuda:127"])
def test_a_number_beyond_the_last_gpu(name, two_gpus):
    with pytest.raises(ValueError, match=f"expected a CUDA device for '{name}', found 2, numbered from 0; use auto"):
        choose_device(name)


def test_a_rank_beyond_the_last_gpu(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="expected a CUDA device for 'cuda:2'"):
        choose_device()


FAULTS = [
    "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be reported later",
    "CUDA error: the provided PTX was compiled with an unsupported toolchain.",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
]


@pytest.fixture(params=FAULTS, ids=lambda said: said[12:40])
def old_gpu(request, two_gpus, monkeypatch):
    """A GPU that torch sees, and cannot compute on; what it says."""

    def fail(device):
        raise RuntimeError(request.param)

    monkeypatch.setattr("echox.device.run_kernel", fail)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    return request.param.partition("\n")[0]


def test_a_gpu_on_which_nothing_can_be_computed_is_left_and_said(old_gpu, capsys):
    assert choose_device() == torch.device("cpu")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    for part in ("NVIDIA GeForce GTX 1080 is of sm_61", "built for sm_75, sm_80", old_gpu, "computing on the CPU"):
        assert part in said[0]


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_a_gpu_on_which_nothing_can_be_computed_is_refused_by_name(name, old_gpu):
    with pytest.raises(ValueError, match=f"device: expected to compute on '{name}', found .*sm_61.*; use auto or cpu"):
        choose_device(name)


def test_one_of_several_processes_does_not_leave_its_gpu(old_gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="expected to compute on 'cuda:1'"):
        choose_device()


def test_a_full_gpu_is_not_left(two_gpus, monkeypatch, capsys):
    def fail(device):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("echox.device.run_kernel", fail)
    assert choose_device() == torch.device("cuda:0")
    assert capsys.readouterr().err == ""


LISTED = {
    "Tesla T4, 535.129.03, 7.5": Gpu("Tesla T4", "535.129.03", "7.5"),
    "Quadro K2000, 390.87": Gpu("Quadro K2000", "390.87", ""),  # its driver does not know the capability
    "A, B, 580.65.06, 9.0": Gpu("A, B", "580.65.06", "9.0"),
}


@pytest.fixture(params=LISTED, ids=lambda row: row[:12])
def listed(request, tmp_path, monkeypatch):
    """A GPU in the list of nvidia-smi."""
    program = tmp_path / "nvidia-smi"
    row = request.param
    known = "exit 2" if LISTED[row].capability == "" else f"echo '{row}'"
    program.write_text(f"#!/bin/sh\ncase \"$*\" in *compute_cap*) {known};; *) echo '{row}';; esac\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return LISTED[row]


def test_gpus_are_those_that_the_driver_lists(listed):
    assert nvidia_gpus() == [listed]


def test_a_gpu_with_too_old_a_driver_is_said(listed, monkeypatch, capsys):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert choose_device() == torch.device("cpu")
    (said,) = capsys.readouterr().err.splitlines()
    assert f"found {listed}, which this torch cannot use: it is built for CUDA 13.0" in said


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_not_missed(hidden, listed, monkeypatch, capsys):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert choose_device() == torch.device("cpu")
    assert capsys.readouterr().err == ""


def test_the_build_for_cpus_asks_nobody(listed, monkeypatch, capsys):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("nvidia-smi was asked"))
    assert choose_device() == torch.device("cpu")
    assert capsys.readouterr().err == ""
