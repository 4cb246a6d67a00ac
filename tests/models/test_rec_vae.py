"""RecVAE against the paper's code, written out in float64 NumPy, and its prior against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories
from scipy.stats import norm

from recsys_vae.errors import UserError
from recsys_vae.models import GaussianPosterior, RecVAE, SparseRows
from recsys_vae.models.composite_prior import CompositePrior
from recsys_vae.training import AlternatingELBO


def small(n_items: int, seed: int = 3) -> RecVAE:
    return RecVAE(n_items, latent_dim=4, hidden_dims=[8, 8, 8], seed=seed)


def train_a_little(model: RecVAE, matrix, n_epochs: int = 60) -> RecVAE:
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    objective, rows = AlternatingELBO(), SparseRows.from_csr(matrix)
    users, lengths = torch.arange(matrix.shape[0]), rows.row_sums(rows.values)
    model.train()
    objective.begin_training(model)
    for _ in range(n_epochs):
        for number in range(objective.n_passes):
            objective.begin_pass(model, number, matrix)
            terms = objective(model, rows, generator, users)
            optimiser.zero_grad()
            (0.01 * lengths * terms.kl - terms.log_likelihood).mean().backward()
            optimiser.step()
    return model.eval()


class TestRecVAE(ModelContract):
    starts_at_random = True

    def fresh(self, n_items):
        return small(n_items)

    def fitted(self, matrix):
        return train_a_little(self.fresh(matrix.shape[1]), matrix)


def layer_norm(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = values - values.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 0.1) * weight + bias


def swish(values: np.ndarray) -> np.ndarray:
    return values / (1.0 + np.exp(-values))


def test_forward_pass_equals_the_papers_code_in_float64() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model = RecVAE(20, latent_dim=5, hidden_dims=[7] * 5, seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # layer normalisation begins with weights of 1 and biases of 0, which tell nothing
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}

    def linear(name: str, values: np.ndarray) -> np.ndarray:
        return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm_of(number: int, values: np.ndarray) -> np.ndarray:
        name = f"encoder.norms.{number}"
        return layer_norm(swish(values), state[f"{name}.weight"], state[f"{name}.bias"])

    x = matrix.toarray().astype(np.float64)
    norms = np.sqrt((x**2).sum(axis=1, keepdims=True))
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    h1 = norm_of(0, x @ state["encoder.input.weight"] + state["encoder.input.bias"])
    h2 = norm_of(1, linear("encoder.layers.0", h1) + h1)
    h3 = norm_of(2, linear("encoder.layers.1", h2) + h1 + h2)
    h4 = norm_of(3, linear("encoder.layers.2", h3) + h1 + h2 + h3)
    h5 = norm_of(4, linear("encoder.layers.3", h4) + h1 + h2 + h3 + h4)
    mean, log_variance = np.split(linear("encoder.head", h5), 2, axis=1)
    posterior = model.posterior(matrix)
    np.testing.assert_allclose(posterior.mean.numpy(), mean, rtol=0, atol=2e-5)
    np.testing.assert_allclose(posterior.log_variance.numpy(), log_variance, rtol=0, atol=2e-5)
    np.testing.assert_allclose(model.score(matrix).numpy(), linear("output", mean), rtol=0, atol=5e-5)


def test_layers_have_the_papers_shapes_and_initial_scale() -> None:
    model = RecVAE(3000, seed=0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim == 2 and p.requires_grad}
    assert shapes == {
        "encoder.input.weight": (3000, 600),
        **{f"encoder.layers.{k}.weight": (600, 600) for k in range(4)},
        "encoder.head.weight": (400, 600),
        "output.weight": (3000, 200),
    }
    for name, parameter in model.named_parameters():
        if "norms" in name or not parameter.requires_grad:
            continue
        fan_in = 3000 if "encoder.input" in name else 200 if "output" in name else 600
        assert parameter.detach().abs().max() <= fan_in**-0.5
        assert float(parameter.detach().std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


def prior_of(*weights: float) -> CompositePrior:
    return CompositePrior(torch.nn.Linear(2, 2), weights)


def test_prior_equals_the_mixture_by_scipy_in_every_coordinate() -> None:
    generator = torch.Generator().manual_seed(0)
    latent, mean, log_variance = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    ours = prior_of(0.15, 0.75, 0.1).log_density(3.0 * latent, GaussianPosterior(mean, log_variance))
    z = 3.0 * latent.numpy()
    density = (
        0.15 * norm.pdf(z)
        + 0.75 * norm.pdf(z, mean.numpy(), np.exp(0.5 * log_variance.numpy()))
        + 0.1 * norm.pdf(z, 0.0, np.exp(5.0))
    )
    np.testing.assert_allclose(ours.numpy(), np.log(density).sum(axis=1), rtol=1e-12)


def test_prior_far_out_is_finite_and_so_is_its_gradient() -> None:
    latent = torch.tensor([[1e4, -300.0]], requires_grad=True)
    previous = GaussianPosterior(torch.zeros(1, 2), torch.full((1, 2), -20.0))
    value = prior_of(0.15, 0.75, 0.1).log_density(latent, previous)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(latent.grad).all()


def test_a_part_of_weight_zero_is_left_out() -> None:
    latent = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    previous = GaussianPosterior(torch.ones_like(latent), torch.zeros_like(latent))
    ours = prior_of(1.0, 0.0, 0.0).log_density(latent, previous)
    np.testing.assert_allclose(ours.numpy(), norm.logpdf(latent.numpy()).sum(axis=1))


def test_the_prior_keeps_the_encoder_of_before() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model, rows = small(20).eval(), SparseRows.from_csr(matrix)
    before = model.posterior(matrix)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(model.previous_posterior(rows), before)
    model.prior.remember(model.encoder)
    torch.testing.assert_close(model.previous_posterior(rows), model.posterior(matrix))
    assert not torch.allclose(model.previous_posterior(rows).mean, before.mean)
    assert all(not p.requires_grad for p in model.prior.parameters())


def test_same_seed_same_weights() -> None:
    first, second, other = (small(20, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_inner_products_of_retrieval_vectors_are_the_scores() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model = small(20)
    torch.testing.assert_close(model.user_vectors(matrix) @ model.item_vectors().T, model.score(matrix))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"hidden_dims": [4, 0]}, "hidden_dims"),
        ({"hidden_dims": [4, 5]}, "all equal"),
        ({"hidden_dims": []}, "hidden_dims"),
        ({"input_dropout": 1.0}, "input_dropout"),
        ({"prior_weights": [0.5, 0.5]}, "prior_weights"),
        ({"prior_weights": [0.5, 0.6, -0.1]}, "prior_weights"),
        ({"prior_weights": [0.5, 0.5, 0.5]}, "prior_weights"),
        ({"prior_weights": [float("nan"), 0.5, 0.5]}, "prior_weights"),
    ],
)
def test_settings_out_of_range(arguments, name) -> None:
    with pytest.raises(UserError, match=name):
        RecVAE(20, **arguments)
