"""The sampled gradient: exact in value, exact at full share, unbiased below it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_histories import random_histories

from recsys_vae.errors import UserError
from recsys_vae.models.multinomial import multinomial_log_likelihood
from recsys_vae.models.sampled_gradient import (
    inclusion_probabilities,
    sampled_gradient_log_likelihood,
    systematic_sample,
)
from recsys_vae.models.sparse_rows import SparseRows
from recsys_vae.training import MonteCarloELBO

N_ITEMS = 40


def _problem() -> tuple[list[torch.Tensor], SparseRows, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = SparseRows.from_csr(random_histories(n_users=15, n_items=N_ITEMS))
    hidden = torch.randn(15, 6, generator=generator)
    weight = torch.randn(N_ITEMS, 6, generator=generator)
    bias = torch.randn(N_ITEMS, generator=generator)
    per_user = torch.rand(15, generator=generator)
    return [tensor.requires_grad_() for tensor in (hidden, weight, bias)], rows, per_user


PROBLEM = _problem()


def _exact() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    inputs, rows, per_user = PROBLEM
    hidden, weight, bias = inputs
    value = multinomial_log_likelihood(hidden @ weight.t() + bias, rows)
    return value.detach(), torch.autograd.grad(value @ per_user, inputs)


def _sampled(share: float, generator: torch.Generator) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    inputs, rows, per_user = PROBLEM
    value = sampled_gradient_log_likelihood(*inputs, rows, share, generator)
    return value.detach(), torch.autograd.grad(value @ per_user, inputs)


@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_the_value_is_exact(share: float) -> None:
    value, _ = _sampled(share, torch.Generator().manual_seed(0))
    torch.testing.assert_close(value, _exact()[0], atol=1e-4, rtol=1e-5)


def test_the_gradient_of_all_items_is_exact() -> None:
    _, gradients = _sampled(1.0, torch.Generator().manual_seed(0))
    for gradient, exact in zip(gradients, _exact()[1], strict=True):
        torch.testing.assert_close(gradient, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_gradient_is_unbiased(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [_sampled(share, generator)[1] for _ in range(1500)]
    for index, exact in enumerate(_exact()[1]):
        samples = torch.stack([draw[index] for draw in draws]).double()
        error = samples.std(dim=0) / len(draws) ** 0.5
        z = (samples.mean(dim=0) - exact) / error.clamp_min(1e-6)
        assert z.abs().max() < 5.0
        # An error bar that is as wide as the gradient itself would let any estimator pass.
        assert error.square().mean().sqrt() < 0.1 * exact.double().square().mean().sqrt()


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 60), seed=st.integers(0, 999), share=st.floats(0.01, 1.0), power=st.floats(0, 5))
def test_inclusion_probabilities(n: int, seed: int, share: float, power: float) -> None:
    mass = torch.from_numpy(np.random.default_rng(seed).random(n).astype(np.float32) ** power)
    n_sampled = max(1, round(share * n))
    probabilities = inclusion_probabilities(mass, n_sampled)
    assert float(probabilities.sum()) == pytest.approx(n_sampled, rel=1e-3)
    uncertain = probabilities < 1.0
    assert (probabilities > 0).all()
    assert (probabilities <= 1.0).all()
    if uncertain.any():  # in proportion to mass, and no certain item is smaller than an uncertain one
        ratio = probabilities[uncertain] / mass[uncertain].clamp_min(torch.finfo(mass.dtype).tiny)
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0.0)
        if not uncertain.all():
            assert mass[~uncertain].min() >= mass[uncertain].max() * (1 - 1e-5)


def test_the_sample_includes_each_item_with_its_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = inclusion_probabilities(torch.rand(30, generator=generator) ** 3, 8)
    n_draws = 4000
    counts = torch.zeros(30)
    for _ in range(n_draws):
        items = systematic_sample(probabilities, generator)
        assert 7 <= len(items) <= 9
        counts[items] += 1
    error = (probabilities * (1 - probabilities) / n_draws).sqrt()
    assert ((counts / n_draws - probabilities).abs() <= 4.5 * error + 1e-6).all()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="gradient_share"):
        MonteCarloELBO(gradient_share=share)
