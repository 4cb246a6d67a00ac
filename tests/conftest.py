"""Shared by all tests: small data with a known answer, and the real ratings where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# Tests run side by side; each keeps to one core.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real ratings, beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real ratings in ../shared/data")
    return SHARED_DATA
