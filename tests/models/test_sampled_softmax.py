"""The sampled softmax: exact at full share, below it the stated estimate with the stated bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_histories import random_histories
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.models.multinomial import multinomial_log_likelihood
from recsys_vae.models.sampled_softmax import (
    inclusion_probabilities,
    item_inclusion,
    sampled_log_likelihood,
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
    value = sampled_log_likelihood(*inputs, rows, share, generator)
    return value.detach(), torch.autograd.grad(value @ per_user, inputs)


def test_the_likelihood_of_all_items_is_exact() -> None:
    value, gradients = _sampled(1.0, torch.Generator().manual_seed(0))
    exact, exact_gradients = _exact()
    torch.testing.assert_close(value, exact, atol=1e-4, rtol=1e-5)
    for gradient, expected in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_value_and_gradient_are_those_of_the_formula(share: float) -> None:
    inputs, rows, per_user = PROBLEM
    hidden, weight, bias = inputs
    value, gradients = _sampled(share, torch.Generator().manual_seed(3))
    included = item_inclusion(rows, share)
    items = systematic_sample(included, torch.Generator().manual_seed(3))
    logits = hidden.double() @ weight.double().t() + bias.double()
    few, counts = logits[:, items], rows.dense().double()
    normaliser = (few.exp() / included[items]).sum(dim=-1)
    observed = (counts[:, items] * few / included[items]).sum(dim=-1)
    expected = observed - counts.sum(dim=-1) * normaliser.log()
    torch.testing.assert_close(value.double(), expected, atol=1e-4, rtol=1e-5)
    for gradient, by_autograd in zip(
        gradients, torch.autograd.grad(expected @ per_user.double(), inputs), strict=True
    ):
        torch.testing.assert_close(gradient, by_autograd, atol=1e-4, rtol=1e-4)


def test_the_bias_is_that_of_the_logarithm() -> None:
    """``E log Z' = log Z - Var(Z'/Z) / 2`` to the first order, and what is observed is without bias."""
    inputs, rows, _ = PROBLEM
    inputs = [0.3 * tensor.detach() for tensor in inputs]
    hidden, weight, bias = (tensor.double() for tensor in inputs)
    logits, counts = hidden @ weight.t() + bias, rows.dense().double()
    included = item_inclusion(rows, 0.3)
    values, observed, normalisers = [], [], []
    for seed in range(1000):
        values.append(
            sampled_log_likelihood(*inputs, rows, 0.3, torch.Generator().manual_seed(seed)).double()
        )
        items = systematic_sample(included, torch.Generator().manual_seed(seed))
        observed.append((counts * logits)[:, items] @ (1.0 / included[items].double()))
        normalisers.append(logits[:, items].exp() @ (1.0 / included[items].double()))

    def mean_and_error(draws: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        stacked = torch.stack(draws)[:, 1:]  # the first user's history is empty
        return stacked.mean(dim=0), stacked.std(dim=0) / len(draws) ** 0.5

    mean, error = mean_and_error(observed)
    assert ((mean - (counts * logits).sum(dim=-1)[1:]).abs() <= 4.5 * error).all()
    relative = [normaliser / logits.exp().sum(dim=-1) for normaliser in normalisers]
    mean, error = mean_and_error(relative)
    assert ((mean - 1.0).abs() <= 4.5 * error).all()
    first_order = counts.sum(dim=-1)[1:] * torch.stack(relative)[:, 1:].var(dim=0) / 2.0
    # Less what is observed and less the first order of the logarithm, which are noise around no bias.
    lengths, exact = counts.sum(dim=-1), logits.logsumexp(dim=-1)
    curvature = [
        value - seen + lengths * (exact + ratio - 1.0)
        for value, seen, ratio in zip(values, observed, relative, strict=True)
    ]
    mean, error = mean_and_error(curvature)
    assert ((mean - first_order).abs() <= 4.5 * error + 0.2 * first_order).all()
    assert (first_order / error).min() > 4.5  # or the line above would show nothing


def test_an_empty_history_has_likelihood_zero_and_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = SparseRows.from_csr(csr_array(np.array([[0, 0, 0, 0], [1, 0, 1, 0]], dtype=np.float32)))
    hidden = torch.randn(2, 3, generator=generator, requires_grad=True)
    value = sampled_log_likelihood(
        hidden,
        torch.randn(4, 3, generator=generator),
        torch.randn(4, generator=generator),
        rows,
        0.5,
        generator,
    )
    value.sum().backward()
    assert value[0] == 0.0
    assert hidden.grad is not None
    assert (hidden.grad[0] == 0.0).all()


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
    with pytest.raises(UserError, match="item_share"):
        MonteCarloELBO(item_share=share)
