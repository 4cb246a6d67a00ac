"""From draws to scores, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_models import latent_points, ppca, random_vae
from scipy.special import log_softmax

from recsys_vae.posterior import InferredPosterior, predict


def inferred_from(draws: torch.Tensor, log_weights: torch.Tensor | None = None) -> InferredPosterior:
    weights = torch.full(draws.shape[:2], 1.0 / len(draws)) if log_weights is None else log_weights.exp()
    mean = (weights.unsqueeze(-1) * draws).sum(dim=0)
    return InferredPosterior(mean, torch.ones_like(mean), draws, log_weights)


def log_probabilities(draws: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return log_softmax(random_vae().decode(draws).double().numpy(), axis=-1)


def some_weights(n_draws: int, n_users: int) -> torch.Tensor:
    """Normalised, unequal, the first draw of the first user without any weight."""
    raw = 2.0 * latent_points(n_draws, n_users, seed=9, dtype=torch.float32)
    raw[0, 0] = -torch.inf
    return raw.log_softmax(dim=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_deviation", [False, True])
def test_the_average_is_numpys(weighted, with_deviation) -> None:
    draws = latent_points(20, 3, 4, dtype=torch.float32)
    log_weights = some_weights(20, 3) if weighted else None
    found = predict(random_vae(), inferred_from(draws, log_weights), with_deviation=with_deviation)
    each = log_probabilities(draws)
    weights = np.full((20, 3, 1), 1 / 20) if log_weights is None else log_weights.exp().numpy()[..., None]
    expected = np.log((weights * np.exp(each)).sum(axis=0))
    np.testing.assert_allclose(found.scores.numpy(), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.scores.exp().sum(dim=-1).numpy(), 1.0, rtol=1e-5)
    if not with_deviation:
        assert found.standard_deviation is None
        return
    mean = (weights * each).sum(axis=0)
    deviation = np.sqrt((weights * (each - mean) ** 2).sum(axis=0))
    np.testing.assert_allclose(found.standard_deviation.numpy(), deviation, rtol=1e-4, atol=1e-5)


def test_without_draws_the_mean_is_plugged_in() -> None:
    mean = latent_points(3, 4, dtype=torch.float32)
    found = predict(random_vae(), InferredPosterior(mean, torch.ones_like(mean)), with_deviation=True)
    np.testing.assert_allclose(found.scores.numpy(), log_probabilities(mean), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.scores.exp().sum(dim=-1).numpy(), 1.0, rtol=1e-5)
    assert found.standard_deviation is None


def test_the_average_of_equal_draws_is_plugging_in() -> None:
    mean = latent_points(3, 4, dtype=torch.float32)
    found = predict(random_vae(), inferred_from(mean.expand(7, 3, 4)), with_deviation=True)
    np.testing.assert_allclose(found.scores.numpy(), log_probabilities(mean), rtol=0, atol=1e-4)
    assert found.standard_deviation.max() < 1e-5


def test_averaging_is_not_plugging_in() -> None:
    """By Jensen's inequality no item's average probability is below the mean of its logarithm."""
    draws = latent_points(50, 3, 4, dtype=torch.float32)
    found = predict(random_vae(), inferred_from(draws))
    assert (found.scores.double().numpy() >= log_probabilities(draws).mean(axis=0)).all()


def test_long_chains_are_thinned_evenly_and_weighted_draws_are_not() -> None:
    draws = latent_points(41, 2, 4, dtype=torch.float32)
    found = predict(random_vae(), inferred_from(draws), max_draws=5)
    kept = predict(random_vae(), inferred_from(draws[[0, 10, 20, 30, 40]]))
    torch.testing.assert_close(found.scores, kept.scores)
    weighted = inferred_from(draws, some_weights(41, 2))
    few, all_draws = predict(random_vae(), weighted, max_draws=5), predict(random_vae(), weighted)
    assert torch.equal(few.scores, all_draws.scores)


def test_a_draw_that_holds_all_the_weight() -> None:
    draws = latent_points(4, 2, 4, dtype=torch.float32)
    log_weights = torch.full((4, 2), -torch.inf)
    log_weights[2] = 0.0
    found = predict(random_vae(), inferred_from(draws, log_weights), with_deviation=True)
    np.testing.assert_allclose(found.scores.numpy(), log_probabilities(draws[2]), rtol=0, atol=1e-4)
    assert (found.standard_deviation == 0).all()


@pytest.mark.parametrize("with_deviation", [False, True])
@pytest.mark.parametrize("max_draws", [7, 200])
def test_ppca_predicts_the_expected_value_of_x(with_deviation, max_draws) -> None:
    """A linear function of the taste: its average is that of the posterior's mean, whichever draws are looked at."""
    model, draws = ppca(), latent_points(30, 3, 20)
    found = predict(model, inferred_from(draws), with_deviation=with_deviation, max_draws=max_draws)
    decoded = (draws @ model.weight.mT + model.mean).numpy()
    np.testing.assert_allclose(found.scores.numpy(), decoded.mean(axis=0), rtol=1e-6, atol=1e-6)
    if with_deviation and max_draws == 200:
        np.testing.assert_allclose(found.standard_deviation.numpy(), decoded.std(axis=0), rtol=1e-6)
