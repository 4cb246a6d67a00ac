"""The floor counts the products that it says it counts."""

from __future__ import annotations

import pytest
import torch
import training_floor
from made_up_histories import random_histories
from torch.utils.flop_counter import FlopCounterMode


@pytest.mark.parametrize("batch_size", [4, 12])
def test_dense_products_of_an_epoch(batch_size: int) -> None:
    users, items, hidden, latent = 12, 30, 8, 3
    floor = training_floor.TrainingFloor(random_histories(users, items), batch_size, hidden, latent)
    with FlopCounterMode(display=False) as counter:
        floor.run()
    weights = hidden * items + hidden * 2 * latent + latent * hidden
    flops = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    # The counter takes a sparse matrix for a dense one, where that kernel was the quicker of the two.
    sparse = [n * 2 * users * items * hidden for n in (0, 1, 2)]
    assert batch_size < users or flops - 3 * 2 * users * weights in sparse
    assert flops >= 3 * 2 * users * weights


def test_sparse_products_are_those_of_the_matrix() -> None:
    matrix = random_histories(12, 30)
    dense = torch.randn(30, 5)
    for product in training_floor._sparse(matrix, dense):
        torch.testing.assert_close(product(), torch.from_numpy(matrix.toarray()) @ dense)
