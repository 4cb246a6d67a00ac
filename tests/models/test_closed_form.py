"""The baselines against definitions written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import ModelContract
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_histories import random_histories
from scipy import stats

from recsys_vae.errors import UserError
from recsys_vae.estimation import GaussianStatistics, fit_normal_inverse_gamma
from recsys_vae.models import EASE, ItemKNN, Popularity
from recsys_vae.models import item_knn as item_knn_module


class TestPopularity(ModelContract):
    learns_tastes = False

    def fresh(self, n_items):
        return Popularity(n_items)

    def fitted(self, matrix):
        return Popularity(matrix.shape[1]).fit(matrix)

    def test_scores_are_shares(self) -> None:
        matrix = random_histories()
        scores = self.fitted(matrix).score(matrix[[3, 4]]).numpy()
        dense = matrix.toarray()
        np.testing.assert_allclose(scores, np.tile(dense.sum(0) / dense.sum(), (2, 1)), rtol=1e-12)


def rated(matrix):
    """The same interactions, weighing ratings from 1 to 5 that depend on the item and on chance."""
    ratings = matrix.copy()
    chance = np.random.default_rng(7).normal(size=ratings.nnz)
    ratings.data = np.clip(np.rint(3.2 + 0.9 * np.sin(ratings.indices) + chance), 1, 5).astype(np.float32)
    return ratings


class TestRatedPopularity(ModelContract):
    learns_tastes = False

    def fresh(self, n_items):
        return Popularity(n_items, estimate="normal_inverse_gamma", rank_by="lower")

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(rated(matrix))


@pytest.mark.parametrize(
    "estimate", ["maximum_likelihood", "normal_inverse_gamma", "tweedie", "beta_binomial"]
)
class TestEstimatesOfRatings:
    matrix = rated(random_histories(n_users=200, n_items=40, density=0.1))

    def fitted(self, estimate, **options):
        return Popularity(40, estimate=estimate, **options).fit(self.matrix)

    def test_they_lie_between_the_items_own_and_everybody_s(self, estimate) -> None:
        dense = self.matrix.toarray()
        value = dense >= 4 if estimate == "beta_binomial" else dense
        counts = (dense > 0).sum(0)
        own = value.sum(0) / counts
        found = self.fitted(estimate).estimates()
        mean = found.mean.numpy()
        if estimate == "maximum_likelihood":
            np.testing.assert_allclose(mean, own, rtol=1e-6)
            scatter = (np.square(dense - own) * (dense > 0)).sum(0)
            half = stats.norm.ppf(0.95) * np.sqrt(scatter / counts) / np.sqrt(counts)
            np.testing.assert_allclose(found.high.numpy() - mean, half, rtol=1e-5)
            np.testing.assert_allclose(mean - found.low.numpy(), half, rtol=1e-5)
            return
        assert np.std(mean) < np.std(own)
        assert ((found.low < found.mean) & (found.mean < found.high)).all()
        if estimate != "tweedie":  # whose prior may have several centres
            centre = mean[np.argmin(np.abs(mean - own))]  # where nothing is moved
            assert (np.abs(mean - centre) < np.abs(own - centre) + 0.05).all()

    def test_the_lower_end_is_what_may_rank(self, estimate) -> None:
        by_mean, by_low = self.fitted(estimate), self.fitted(estimate, rank_by="lower")
        found = by_mean.estimates()
        torch.testing.assert_close(by_mean.score(self.matrix[[0, 1]])[1], found.mean)
        torch.testing.assert_close(by_low.score(self.matrix[[0]])[0], found.low)
        wider = self.fitted(estimate, level=0.99).estimates()
        assert (wider.high - wider.low > found.high - found.low).all()

    def test_an_item_that_nobody_rated_has_what_is_known_of_all(self, estimate) -> None:
        wide = self.matrix.copy()
        wide.resize((200, 41))
        found = Popularity(41, estimate=estimate).fit(wide).estimates()
        assert found.mean[:40].min() < found.mean[40] < found.mean[:40].max()
        assert torch.isfinite(torch.stack(found)).all()

    def test_ratings_must_be_there(self, estimate) -> None:
        with pytest.raises(UserError, match=r"filters\.weights=true"):
            Popularity(30, estimate=estimate).fit(random_histories())


def test_posterior_of_an_item_s_mean_by_hand() -> None:
    matrix = TestEstimatesOfRatings.matrix
    found = Popularity(40, estimate="normal_inverse_gamma", level=0.8).fit(matrix).estimates()
    columns = matrix.tocsc()
    groups = [columns.data[columns.indptr[i] : columns.indptr[i + 1]].astype(float) for i in range(40)]
    statistics = GaussianStatistics(
        *(
            torch.tensor([f(g) for g in groups], dtype=torch.float64)
            for f in (len, np.mean, lambda g: g.var() * len(g))
        )
    )
    prior = fit_normal_inverse_gamma(statistics).prior
    a, b, c, d = (float(v) for v in (prior.alpha, prior.beta, prior.gamma, prior.delta))
    for item, group in enumerate(groups):
        n, mean = len(group), (group.sum() + c * d) / (len(group) + c)
        after = b + 0.5 * ((group**2).sum() + c * d**2 - (n + c) * mean**2)
        law = stats.t(2 * a + n, mean, np.sqrt(after / ((a + n / 2) * (n + c))))
        assert float(found.mean[item]) == pytest.approx(mean, rel=1e-5)
        assert float(found.low[item]) == pytest.approx(law.ppf(0.1), rel=1e-4)
        assert float(found.high[item]) == pytest.approx(law.ppf(0.9), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimate": "mode"}, r"model\.estimate: expected one of count"),
        ({"estimate": "tweedie", "rank_by": "upper"}, r"model\.rank_by"),
        ({"rank_by": "lower"}, r"model\.rank_by: expected mean"),
        ({"estimate": "tweedie", "level": 1.0}, r"model\.level"),
        ({"estimate": "beta_binomial", "liked_from": 6.0}, r"model\.liked_from: .* ratings from 1 to 5"),
    ],
)
def test_popularity_s_options_are_checked(options, message) -> None:
    with pytest.raises(UserError, match=message):
        Popularity(40, **options).fit(TestEstimatesOfRatings.matrix)


def test_counts_have_no_intervals() -> None:
    with pytest.raises(UserError, match="for intervals"):
        Popularity(4).estimates()


class TestEASE(ModelContract):
    def fresh(self, n_items):
        return EASE(n_items, l2=5.0)

    def fitted(self, matrix):
        return EASE(matrix.shape[1], l2=5.0).fit(matrix)

    @pytest.mark.parametrize("precision", ["float64", "float32"])
    def test_weights_solve_each_column_as_a_ridge_regression_without_the_item_itself(self, precision) -> None:
        # The constraint diag(B) = 0 makes column j the ridge regression of item j on all others: an oracle that
        # knows nothing of Lagrange multipliers or inverses of the Gram matrix.
        matrix = random_histories(n_users=50, n_items=15)
        dense = matrix.toarray().astype(np.float64)
        weight = EASE(15, l2=3.0, precision=precision).fit(matrix).weight.numpy()
        for item in range(15):
            others = [i for i in range(15) if i != item]
            design = dense[:, others]
            solution = np.linalg.solve(design.T @ design + 3.0 * np.eye(14), design.T @ dense[:, item])
            np.testing.assert_allclose(weight[others, item], solution, rtol=2e-4, atol=2e-6)
        assert (np.diag(weight) == 0).all()

    @pytest.mark.parametrize("l2", [0.0, -1.0, float("nan"), float("inf")])
    def test_l2_out_of_range(self, l2) -> None:
        with pytest.raises(UserError, match=r"model\.l2"):
            EASE(5, l2=l2)

    def test_precision_by_name(self) -> None:
        with pytest.raises(UserError, match="float32 or float64"):
            EASE(5, precision="bfloat16")


class TestItemKNN(ModelContract):
    def fresh(self, n_items):
        return ItemKNN(n_items, n_neighbours=8, shrinkage=2.0)

    def fitted(self, matrix):
        return ItemKNN(matrix.shape[1], n_neighbours=8, shrinkage=2.0).fit(matrix)

    def test_similarities_by_hand(self, monkeypatch) -> None:
        monkeypatch.setattr(item_knn_module, "_BLOCK_ENTRIES", 70)  # blocks of two or three items
        matrix = random_histories(n_users=40, n_items=30, density=0.3)
        dense = matrix.toarray().astype(np.float64)
        common = dense.T @ dense
        norms = np.sqrt(np.diag(common))
        similarity = common / (np.outer(norms, norms) + 2.0)
        np.fill_diagonal(similarity, 0.0)
        kept = np.where(similarity >= np.sort(similarity, axis=1)[:, -8][:, None], similarity, 0.0)
        scores = self.fitted(matrix).score(matrix).numpy()
        tied = (np.sort(similarity, axis=1)[:, -8] - np.sort(similarity, axis=1)[:, -9]) < 1e-9
        # An item whose 8th and 9th neighbours tie may keep either.
        np.testing.assert_allclose(scores[:, ~tied], (dense @ kept.T)[:, ~tied], rtol=1e-5, atol=1e-6)
        assert (~tied).sum() > 10


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("make", [Popularity, EASE, ItemKNN])
def test_permuting_items_permutes_scores(make, seed) -> None:
    # Shares of real-valued weights: no two neighbours tie, so ItemKNN too has one answer.
    matrix = random_histories(n_users=20, n_items=12, density=0.4, seed=seed)
    matrix.data = np.random.default_rng(seed).uniform(0.5, 1.5, len(matrix.data)).astype(np.float32)
    order = np.random.default_rng(seed).permutation(12)
    shuffled = matrix[:, order].tocsr()
    shuffled.sort_indices()
    scores = make(12).fit(matrix).score(matrix)
    again = make(12).fit(shuffled).score(shuffled)
    torch.testing.assert_close(again, scores[:, order.tolist()], rtol=1e-4, atol=1e-6)
