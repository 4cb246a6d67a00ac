"""Diagnostics against ArviZ, number by number."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from recsys_vae.errors import UserError
from recsys_vae.samplers import diagnostics

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    arviz = pytest.importorskip("arviz")

PAIRS = {
    "r_hat": lambda draws: arviz.rhat(draws, method="rank"),
    "ess_bulk": lambda draws: arviz.ess(draws, method="bulk"),
    "ess_tail": lambda draws: arviz.ess(draws, method="tail"),
    "ess_mean": lambda draws: arviz.ess(draws, method="mean"),
    "mcse_mean": lambda draws: arviz.mcse(draws, method="mean"),
}


def autoregressive(
    rho: float, n_draws: int, n_chains: int, n_quantities: int = 3, seed: int = 1
) -> torch.Tensor:
    noise = torch.randn(
        n_draws, n_chains, n_quantities, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    for step in range(1, n_draws):
        noise[step] = rho * noise[step - 1] + (1.0 - rho**2) ** 0.5 * noise[step]
    return noise


def assert_like_arviz(draws: torch.Tensor) -> None:
    for name, reference in PAIRS.items():
        if name == "r_hat" and draws.shape[1] == 1:
            continue  # ArviZ wants two chains, where the halves of one would do
        ours = getattr(diagnostics, name)(draws).numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = [np.asarray(reference(draws[:, :, i].numpy().T)).item() for i in range(draws.shape[2])]
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.95])
@pytest.mark.parametrize(("n_draws", "n_chains"), [(200, 4), (201, 3), (100, 1), (37, 2)])
def test_like_arviz_on_autoregressive_chains(rho, n_draws, n_chains) -> None:
    assert_like_arviz(autoregressive(rho, n_draws, n_chains))


@pytest.mark.parametrize("n_draws", [4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.95])
def test_like_arviz_on_few_draws(n_draws, rho) -> None:
    assert_like_arviz(autoregressive(rho, n_draws, 4, n_quantities=6, seed=n_draws))


@pytest.mark.parametrize("rho", [0.0, 0.95])
def test_like_arviz_with_ties(rho) -> None:
    assert_like_arviz(autoregressive(rho, 101, 4).mul(1.5).round())


def test_like_arviz_when_chains_disagree() -> None:
    draws = autoregressive(0.3, 100, 4)
    shifted = draws + torch.arange(4.0, dtype=torch.float64)[:, None]
    wider = draws * (1.0 + torch.arange(4.0, dtype=torch.float64)[:, None])
    assert_like_arviz(shifted)
    assert_like_arviz(wider)
    assert (diagnostics.r_hat(shifted) > 1.5).all()
    # The folded half sees what the means of the chains do not.
    assert (diagnostics.r_hat(wider) > 1.1).all()


def test_the_trailing_axes_are_kept_and_blocks_change_nothing(monkeypatch) -> None:
    draws = autoregressive(0.5, 50, 2, n_quantities=12).reshape(50, 2, 3, 4)
    whole = {name: getattr(diagnostics, name)(draws) for name in PAIRS}
    monkeypatch.setattr(diagnostics, "_BLOCK", 500)
    for name, value in whole.items():
        assert value.shape == (3, 4)
        torch.testing.assert_close(getattr(diagnostics, name)(draws), value, rtol=1e-13, atol=0.0)


def test_nan_stays_with_its_own_quantity() -> None:
    draws = autoregressive(0.5, 60, 4)
    clean = {name: getattr(diagnostics, name)(draws) for name in PAIRS}
    for bad in (torch.nan, torch.inf):
        spoiled = draws.clone()
        spoiled[17, 2, 1] = bad
        for name, value in clean.items():
            got = getattr(diagnostics, name)(spoiled)
            assert got[1].isnan(), (name, bad)
            assert torch.equal(got[[0, 2]], value[[0, 2]])


def test_a_constant_quantity() -> None:
    draws = torch.full((20, 4, 2), 3.0, dtype=torch.float64)
    assert diagnostics.r_hat(draws).isnan().all()
    assert (diagnostics.ess_mean(draws) == 80.0).all()
    assert (diagnostics.ess_bulk(draws) == 80.0).all()
    assert (diagnostics.mcse_mean(draws) == 0.0).all()


def test_float32_draws_are_judged_in_float64() -> None:
    draws = autoregressive(0.5, 100, 4)
    for name in PAIRS:
        assert getattr(diagnostics, name)(draws.float()).dtype == torch.float64


def test_bfmi_like_arviz() -> None:
    energy = autoregressive(0.9, 200, 4)[..., 0]
    np.testing.assert_allclose(diagnostics.bfmi(energy).numpy(), arviz.bfmi(energy.numpy().T), rtol=1e-12)


@pytest.mark.parametrize("name", list(PAIRS))
def test_too_few_draws_are_refused(name) -> None:
    with pytest.raises(UserError, match="n_draws: diagnostics expect at least 4 draws, came 3"):
        getattr(diagnostics, name)(torch.zeros(3, 4, 1))
