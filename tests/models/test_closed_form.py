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
from scipy.optimize import minimize

from recsys_vae.errors import UserError
from recsys_vae.estimation import GaussianStatistics, fit_normal_inverse_gamma
from recsys_vae.models import EASE, EDLAE, SLIM, ItemKNN, Popularity, RP3Beta, slim, sparse_weights


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
        # Ratings that follow users and items into any order: by how many items a user has, and users an item.
        n_items, n_users = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=matrix.shape[1])
        ratings = matrix.copy()
        phase = np.repeat(n_items, n_items) * n_users[matrix.indices]
        ratings.data = np.rint(3.0 + 2.0 * np.sin(phase)).astype(np.float32)
        return self.fresh(matrix.shape[1]).fit(ratings)


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


class TestItemKNN(ModelContract):
    def fresh(self, n_items):
        return ItemKNN(n_items, n_neighbours=8, shrinkage=2.0, asymmetry=0.5, user_exponent=0.0)

    def fitted(self, matrix):
        return ItemKNN(matrix.shape[1], n_neighbours=8, shrinkage=2.0, asymmetry=0.5, user_exponent=0.0).fit(
            matrix
        )

    def test_similarities_by_hand(self, monkeypatch) -> None:
        monkeypatch.setattr(sparse_weights, "_BLOCK_ENTRIES", 70)  # blocks of two or three items
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

    def test_asymmetric_similarities_of_weighted_users(self) -> None:
        matrix = random_histories(n_users=40, n_items=10, density=0.5)
        dense = matrix.toarray().astype(np.float64)
        lengths = np.maximum(dense.sum(axis=1), 1.0)
        weights = lengths**-0.5 * (
            lengths[1:].sum() / np.sqrt(lengths[1:]).sum()
        )  # the first user has no items
        common = dense.T @ (dense * weights[:, None])
        own = np.diag(common)
        similarity = common / (own[:, None] ** 0.7 * own**0.3 + 2.0)  # history item, scored item
        np.fill_diagonal(similarity, 0.0)
        scores = ItemKNN(10, 10, 2.0, asymmetry=0.3, user_exponent=0.5).fit(matrix).score(matrix).numpy()
        np.testing.assert_allclose(scores, dense @ similarity, rtol=1e-5)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("n_neighbours", 0), ("shrinkage", -1.0), ("asymmetry", 1.1), ("user_exponent", -0.5)],
    )
    def test_settings_out_of_range(self, name, value) -> None:
        with pytest.raises(UserError, match=rf"model\.{name}"):
            ItemKNN(5, **{name: value})


class TestRP3Beta(ModelContract):
    def fresh(self, n_items):
        return RP3Beta(n_items, n_neighbours=10)

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(matrix)

    def test_weights_are_probabilities_of_walks_less_popularity(self) -> None:
        matrix = random_histories(n_users=40, n_items=10, density=0.4)
        matrix.data = np.random.default_rng(0).uniform(0.5, 1.5, len(matrix.data)).astype(np.float32)
        dense = matrix.toarray().astype(np.float64)
        expected = np.zeros((10, 10))
        for one, other in np.argwhere(~np.eye(10, dtype=bool)):
            for user in np.flatnonzero(dense[:, one]):
                to_user = dense[user, one] / dense[:, one].sum()
                to_item = dense[user, other] / dense[user].sum()
                expected[one, other] += (to_user * to_item) ** 0.8
            expected[one, other] /= dense[:, other].sum() ** 0.3
        scores = RP3Beta(10, 10, alpha=0.8, beta=0.3).fit(matrix).score(matrix).numpy()
        np.testing.assert_allclose(scores, dense @ expected, rtol=1e-5)

    def test_each_item_keeps_its_largest_weights(self) -> None:
        matrix = random_histories(n_users=60, n_items=12, density=0.4)
        whole = RP3Beta(12, 12).fit(matrix).sparse.matrix().toarray()
        kept = RP3Beta(12, 3).fit(matrix).sparse.matrix().toarray()
        assert ((kept != 0.0).sum(axis=0) == 3).all()
        np.testing.assert_array_equal(kept[kept != 0.0], whole[kept != 0.0])
        assert (np.where(kept == 0.0, whole, 0.0).max(axis=0) <= np.sort(whole, axis=0)[-3]).all()

    @pytest.mark.parametrize(
        ("name", "value"), [("n_neighbours", 0), ("alpha", -1.0), ("beta", float("nan"))]
    )
    def test_settings_out_of_range(self, name, value) -> None:
        with pytest.raises(UserError, match=rf"model\.{name}"):
            RP3Beta(5, **{name: value})


class TestSLIM(ModelContract):
    def fresh(self, n_items):
        return SLIM(n_items, l1=0.2, l2=1.0, tolerance=1e-6, max_sweeps=200)

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(matrix)

    @pytest.mark.parametrize("block", [4, 64])
    def test_no_feasible_weights_are_better(self, monkeypatch, block) -> None:
        # A quasi-Newton search with bounds that knows only the objective, one item at a time.
        monkeypatch.setattr(slim, "_BLOCK", block)
        matrix = random_histories(n_users=60, n_items=10, density=0.4)
        matrix.data = np.random.default_rng(0).uniform(0.5, 1.5, len(matrix.data)).astype(np.float32)
        dense = matrix.toarray().astype(np.float64)
        model = SLIM(10, l1=1.5, l2=3.0, user_exponent=0.0, tolerance=1e-7, max_sweeps=200).fit(matrix)
        weight = model.weight.numpy()
        for item in range(10):

            def loss(column, item=item):
                residual = dense[:, item] - dense @ column
                value = 0.5 * residual @ residual + 1.5 * column @ column + 1.5 * column.sum()
                return value, -dense.T @ residual + 3.0 * column + 1.5

            bounds = [(0.0, 0.0 if row == item else None) for row in range(10)]
            options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
            found = minimize(loss, np.zeros(10), jac=True, bounds=bounds, options=options)
            np.testing.assert_allclose(weight[:, item], found.x, rtol=0.0, atol=1e-5)
        assert 0.2 < (weight > 0.0).mean() < 0.8  # the bound and the l1 are felt

    def test_a_search_cut_short_is_told(self, caplog) -> None:
        SLIM(30, 0.1, 0.1, max_sweeps=1).fit(random_histories(n_users=60))
        assert "raise model.max_sweeps" in caplog.text

    def test_what_does_not_fit_in_memory_is_refused_with_its_size(self) -> None:
        with pytest.raises(UserError, match=r"1000000 items need 11175\.9 GiB"):
            SLIM(1_000_000)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("l1", -1.0), ("l2", 0.0), ("user_exponent", -1.0), ("tolerance", 0.0), ("max_sweeps", 0)],
    )
    def test_settings_out_of_range(self, name, value) -> None:
        with pytest.raises(UserError, match=rf"model\.{name}"):
            SLIM(5, **{name: value})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("make", [Popularity, EASE, EDLAE, ItemKNN, RP3Beta])
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
