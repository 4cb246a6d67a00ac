"""Gaussians against SciPy, and the law of their draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from recsys_vae.samplers import DiagonalGaussian, FullGaussian

GENERATOR_SEED = 11


def some_gaussians() -> dict[str, DiagonalGaussian | FullGaussian]:
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    mean = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    spread = torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.3
    tril = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64).tril()
    tril.diagonal(dim1=-2, dim2=-1).abs_().add_(0.3)
    return {"diagonal": DiagonalGaussian(mean, spread), "full": FullGaussian(mean, tril)}


def covariance(law: DiagonalGaussian | FullGaussian) -> torch.Tensor:
    if isinstance(law, DiagonalGaussian):
        return torch.diag_embed(law.standard_deviation.square())
    return law.scale_tril @ law.scale_tril.mT


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_log_density_like_scipy(kind) -> None:
    law = some_gaussians()[kind]
    position = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = law.log_density(position)
    assert got.shape == (5, 4)
    for user in range(4):
        reference = stats.multivariate_normal(law.mean[user].numpy(), covariance(law)[user].numpy())
        np.testing.assert_allclose(got[:, user], reference.logpdf(position[:, user].numpy()), rtol=1e-12)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_draws_have_the_law(kind) -> None:
    law = some_gaussians()[kind]
    n = 20_000
    draws = law.draw(n, torch.Generator().manual_seed(2))
    assert draws.shape == (n, 4, 3)
    root = torch.linalg.cholesky(covariance(law))
    white = torch.linalg.solve_triangular(root, (draws - law.mean).unsqueeze(-1), upper=False).squeeze(-1)
    assert white.mean(dim=0).abs().max() < 4.5 / n**0.5
    second = torch.einsum("nui,nuj->uij", white, white) / n
    identity = torch.eye(3, dtype=torch.float64)
    assert ((second - identity).abs() < 4.5 * ((1.0 + identity) / n).sqrt()).all()
    for user in range(4):
        for coordinate in range(3):
            assert stats.kstest(white[:, user, coordinate].numpy(), "norm").pvalue > 1e-5


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_the_seed_decides_the_draws(kind) -> None:
    law = some_gaussians()[kind]
    first, again, other = (law.draw(7, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert law.draw(0, None).shape == (0, 4, 3)
