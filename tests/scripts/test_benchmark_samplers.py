"""The sampler benchmark: peers are given our density, and figures are what they say. Nothing here needs JAX."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark_samplers as benchmark
import numpy as np
import pytest
import sampling_problem
import torch
from made_up_histories import random_histories
from torch import Tensor

from recsys_vae.models import MultVAE, SparseRows
from recsys_vae.posterior import MarkovChains, PosteriorDensity
from recsys_vae.samplers import HMC

POWER = 3.0
HISTORIES = random_histories(7, 30, density=0.3)


def _model(hidden: tuple[int, ...] = (9, 8)) -> MultVAE:
    return MultVAE(30, latent_dim=4, hidden_dims=hidden, seed=3).eval()


def _log_density(problem, latent: Tensor) -> Tensor:
    """As ``jax_chains.py`` writes it, from the file alone."""
    features, observed_bias, lengths = map(torch.from_numpy, problem.summed_features())
    hidden = latent
    for weight, bias in zip(problem.layer_weights, problem.layer_biases, strict=True):
        hidden = torch.tanh(hidden @ torch.from_numpy(weight).T + torch.from_numpy(bias))
    logits = hidden @ torch.from_numpy(problem.weight).T + torch.from_numpy(problem.bias)
    log_likelihood = (hidden * features).sum(-1) + observed_bias - lengths * logits.logsumexp(-1)
    return problem.likelihood_power * log_likelihood - 0.5 * latent.square().sum(-1)


@pytest.mark.parametrize("hidden", [(), (8,), (9, 8)])
def test_the_file_holds_the_density_that_we_sample(tmp_path: Path, hidden: tuple[int, ...]) -> None:
    model = _model(hidden)
    made = benchmark.make_problem(model, HISTORIES, POWER, 3, seed=1)
    problem = sampling_problem.SamplingProblem.read(made.write(tmp_path / "problem.npz"))
    latent = torch.from_numpy(problem.initial).requires_grad_(True)
    value = _log_density(problem, latent)
    (gradient,) = torch.autograd.grad(value.sum(), latent)
    density = PosteriorDensity(model.likelihood(SparseRows.from_csr(HISTORIES)), POWER)
    ours, our_gradient = density.value_and_gradient(latent.detach())
    constant = 0.5 * 4 * np.log(2 * np.pi)
    torch.testing.assert_close(value.detach(), ours + constant, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, our_gradient, rtol=1e-4, atol=1e-4)


def test_the_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    made = benchmark.make_problem(_model(), HISTORIES, POWER, 3, seed=1)
    read = sampling_problem.SamplingProblem.read(made.write(tmp_path / "problem.npz"))
    assert len(read.layer_weights) == 2
    for name, value in vars(made).items():
        parts = (
            zip(value, getattr(read, name), strict=True)
            if isinstance(value, tuple)
            else [(value, getattr(read, name))]
        )
        for written, found in parts:
            np.testing.assert_array_equal(written, found)
            assert np.asarray(written).dtype == np.asarray(found).dtype


def test_initial_positions_are_the_encoders() -> None:
    model = _model()
    problem = benchmark.make_problem(model, HISTORIES, POWER, 4000, seed=1)
    posterior = model.posterior(HISTORIES)
    deviation = (0.5 * posterior.log_variance).exp().numpy()
    np.testing.assert_allclose(problem.scale, deviation, rtol=1e-6)
    error = (problem.initial.mean(0) - posterior.mean.numpy()) / deviation
    assert np.abs(error).max() < 4.5 / np.sqrt(4000)


def test_quality_counts_independent_draws() -> None:
    draws = torch.randn(500, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    found = benchmark.quality(draws, 10.0, 30.0)
    assert found["draws"] == 500
    assert 1500 < found["min_ess"] <= found["median_ess"] < 2600
    assert found["ess_per_second"] == pytest.approx(found["min_ess"] / 10.0)
    assert found["ess_per_second_with_warmup"] == pytest.approx(found["min_ess"] / 40.0)
    stuck = draws.clone()
    stuck[:, 0, 1, 1] += 3.0
    assert benchmark.quality(stuck, 10.0, 30.0)["max_r_hat"] > 1.4 > 1.05 > found["max_r_hat"]


def test_ours_counts_gradients_and_leaves_the_model_as_it_was() -> None:
    model = _model()
    method = MarkovChains(kernel=HMC(n_leapfrog=3.0, jitter=0.0), draws=80, chains=4, warmup=10, batch_size=7)
    found = benchmark.measure_ours(model, HISTORIES, POWER, method, seed=1)
    assert "likelihood" not in vars(model)
    assert found["draws"] == 20
    # One at the start of the chains, three a step, and what the search for the mode took.
    assert found["gradients_in_all"] > 1 + 3 * 30
    assert found["gradients_in_all"] < 1 + 3 * 30 + 200
    assert found["warmup_seconds"] > 0.0
    assert found["sampling_seconds"] > 0.0


def test_the_ratio_is_to_the_best_peer_that_found_its_own_coordinates() -> None:
    speeds = {
        benchmark.OURS: 12.0,
        "numpyro NUTS": 2.0,
        "blackjax HMC": 4.0,
        "numpyro HMC, in our coordinates": 8.0,
    }
    ess = {name: {"ess_per_second": s, "ess_per_second_with_warmup": s / 2} for name, s in speeds.items()}
    rows = benchmark.summary_rows({"ess": ess})
    assert [(row[1], row[2]) for row in rows] == [("3.0", ">= 2"), ("3.0", ">= 2"), ("1.5", ""), ("1.5", "")]
    assert "blackjax HMC" in rows[0][0]


def test_peers_are_asked_for_by_options() -> None:
    peer = benchmark.Peer("numpyro", "HMC", 5, coordinates="laplace", share=0.5)
    options = peer.options(100, 200)
    found = dict(zip(options[::2], options[1::2], strict=True))
    assert found["--steps"] == "5"
    assert found["--coordinates"] == "laplace"
    assert (found["--n-draws"], found["--n-warmup"]) == ("50", "100")
    assert not peer.is_own
    json.dumps(benchmark.parse(["run", "--output", "x", "--peers"]).peers)


def test_without_an_environment_peers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(["run", "--output", "x"])
    assert "--jax" in capsys.readouterr().err
