"""Shared by all tests: small data with a known answer, and the real ratings where they are at hand."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# Tests run side by side; each keeps to one core.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# ranx is the only user of numba here. Its code is the same uncompiled, and compiling it takes half a minute.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# What is imported stays: searching it for garbage, again and again, is half of the time of collecting the tests.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on garbage is collected, but among what the tests make."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _log_handlers() -> Iterator[None]:
    """The command line sets up the root logger on the stream that a test captures; it goes with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real ratings, beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real ratings in ../shared/data")
    return SHARED_DATA
