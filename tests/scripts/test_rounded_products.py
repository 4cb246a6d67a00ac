"""Products are rounded where and while they say, and nowhere else."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

_spec = importlib.util.spec_from_file_location(
    "rounded_products", Path(__file__).parents[2] / "scripts" / "rounded_products.py"
)
assert _spec is not None
assert _spec.loader is not None
rounded_products = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rounded_products)


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def rounded(values: torch.Tensor) -> torch.Tensor:
    return values.detach().bfloat16().double()


def test_forward_and_backward_take_rounded_factors():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 40, generator=generator, requires_grad=True)
    weight = torch.randn(50, 40, generator=generator, requires_grad=True)
    bias, upstream = torch.randn(50, generator=generator), torch.randn(30, 50, generator=generator)
    torch.set_float32_matmul_precision("medium")
    with rounded_products.RoundedProducts():
        y = linear(x, weight, bias)
        y.backward(upstream)
        z = torch.baddbmm(bias, x.detach()[None], weight.detach().t()[None])[0]
    expected = rounded(x) @ rounded(weight).t() + bias.double()  # the bias is no factor
    assert (y.double() - expected).abs().max() < 1e-4
    assert (z.double() - expected).abs().max() < 1e-4
    assert (expected - (x.double() @ weight.double().t() + bias.double())).abs().max() > 1e-2
    assert x.grad is not None
    assert weight.grad is not None
    assert (x.grad.double() - rounded(upstream) @ rounded(weight)).abs().max() < 1e-4
    assert (weight.grad.double() - rounded(upstream).t() @ rounded(x)).abs().max() < 1e-4


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_other_precisions_are_left_alone(precision):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(30, 40, generator=generator), torch.randn(40, 20, generator=generator)
    torch.set_float32_matmul_precision(precision)
    with rounded_products.RoundedProducts():
        inside = a @ b
    assert torch.equal(inside, a @ b)


def test_float64_and_sparse_factors_are_left_alone():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(30, 40, generator=generator, dtype=torch.float64)
    b = torch.randn(40, 20, generator=generator)
    coo = a.float().to_sparse()
    torch.set_float32_matmul_precision("medium")
    with rounded_products.RoundedProducts():
        exact, sparse = a @ b.double(), coo @ b
    assert torch.equal(exact, a @ b.double())
    assert (sparse.double() - exact).abs().max() < 1e-4
