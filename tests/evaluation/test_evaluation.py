"""The whole path from scores to tables: batches, laws, and a slow loop over users as oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.evaluation import METRICS, Evaluation, EvaluationResult
from recsys_vae.ranking import mask_seen, top_k

N_USERS, N_ITEMS = 150, 120
NAMES = [f"{metric}@{k}" for metric in METRICS for k in (3, 20)]


class Case:
    """Scores with or without ties, histories, targets (some empty), training counts."""

    def __init__(self, seed: int = 0, *, tied: bool = False) -> None:
        rng = np.random.default_rng(seed)
        shape = (N_USERS, N_ITEMS)
        scores = rng.integers(-3, 3, shape) if tied else np.argsort(rng.random(shape), axis=1)
        self.scores = torch.from_numpy(scores.astype(np.float64))
        self.history = rng.random(shape) < rng.uniform(0, 0.4, (N_USERS, 1))
        self.targets = (rng.random(shape) < rng.uniform(0, 0.2, (N_USERS, 1))) & ~self.history
        self.targets[::50] = False
        self.item_counts = rng.zipf(1.5, N_ITEMS).clip(max=1000)

    def evaluate(self, batch_size: int = N_USERS) -> EvaluationResult:
        evaluation = Evaluation(NAMES, self.item_counts)
        for start in range(0, N_USERS, batch_size):
            rows = slice(start, start + batch_size)
            history = csr_array(self.history[rows])
            ranked = top_k(mask_seen(self.scores[rows].clone(), history), evaluation.depth)
            evaluation.update(
                ranked.items.numpy(),
                csr_array(self.targets[rows]),
                history_lengths=np.diff(history.indptr),
                user_ids=np.arange(N_USERS)[rows],
            )
        return evaluation.result()


def assert_same(one: EvaluationResult, other: EvaluationResult, *, exact: bool = True) -> None:
    assert one.summary(resamples=20) == other.summary(resamples=20)
    pd.testing.assert_frame_equal(one.per_user, other.per_user, check_exact=True)
    for name in ("catalogue", "by_item_popularity", "by_history_length"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=exact)


@pytest.mark.parametrize("tied", [False, True])
def test_equals_a_loop_over_users(tied: bool) -> None:
    case = Case(1, tied=tied)
    result = case.evaluate(128)
    table = result.per_user.set_index("user_id")
    recommended = {k: np.zeros(N_ITEMS) for k in (3, 20)}
    for user in range(N_USERS):
        unseen = [item for item in range(N_ITEMS) if not case.history[user, item]]
        ranking = sorted(unseen, key=lambda item: (-case.scores[user, item].item(), item))
        hits = np.array([[case.targets[user, item] for item in ranking[:20]]], dtype=bool)
        n_targets = case.targets[user].sum()
        assert table.loc[user, ["n_history", "n_target"]].tolist() == [case.history[user].sum(), n_targets]
        for name in NAMES:
            metric, k = name.split("@")
            expected = METRICS[metric](hits, np.array([n_targets]), int(k))[0]
            np.testing.assert_array_equal(table.loc[user, name], expected)
            recommended[int(k)][ranking[: int(k)]] += metric == "ndcg"
    assert result.catalogue["coverage"].tolist() == [np.mean(recommended[k] > 0) for k in (3, 20)]
    assert result.catalogue["popularity"].tolist() == pytest.approx(
        [np.average(case.item_counts, weights=recommended[k]) for k in (3, 20)]
    )


@pytest.mark.parametrize("tied", [False, True])
def test_batch_sizes_do_not_matter_to_the_last_bit(tied: bool) -> None:
    case = Case(2, tied=tied)
    whole = case.evaluate(500)
    assert_same(case.evaluate(1), whole)
    assert_same(case.evaluate(7), whole)


def test_a_constant_added_to_the_scores_changes_nothing() -> None:
    case = Case(3, tied=True)
    before = case.evaluate()
    case.scores -= 1000.0
    assert_same(before, case.evaluate())


def test_the_order_of_the_items_changes_nothing_without_ties() -> None:
    case = Case(4)
    before = case.evaluate()
    order = np.random.default_rng(5).permutation(N_ITEMS)
    case.scores = case.scores[:, order]
    case.history, case.targets = case.history[:, order], case.targets[:, order]
    case.item_counts = case.item_counts[order]
    assert_same(before, case.evaluate(), exact=False)


def test_the_ideal_ranking_scores_one_and_the_worst_zero() -> None:
    case = Case(6)
    case.scores = torch.from_numpy(case.targets.astype(np.float64))
    means = case.evaluate().means
    assert all(means[name] == pytest.approx(1.0) for name in NAMES if not name.startswith("precision"))
    case.scores = -case.scores
    assert set(case.evaluate().means.values()) == {0.0}


def test_a_k_beyond_the_catalogue_ranks_the_whole_catalogue() -> None:
    evaluation = Evaluation(["recall@10", "precision@10", "ndcg@10"], np.array([3, 2, 1]))
    assert evaluation.depth == 3
    evaluation.update(
        np.array([[2, 0, -1]]),
        csr_array([[1, 0, 1]]),
        history_lengths=np.array([1]),
        user_ids=np.array(["ada"], object),
    )
    assert evaluation.result().means == {"recall@10": 1.0, "precision@10": 0.2, "ndcg@10": 1.0}
    assert evaluation.result().catalogue["coverage"].tolist() == [2 / 3]


def test_user_ids_keep_their_type() -> None:
    evaluation = Evaluation("recall@1", np.array([1]))
    for user in ("a", "b"):
        evaluation.update(
            np.array([[0]]),
            csr_array([[1]]),
            history_lengths=np.array([0]),
            user_ids=np.array([user], dtype=object),
        )
    assert evaluation.result().per_user["user_id"].tolist() == ["a", "b"]


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="did you mean 'recall'"):
        Evaluation(["recal@1"], np.array([1]))
    evaluation = Evaluation(["recall@2"], np.array([1, 1, 1]))
    one = {"history_lengths": np.array([0]), "user_ids": np.array([1])}
    with pytest.raises(ValueError, match=r"targets: expected shape \(1, 3\), got \(1, 2\)"):
        evaluation.update(np.array([[0, 1]]), csr_array([[1, 0]]), **one)
    with pytest.raises(ValueError, match="ranked: expected at least 2 columns, got 1"):
        evaluation.update(np.array([[0]]), csr_array([[1, 0, 0]]), **one)
    with pytest.raises(ValueError, match="at least one update"):
        evaluation.result()
