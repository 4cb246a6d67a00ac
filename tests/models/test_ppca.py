"""Probabilistic PCA against dense float64 linear algebra, and against the laws that its densities obey."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from contract import ModelContract
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_histories import random_histories
from scipy.sparse import csr_array, random_array
from scipy.stats import multivariate_normal

from recsys_vae.errors import UserError
from recsys_vae.models import PPCA, SparseRows, principal_components


class TestPPCA(ModelContract):
    def fresh(self, n_items):
        return PPCA(n_items, latent_dim=3)

    def fitted(self, matrix):
        return PPCA(matrix.shape[1], latent_dim=3).fit(matrix)


def made_up_model(n_items: int = 9, latent_dim: int = 3, seed: int = 0, noise: float = 0.3) -> PPCA:
    """In float64, with parameters that no fit would give: the columns of W are neither orthogonal nor sorted."""
    generator = torch.Generator().manual_seed(seed)
    model = PPCA(n_items, latent_dim).double()
    model.weight.copy_(torch.randn(n_items, latent_dim, generator=generator, dtype=torch.float64))
    model.mean.copy_(torch.randn(n_items, generator=generator, dtype=torch.float64))
    model.noise_variance.fill_(noise)
    return model


def rows_of(dense) -> SparseRows:
    return SparseRows.from_csr(csr_array(np.asarray(dense, dtype=np.float32)))


def histories_of(n_users: int = 7, n_items: int = 9, seed: int = 0) -> SparseRows:
    """Weighted histories; the first user has no items."""
    matrix = random_histories(n_users=n_users, n_items=n_items, density=0.4, seed=seed)
    matrix.data = np.random.default_rng(seed).uniform(0.5, 2.0, len(matrix.data)).astype(np.float32)
    return SparseRows.from_csr(matrix)


def as_numpy(model: PPCA) -> tuple[np.ndarray, np.ndarray, float]:
    return model.weight.numpy(), model.mean.numpy(), float(model.noise_variance)


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def log_prior(latent: torch.Tensor) -> torch.Tensor:
    return -0.5 * (latent.square().sum(-1) + latent.shape[-1] * math.log(2 * math.pi))


def exact(actual: torch.Tensor, expected) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=1e-8, atol=1e-8)


# --- the fit ---


@pytest.mark.parametrize("dense_limit", [2048, 0], ids=["gram", "lanczos"])
@pytest.mark.parametrize(("n_users", "n_items"), [(80, 15), (14, 40)], ids=["few items", "few users"])
def test_fit_is_the_eigendecomposition_of_the_covariance(n_users, n_items, dense_limit, monkeypatch) -> None:
    monkeypatch.setattr(principal_components, "_DENSE_LIMIT", dense_limit)
    matrix = random_histories(n_users, n_items, density=0.3)
    x = matrix.toarray().astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise_variance = values[4:].mean()
    expected = vectors[:, :4] * np.sqrt(values[:4] - noise_variance)
    expected *= np.sign(expected[np.abs(expected).argmax(axis=0), np.arange(4)])

    weight, mean, noise = as_numpy(PPCA(n_items, 4).double().fit(matrix))
    np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
    assert noise == pytest.approx(noise_variance, rel=1e-10)


def test_fit_maximises_the_evidence() -> None:
    matrix = random_histories(60, 10, density=0.4, seed=3)
    rows = SparseRows.from_csr(matrix)
    model = PPCA(10, 3).double().fit(matrix)
    best = float(model.log_evidence(rows).mean())

    parameters = {name: getattr(model, name).clone().requires_grad_() for name in model.state_dict()}
    for name, parameter in parameters.items():
        setattr(model, name, parameter)
    gradients = torch.autograd.grad(model.log_evidence(rows).mean(), list(parameters.values()))
    for gradient in gradients:
        assert gradient.abs().max() < 1e-11

    losses = {}
    with torch.no_grad():
        for size in (1e-3, 1e-2):
            found = []
            for seed in range(200):
                for index, (name, parameter) in enumerate(parameters.items()):
                    step = size * normals(*parameter.shape, seed=3 * seed + index)
                    setattr(model, name, parameter * (1.0 + step))
                found.append(best - float(model.log_evidence(rows).mean()))
            losses[size] = np.asarray(found)
    assert min(losses[1e-3].min(), losses[1e-2].min()) > 0.0
    # Of second order in the step, as at a maximum; the step's third order is a tenth of that at most.
    assert losses[1e-2].mean() / losses[1e-3].mean() == pytest.approx(100.0, rel=0.1)


def test_a_large_matrix_is_fitted_without_a_dense_one() -> None:
    n = 5000
    matrix = csr_array(random_array((n, n), density=2e-3, rng=np.random.default_rng(0), dtype=np.float32))
    model = PPCA(n, 2)
    tracemalloc.start()
    model.fit(matrix)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * n * n / 20  # bytes: a twentieth of a dense matrix


def test_order_of_users_does_not_matter() -> None:
    matrix = random_histories(40, 60, density=0.2)
    weight = PPCA(60, 5).double().fit(matrix).weight
    shuffled = matrix[np.random.default_rng(0).permutation(40)]
    torch.testing.assert_close(PPCA(60, 5).double().fit(shuffled).weight, weight, rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_permuting_items_permutes_scores(seed) -> None:
    matrix = random_histories(n_users=20, n_items=12, density=0.4, seed=seed)
    order = np.random.default_rng(seed).permutation(12)
    shuffled = csr_array(matrix.toarray()[:, order])
    scores = PPCA(12, 3).double().fit(matrix).score(matrix)
    again = PPCA(12, 3).double().fit(shuffled).score(shuffled)
    torch.testing.assert_close(again, scores[:, order.tolist()], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 6), (8, 12)])
def test_a_matrix_of_low_rank_leaves_the_noise_its_least_share(shape) -> None:
    # Two tastes make one direction; the second is unused, and the bound is what the noise keeps.
    n_users, n_items = shape
    dense = np.zeros(shape, dtype=np.float32)
    dense[: n_users // 2, :3] = 1.0
    dense[n_users // 2 :, 3:5] = 1.0
    model = PPCA(n_items, 2, min_noise_share=1e-4).double().fit(csr_array(dense))
    variance = 5 * 0.25
    assert float(model.noise_variance) == pytest.approx(1e-4 * variance / n_items)
    assert (model.weight[:, 1] == 0).all()
    np.testing.assert_allclose(model.score(csr_array(dense)).numpy(), dense, atol=1e-3)
    with pytest.raises(UserError, match=r"model\.min_noise_share above 0, came 2"):
        PPCA(n_items, 2, min_noise_share=0.0).fit(csr_array(dense))


# --- posterior and evidence ---


@pytest.mark.parametrize("latent_dim", [1, 3, 8])
def test_evidence_and_likelihood_are_those_of_scipy(latent_dim) -> None:
    model = made_up_model(latent_dim=latent_dim)
    rows = histories_of()
    weight, mean, noise = as_numpy(model)
    x = rows.dense().double().numpy()
    covariance = weight @ weight.T + noise * np.eye(9)
    exact(model.log_evidence(rows), multivariate_normal(mean, covariance).logpdf(x))
    latent = normals(7, latent_dim)
    expected = [
        multivariate_normal(weight @ z + mean, noise * np.eye(9)).logpdf(row)
        for z, row in zip(latent.numpy(), x, strict=True)
    ]
    exact(model.log_likelihood(latent, rows), np.asarray(expected))


def test_posterior_is_the_joint_gaussian_given_the_history() -> None:
    model = made_up_model()
    rows = histories_of()
    weight, mean, noise = as_numpy(model)
    # Conditioning in the space of the items: an inverse of another matrix than the code's.
    gain = weight.T @ np.linalg.inv(weight @ weight.T + noise * np.eye(9))
    posterior = model.exact_posterior(rows)
    exact(posterior.mean, (rows.dense().double().numpy() - mean) @ gain.T)
    exact(posterior.covariance, np.eye(3) - gain @ weight)
    exact(posterior.scale_tril @ posterior.scale_tril.T, posterior.covariance)
    assert (posterior.scale_tril.triu(1) == 0).all()
    assert (posterior.scale_tril.diagonal() > 0).all()

    marginals = model.encode(rows)
    exact(marginals.mean, posterior.mean)
    exact(marginals.standard_deviation, np.tile(np.sqrt(np.diag(np.eye(3) - gain @ weight)), (7, 1)))
    matrix = csr_array(rows.dense().numpy())
    for ours, theirs in zip(model.posterior(matrix), marginals, strict=True):
        assert torch.equal(ours, theirs)
    exact(model.score(matrix), posterior.mean.numpy() @ weight.T + mean)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    latent_dim=st.integers(1, 6),
    noise=st.floats(1e-3, 10.0),
    power=st.floats(0.0, 5.0),
)
def test_bayes_theorem_holds_at_every_point(seed, latent_dim, noise, power) -> None:
    """``power log p(x|z) + log p(z) - log N(z; tempered posterior)`` is one number; at power 1, the log-evidence."""
    model = made_up_model(latent_dim=latent_dim, seed=seed, noise=noise)
    rows = histories_of(seed=seed)
    latent = 2.0 * normals(5, 7, latent_dim, seed=seed)

    def log_normaliser(power: float) -> torch.Tensor:
        posterior = model.exact_posterior(rows, likelihood_power=power)
        density = torch.distributions.MultivariateNormal(posterior.mean, scale_tril=posterior.scale_tril)
        return power * model.log_likelihood(latent, rows) + log_prior(latent) - density.log_prob(latent)

    scale = 1.0 + float(model.log_likelihood(latent, rows).abs().max())  # 1e5 nats where the noise is 1e-3
    tempered = log_normaliser(power)
    torch.testing.assert_close(tempered, tempered[:1].expand_as(tempered), rtol=0, atol=1e-11 * scale)
    evidence = model.log_evidence(rows).expand(5, 7)
    torch.testing.assert_close(log_normaliser(1.0), evidence, rtol=0, atol=1e-11 * scale)


def test_power_zero_is_the_prior_and_a_high_power_the_maximum_of_the_likelihood() -> None:
    model = made_up_model()
    rows = histories_of()
    prior = model.exact_posterior(rows, likelihood_power=0.0)
    assert (prior.mean == 0).all()
    assert torch.equal(prior.covariance, torch.eye(3, dtype=torch.float64))
    weight, mean, _ = as_numpy(model)
    least_squares = (rows.dense().double().numpy() - mean) @ np.linalg.pinv(weight).T
    peak = model.encode(rows, likelihood_power=1e9)
    np.testing.assert_allclose(peak.mean.numpy(), least_squares, atol=1e-6)
    assert peak.standard_deviation.max() < 1e-3


def test_scores_in_float32_are_those_of_float64() -> None:
    matrix = random_histories(40, 60, density=0.2)
    model = PPCA(60, 5).fit(matrix)
    scores = model.score(matrix)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, model.double().score(matrix).float(), rtol=1e-5, atol=1e-6)


# --- the likelihood as a function ---


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), draws=st.sampled_from([(), (1,), (4,), (2, 3)]))
def test_gradient_is_that_of_automatic_differentiation(seed, draws) -> None:
    model = made_up_model(seed=seed)
    rows = histories_of(seed=seed)
    likelihood = model.likelihood(rows)
    latent = normals(*draws, 7, 3, seed=seed).requires_grad_()
    value, gradient = likelihood.value_and_gradient(latent)
    assert value.shape == (*draws, 7)
    weight, mean, noise = model.weight, model.mean, model.noise_variance
    dense = torch.distributions.Normal(latent @ weight.T + mean, noise.sqrt())
    expected = dense.log_prob(rows.dense().double()).sum(-1)
    for ours in (value, likelihood(latent), model.log_likelihood(latent, rows)):
        exact(ours.detach(), expected.detach())
    exact(gradient.detach(), torch.autograd.grad(expected.sum(), latent)[0])
    exact(torch.autograd.grad(likelihood(latent).sum(), latent)[0], gradient.detach())
    exact(likelihood.log_ratio(latent).detach(), (expected - likelihood(likelihood.centre)).detach())


def test_fisher_information_is_minus_the_hessian() -> None:
    likelihood = made_up_model().likelihood(histories_of())
    latent = normals(7, 3)
    information = likelihood.fisher_information(latent)
    assert information.shape == (7, 3, 3)
    hessian = torch.autograd.functional.hessian(lambda z: likelihood(z).sum(), latent)
    for user in range(7):
        exact(information[user], -hessian[user, :, user])


def test_float32_keeps_its_digits() -> None:
    """A taste that is known to a thousandth: of the squared distance to x, next to nothing is left."""
    wide = made_up_model(n_items=400, latent_dim=8, noise=1e-3)
    x = wide.simulate(50, torch.Generator().manual_seed(1))[1]
    rows = rows_of(x)
    narrow = made_up_model(n_items=400, latent_dim=8, noise=1e-3).float()
    wide = made_up_model(n_items=400, latent_dim=8, noise=1e-3).float().double()  # the same parameters
    near = narrow.encode(rows).mean + narrow.encode(rows).standard_deviation * normals(
        50, 8, dtype=torch.float32
    )
    truth = wide.log_likelihood(near.double(), rows)
    error = (narrow.log_likelihood(near, rows) - truth).abs().max()

    weight, mean, noise = narrow.weight, narrow.mean, narrow.noise_variance
    centred = rows.dense() - mean
    distance = centred.square().sum(-1) - (near * (2 * (centred @ weight) - near @ (weight.T @ weight))).sum(
        -1
    )
    expanded = -0.5 * distance / noise - 200 * (2 * math.pi * noise).log()
    # Both have about 800 nats, whose last digit in float32 is 6e-5.
    assert error < 5e-4
    assert (expanded - truth).abs().max() > 0.5
    # The change from one z to another, which is all that a Markov chain looks at, is as good.
    ratio = narrow.likelihood(rows).log_ratio(near)
    exact_ratio = truth - wide.log_likelihood(narrow.likelihood(rows).centre.double(), rows)
    assert (ratio - exact_ratio).abs().max() < 5e-4
    torch.testing.assert_close(
        narrow.log_evidence(rows), wide.log_evidence(rows).float(), rtol=2e-7, atol=1e-4
    )


def test_draws_have_the_models_moments() -> None:
    """At the right posterior, standardised tastes are N(0, I); at the right evidence, its mean is the entropy."""
    n = 20_000
    model = made_up_model()
    latent, x = model.simulate(n, torch.Generator().manual_seed(2))
    rows = rows_of(x)
    posterior = model.exact_posterior(rows)
    standardised = torch.linalg.solve_triangular(
        posterior.scale_tril, (latent - posterior.mean).T, upper=False
    ).T
    moments = torch.cat([standardised, standardised.square() - 1, latent, latent.square() - 1], dim=-1)
    z = moments.mean(0) / (moments.std(0) / n**0.5)
    assert z.abs().max() < 4.5
    # The posterior mean tells nothing of the error that is left.
    correlation = (standardised.T @ (posterior.mean / posterior.mean.std(0))) / n
    assert correlation.abs().max() < 4.5 / n**0.5

    weight, _, noise = as_numpy(model)
    log_volume = np.linalg.slogdet(weight @ weight.T + noise * np.eye(9))[1]
    evidence = model.log_evidence(rows)
    entropy = 0.5 * (9 * math.log(2 * math.pi * math.e) + log_volume)
    assert abs(float(evidence.mean()) + entropy) < 4.5 * float(evidence.std()) / n**0.5
    error = x.std(0) / n**0.5
    assert ((x.mean(0) - model.mean).abs() < 4.5 * error).all()


def test_the_same_generator_gives_the_same_draws() -> None:
    model = made_up_model()
    first, again = (model.simulate(3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


# --- mistakes ---


@pytest.mark.parametrize("latent_dim", [0, -1, True])
def test_latent_dim_out_of_range(latent_dim) -> None:
    with pytest.raises(UserError, match=r"model\.latent_dim: expected a whole number"):
        PPCA(10, latent_dim)


def test_more_dimensions_than_data() -> None:
    with pytest.raises(UserError, match=r"latent_dim: expected less than the number of items, 10, came 10"):
        PPCA(10, 10)
    with pytest.raises(UserError, match=r"latent_dim: .* training users, 6, came 6"):
        PPCA(10, 6).fit(random_histories(6, 10))
    # Six users about their mean span five dimensions, which leaves nothing to the noise.
    with pytest.raises(UserError, match="leaves no variance to the noise"):
        PPCA(10, 5, min_noise_share=0.0).fit(random_histories(6, 10, empty_row=False))


def test_users_who_are_all_alike() -> None:
    with pytest.raises(UserError, match="expected training users who differ"):
        PPCA(4, 1).fit(csr_array(np.tile(np.asarray([1, 0, 1, 1], dtype=np.float32), (9, 1))))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_min_noise_share_out_of_range(share) -> None:
    with pytest.raises(UserError, match=r"model\.min_noise_share"):
        PPCA(10, 2, min_noise_share=share)


@pytest.mark.parametrize("power", [-1.0, float("nan"), float("inf")])
def test_likelihood_power_out_of_range(power) -> None:
    with pytest.raises(UserError, match="likelihood_power"):
        made_up_model().encode(histories_of(), likelihood_power=power)


def test_histories_over_other_items() -> None:
    with pytest.raises(UserError, match="expected 9 items"):
        made_up_model().log_evidence(histories_of(n_items=8))


def test_draws_of_nobody() -> None:
    with pytest.raises(UserError, match="n_users"):
        made_up_model().simulate(0)
