"""Recommenders that live on graphs, against sums over every configuration and regressions written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories

from recsys_vae.errors import UserError
from recsys_vae.models import EASE, GMRF, ChowLiu
from recsys_vae.models import gmrf as gmrf_module


def log_joint(model: ChowLiu) -> tuple[np.ndarray, np.ndarray]:
    """Every configuration of the items and its log-probability under the model's tree."""
    configurations = np.array(list(itertools.product([0, 1], repeat=model.n_items)))
    tables, parents = model.log_conditional.numpy(), model.parent.tolist()
    total = np.zeros(len(configurations))
    for item, parent in enumerate(parents):
        above = configurations[:, parent] if parent >= 0 else 0
        total += tables[item][above, configurations[:, item]]
    return configurations, total


class TestChowLiuOnPositives(ModelContract):
    def fresh(self, n_items):
        return ChowLiu(n_items, evidence="positives", independence=0.1)

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(matrix)

    def test_scores_are_log_odds_given_the_rest_of_the_history(self) -> None:
        matrix = random_histories(n_users=30, n_items=8, density=0.4)
        model = self.fitted(matrix)
        configurations, log_probability = log_joint(model)
        scores, dense = model.score(matrix).numpy(), matrix.toarray()
        for user, item in itertools.product(range(6), range(8)):
            others = [i for i in range(8) if dense[user, i] and i != item]
            agrees = (configurations[:, others] == 1).all(axis=1)
            odds = [
                np.exp(log_probability[agrees & (configurations[:, item] == state)]).sum() for state in (0, 1)
            ]
            assert scores[user, item] == pytest.approx(np.log(odds[1] / odds[0]), rel=1e-6, abs=1e-6)

    def test_a_batch_scores_exactly_like_its_users_one_by_one(self) -> None:
        matrix = random_histories(n_users=40, n_items=50)
        model = self.fitted(matrix)
        one_by_one = torch.cat([model.score(matrix[[row]]) for row in range(40)])
        assert torch.equal(model.score(matrix), one_by_one)

    def test_a_slate_is_the_most_probable_set(self) -> None:
        matrix = random_histories(n_users=40, n_items=9, density=0.3)
        model = self.fitted(matrix)
        configurations, log_probability = log_joint(model)
        slates, dense = model.complete(matrix, n_items=3).numpy(), matrix.toarray()
        assert slates.shape == (40, 3)
        for user, slate in enumerate(slates):
            had = dense[user] > 0
            agrees = configurations[:, had].all(axis=1) & (configurations[:, ~had].sum(axis=1) == 3)
            chosen = had.copy()
            chosen[slate] = True
            of_slate = log_probability[(configurations == chosen).all(axis=1)][0]
            assert not had[slate].any()
            assert of_slate == pytest.approx(log_probability[agrees].max(), abs=1e-10)

    def test_a_slate_longer_than_what_is_left(self) -> None:
        matrix = random_histories(n_items=9, density=0.5)
        with pytest.raises(UserError, match="n_items: expected at most 1, the items"):
            self.fitted(matrix).complete(matrix, n_items=9)


class TestChowLiuOnAll(ModelContract):
    def fresh(self, n_items):
        return ChowLiu(n_items, evidence="all", independence=0.1)

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(matrix)

    def test_scores_are_log_odds_given_every_other_item(self) -> None:
        matrix = random_histories(n_users=30, n_items=8, density=0.4)
        model = self.fitted(matrix)
        configurations, log_probability = log_joint(model)
        scores, dense = model.score(matrix).numpy(), matrix.toarray().astype(int)
        for user, item in itertools.product(range(6), range(8)):
            states = []
            for state in (0, 1):
                configuration = dense[user].copy()
                configuration[item] = state
                states.append(log_probability[(configurations == configuration).all(axis=1)][0])
            assert scores[user, item] == pytest.approx(states[1] - states[0], rel=1e-6, abs=1e-6)

    @pytest.mark.parametrize(
        ("name", "value"), [("evidence", "some"), ("smoothing", 0.0), ("independence", 1.0)]
    )
    def test_settings_out_of_range(self, name, value) -> None:
        with pytest.raises(UserError, match=rf"model\.{name}"):
            ChowLiu(5, **{name: value})


class TestGMRF(ModelContract):
    def fresh(self, n_items):
        return GMRF(n_items, density=0.5, l2=1.0, block_share=0.1)

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(matrix)

    @pytest.mark.parametrize("with_mkl", [True, False])
    def test_scores_are_conditional_means(self, monkeypatch, with_mkl) -> None:
        if with_mkl and not torch.backends.mkl.is_available():
            pytest.skip("this build of PyTorch is without MKL")
        monkeypatch.setattr(gmrf_module.torch.backends.mkl, "is_available", lambda: with_mkl)
        matrix = random_histories(n_users=40, n_items=20, density=0.3)
        model = self.fitted(matrix)
        weights, mean = model.weights().toarray(), matrix.toarray().mean(axis=0)
        expected = mean + (matrix.toarray() - mean) @ weights
        np.testing.assert_allclose(model.score(matrix).numpy(), expected, rtol=1e-5, atol=1e-6)

    def test_a_full_field_is_the_closed_form_of_ease_on_centred_data(self) -> None:
        # With every pair, no scaling and a regression for each item, it is EASE's closed form on the covariances.
        matrix = random_histories(n_users=60, n_items=12, density=0.4)
        # Of counts, some covariance may be exactly 0, and such pairs are no neighbours.
        matrix.data = np.random.default_rng(5).uniform(0.5, 1.5, len(matrix.data)).astype(np.float32)
        model = GMRF(12, density=1.0, l2=3.0, alpha=0.0, block_share=0.0).fit(matrix)
        centred = matrix.toarray() - matrix.toarray().mean(axis=0)
        inverse = np.linalg.inv(centred.T @ centred + 3.0 * np.eye(12))
        expected = -inverse / np.diag(inverse)
        np.fill_diagonal(expected, 0.0)
        np.testing.assert_allclose(model.weights().toarray(), expected, rtol=1e-4, atol=1e-6)

    def test_no_more_weights_than_the_density_allows(self) -> None:
        matrix = random_histories(n_users=100, n_items=40, density=0.3)
        model = GMRF(40, density=0.1).fit(matrix)
        assert 0 < model.weights().nnz <= 0.1 * 40**2
        assert len(model.sparse.values) == 160

    def test_fewer_neighbours_than_there_is_room_for(self) -> None:
        matrix = random_histories(n_users=100, n_items=40, density=0.3)
        model = GMRF(40, density=0.5, max_neighbours=3, block_share=0.0).fit(matrix)
        per_item = np.diff(model.weights().tocsc().indptr)
        assert per_item.max() == 3
        again = GMRF(40, density=0.5)
        again.load_state_dict(model.state_dict())
        assert torch.equal(again.score(matrix), model.score(matrix))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("density", 0.0),
            ("density", 1.1),
            ("l2", 0.0),
            ("alpha", -0.1),
            ("block_share", 1.5),
            ("max_neighbours", 0),
        ],
    )
    def test_settings_out_of_range(self, name, value) -> None:
        with pytest.raises(UserError, match=rf"model\.{name}"):
            GMRF(5, **{name: value})


@pytest.mark.parametrize("make", [GMRF, EASE])
def test_permuting_items_permutes_scores(make) -> None:
    matrix = random_histories(n_users=40, n_items=12, density=0.4)
    matrix.data = np.random.default_rng(3).uniform(0.5, 1.5, len(matrix.data)).astype(np.float32)
    order = np.random.default_rng(4).permutation(12)
    shuffled = matrix[:, order].tocsr()
    shuffled.sort_indices()
    arguments = {"density": 0.3, "l2": 1.0} if make is GMRF else {}
    scores = make(12, **arguments).fit(matrix).score(matrix)
    again = make(12, **arguments).fit(shuffled).score(shuffled)
    torch.testing.assert_close(again, scores[:, order.tolist()], rtol=1e-4, atol=1e-5)
