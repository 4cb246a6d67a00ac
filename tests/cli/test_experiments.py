"""Every experiment that comes with the project is a whole configuration, and says what it gave."""

from __future__ import annotations

import re

import pytest

from recsys_vae.bundled import bundled_path
from recsys_vae.cli.config import compose_config
from recsys_vae.cli.stages import build

EXPERIMENTS = sorted((bundled_path("configs") / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_it_can_be_composed_and_built(path) -> None:
    config = compose_config("train", [f"experiment={path.stem}"])
    assert build(config.model, n_items=30).n_items == 30
    if "trainer" in config and config.trainer is not None:
        build(config.trainer)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n# recsys-vae train experiment=" + path.stem)
    if path.stem != "ml20m_liang2018":  # which is a preparation, for any model
        said = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        assert re.search(r"Validation ndcg@100 0\.\d{4}.* split [0-9a-f]{12}, \d{4}-\d\d-\d\d\.", said)
