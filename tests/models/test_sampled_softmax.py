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
    rows = rows.with_values(0.5 + 4.5 * torch.rand(rows.values.shape, generator=generator))
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
    normaliser = (few.exp() / included[items]).sum(dim=-1, keepdim=True)
    expected = (counts[:, items] / included[items] * (few - normaliser.log())).sum(dim=-1)
    torch.testing.assert_close(value.double(), expected, atol=1e-4, rtol=1e-5)
    for gradient, by_autograd in zip(
        gradients, torch.autograd.grad(expected @ per_user.double(), inputs), strict=True
    ):
        torch.testing.assert_close(gradient, by_autograd, atol=1e-4, rtol=1e-4)


def test_the_bias_is_that_of_the_logarithm() -> None:
    """``N (Var(r) / 2 - Cov(m, r))``, and neither of the sums that are estimated has any."""
    inputs, rows, _ = PROBLEM
    inputs = [0.3 * tensor.detach() for tensor in inputs]
    hidden, weight, bias = (tensor.double() for tensor in inputs)
    logits, counts = (hidden @ weight.t() + bias)[1:], rows.dense().double()[1:]  # the first history is empty
    log_probabilities, lengths = logits.log_softmax(dim=-1), counts.sum(dim=-1)
    included = item_inclusion(rows, 0.7)
    draws = []
    for seed in range(1000):
        value = sampled_log_likelihood(*inputs, rows, 0.7, torch.Generator().manual_seed(seed))[1:].double()
        items = systematic_sample(included, torch.Generator().manual_seed(seed))
        weights = 1.0 / included[items].double()
        observed = (counts * log_probabilities)[:, items] @ weights
        draws.append(
            torch.stack(
                [
                    value,
                    observed,
                    log_probabilities.exp()[:, items] @ weights,
                    counts[:, items] @ weights / lengths,
                ]
            )
        )
    values, observed, ratio, share = torch.stack(draws).unbind(dim=1)

    def error(samples: torch.Tensor) -> torch.Tensor:
        return samples.std(dim=0) / len(samples) ** 0.5

    exact = (counts * log_probabilities).sum(dim=-1)
    for samples, expected in ((observed, exact), (ratio, torch.ones(14)), (share, torch.ones(14))):
        assert ((samples.mean(dim=0) - expected).abs() <= 4.5 * error(samples)).all()
    # The value is the observed part less N m log r; so what is left of its mean are the two terms of the second order.
    torch.testing.assert_close(values, observed - lengths * share * ratio.log(), atol=1e-4, rtol=1e-5)
    covariance = lengths * (share - 1.0) * (ratio - 1.0)
    curvature = values - observed + lengths * (ratio - 1.0) + covariance
    half_variance = lengths * ratio.var(dim=0) / 2.0
    assert (
        (curvature.mean(dim=0) - half_variance).abs() <= 4.5 * error(curvature) + 0.1 * half_variance
    ).all()
    # Both terms are many error bars away from none, or the lines above would show nothing.
    assert (half_variance / error(curvature)).min() > 10.0
    assert (covariance.mean(dim=0).abs() / error(covariance)).max() > 4.5


def test_a_constant_added_to_the_logits_of_all_items_changes_nothing() -> None:
    (hidden, weight, bias), rows, _ = PROBLEM
    values = [
        sampled_log_likelihood(
            hidden.detach(),
            weight.detach(),
            bias.detach() + shift,
            rows,
            0.3,
            torch.Generator().manual_seed(0),
        )
        for shift in (0.0, 20.0)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-4)


def test_items_are_included_by_the_root_of_their_occurrences() -> None:
    rows = PROBLEM[1]
    occurrences = (rows.dense() > 0).sum(dim=0)
    included = item_inclusion(rows, 0.3)
    assert float(included.sum()) == pytest.approx(12.0, rel=1e-5)
    assert (included < 1.0).all()
    root = (occurrences + 0.1).sqrt()
    torch.testing.assert_close(included / included.sum(), root / root.sum())
    assert float(item_inclusion(rows, 1e-9).sum()) == pytest.approx(1.0, rel=1e-5)


def test_one_item_is_enough() -> None:
    generator = torch.Generator().manual_seed(0)
    (hidden, weight, bias), rows, _ = PROBLEM
    for _ in range(20):
        assert sampled_log_likelihood(hidden, weight, bias, rows, 1e-9, generator).isfinite().all()


def test_a_sum_that_rounding_leaves_below_one_is_no_empty_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **_: torch.zeros((), dtype=dtype))
    assert systematic_sample(torch.full((10,), 0.0999999), None).tolist() == [9]


def test_autocast_changes_nothing() -> None:
    inputs, rows, per_user = PROBLEM
    value, gradients = _sampled(0.4, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        low = sampled_log_likelihood(*inputs, rows, 0.4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(low.detach(), value)
    for gradient, expected in zip(torch.autograd.grad(low @ per_user, inputs), gradients, strict=True):
        torch.testing.assert_close(gradient, expected)


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
