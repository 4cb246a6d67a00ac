"""Seconds per epoch of our RecVAE against its authors' model, and against the floor; print a table, write JSON.

    python scripts/benchmark_rec_vae.py CHECKOUT dataset=ml-1m seed=1 --epochs 5 --output rec_vae.json

CHECKOUT is a folder with the `model.py` of github.com/ilya-shenbin/RecVAE. An epoch is one whole alternation, three
passes that train the encoder and one that trains the decoder, in batches of 500 and with the paper's layers: ours
through the trainer that `recsys-vae train` uses, theirs in the loop of their `run.py` (recvae_reference_peer.py).
After each of our epochs comes one of theirs and one of the floor, so that all three meet the same load; the first
round does not count. The ratios are of wall time, and of processor time, which other programs disturb less.

The floor is the bare matrix products of an alternation, as few of them as its formulas need: see `AlternationFloor`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from benchmark_training import train
from machine import describe_machine
from recvae_reference_peer import Reference
from rich.console import Console
from rich.table import Table
from training_floor import dense_products, quickest, quickest_index, sparse_products

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.runtime import quiet_lightning
from recsys_vae.cli.stages import filter_ratings, load_ratings, split_interactions
from recsys_vae.models import MultinomialVAE

BATCH, HIDDEN, LATENT, N_HIDDEN_LAYERS = 500, 600, 200, 5
FULL_PRODUCTS = "trainer.float32_matmul_precision=highest"
VARIANTS = {
    # Numbers in float32, products as `trainer.float32_matmul_precision=medium` lets the CPU compute them.
    "as configured": (),
    "full products": (FULL_PRODUCTS,),
    # The softmax is estimated from a fifth of the items.
    "full products, item_share=0.2": (FULL_PRODUCTS, "trainer.objective.item_share=0.2"),
}


class AlternationFloor:
    """The products of one epoch over ``matrix``.

    A step of the encoder: forward, gradient of the input and gradient of the weights of the hidden layers and of the
    head; the sparse input forward and transposed; the logits and their gradient with respect to z. Once an epoch, the
    encoder forward for the prior. A step of the decoder: the logits and the gradient of the output weights.
    """

    def __init__(self, matrix: sp.csr_array) -> None:
        generator = torch.Generator().manual_seed(0)
        order = np.random.default_rng(0).permutation(matrix.shape[0])
        batches = [matrix[order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
        weight = torch.randn(matrix.shape[1], HIDDEN, generator=generator)
        layers: dict[int, list[list[Callable[[], object]]]] = {}
        for users in {batch.shape[0] for batch in batches}:
            shapes = [*[(HIDDEN, HIDDEN)] * (N_HIDDEN_LAYERS - 1), (HIDDEN, 2 * LATENT)]
            of_shape = {
                shape: [quickest(two) for two in dense_products(users, *shape, generator)]
                for shape in {*shapes, (LATENT, matrix.shape[1])}
            }
            layers[users] = [of_shape[shape] for shape in (*shapes, (LATENT, matrix.shape[1]))]
        forward, transposed = (
            quickest_index(kernels) for kernels in sparse_products(batches[0], weight, generator)
        )
        self._products: list[Callable[[], object]] = []
        for batch in batches:
            into, back = sparse_products(batch, weight, generator)
            *hidden, output = layers[batch.shape[0]]
            encode = [into[forward], *(layer[0] for layer in hidden)]
            learn = [product for layer in hidden for product in layer[1:]]
            self._products += 3 * [*encode, output[0], output[1], *learn, back[transposed]]
            self._products += [*encode, output[0], output[2]]

    def run(self) -> None:
        """Compute them all once."""
        for product in self._products:
            product()


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    began, cpu_began = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - began, time.process_time() - cpu_began


def measure(checkout: Path, overrides: list[str], epochs: int, variant: str) -> dict[str, Any]:
    """Seconds of every epoch but the first: ours, theirs and the floor, in turn."""
    config = compose_config("train", overrides)
    split = split_interactions(config, filter_ratings(config, load_ratings(config)).interactions)
    paper = {"batch_size": BATCH, "hidden_dim": HIDDEN, "latent_dim": LATENT}
    reference = Reference(checkout, split.train.matrix, paper, seed=config.seed)
    floor = AlternationFloor(split.train.matrix)
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": [], "floor": []}
    began = (time.perf_counter(), time.process_time())

    def between(_: MultinomialVAE) -> float:
        nonlocal began
        ended = (time.perf_counter(), time.process_time())
        seconds["ours"].append((ended[0] - began[0], ended[1] - began[1]))
        seconds["theirs"].append(timed(reference.train_epoch))
        seconds["floor"].append(timed(floor.run))
        began = (time.perf_counter(), time.process_time())
        return 0.0

    settings = [f"trainer.batch_size={BATCH}", f"model.latent_dim={LATENT}"]
    settings += [f"model.hidden_dims={[HIDDEN] * N_HIDDEN_LAYERS}".replace(" ", "")]
    settings += [f"trainer.{name}={epochs + 1}" for name in ("max_epochs", "patience")]
    train(split, between, "model=rec_vae", *settings, *VARIANTS[variant])
    report: dict[str, Any] = {
        "users": split.train.n_users,
        "items": split.train.n_items,
        "interactions": split.train.matrix.nnz,
    }
    for kind, column in (("wall", 0), ("processor", 1)):
        of = {name: [pair[column] for pair in pairs[1:]] for name, pairs in seconds.items()}
        report[kind] = {
            **{name: statistics.median(values) for name, values in of.items()},
            "theirs_over_ours": statistics.median(np.divide(of["theirs"], of["ours"]).tolist()),
            "ours_over_floor": statistics.median(np.divide(of["ours"], of["floor"]).tolist()),
            "every_epoch": of,
        }
    return report


def main() -> int:
    """Print the table and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("overrides", nargs="*", help="of recsys-vae train: the data and the seed")
    parser.add_argument("--epochs", type=int, default=5, help="that count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet_lightning()
    report: dict[str, Any] = {"machine": describe_machine(), "threads": options.threads}
    table = Table("variant", "seconds", "ours", "theirs", "floor", "theirs / ours", "ours / floor")
    for variant in options.variants:
        found = report[variant] = measure(options.checkout, options.overrides, options.epochs, variant)
        for kind in ("wall", "processor"):
            row = found[kind]
            table.add_row(
                *(variant, kind),
                *(f"{row[name]:.2f}" for name in ("ours", "theirs", "floor")),
                *(f"{row[name]:.2f}" for name in ("theirs_over_ours", "ours_over_floor")),
            )
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
