"""Tweedie's formula against the conjugate posterior and against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_vae.errors import UserError
from recsys_vae.estimation import tweedie_covariance, tweedie_mean, tweedie_variance

NOISE = np.array([[0.5, 0.2, 0.0], [0.2, 0.8, -0.1], [0.0, -0.1, 0.3]])
PRIOR = np.array([[2.0, -0.4, 0.3], [-0.4, 1.0, 0.2], [0.3, 0.2, 1.5]])
CENTRE = np.array([1.0, -2.0, 0.5])


@pytest.mark.parametrize("noise", [0.7, np.array([0.5, 0.8, 0.3]), NOISE], ids=["scalar", "diagonal", "full"])
def test_a_gaussian_prior_gives_the_gaussian_posterior(noise) -> None:
    full = noise if np.ndim(noise) == 2 else np.diag(np.broadcast_to(noise, 3))
    x = np.random.default_rng(0).normal(size=(4, 2, 3))
    marginal_precision = np.linalg.inv(full + PRIOR)
    score = -(x - CENTRE) @ marginal_precision
    precision = np.linalg.inv(full) + np.linalg.inv(PRIOR)
    expected = np.linalg.solve(
        precision, (x @ np.linalg.inv(full) + CENTRE @ np.linalg.inv(PRIOR))[..., None]
    )
    np.testing.assert_allclose(
        tweedie_mean(x, score, noise).numpy(), expected[..., 0], rtol=1e-11, atol=1e-12
    )
    covariance = tweedie_covariance(np.broadcast_to(-marginal_precision, (4, 2, 3, 3)), noise)
    np.testing.assert_allclose(covariance.numpy()[3, 1], np.linalg.inv(precision), rtol=1e-11, atol=1e-12)


def test_one_number() -> None:
    # Prior N(0, 3), noise 1: the posterior mean is 3/4 of x, the variance 3/4.
    assert float(tweedie_mean(2.0, -2.0 / 4.0, 1.0)) == pytest.approx(1.5)
    assert float(tweedie_variance(-1.0 / 4.0, 1.0)) == pytest.approx(0.75)
    assert tweedie_mean([[1.0], [2.0]], [[0.0], [0.5]], [2.0]).tolist() == [[1.0], [3.0]]


def test_precision_and_gradients_are_kept() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    mean = tweedie_mean(x, -x / 2.0, 0.5)
    assert mean.dtype == torch.float32
    mean.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((5, 3), 0.75))


@pytest.mark.parametrize(
    ("x", "score", "covariance", "message"),
    [
        ([1.0, 2.0], [1.0], 1.0, "score: expected the shape of x"),
        ([1.0, 2.0], [1.0, 1.0], 0.0, "above 0"),
        ([1.0, 2.0], [1.0, 1.0], [1.0, -1.0], "above 0"),
        ([1.0, 2.0], [1.0, 1.0], [1.0, 1.0, 1.0], "2 variances"),
        ([1.0, 2.0], [1.0, 1.0], [[1.0, 2.0], [2.0, 1.0]], "positive definite"),
        ([1.0, 2.0], [1.0, 1.0], [[1.0, 0.5], [0.0, 1.0]], "symmetric"),
        ([1.0, 2.0], [1.0, 1.0], np.eye(3), "2 by 2"),
        (1.0, 1.0, [[1.0]], "at least one axis"),
    ],
)
def test_mistakes_are_named(x, score, covariance, message) -> None:
    with pytest.raises(UserError, match=message):
        tweedie_mean(x, score, covariance)
