"""The floor of a Mult-VAE training epoch: its bare matrix products, and nothing else.

Counted are the products of the output layer (logits, gradient of the hidden layer, gradient of the weights), of the
encoder's and the decoder's hidden layers (likewise), and of the sparse input layer (forward, and the transposed
product for the gradient of its weights). Each writes into memory that was allocated beforehand, in the quicker of
two layouts of its weights or kernels. No bias, no activation, no softmax, no noise, no optimiser.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

Product = Callable[[], object]


def seconds_of(function: Callable[[], object], repeats: int = 7) -> float:
    """Median wall time of a call, after two that do not count."""
    times = []
    for repeat in range(repeats + 2):
        began = time.perf_counter()
        function()
        if repeat >= 2:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


class TrainingFloor:
    """The bare products of one epoch over ``matrix``, ready to be run and timed.

    Args:
        matrix: training users by items.
        batch_size: users a step.
        hidden_dim: width of the encoder's and the decoder's hidden layer.
        latent_dim: size of z; the encoder's output is twice as wide.
    """

    def __init__(
        self, matrix: sp.csr_array, batch_size: int, hidden_dim: int = 600, latent_dim: int = 200
    ) -> None:
        n_users, n_items = matrix.shape
        order = np.random.default_rng(0).permutation(n_users)
        batches = [matrix[order[start : start + batch_size]] for start in range(0, n_users, batch_size)]
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(n_items, hidden_dim, generator=generator)
        layers = [(hidden_dim, n_items), (hidden_dim, 2 * latent_dim), (latent_dim, hidden_dim)]
        dense = {
            users: [
                quickest(kernels) for shape in layers for kernels in dense_products(users, *shape, generator)
            ]
            for users in {batch.shape[0] for batch in batches}
        }
        # The kernels of the sparse products are chosen on the first batch; the batches are alike.
        forward, backward = (
            quickest_index(kernels) for kernels in sparse_products(batches[0], weight, generator)
        )
        self._steps: list[list[Product]] = []
        for batch in batches:
            product, transposed_product = sparse_products(batch, weight, generator)
            self._steps.append(
                [product[forward], *dense[batch.shape[0]], transposed_product[backward]],
            )

    def run(self) -> None:
        """Compute every product of the epoch once, step by step."""
        for step in self._steps:
            for product in step:
                product()

    def seconds(self) -> float:
        """Wall time of one epoch's products."""
        began = time.perf_counter()
        self.run()
        return time.perf_counter() - began


def quickest_index(candidates: Sequence[Product]) -> int:
    """Return which of several ways to compute the same is the quickest here."""
    return min(range(len(candidates)), key=lambda index: seconds_of(candidates[index]))


def quickest(candidates: Sequence[Product]) -> Product:
    """Return the quickest of several ways to compute the same."""
    return candidates[quickest_index(candidates)]


def dense_products(users: int, inputs: int, outputs: int, generator: torch.Generator) -> list[list[Product]]:
    """Forward, gradient of the input, gradient of the weights; each in two layouts."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, gradient = randn(users, inputs), randn(users, outputs)
    weight, transposed = randn(outputs, inputs), randn(inputs, outputs)
    y, dx = torch.empty(users, outputs), torch.empty(users, inputs)
    dw, dw_transposed = torch.empty(outputs, inputs), torch.empty(inputs, outputs)
    return [
        [lambda: torch.mm(x, weight.t(), out=y), lambda: torch.mm(x, transposed, out=y)],
        [lambda: torch.mm(gradient, weight, out=dx), lambda: torch.mm(gradient, transposed.t(), out=dx)],
        [lambda: torch.mm(gradient.t(), x, out=dw), lambda: torch.mm(x.t(), gradient, out=dw_transposed)],
    ]


def sparse_products(batch: sp.csr_array, weight: Tensor, generator: torch.Generator) -> list[list[Product]]:
    """The sparse batch times the weights, and its transpose times a gradient; each by two kernels."""
    gradient = torch.randn(batch.shape[0], weight.shape[1], generator=generator)
    return [_sparse(batch, weight), _sparse(sp.csr_array(batch.T), gradient)]


def _sparse(matrix: sp.csr_array, dense: Tensor) -> list[Product]:
    indptr, indices, data = (torch.from_numpy(a.copy()) for a in (matrix.indptr, matrix.indices, matrix.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        rows = torch.sparse_csr_tensor(indptr, indices, data, size=matrix.shape)
    return [
        lambda: rows @ dense,
        lambda: embedding_bag(
            indices, dense, indptr, mode="sum", per_sample_weights=data, include_last_offset=True
        ),
    ]
