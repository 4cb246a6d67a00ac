"""The floor of an epoch of RecVAE."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from made_up_histories import random_histories
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_floor_has_the_products_of_an_alternation(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("benchmark_rec_vae")
    for name, value in (("BATCH", 12), ("HIDDEN", 8), ("LATENT", 3)):
        monkeypatch.setattr(module, name, value)
    floor = module.AlternationFloor(random_histories(12, 30))
    with FlopCounterMode(display=False) as counter:
        floor.run()
    hidden, output = 4 * 8 * 8 + 8 * 2 * 3, 3 * 30
    dense = 3 * (3 * hidden + 2 * output) + (hidden + 2 * output)
    flops = counter.get_flop_counts()["Global"][torch.ops.aten.mm] - 2 * 12 * dense
    # The counter takes a sparse matrix for a dense one, where that kernel was the quicker of the two.
    assert flops in [n * 2 * 12 * 30 * 8 for n in (0, 3, 4, 7)]
