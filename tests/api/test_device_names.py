"""Names of devices: what is not there is a ValueError that says so, whatever kind of device it is."""

import pytest
import torch

from echox.api import EchoX
from echox.device import choose_device

NOT_HERE = ["mps", "mps:1", "xpu", "xla", "hpu", "vulkan", "meta", "cuda:9", "cuda:1000", "cuda:-1", "gpu", "", "cpu:"]


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


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
