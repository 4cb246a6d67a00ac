"""Products are rounded where and while they say, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import rounded_products
import torch
from made_up_histories import checkerboard
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.stages import build
from recsys_vae.interactions.datamodule import HistoryDataModule


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


class Products(TorchDispatchMode):
    """Notes each product of dense float32 matrices by the precision meanwhile, and which factors were not rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()
        self.unrounded: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, precision = str(func), torch.get_float32_matmul_precision()
        if re.search("mm|mv|dot|linear|matmul|einsum|conv", name) and "sparse" not in name:
            dense = [a for a in args if isinstance(a, torch.Tensor) and a.layout == torch.strided]
            factors = dense[1:3] if "add" in name else dense[:2]
            if len(factors) == 2 and factors[0].dtype == torch.float32:
                self.seen.add((precision, name))
                if any(not torch.equal(factor, factor.bfloat16().float()) for factor in factors):
                    self.unrounded.add((precision, name))
        return func(*args, **(kwargs or {}))


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*", "ignore:.*GPU available but not used.*")
@pytest.mark.parametrize(
    "overrides",
    [
        ["model=mult_vae"],
        ["model=mult_vae", "trainer.objective.item_share=0.5"],
        ["model=mult_dae"],
        ["model=rec_vae"],
        ["model=diff_rec"],
    ],
    ids=" ".join,
)
def test_no_product_of_training_is_left_out_and_validation_is(overrides):
    sizes = ["model.hidden_dims=[6]"] + ["model.latent_dim=3"] * ("model=diff_rec" not in overrides)
    epochs = ["trainer.max_epochs=1", "trainer.progress_bar=false", "trainer.tensorboard=false"]
    config = compose_config("train", [*overrides, *sizes, *epochs, "trainer.accelerator=cpu"])
    matrix = checkerboard()
    model = build(config.model, n_items=matrix.shape[1])
    products = Products()
    with products, rounded_products.RoundedProducts():
        build(config.trainer).fit(
            model,
            HistoryDataModule(matrix, 10, seed=1),
            lambda candidate: {"ndcg@100": float(candidate.score(matrix).mean())},
            seed=1,
        )
    assert {precision for precision, _ in products.seen} == {"medium", "highest"}
    assert {precision for precision, _ in products.unrounded} == {"highest"}
