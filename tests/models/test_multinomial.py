"""The likelihood and the hand-written gradient of the output layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from scipy.stats import multinomial

from recsys_vae.models.multinomial import MultinomialOutput, multinomial_log_likelihood
from recsys_vae.models.sparse_rows import SparseRows


@pytest.fixture
def weighted_rows() -> SparseRows:
    matrix = random_histories(n_users=9, n_items=25, seed=2)
    matrix.data = np.random.default_rng(0).integers(1, 5, len(matrix.data)).astype(np.float32)
    return SparseRows.from_csr(matrix)


def test_log_likelihood_is_scipys_without_the_coefficient(weighted_rows) -> None:
    logits = torch.randn(9, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = weighted_rows.dense().numpy().astype(int)
    probabilities = torch.softmax(logits, dim=-1).numpy()
    # scipy's coefficient, obtained by evaluating the same counts under uniform probabilities.
    uniform = np.full_like(probabilities, 1 / 25)
    coefficient = multinomial.logpmf(counts, counts.sum(1), uniform) - counts.sum(1) * np.log(1 / 25)
    expected = multinomial.logpmf(counts, counts.sum(1), probabilities) - coefficient
    ours = multinomial_log_likelihood(logits.float(), weighted_rows)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-4)
    assert ours[0] == 0.0


def test_output_layer_agrees_with_the_plain_likelihood_and_autograd(weighted_rows) -> None:
    generator = torch.Generator().manual_seed(1)
    layer = MultinomialOutput(6, 25)
    layer.reset_parameters(generator)
    hidden = torch.randn(9, 6, generator=generator, requires_grad=True)
    incoming = torch.rand(9, generator=generator)
    leaves = [hidden, layer.weight, layer.bias]
    value = layer.log_likelihood(hidden, weighted_rows)
    gradients = torch.autograd.grad(value, leaves, incoming)
    reference = multinomial_log_likelihood(layer(hidden), weighted_rows)
    expected = torch.autograd.grad(reference, leaves, incoming)
    torch.testing.assert_close(value, reference)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradient_by_finite_differences(weighted_rows) -> None:
    layer = MultinomialOutput(3, 25)
    layer.reset_parameters(torch.Generator().manual_seed(5))
    hidden = torch.randn(9, 3, generator=torch.Generator().manual_seed(6)).double().requires_grad_()
    layer.double()
    rows = weighted_rows.with_values(weighted_rows.values.double())

    def value(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.linear(h, w, b)
        observed = (rows.dense() * torch.log_softmax(logits, -1)).sum(-1)
        return observed.sum()

    step = 1e-5
    direction = torch.randn(25, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    with torch.no_grad():
        up = value(hidden, layer.weight + step * direction, layer.bias)
        down = value(hidden, layer.weight - step * direction, layer.bias)
    layer.float()
    total = layer.log_likelihood(hidden.detach().float(), weighted_rows).sum()
    (gradient,) = torch.autograd.grad(total, layer.weight)
    slope = (gradient.double() * direction).sum()
    assert abs(slope - (up - down) / (2 * step)) < 1e-3 * abs(slope)


def test_extreme_logits_do_not_overflow() -> None:
    rows = SparseRows.from_csr(random_histories(n_users=3, n_items=4, density=0.9, empty_row=False))
    layer = MultinomialOutput(1, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2e4], [-2e4], [0.0], [1.0]]))
        layer.bias.zero_()
    hidden = torch.ones(3, 1, requires_grad=True)
    value = layer.log_likelihood(hidden, rows)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(layer.weight.grad).all()
    torch.testing.assert_close(value, multinomial_log_likelihood(layer(hidden), rows))


def test_bfloat16_autocast_stays_close_to_float32() -> None:
    rows = SparseRows.from_csr(random_histories(n_users=30, n_items=200, seed=3))
    layer = MultinomialOutput(16, 200)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    hidden = torch.randn(30, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    exact = layer.log_likelihood(hidden, rows)
    exact_gradients = torch.autograd.grad(exact.sum(), [hidden, layer.weight, layer.bias])
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer.log_likelihood(hidden, rows)
    rough_gradients = torch.autograd.grad(rough.sum(), [hidden, layer.weight, layer.bias])
    assert rough.dtype == torch.float32
    assert ((rough - exact).abs() <= 0.02 * exact.abs()).all()
    for ours, theirs in zip(rough_gradients, exact_gradients, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
