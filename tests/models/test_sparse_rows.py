"""The sparse product against the dense one, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_histories import random_histories
from scipy.sparse import csr_array

from recsys_vae.models.sparse_rows import SparseRows, sparse_product


@settings(max_examples=50, deadline=None)
@given(
    n_users=st.integers(1, 9), n_items=st.integers(1, 9), density=st.floats(0, 1), seed=st.integers(0, 999)
)
def test_product_and_its_gradient_equal_the_dense_ones(n_users, n_items, density, seed) -> None:
    rng = np.random.default_rng(seed)
    dense = (rng.random((n_users, n_items)) < density) * rng.normal(size=(n_users, n_items))
    rows = SparseRows.from_csr(csr_array(dense.astype(np.float32)))
    weight = torch.randn(n_items, 4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    incoming = torch.randn(n_users, 4, generator=torch.Generator().manual_seed(seed + 1))
    product = sparse_product(rows, weight)
    (gradient,) = torch.autograd.grad(product, weight, incoming)
    reference = torch.from_numpy(dense.astype(np.float32))
    torch.testing.assert_close(product, reference @ weight)
    torch.testing.assert_close(gradient, reference.T @ incoming)
    torch.testing.assert_close(rows.dense(), reference)


def test_normalised_rows_have_unit_length_and_empty_ones_stay_empty() -> None:
    rows = SparseRows.from_csr(random_histories()).normalised()
    lengths = rows.dense().norm(dim=1)
    assert lengths[0] == 0.0
    torch.testing.assert_close(lengths[1:], torch.ones(11))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25])
def test_unit_length_does_not_depend_on_the_scale_of_the_weights(scale: float) -> None:
    rows = SparseRows.from_csr(random_histories())
    scaled = rows.with_values(rows.values * scale).normalised()
    torch.testing.assert_close(scaled.values, rows.normalised().values)


def test_dropout_hides_a_share_and_keeps_the_mean() -> None:
    rows = SparseRows.from_csr(random_histories(n_users=400, n_items=500, density=0.2))
    dropped = rows.dropout(0.3, torch.Generator().manual_seed(0)).values
    n = len(rows.values)
    hidden = 1 - len(dropped) / n
    assert abs(hidden - 0.3) < 4.5 * (0.3 * 0.7 / n) ** 0.5
    torch.testing.assert_close(dropped, torch.full_like(dropped, 1 / 0.7))


@settings(max_examples=50, deadline=None)
@given(n_users=st.integers(1, 9), n_items=st.integers(1, 9), share=st.floats(0, 1), seed=st.integers(0, 999))
def test_keeping_some_nonzeros_is_the_matrix_without_the_others(n_users, n_items, share, seed) -> None:
    rng = np.random.default_rng(seed)
    dense = ((rng.random((n_users, n_items)) < 0.5) * rng.normal(size=(n_users, n_items))).astype(np.float32)
    matrix = csr_array(dense)
    mask = rng.random(matrix.nnz) < share
    kept = SparseRows.from_csr(matrix).keep(torch.from_numpy(mask))
    matrix.data[~mask] = 0.0
    matrix.eliminate_zeros()
    expected = SparseRows.from_csr(matrix)
    for name in ("offsets", "items", "users", "values", "column_offsets", "column_order"):
        assert torch.equal(getattr(kept, name), getattr(expected, name)), name


def test_dropout_follows_its_generator() -> None:
    rows = SparseRows.from_csr(random_histories())
    first, second, other = (
        rows.dropout(0.5, torch.Generator().manual_seed(seed)).values for seed in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
