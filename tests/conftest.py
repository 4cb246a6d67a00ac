"""Shared by all tests: small data with a known answer, and the real ratings where they are at hand."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# Tests run side by side; each keeps to one core.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The code of ranx is the same uncompiled, and compiling it takes longer than its tests. Said here, for numba reads it
# once, and ArviZ imports numba before ranx does.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What is imported stays: searching it for garbage, again and again, takes much of the time of collecting."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_sessionfinish() -> None:
    """Pytest's last search, for files that nobody closed, is of everything."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    """The command line sets up the root logger on the stream that a test captures; it goes with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return (yield)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real ratings, beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real ratings in ../shared/data")
    return SHARED_DATA
