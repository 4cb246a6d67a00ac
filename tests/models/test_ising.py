"""The field of items against sums over every configuration."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories

from recsys_vae.errors import UserError
from recsys_vae.models import Ising


def log_joint(model: Ising) -> tuple[np.ndarray, np.ndarray]:
    """Every configuration of the items and its unnormalised log-probability, from the model's buffers alone."""
    configurations = np.array(list(itertools.product([0, 1], repeat=model.n_items)))
    total = configurations @ model.biases.double().numpy()
    for (one, other), coupling in zip(model.edges.T.tolist(), model.couplings.tolist(), strict=True):
        if one >= 0:
            total += coupling * configurations[:, one] * configurations[:, other]
    return configurations, total


class TestIsingOnAll(ModelContract):
    options = {"evidence": "all"}  # noqa: RUF012

    def fresh(self, n_items):
        return Ising(n_items, n_neighbours=6, l2=2.0, **self.options)

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(matrix)

    def test_a_batch_scores_exactly_like_its_users_one_by_one(self) -> None:
        matrix = random_histories(n_users=40, n_items=50)
        model = self.fitted(matrix)
        one_by_one = torch.cat([model.score(matrix[[row]]) for row in range(40)])
        assert torch.equal(model.score(matrix), one_by_one)

    def test_weights_of_a_history_count_as_had(self) -> None:
        matrix = random_histories()
        weighted = matrix.copy()
        weighted.data = np.random.default_rng(0).uniform(0.5, 5.0, len(matrix.data)).astype(np.float32)
        model = self.fitted(matrix)
        assert torch.equal(model.score(matrix), model.score(weighted))
        assert torch.equal(model.couplings, self.fitted(weighted).couplings)

    def test_an_item_that_nobody_has_and_one_alone(self) -> None:
        matrix = random_histories(n_items=10).toarray()
        matrix[:, 3] = 0.0
        matrix = type(random_histories())(matrix)
        scores = self.fitted(matrix).score(matrix)
        assert torch.isfinite(scores).all()
        alone = random_histories(n_items=1, density=0.5)
        assert torch.isfinite(self.fitted(alone).score(alone)).all()


class TestIsingOnPositives(TestIsingOnAll):
    options = {"evidence": "positives", "hidden": 0.5}  # noqa: RUF012


class TestIsingInOneStep(TestIsingOnAll):
    options = {"evidence": "positives", "inference": "pseudo"}  # noqa: RUF012


@pytest.mark.parametrize("popularity", [1.0, 0.3])
@pytest.mark.parametrize("inference", ["loopy", "pseudo"])
def test_on_all_scores_are_log_odds_given_every_other_item(popularity, inference) -> None:
    matrix = random_histories(n_users=30, n_items=8, density=0.4)
    model = Ising(8, n_neighbours=3, l2=1.0, popularity=popularity, inference=inference).fit(matrix)
    configurations, log_probability = log_joint(model)
    scores, dense = model.score(matrix).numpy(), matrix.toarray().astype(int)
    for user, item in itertools.product(range(6), range(8)):
        states = []
        for state in (0, 1):
            configuration = dense[user].copy()
            configuration[item] = state
            states.append(log_probability[(configurations == configuration).all(axis=1)][0])
        expected = states[1] - states[0] - (1.0 - popularity) * float(model.biases[item])
        assert scores[user, item] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_on_positives_of_a_tree_scores_are_log_odds_given_what_is_had() -> None:
    # A tree by hand, on which messages are exact; an item that is missing from the history was lost in 3 of 10 cases.
    model = Ising(5, n_neighbours=1, popularity=1.0, evidence="positives", hidden=0.3, tolerance=1e-12)
    model.edges[:, :4] = torch.tensor([[0, 1, 1, 3], [1, 2, 3, 4]])
    model.couplings[:4] = torch.tensor([1.5, -2.0, 0.7, 3.0])
    model.biases.copy_(torch.tensor([-1.0, 0.5, -0.3, -2.0, 0.2]))
    matrix = random_histories(n_users=8, n_items=5, density=0.4)
    configurations, log_probability = log_joint(model)
    scores, dense = model.score(matrix).numpy(), matrix.toarray().astype(int)
    for user, item in itertools.product(range(8), range(5)):
        others = np.arange(5) != item
        agrees = (configurations[:, others] >= dense[user, others]).all(axis=1)
        lost = ((configurations > dense[user]) & others).sum(axis=1)
        weight = np.where(agrees, np.exp(log_probability) * 0.3**lost, 0.0)
        odds = [weight[configurations[:, item] == state].sum() for state in (0, 1)]
        assert scores[user, item] == pytest.approx(np.log(odds[1] / odds[0]), rel=1e-5, abs=1e-5)


def test_in_one_step_unknown_neighbours_go_by_their_biases_and_what_is_known_beside_them() -> None:
    matrix = random_histories(n_users=30, n_items=8, density=0.4)
    options = {"evidence": "positives", "hidden": 0.4, "popularity": 1.0}
    model = Ising(8, n_neighbours=3, l2=1.0, inference="pseudo", **options).fit(matrix)
    scores, dense = model.score(matrix).numpy(), matrix.toarray()
    biases = model.biases.double().numpy()
    coupled = np.zeros((8, 8))
    for (one, other), coupling in zip(model.edges.T.tolist(), model.couplings.tolist(), strict=True):
        if one >= 0:
            coupled[one, other] = coupled[other, one] = coupling
    for user in range(6):
        expected = biases.copy()
        for source, target in itertools.permutations(range(8), 2):
            if coupling := coupled[source, target]:
                others = np.arange(8) != target
                known = biases[source] + np.log(0.4) + coupled[source, others] @ dense[user, others]
                unknown = np.logaddexp(0.0, known + coupling) - np.logaddexp(0.0, known)
                expected[target] += coupling if dense[user, source] else unknown
        np.testing.assert_allclose(scores[user], expected, rtol=1e-5, atol=1e-5)


def test_messages_that_have_not_settled_are_told(caplog) -> None:
    matrix = random_histories()
    model = Ising(30, n_neighbours=6, l2=2.0, evidence="positives", hidden=1.0, max_iterations=1).fit(matrix)
    with caplog.at_level(logging.WARNING):
        model.score(matrix)
    assert "of 12 of 12 users have not settled; raise model.max_iterations" in caplog.text


def test_what_completes_a_history_is_a_mode_that_no_single_item_improves() -> None:
    matrix = random_histories(n_users=40, n_items=9, density=0.5)
    model = Ising(9, n_neighbours=4, l2=0.5).fit(matrix)
    configurations, log_probability = log_joint(model)
    value = dict(zip(map(tuple, configurations.tolist()), log_probability, strict=True))
    completed, had = model.complete(matrix).numpy(), matrix.toarray() > 0
    assert completed.any()
    assert not (completed & had).any()
    for user in range(40):
        whole = (completed[user] | had[user]).astype(int)
        assert value[tuple(whole.tolist())] >= value[tuple(had[user].astype(int).tolist())] - 1e-9
        for item in np.flatnonzero(~had[user]):
            other = whole.copy()
            other[item] = 1 - other[item]
            assert value[tuple(other.tolist())] <= value[tuple(whole.tolist())] + 1e-9


def test_couplings_that_l1_takes_away_leave_room_as_it_was() -> None:
    matrix = random_histories(n_users=60, n_items=12, density=0.4)
    loose, tight = (Ising(12, n_neighbours=4, l2=1.0, l1=l1).fit(matrix) for l1 in (0.0, 3.0))
    assert loose.couplings.shape == tight.couplings.shape == (48,)
    assert 0 < int(tight.couplings.count_nonzero()) < int(loose.couplings.count_nonzero())
    assert torch.equal(loose.edges, tight.edges)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_neighbours", 0),
        ("l2", -1.0),
        ("l1", float("nan")),
        ("popularity", 1.5),
        ("evidence", "some"),
        ("hidden", 0.0),
        ("inference", "exact"),
        ("damping", 1.0),
        ("tolerance", 0.0),
        ("max_iterations", 0),
        ("fit_iterations", True),
    ],
)
def test_settings_out_of_range(name, value) -> None:
    with pytest.raises(UserError, match=rf"model\.{name}"):
        Ising(5, **{name: value})


def test_permuting_items_permutes_scores() -> None:
    matrix = random_histories(n_users=60, n_items=12, density=0.4)
    order = np.random.default_rng(4).permutation(12)
    shuffled = matrix[:, order].tocsr()
    shuffled.sort_indices()
    options = {"n_neighbours": 11, "l2": 1.0}
    scores = Ising(12, **options).fit(matrix).score(matrix)
    again = Ising(12, **options).fit(shuffled).score(shuffled)
    torch.testing.assert_close(again, scores[:, order.tolist()], rtol=1e-3, atol=1e-2)
