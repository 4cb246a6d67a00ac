from __future__ import annotations

import math
import warnings

import pytest
import torch

from recsys_vae.samplers.pareto_smoothing import pareto_smooth

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz

float64 = torch.float64


def heavy_tailed_weights() -> torch.Tensor:
    """From bounded to hopeless, of several lengths, with ties, zeros and great offsets."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(0.05, 12.0, 25, dtype=float64)
    weights = torch.randn(1000, 25, generator=generator, dtype=float64) * scales
    weights[:, 3] = (weights[:, 3] * 20).round() / 20
    weights[:700, 5] = -math.inf
    weights[:, 7] += 1e5
    weights[:, 9] = torch.rand(1000, generator=generator, dtype=float64).log()
    weights[:, 11] = -0.4 * torch.rand(1000, generator=generator, dtype=float64).log()
    weights[:-4, 13] = -1e4
    return weights


@pytest.mark.parametrize("n_draws", [22, 100, 101, 500, 1000])
def test_pareto_smoothing_agrees_with_arviz(n_draws) -> None:
    weights = heavy_tailed_weights()[-n_draws:]
    smoothed = pareto_smooth(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, k_hat = arviz.psislw(weights.T.numpy().copy())
    ours, theirs = smoothed.log_weights, torch.from_numpy(expected).T
    # which of two equal weights gets the larger quantile is open
    tied = (weights.sort(dim=0).values.diff(dim=0) == 0).any(dim=0)
    assert not tied[:3].any()
    ours, theirs = (torch.where(tied, value.sort(dim=0).values, value) for value in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(smoothed.k_hat, torch.from_numpy(k_hat), rtol=1e-9, atol=1e-9)


def test_pareto_shape_of_pareto_weights() -> None:
    # weights u^-k have a tail of shape k
    generator = torch.Generator().manual_seed(1)
    shape = torch.tensor([0.2, 0.5, 0.7, 1.0, 1.5], dtype=float64)
    uniform = torch.rand(10_000, 100, 1, generator=generator, dtype=float64)
    k_hat = pareto_smooth(-shape * uniform.log()).k_hat
    error = k_hat.std(dim=0) / math.sqrt(100)
    n_tail = 300
    expected = (n_tail * shape + 5) / (n_tail + 10)  # drawn towards 0.5
    assert ((k_hat.mean(dim=0) - expected).abs() < 4.5 * error).all()


def test_members_of_a_batch_do_not_disturb_each_other() -> None:
    weights = heavy_tailed_weights()
    together = pareto_smooth(weights.reshape(1000, 5, 5))
    for member in range(25):
        alone = pareto_smooth(weights[:, member])
        torch.testing.assert_close(together.log_weights.reshape(1000, 25)[:, member], alone.log_weights)
        torch.testing.assert_close(together.k_hat.flatten()[member], alone.k_hat)


def test_members_whose_tails_differ_in_length() -> None:
    # ties with the threshold, and weights that underflow, shorten a tail; each member has its own grid
    weights = torch.randn(400, 6, generator=torch.Generator().manual_seed(2), dtype=float64) * 2
    weights[:, 1] = weights[:, 1].round(decimals=1)
    weights[60:, 2] = -torch.inf
    weights[30:, 3] -= 1e4
    weights[6:, 4] = -torch.inf
    weights[4:, 5] = -torch.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = arviz.psislw(weights.T.numpy().copy())[1]
    torch.testing.assert_close(pareto_smooth(weights).k_hat, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
