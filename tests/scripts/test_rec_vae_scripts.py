"""The loop of RecVAE's authors, on a made-up model with their interface; and the floor of an epoch."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from made_up_histories import random_histories
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[2] / "scripts"
# Scores are the decoder's bias: it learns what is popular, the encoder learns nothing of use.
MADE_UP = """
import torch
from torch import nn

class VAE(nn.Module):
    def __init__(self, hidden_dim, latent_dim, input_dim):
        super().__init__()
        self.encoder = nn.Linear(input_dim, latent_dim)
        self.decoder = nn.Linear(latent_dim, input_dim)
        nn.init.zeros_(self.decoder.bias)
        self.calls = []

    def forward(self, ratings, beta=None, gamma=1, dropout_rate=0.5, calculate_loss=True):
        scores = self.decoder(0.0 * self.encoder(ratings))
        if not calculate_loss:
            return scores
        self.calls.append((dropout_rate, gamma, len(ratings)))
        return None, -(torch.log_softmax(scores, dim=-1) * ratings).sum(dim=-1).mean()

    def update_prior(self):
        self.calls.append("prior")
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "model.py").write_text(MADE_UP)
    return folder


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_an_epoch_is_three_of_the_encoder_and_one_of_the_decoder(checkout, scripts) -> None:
    matrix = random_histories(n_users=12, n_items=20)
    settings = {"gamma": 0.01, "latent_dim": 4, "batch_size": 8}
    reference = scripts("recvae_reference_peer").Reference(checkout, matrix, settings, seed=1)
    weights = reference.model.decoder.bias.detach().clone()
    reference.train_part("encoder", n_epochs=1, dropout=0.5)
    assert torch.equal(reference.model.decoder.bias, weights)
    reference.model.calls.clear()
    reference.train_epoch()
    encoder, decoder = [(0.5, 0.01, 8), (0.5, 0.01, 4)], [(0, 0.01, 8), (0, 0.01, 4)]
    assert reference.model.calls == [*encoder * 3, "prior", *decoder]
    assert not torch.equal(reference.model.decoder.bias, weights)


def test_the_best_weights_are_ranked_by(checkout, tmp_path, scripts) -> None:
    folder, answer = tmp_path / "split", tmp_path / "answer"
    folder.mkdir()
    popular = np.zeros((12, 120), dtype=np.float32)
    popular[:, :5] = 1.0
    matrices = {"train": popular, "history": popular.copy(), "target": popular.copy()}
    matrices["history"][:, 3:] = 0.0
    matrices["target"][:, :3] = 0.0
    for name in (
        "train",
        *(f"{part}_{kind}" for part in ("validation", "test") for kind in ("history", "target")),
    ):
        sp.save_npz(folder / f"{name}.npz", sp.csr_array(matrices[name.rpartition("_")[2]]))
    arguments = [
        str(folder),
        "--settings",
        '{"epochs": 2}',
        "--checkout",
        str(checkout),
        "--output",
        str(answer),
    ]
    subprocess.run(
        [sys.executable, str(SCRIPTS / "recvae_reference_peer.py"), *arguments],
        check=True,
        capture_output=True,
    )
    assert set(np.load(answer / "test.npy")[0, :2]) == {3, 4}
    report = json.loads((answer / "report.json").read_text())
    assert report["best_epoch"] == 1 + int(np.argmax(report["curve"]))
    assert report["n_epochs"] == 2


def test_the_floor_has_the_products_of_an_alternation(monkeypatch, scripts) -> None:
    module = scripts("benchmark_rec_vae")
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
