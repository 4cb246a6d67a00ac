"""Mult-VAE and Mult-DAE against the paper, written out in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories

from recsys_vae.errors import UserError
from recsys_vae.models import MultDAE, MultVAE, SparseRows
from recsys_vae.training import MonteCarloELBO, PointLogLikelihood


def train_a_little(model, matrix, objective, steps=150, seed=0):
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows = SparseRows.from_csr(matrix)
    model.train()
    for _ in range(steps):
        terms = objective(model, rows, generator)
        loss = (0.1 * terms.kl - terms.log_likelihood).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


class TestMultVAE(ModelContract):
    starts_at_random = True

    def fresh(self, n_items):
        return MultVAE(n_items, latent_dim=4, hidden_dims=[8], seed=3)

    def fitted(self, matrix):
        return train_a_little(self.fresh(matrix.shape[1]), matrix, MonteCarloELBO())


class TestMultDAE(ModelContract):
    starts_at_random = True

    def fresh(self, n_items):
        return MultDAE(n_items, latent_dim=4, hidden_dims=[8], seed=3)

    def fitted(self, matrix):
        return train_a_little(self.fresh(matrix.shape[1]), matrix, PointLogLikelihood())

    def test_it_is_certain(self) -> None:
        posterior = self.fresh(30).posterior(random_histories())
        assert (posterior.standard_deviation == 0).all()


@pytest.mark.parametrize("hidden_dims", [(), (7,), (9, 7)])
@pytest.mark.parametrize("kind", [MultVAE, MultDAE])
def test_forward_pass_equals_numpy_in_float64(kind, hidden_dims) -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model = kind(20, latent_dim=5, hidden_dims=hidden_dims, seed=1).eval()
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    x = matrix.toarray().astype(np.float64)
    norms = np.sqrt((x**2).sum(axis=1, keepdims=True))
    hidden = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    hidden = hidden @ state["encoder_input.weight"] + state["encoder_input.bias"]
    for layer in range(len(hidden_dims)):
        weight, bias = state[f"encoder_layers.{layer}.weight"], state[f"encoder_layers.{layer}.bias"]
        hidden = np.tanh(hidden) @ weight.T + bias
    mean = hidden[:, :5]
    hidden = mean
    for layer in range(len(hidden_dims)):
        weight, bias = state[f"decoder_layers.{layer}.weight"], state[f"decoder_layers.{layer}.bias"]
        hidden = np.tanh(hidden @ weight.T + bias)
    logits = hidden @ state["output.weight"].T + state["output.bias"]
    np.testing.assert_allclose(model.posterior(matrix).mean.numpy(), mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.score(matrix).numpy(), logits, rtol=0, atol=1e-5)


def test_layers_have_the_papers_shapes_and_initial_scale() -> None:
    model = MultVAE(3000, seed=0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim == 2}
    assert shapes == {
        "encoder_input.weight": (3000, 600),
        "encoder_layers.0.weight": (400, 600),
        "decoder_layers.0.weight": (600, 200),
        "output.weight": (3000, 600),
    }
    for parameter in model.parameters():
        if parameter.ndim == 2:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.99 * bound < parameter.abs().max() <= bound
            assert abs(parameter.std() - bound / 3**0.5) < 0.02 * bound
        else:
            assert parameter.abs().max() <= 0.002
            assert parameter.std() > 0.0005


def test_same_seed_same_weights() -> None:
    first, second, other = (
        MultVAE(20, latent_dim=3, hidden_dims=[4], seed=s).state_dict() for s in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_permuting_items_permutes_scores() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model = MultVAE(20, latent_dim=5, hidden_dims=[7], seed=1)
    order = np.random.default_rng(0).permutation(20)
    shuffled = matrix[:, order].tocsr()
    shuffled.sort_indices()
    permuted = MultVAE(20, latent_dim=5, hidden_dims=[7], seed=1)
    with torch.no_grad():
        for name in ("encoder_input.weight", "output.weight", "output.bias"):
            permuted.get_parameter(name).copy_(model.get_parameter(name)[order.tolist()])
    torch.testing.assert_close(permuted.score(shuffled), model.score(matrix)[:, order.tolist()])


def test_inner_products_of_retrieval_vectors_are_the_scores() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model = MultVAE(20, latent_dim=5, hidden_dims=[7], seed=1)
    products = model.user_vectors(matrix) @ model.item_vectors().T
    torch.testing.assert_close(products, model.score(matrix))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"hidden_dims": [4, -1]}, "hidden_dims"),
        ({"input_dropout": 1.0}, "input_dropout"),
        ({"input_dropout": float("nan")}, "input_dropout"),
    ],
)
def test_settings_out_of_range(arguments, name) -> None:
    with pytest.raises(UserError, match=name):
        MultVAE(20, **arguments)


@pytest.mark.accelerator
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_scores_equal_cpu_scores() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model = MultVAE(20, latent_dim=5, hidden_dims=[7], seed=1)
    expected = model.score(matrix)
    torch.testing.assert_close(model.to("cuda").score(matrix).cpu(), expected, rtol=1e-4, atol=1e-5)
