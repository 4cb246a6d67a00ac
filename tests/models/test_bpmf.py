"""Bayesian matrix factorisation against dense linear algebra, exact laws, and Geweke's joint distribution test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories
from scipy import stats
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.models import BPMF, rating_prediction
from recsys_vae.models.blocked_gibbs import BlockedGibbs, Conditional, NormalWishart, State
from recsys_vae.models.rating_prediction import RatingFactorisation, RatingPredictive
from recsys_vae.samplers.diagnostics import mcse_mean

DTYPE = torch.float64


class TestBPMF(ModelContract):
    starts_at_random = True

    def fresh(self, n_items):
        return BPMF(n_items, latent_dim=3, n_burn_in=5, n_draws=4)

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(matrix)


def weighted_histories(n_users: int = 12, n_items: int = 9, seed: int = 0) -> csr_array:
    matrix = random_histories(n_users, n_items, density=0.4, seed=seed)
    matrix.data = np.random.default_rng(seed).choice([0.5, 1.0, 3.0], len(matrix.data)).astype(np.float32)
    return matrix


def fitted_model() -> BPMF:
    return BPMF(9, 3, n_burn_in=3, n_draws=4, n_thin=2, seed=1).double().fit(weighted_histories())


def dense_law(model: BPMF, place: int, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations 11 to 13 of the paper with every pair written out, weighted by its confidence."""
    y, prior = model.item_draws[place].numpy(), model.user_precision_draws[place].numpy()
    confidence = float(model.noise_precision_draws[place]) * (model.unobserved_weight + row)
    covariance = np.linalg.inv(prior + y.T @ np.diag(confidence) @ y)
    linear = prior @ model.user_mean_draws[place].numpy() + y.T @ (confidence * (row > 0))
    return covariance @ linear, covariance


# --- folding in ---


def test_a_new_users_law_is_the_dense_conditional_of_each_draw() -> None:
    model, histories = fitted_model(), weighted_histories(seed=7)
    found = model.posterior(histories)
    scores = np.zeros(histories.shape)
    for user, row in enumerate(histories.toarray().astype(np.float64)):
        for place in range(4):
            mean, covariance = dense_law(model, place, row)
            own = slice(3 * place, 3 * place + 3)
            np.testing.assert_allclose(found.mean[user, own], mean, rtol=0, atol=1e-8)
            np.testing.assert_allclose(found.log_variance[user, own].exp(), np.diag(covariance), rtol=1e-8)
            scores[user] += model.item_draws[place].numpy() @ mean / 4
    np.testing.assert_allclose(model.score(histories), scores, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        model.user_vectors(histories) @ model.item_vectors().mT, scores, rtol=0, atol=1e-8
    )


def test_draws_of_a_new_user_have_the_exact_law() -> None:
    model = fitted_model()
    row = weighted_histories(seed=7)[[3]]
    many = csr_array(np.repeat(row.toarray(), 4000, axis=0))
    draws = model.draw_users(many, torch.Generator().manual_seed(1)).numpy()
    assert draws.shape == (4, 4000, 3)
    for place in range(4):
        mean, covariance = dense_law(model, place, row.toarray()[0].astype(np.float64))
        whitened = np.linalg.solve(np.linalg.cholesky(covariance), (draws[place] - mean).T)
        for coordinate in whitened:
            assert stats.kstest(coordinate, "norm").pvalue > 1e-4
        error = np.abs(np.corrcoef(whitened)[np.triu_indices(3, 1)])
        assert error.max() < 4.5 / np.sqrt(4000)


# --- the hyper-parameters' law ---


@pytest.mark.parametrize("n_rows", [0, 6])
def test_normal_wishart_draws_are_those_of_equation_14(n_rows) -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(n_rows, 2, generator=generator, dtype=DTYPE) + torch.tensor([1.0, -2.0], dtype=DTYPE)
    hyper_prior = NormalWishart(2.0, 5.0)
    drawn = [hyper_prior.draw(rows, generator) for _ in range(4000)]
    x = rows.numpy()
    mean = x.mean(axis=0) if n_rows else np.zeros(2)
    scatter = (x - mean).T @ (x - mean)
    # As in the paper, not as in the code.
    inverse_scale = 5.0 * np.eye(2) + scatter + 2.0 * n_rows / (2.0 + n_rows) * np.outer(mean, mean)
    law = stats.wishart(5.0 + n_rows, np.linalg.inv(inverse_scale))
    precisions = np.stack([prior.precision.numpy() for prior in drawn])
    fresh = law.rvs(4000, random_state=3)
    for function in (lambda p: p[:, 0, 0], lambda p: p[:, 1, 1], lambda p: p[:, 0, 1], np.linalg.det):
        assert stats.ks_2samp(function(precisions), function(fresh)).pvalue > 1e-4
    centre = n_rows * mean / (2.0 + n_rows)
    whitened = np.stack(
        [
            np.linalg.cholesky(prior.precision.numpy() * (2.0 + n_rows)).T @ (prior.mean.numpy() - centre)
            for prior in drawn
        ]
    )
    for coordinate in whitened.T:
        assert stats.kstest(coordinate, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(whitened.T)[0, 1]) < 4.5 / np.sqrt(4000)


# --- Geweke 2004 ---

N_USERS, N_ITEMS, RANK = 4, 3, 2
HYPER_PRIOR = NormalWishart(3.0, 8.0)


def gibbs_of(unobserved_weight: float) -> BlockedGibbs:
    """All pairs observed, so that all targets can be simulated; the values differ."""
    values = 1.0 + 0.5 * (np.arange(N_USERS * N_ITEMS) % 3).reshape(N_USERS, N_ITEMS)
    matrix = csr_array(values)
    return BlockedGibbs(
        matrix,
        np.zeros(matrix.nnz),
        unobserved_weight,
        HYPER_PRIOR,
        noise_shape=5.0,
        noise_rate=4.0,
        dtype=DTYPE,
    )


def from_the_prior(generator: torch.Generator) -> State:
    sides = []
    for n_rows in (N_USERS, N_ITEMS):
        prior = HYPER_PRIOR.draw(torch.zeros(0, RANK, dtype=DTYPE), generator)
        noise = torch.randn(n_rows, RANK, generator=generator, dtype=DTYPE)
        root = torch.linalg.cholesky(prior.precision)
        sides.append((prior.mean + torch.linalg.solve_triangular(root.mT, noise.mT, upper=True).mT, prior))
    (users, user_prior), (items, item_prior) = sides
    gamma = torch._standard_gamma(torch.tensor(5.0, dtype=DTYPE), generator=generator)
    return State(users, items, user_prior, item_prior, float(gamma) / 4.0)


def simulate(gibbs: BlockedGibbs, state: State, generator: torch.Generator) -> None:
    confidence = state.noise_precision * (gibbs.unobserved_weight + gibbs.by_user.values)
    noise = torch.randn(N_USERS * N_ITEMS, generator=generator, dtype=DTYPE)
    gibbs.set_targets((state.users @ state.items.mT).flatten() + noise / confidence.sqrt())


def functions(gibbs: BlockedGibbs, state: State) -> torch.Tensor:
    """Bounded or of light tails: moments of the factors themselves are too wild to compare."""
    parts = []
    for factors, prior in ((state.users, state.user_prior), (state.items, state.item_prior)):
        parts += [factors[0].tanh(), factors.square().mean().tanh(), prior.mean.tanh()]
        parts += [
            prior.precision.diagonal().log(),
            (factors[0] * factors[1]).tanh(),
            prior.precision[0, 1].tanh(),
        ]
    precision = torch.tensor(state.noise_precision, dtype=DTYPE)
    fit = (gibbs.targets * (state.users @ state.items.mT).flatten()).tanh().mean()
    parts += [precision.log(), fit, gibbs.targets.square().mean().tanh()]
    return torch.cat([part.reshape(-1) for part in parts])


def geweke(unobserved_weight: float, n_chains: int = 8, n_sweeps: int = 150) -> float:
    """The largest score of a difference between turns of sweep and simulation, and draws from the prior."""
    generator = torch.Generator().manual_seed(4)
    gibbs = gibbs_of(unobserved_weight)
    turned, direct = [], []
    for _ in range(n_chains):
        state = from_the_prior(generator)
        simulate(gibbs, state, generator)
        chain = []
        for _ in range(n_sweeps):
            state = gibbs.sweep(state, generator)
            simulate(gibbs, state, generator)
            chain.append(functions(gibbs, state))
        turned.append(torch.stack(chain))
    for _ in range(n_chains * n_sweeps):
        state = from_the_prior(generator)
        simulate(gibbs, state, generator)
        direct.append(functions(gibbs, state))
    draws, fresh = torch.stack(turned, dim=1), torch.stack(direct)
    error = (mcse_mean(draws).square() + fresh.var(dim=0) / len(fresh)).sqrt()
    return float(((draws.mean(dim=(0, 1)) - fresh.mean(dim=0)) / error).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("unobserved_weight", [0.0, 0.4])
def test_joint_distribution(unobserved_weight) -> None:
    assert geweke(unobserved_weight) < 4.5


@pytest.mark.slow
def test_joint_distribution_finds_hyper_parameters_that_forget_the_rows(monkeypatch) -> None:
    right = NormalWishart.draw
    monkeypatch.setattr(NormalWishart, "draw", lambda self, rows, generator: right(self, rows[:0], generator))
    assert geweke(0.4) > 6.0


@pytest.mark.slow
def test_joint_distribution_finds_draws_that_are_too_narrow(monkeypatch) -> None:
    right = Conditional.at
    monkeypatch.setattr(Conditional, "at", lambda self, noise: right(self, 0.5 * noise))
    assert geweke(0.4) > 6.0


# --- the fit ---


def test_squared_error_is_over_all_pairs() -> None:
    matrix = weighted_histories()
    gibbs = BlockedGibbs(matrix, np.ones(matrix.nnz), 0.3, HYPER_PRIOR, dtype=DTYPE)
    state = gibbs.start(3, torch.Generator().manual_seed(0))
    r = matrix.toarray().astype(np.float64)
    dense = ((0.3 + r) * ((r > 0) - (state.users @ state.items.mT).numpy()) ** 2).sum()
    assert gibbs.squared_error(state) == pytest.approx(dense, rel=1e-12)


def test_noise_precision_is_drawn_from_the_gamma_law_of_all_pairs() -> None:
    # Most pairs are not observed, yet each of the 108 counts: 33 have a value.
    matrix = weighted_histories()
    gibbs = BlockedGibbs(
        matrix, np.ones(matrix.nnz), 0.3, HYPER_PRIOR, noise_shape=2.0, noise_rate=3.0, dtype=DTYPE
    )
    generator = torch.Generator().manual_seed(0)
    state = gibbs.start(3, generator)
    r = matrix.toarray().astype(np.float64)
    squared_error = ((0.3 + r) * ((r > 0) - (state.users @ state.items.mT).numpy()) ** 2).sum()
    law = stats.gamma(2.0 + r.size / 2, scale=1 / (3.0 + squared_error / 2))
    draws = [gibbs.draw_noise_precision(state, generator) for _ in range(4000)]
    assert abs(np.mean(draws) - law.mean()) < 4.0 * law.std() / np.sqrt(4000)
    assert stats.kstest(draws, law.cdf).pvalue > 1e-4


def test_draws_do_not_depend_on_the_blocks(monkeypatch) -> None:
    matrix = weighted_histories()
    one = BPMF(9, 3, n_burn_in=2, n_draws=2).double().fit(matrix).item_draws
    monkeypatch.setattr("recsys_vae.models.weighted_factorisation._BLOCK_ENTRIES", 12)
    again = BPMF(9, 3, n_burn_in=2, n_draws=2).double().fit(matrix).item_draws
    torch.testing.assert_close(one, again)
    assert not torch.equal(one, BPMF(9, 3, n_burn_in=2, n_draws=2, seed=1).double().fit(matrix).item_draws)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        *(({name: 0.0}, name) for name in ("unobserved_weight", "prior_strength")),
        *(({name: 0}, name) for name in ("latent_dim", "n_burn_in", "n_draws", "n_thin")),
        ({"latent_dim": 6}, "latent_dim: expected at most the number of items, 5, came 6"),
    ],
)
def test_settings_out_of_range(settings, named) -> None:
    with pytest.raises(UserError, match=rf"model\.{named}"):
        BPMF(5, **{"latent_dim": 2, **settings})


def test_a_rank_above_the_number_of_users() -> None:
    with pytest.raises(UserError, match="at most the number of training users, 3, came 4"):
        BPMF(9, 4).fit(weighted_histories(3, 9))


# --- ratings ---


def made_up_ratings(seed: int = 0):
    """Of a model of rank 2: pairs, each once, and their ratings with noise of deviation 0.5."""
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((80, 50)) < 0.5)
    x, y = rng.normal(size=(80, 2)), rng.normal(size=(50, 2))
    ratings = 3.0 + (x[users] * y[items]).sum(axis=1) + rng.normal(0, 0.5, len(users))
    return users, items, ratings, rng.random(len(users)) < 0.2


def test_held_out_ratings_are_predicted_to_the_noise_and_intervals_cover_them() -> None:
    users, items, ratings, held_out = made_up_ratings()
    kept = ~held_out
    model = RatingFactorisation(latent_dim=2, n_burn_in=20, n_draws=80)
    found = model.predict(users[kept], items[kept], ratings[kept], users[held_out], items[held_out])
    n = int(held_out.sum())
    assert found.root_mean_square_error(ratings[held_out]) < 0.5 * 1.2
    for level in (0.5, 0.9):
        share = found.coverage(ratings[held_out], level)
        assert abs(share - level) < 4.0 * np.sqrt(level * (1 - level) / n) + 0.01
    inside = np.abs(ratings[held_out] - found.mean) < 1.645 * found.standard_deviation
    assert abs(inside.mean() - 0.9) < 4.0 * np.sqrt(0.09 / n) + 0.01
    assert 1 / np.sqrt(found.noise_precision[-1]) == pytest.approx(0.5, rel=0.15)


def test_moments_of_the_predictive() -> None:
    found = RatingPredictive(np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([4.0, 1.0]))
    np.testing.assert_allclose(found.mean, [2.0, 2.0])
    np.testing.assert_allclose(found.standard_deviation**2, [1.0 + 0.625, 0.625])
    assert found.root_mean_square_error(np.array([2.0, 5.0])) == pytest.approx(np.sqrt(4.5))


def test_bad_ratings() -> None:
    users, items, ratings, _ = made_up_ratings()
    model = RatingFactorisation(latent_dim=2)
    wrong = [
        (users, items, None, "expected a rating of each pair, came none"),
        (users, items, np.full(len(users), np.nan), "expected finite numbers"),
        (np.zeros_like(users), np.zeros_like(items), ratings, "each pair once"),
    ]
    for one, other, values, said in wrong[:2]:
        with pytest.raises(UserError, match=said):
            model.predict(one, other, values, users, items)
    with pytest.raises(UserError, match=wrong[2][3]):
        model.predict(*wrong[2][:3], users, items)
    with pytest.raises(UserError, match=f"^users: expected {len(ratings)} whole numbers from 0"):
        model.predict(-users, items, ratings, users, items)
    with pytest.raises(
        UserError, match=r"^query_items: expected 3 whole numbers from 0, came int64 .* from -1"
    ):
        model.predict(users, items, ratings, users[:3], np.array([0, -1, 2]))
    for wrong_codes in (np.ones(3), np.ones(2, dtype=int)):  # where jaxtyping does not look
        with pytest.raises(UserError, match=r"^items: expected 3 whole numbers from 0"):
            rating_prediction._check_codes("items", wrong_codes, 3)
    with pytest.raises(UserError, match="at most the number of items, 50, came 51"):
        RatingFactorisation(51).predict(users, items, ratings, users, items)
    with pytest.raises(UserError, match="n_draws"):
        RatingFactorisation(n_draws=0)
