"""Hierarchical Poisson factorisation against its evidence lower bound written out densely, and against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories
from scipy import stats
from scipy.sparse import csr_array
from scipy.special import digamma, gammaln

from recsys_vae.errors import UserError
from recsys_vae.models import HPF
from recsys_vae.models.hpf import GammaHierarchy

SETTINGS = {
    "user_shape": 0.7,
    "item_shape": 0.4,
    "activity_shape": 1.3,
    "activity_mean": 0.6,
    "popularity_shape": 0.9,
    "popularity_mean": 1.7,
}


class TestHPF(ModelContract):
    starts_at_random = True

    def fresh(self, n_items):
        return HPF(n_items, latent_dim=3)

    def fitted(self, matrix):
        return HPF(matrix.shape[1], latent_dim=3).fit(matrix)


def counts(n_users: int = 15, n_items: int = 10, seed: int = 0) -> csr_array:
    matrix = random_histories(n_users, n_items, density=0.4, seed=seed)
    matrix.data = np.random.default_rng(seed).integers(1, 5, len(matrix.data)).astype(np.float32)
    return matrix


def mean_log(shape, rate):
    return digamma(shape) - np.log(rate)


def expected_log_ratio(law, shape, rate) -> float:
    """``E_q[log Gamma(x; shape, rate) - log q(x)]`` with ``q = Gamma(*law)``; ``rate``: a number or a law."""
    q_shape, q_rate = law
    log_rate, mean_rate = (
        (mean_log(*rate), rate[0] / rate[1]) if isinstance(rate, tuple) else (np.log(rate), rate)
    )
    x, log_x = q_shape / q_rate, mean_log(q_shape, q_rate)
    log_prior = shape * log_rate - gammaln(shape) + (shape - 1) * log_x - mean_rate * x
    return float(np.sum(log_prior + stats.gamma(q_shape, scale=1 / q_rate).entropy()))


class Dense:
    """Figure 4 of the paper with every ``phi`` written out, and the bound of any ``q``, in float64."""

    def __init__(self, y: np.ndarray, state) -> None:
        self.y = y
        law = lambda g: (g.shape.double().numpy(), g.rate.double().numpy())  # noqa: E731
        self.theta, self.xi = law(state.users), law(state.user_activity)
        self.beta, self.eta = law(state.items), law(state.item_activity)
        self.update_phi()

    def update_phi(self) -> None:
        logs = mean_log(*self.theta)[:, None, :] + mean_log(*self.beta)[None, :, :]
        share = np.exp(logs - logs.max(axis=-1, keepdims=True))
        self.phi = share / share.sum(axis=-1, keepdims=True)

    def update_users(self) -> None:
        rate = (self.xi[0] / self.xi[1])[:, None] + (self.beta[0] / self.beta[1]).sum(axis=0)
        self.theta = (0.7 + (self.y[:, :, None] * self.phi).sum(axis=1), rate)

    def update_activity(self) -> None:
        n = self.theta[0].shape[1]
        rate = 1.3 / 0.6 + (self.theta[0] / self.theta[1]).sum(axis=1)
        self.xi = (np.full(len(rate), 1.3 + n * 0.7), rate)

    def update_items(self) -> None:
        rate = (self.eta[0] / self.eta[1])[:, None] + (self.theta[0] / self.theta[1]).sum(axis=0)
        self.beta = (0.4 + (self.y[:, :, None] * self.phi).sum(axis=0), rate)

    def update_popularity(self) -> None:
        n = self.beta[0].shape[1]
        rate = 0.9 / 1.7 + (self.beta[0] / self.beta[1]).sum(axis=1)
        self.eta = (np.full(len(rate), 0.9 + n * 0.4), rate)

    def elbo(self) -> float:
        y = self.y[:, :, None] * np.ones_like(self.phi)
        logs = mean_log(*self.theta)[:, None, :] + mean_log(*self.beta)[None, :, :]
        means = (self.theta[0] / self.theta[1])[:, None, :] * (self.beta[0] / self.beta[1])[None, :, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            data = np.where(y > 0, y * self.phi * (logs - np.log(self.phi)), 0.0).sum() - means.sum()
        priors = (
            expected_log_ratio(self.theta, 0.7, tuple(part[:, None] for part in self.xi))
            + expected_log_ratio(self.xi, 1.3, 1.3 / 0.6)
            + expected_log_ratio(self.beta, 0.4, tuple(part[:, None] for part in self.eta))
            + expected_log_ratio(self.eta, 0.9, 0.9 / 1.7)
        )
        return float(data - gammaln(self.y + 1).sum() + priors)


def states(matrix: csr_array, n_iterations: int, **settings) -> list:
    model = HPF(matrix.shape[1], 3, n_iterations=n_iterations, **{**SETTINGS, **settings}).double()
    return list(model.ascent(matrix))


def test_an_iteration_is_figure_4_and_every_step_of_it_climbs() -> None:
    matrix = counts()
    found = states(matrix, 12)
    dense = Dense(matrix.toarray().astype(np.float64), found[0])
    bound = dense.elbo()
    assert found[0].elbo() == pytest.approx(bound, rel=1e-10)
    for state in found[1:]:
        for step in ("phi", "users", "activity", "items", "popularity"):
            getattr(dense, f"update_{step}")()
            assert dense.elbo() > bound - 1e-9, step
            bound = dense.elbo()
        for ours, theirs in (
            (state.users, dense.theta),
            (state.user_activity, dense.xi),
            (state.items, dense.beta),
            (state.item_activity, dense.eta),
        ):
            np.testing.assert_allclose(ours.shape, theirs[0], rtol=1e-9)
            np.testing.assert_allclose(ours.rate, theirs[1], rtol=1e-9)
    bounds = [state.elbo() for state in found]
    assert (np.diff(bounds) > 0.0).all()
    assert bounds[-1] > bounds[0] + 10.0


def test_the_bound_never_falls_in_float32() -> None:
    matrix = random_histories(200, 60, density=0.1, seed=4)
    bounds = np.asarray([state.elbo() for state in HPF(60, 8, n_iterations=60).ascent(matrix)])
    assert (np.diff(bounds) > -1e-6 * np.abs(bounds[:-1])).all()


def test_the_bound_of_one_count_is_below_its_evidence_by_the_divergence_of_q() -> None:
    # One user, one item, one factor: the evidence is a fourfold integral, of which two are known: with its rate
    # integrated out, a factor has the law of a ratio of gammas (Lomax for shape 1).
    y = 2

    def log_factor(x, shape, activity_shape, activity_mean):
        rate = activity_shape / activity_mean
        log_p = gammaln(shape + activity_shape) - gammaln(shape) - gammaln(activity_shape)
        return (
            log_p
            + activity_shape * np.log(rate)
            + (shape - 1) * np.log(x)
            - (shape + activity_shape) * np.log(rate + x)
        )

    def log_joint(s, t):  # of log theta and log beta
        theta, beta = np.exp(s), np.exp(t)
        log_p = log_factor(theta, 1.5, 2.0, 0.6) + log_factor(beta, 1.2, 3.0, 1.7)
        return log_p + stats.poisson.logpmf(y, theta * beta) + s + t

    nodes, weights = np.polynomial.legendre.leggauss(400)
    places = 11.0 * nodes - 3.0  # from -14 to 8
    evidence = weights @ np.exp(log_joint(places[:, None], places[None, :])) @ weights * 11.0**2
    settings = {
        "user_shape": 1.5,
        "activity_shape": 2.0,
        "item_shape": 1.2,
        "popularity_shape": 3.0,
    }
    model = HPF(1, 1, n_iterations=200, **{**SETTINGS, **settings}).double()
    *_, state = model.ascent(csr_array(np.full((1, 1), y, dtype=np.float32)))
    # E_q[log p - log q], by quadrature over the gammas of q, must be the bound; the activities' part is exact.
    laws = [stats.gamma(float(law.shape), scale=1 / float(law.rate)) for law in (state.users, state.items)]
    probabilities, weights = (nodes + 1) / 2, weights / 2
    theta, beta = laws[0].ppf(probabilities)[:, None], laws[1].ppf(probabilities)[None, :]
    expected = weights @ stats.poisson.logpmf(y, theta * beta) @ weights
    activities = [(float(law.shape), float(law.rate)) for law in (state.user_activity, state.item_activity)]
    for law, activity, shape, (a, b) in zip(
        laws, activities, (1.5, 1.2), ((2.0, 0.6), (3.0, 1.7)), strict=True
    ):
        rate = stats.gamma(activity[0], scale=1 / activity[1])
        x, z = law.ppf(probabilities)[:, None], rate.ppf(probabilities)[None, :]
        log_ratio = (
            stats.gamma.logpdf(x, shape, scale=1 / z)
            + stats.gamma.logpdf(z, a, scale=b / a)
            - law.logpdf(x)
            - rate.logpdf(z)
        )
        expected += weights @ log_ratio @ weights
    assert state.elbo() == pytest.approx(expected, abs=2e-4)
    gap = np.log(evidence) - state.elbo()
    assert 0.0 < gap < 0.6


def test_fold_in_is_where_the_ascent_of_a_user_ends() -> None:
    matrix = counts()
    model = HPF(10, 3, n_iterations=30, n_fold_in_iterations=400, **SETTINGS).double().fit(matrix)
    found = model.posterior(matrix)
    y = matrix.toarray().astype(np.float64)
    beta = (model.items.shape.numpy(), model.items.rate.numpy())
    # A fixed point of figure 4's lines for users, written with phi.
    logs = mean_log(found.shape.numpy(), found.rate.numpy())[:, None, :] + mean_log(*beta)[None]
    phi = np.exp(logs)
    phi /= phi.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found.shape, 0.7 + (y[:, :, None] * phi).sum(axis=1), rtol=1e-6)
    activity_rate = 1.3 / 0.6 + found.mean.numpy().sum(axis=1)
    rate = ((1.3 + 3 * 0.7) / activity_rate)[:, None] + (beta[0] / beta[1]).sum(axis=0)
    np.testing.assert_allclose(found.rate, rate, rtol=1e-6)
    np.testing.assert_allclose(model.score(matrix), found.mean.numpy() @ (beta[0] / beta[1]).T, rtol=1e-9)
    np.testing.assert_allclose(
        found.standard_deviation, stats.gamma(found.shape, scale=1 / found.rate).std(), rtol=1e-9
    )


def test_the_prior_of_an_empty_history_has_its_activity() -> None:
    prior = GammaHierarchy(0.5, 2.0, 3.0)
    assert prior.activity_rate == pytest.approx(2.0 / 3.0)
    model = HPF(10, 3, n_iterations=5).fit(counts())
    assert (model.posterior(csr_array((1, 10), dtype=np.float32)).shape == 0.3).all()


def test_sparse_shapes_stay_finite() -> None:
    model = HPF(30, 5, user_shape=0.001, item_shape=0.001, n_iterations=30)
    matrix = random_histories()
    *_, last = model.ascent(matrix)
    assert np.isfinite(last.elbo())
    assert torch.isfinite(model.fit(matrix).score(matrix)).all()


def test_the_same_seed_gives_the_same_factors() -> None:
    one, again, other = (HPF(10, 3, n_iterations=5, seed=s).fit(counts()).item_vectors() for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", SETTINGS)
def test_hyper_parameters_out_of_range(name, value) -> None:
    with pytest.raises(UserError, match=rf"model\.{name}"):
        HPF(5, 2, **{name: value})


@pytest.mark.parametrize("name", ["latent_dim", "n_iterations", "n_fold_in_iterations"])
@pytest.mark.parametrize("value", [0, True])
def test_numbers_out_of_range(name, value) -> None:
    with pytest.raises(UserError, match=rf"model\.{name}"):
        HPF(5, **{"latent_dim": 2, name: value})


def test_a_rank_above_the_matrix() -> None:
    with pytest.raises(UserError, match="at most the number of items, 5, came 6"):
        HPF(5, 6)
    with pytest.raises(UserError, match="at most the number of training users, 3, came 4"):
        HPF(10, 4).fit(counts(3, 10))


@pytest.mark.parametrize("value", [-1.0, 2.5, float("nan"), float("inf")])
def test_what_is_no_count(value) -> None:
    matrix, model = counts(), HPF(10, 3, n_iterations=2)
    model.fit(matrix)
    matrix.data[3] = value
    for ask in (model.fit, model.score):
        with pytest.raises(UserError, match=f"expected counts, positive whole numbers, came {value}"):
            ask(matrix)
