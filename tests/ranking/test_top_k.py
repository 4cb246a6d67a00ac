"""Ranking against a full sort by numpy, with ties wherever they can hurt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.ranking import top_k

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def sort_everything(scores: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule itself: sort each row by descending score, then ascending index; nothing is ranked at -inf."""
    array = scores.double().numpy()
    rows = [np.lexsort((np.arange(array.shape[1]), -row))[:k] for row in array]
    items = np.array(rows, dtype=np.int64).reshape(len(array), k)
    values = np.take_along_axis(array, items, axis=1)
    return values, np.where(np.isneginf(values), -1, items)


def assert_ranked(scores: torch.Tensor, k: int) -> None:
    before = scores.clone()
    ranked = top_k(scores, k)
    values, items = sort_everything(scores, k)
    np.testing.assert_array_equal(ranked.items.numpy(), items)
    np.testing.assert_array_equal(ranked.scores.double().numpy(), values)
    assert ranked.items.dtype == torch.int64
    assert ranked.scores.dtype == scores.dtype
    assert torch.equal(scores, before)


@st.composite
def tied_scores(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    dtype = draw(st.sampled_from(DTYPES))
    n_users, n_items = draw(st.integers(0, 4)), draw(st.integers(1, 400))
    extremes = [torch.finfo(dtype).min, torch.finfo(dtype).max, float("inf"), -0.0]
    levels = [
        float("-inf"),
        0.0,
        *draw(st.lists(st.sampled_from([*extremes, -1.5, 1.0, 2.0, 3.0]), max_size=5)),
    ]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        levels += torch.randn(300, generator=generator).tolist()
    chosen = torch.randint(len(levels), (n_users, n_items), generator=generator)
    return torch.tensor(levels, dtype=dtype)[chosen], draw(st.integers(1, n_items))


@settings(max_examples=300, deadline=None)
@given(tied_scores())
def test_equals_a_full_sort(case: tuple[torch.Tensor, int]) -> None:
    assert_ranked(*case)


@pytest.mark.parametrize("n_levels", [1, 2, 30, 1000])
@pytest.mark.parametrize("n_items", [1024, 2500])
def test_ties_that_cross_blocks_and_the_last_place(n_levels: int, n_items: int) -> None:
    generator = torch.Generator().manual_seed(n_levels)
    scores = torch.randint(n_levels, (6, n_items), generator=generator).float()
    scores[1] = -torch.inf
    scores[2, : n_items - 3] = -torch.inf
    scores[3] = torch.arange(n_items)
    scores[4] = -torch.arange(n_items)
    scores[5, ::500] = 2.0 * n_levels  # the last block is needed to find all ties
    scores[5, -1] = 2.0 * n_levels
    for k in (1, 5, 6, 100, 1030 if n_items > 1030 else 1000, n_items):
        assert_ranked(scores, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_scores_of_a_real_shape(dtype: torch.dtype) -> None:
    scores = torch.randn(60, 3497, generator=torch.Generator().manual_seed(0)).to(dtype)
    for k in (1, 10, 100, 500):
        assert_ranked(scores, k)


def test_high_scores_side_by_side_or_all_in_one_group() -> None:
    scores = torch.zeros(3, 4096)
    scores[0, 1000:1100] = torch.arange(1.0, 101.0)
    scores[1, ::64] = torch.arange(1.0, 65.0)  # all in group 0 of 64
    scores[2, 3:4096:512] = 1.0
    for k in (3, 10, 64, 100):
        assert_ranked(scores, k)


def test_row_by_row_as_in_one_batch_and_in_any_memory_layout() -> None:
    scores = torch.randint(9, (40, 300), generator=torch.Generator().manual_seed(1)).float()
    whole = top_k(scores, 20)
    one_by_one = [top_k(row[None], 20) for row in scores]
    assert torch.equal(whole.items, torch.cat([each.items for each in one_by_one]))
    transposed = scores.T.contiguous().T
    assert torch.equal(top_k(transposed, 20).items, whole.items)
    assert torch.equal(top_k(scores[:, ::2], 20).items, top_k(scores[:, ::2].contiguous(), 20).items)


def test_takes_scores_that_carry_a_gradient() -> None:
    assert top_k(torch.tensor([[1.0, 2.0]], requires_grad=True), 1).items.tolist() == [[1]]


@pytest.mark.accelerator
def test_the_same_on_the_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    scores = torch.randint(50, (40, 3000), generator=torch.Generator().manual_seed(1)).float()
    assert torch.equal(top_k(scores.cuda(), 100).items.cpu(), top_k(scores, 100).items)


@pytest.mark.parametrize("k", [-1, 0, 4])
def test_refuses_k_outside_the_catalogue(k: int) -> None:
    with pytest.raises(
        UserError, match=f"k: expected a number from 1 to 3, the size of the catalogue, got {k}"
    ):
        top_k(torch.zeros(2, 3), k)


@pytest.mark.parametrize("column", [0, 70, 199])
def test_refuses_nan_wherever_it_stands(column: int) -> None:
    scores = torch.zeros(3, 200)
    scores[1, column] = torch.nan
    with pytest.raises(UserError, match="NaN in row 1"):
        top_k(scores, 2)
