"""What all tests share: no network, fixed seeds, reproducible property tests."""

import functools
import gc
import os
import random
import ssl
import sys

# Before any import of the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ECHOX_MODEL", "nano")  # of commands without --model, whatever else is installed here
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes share the cores; threads in each would only wait

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("echox", deadline=None, derandomize=True)  # a shared, slow core is no failure
settings.load_profile("echox")

# Each HTTP client reads all certificate authorities, 55 ms; servers here speak plain HTTP to hundreds of clients.
ssl.create_default_context = functools.cache(ssl.create_default_context)


@pytest.fixture(autouse=True)
def _fixed_seeds():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (libraries under test still use the global generator)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What test files import stays to the end: no collection of garbage looks at it, which is an eighth of a run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Skip what this machine cannot do, with the reason."""
    wants_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if wants_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in wants_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
