"""A finished run, made once and copied by each test that spoils it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_run import write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: copy it before changing anything."""
    return write_run(tmp_path_factory.mktemp("runs") / "whole")
