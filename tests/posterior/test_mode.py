"""Modes against SciPy's L-BFGS and against linear algebra; maximum likelihood where there is no maximum."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from made_up_models import grouped_histories, ppca, random_vae, trained_vae
from scipy.optimize import minimize
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.models import MultVAE, SparseRows
from recsys_vae.posterior import MaximumLikelihood, Mode, PosteriorDensity
from recsys_vae.posterior.lbfgs import maximise
from recsys_vae.posterior.mode import _OfUsers


def density_of(model: MultVAE, matrix: csr_array, power: float = 1.0) -> PosteriorDensity:
    """In float64."""
    return PosteriorDensity(double(model).likelihood(SparseRows.from_csr(matrix)), power)


def double(model: MultVAE) -> MultVAE:
    widths = [layer.in_features for layer in model.decoder_layers[1:]] if len(model.decoder_layers) else []
    if len(model.decoder_layers):
        widths = [*widths, model.output.weight.shape[1]]
    copy = MultVAE(model.n_items, latent_dim=model.latent_dim, hidden_dims=widths[::-1])
    copy.load_state_dict(model.state_dict())
    return copy.double().eval()


@functools.cache
def by_scipy(power: float) -> np.ndarray:
    """The mode of each of :func:`unseen_users`, one after the other, from the encoder's mean."""
    model, matrix = trained_vae(), unseen_users()
    start = model.posterior(matrix).mean
    modes = []
    for user in range(matrix.shape[0]):
        density = density_of(model, matrix[[user]], power)

        def negative(z: np.ndarray, density: PosteriorDensity = density) -> tuple[float, np.ndarray]:
            value, gradient = density.value_and_gradient(torch.from_numpy(z[None, :]))
            return -float(value), -gradient[0].numpy()

        options = {"gtol": 1e-9, "ftol": 1e-15, "maxiter": 500}
        found = minimize(negative, start[user].double().numpy(), jac=True, method="L-BFGS-B", options=options)
        modes.append(found.x)
    return np.stack(modes)


def unseen_users() -> csr_array:
    """Histories of fifty users; the last has no items."""
    dense = grouped_histories(50, seed=9).toarray()
    dense[-1] = 0.0
    return csr_array(dense)


@pytest.fixture(scope="module")
def histories() -> csr_array:
    return unseen_users()


@pytest.mark.parametrize("power", [1.0, 5.0])
def test_modes_agree_with_scipy_in_float64(histories, power) -> None:
    model = trained_vae()
    start = model.posterior(histories)
    rows = SparseRows.from_csr(histories)
    found = maximise(
        _OfUsers(double(model), histories, rows, power, with_prior=True),
        start.mean.double(),
        start.standard_deviation.double(),
        tolerance=1e-7,
        max_evaluations=500,
    )
    assert found.converged.all()
    expected = torch.from_numpy(by_scipy(power))
    torch.testing.assert_close(found.position, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("power", [1.0, 5.0])
def test_modes_agree_with_scipy_as_they_are_used(histories, power) -> None:
    """In float32, whose rounding of the value bounds how closely a mode can be found: 1e-3 of a deviation here."""
    model = trained_vae()
    inferred = Mode(tolerance=1e-3).infer(model, histories, power)
    expected = by_scipy(power)
    deviation = model.posterior(histories).standard_deviation.numpy()
    assert inferred.diagnostics["converged"].all()
    assert np.abs((inferred.mean.numpy() - expected) / deviation).max() < 5e-3
    assert (inferred.standard_deviation == 0).all()
    assert inferred.draws is None


def test_diagnostics_are_those_of_where_it_ended(histories) -> None:
    model = trained_vae()
    scale = model.posterior(histories).standard_deviation.double()
    for method in (Mode(), Mode(max_evaluations=3)):
        inferred = method.infer(model, histories, 2.0)
        _, gradient = density_of(model, histories, 2.0).value_and_gradient(inferred.mean.double())
        told = inferred.diagnostics
        torch.testing.assert_close(
            told["gradient_norm"].double(), gradient.norm(dim=-1), rtol=1e-3, atol=1e-3
        )
        scaled = (scale * gradient).norm(dim=-1)
        torch.testing.assert_close(told["scaled_gradient_norm"].double(), scaled, rtol=1e-3, atol=1e-3)
        assert torch.equal(told["converged"] == 1.0, told["scaled_gradient_norm"] <= 0.1)
        assert (told["evaluations"] <= method.max_evaluations).all()
    assert not inferred.diagnostics["converged"].all()


def test_part_of_the_way_is_a_point_between_the_encoder_and_the_mode(histories) -> None:
    model = trained_vae()
    mode, part = Mode().infer(model, histories), Mode(towards=0.25).infer(model, histories)
    start = model.posterior(histories).mean
    torch.testing.assert_close(part.mean, 0.75 * start + 0.25 * mode.mean)
    assert torch.equal(part.diagnostics["gradient_norm"], mode.diagnostics["gradient_norm"])
    for towards in (0.0, 1.5, float("nan")):
        with pytest.raises(UserError, match=r"posterior\.towards: expected a (positive )?number"):
            Mode(towards=towards)


def test_users_do_not_depend_on_who_is_beside_them(histories) -> None:
    """The batch shrinks as users converge; each climbs as if alone."""
    model = trained_vae()
    together = Mode(tolerance=1e-3).infer(model, histories, 3.0)
    apart = [Mode(tolerance=1e-3).infer(model, histories[[user]], 3.0) for user in (0, 7, 49)]
    alone = torch.cat([inferred.mean for inferred in apart])
    torch.testing.assert_close(together.mean[[0, 7, 49]], alone, rtol=0, atol=2e-3)
    assert len(set(together.diagnostics["evaluations"].tolist())) > 3


def test_without_items_the_mode_is_zero() -> None:
    inferred = Mode(tolerance=1e-5).infer(random_vae(), random_histories(4), 3.0)
    assert inferred.mean[0].abs().max() < 1e-4
    assert inferred.mean[1].norm() > 0.1


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("power", [1.0, 4.0])
def test_the_mode_of_ppca_is_its_posterior_mean(rotated, power) -> None:
    model, matrix = ppca(rotated=rotated), grouped_histories(20, seed=1)
    inferred = Mode(tolerance=1e-9).infer(model, matrix, power)
    exact = model.exact_posterior(SparseRows.from_csr(matrix), likelihood_power=power)
    torch.testing.assert_close(inferred.mean, exact.mean, rtol=0, atol=1e-8)


def least_squares(matrix: csr_array) -> torch.Tensor:
    """``(W'W)^-1 W'(x - mean)``."""
    model = ppca(rotated=True)
    centred = torch.from_numpy(matrix.toarray()).double() - model.mean
    return torch.linalg.solve(model.weight.mT @ model.weight, model.weight.mT @ centred.mT).mT


@pytest.mark.parametrize("power", [1.0, 0.1])
def test_maximum_likelihood_of_ppca_is_least_squares(power) -> None:
    matrix = grouped_histories(20, seed=1)
    inferred = MaximumLikelihood(tolerance=1e-9).infer(ppca(rotated=True), matrix, power)
    torch.testing.assert_close(inferred.mean, least_squares(matrix), rtol=0, atol=1e-7)
    assert (inferred.diagnostics["at_bound"] == 0).all()


def test_where_there_is_no_maximum_a_user_stops_at_the_bound() -> None:
    """One item, at a corner of a linear decoder: its probability goes to 1 as the taste goes to infinity."""
    model = MultVAE(4, latent_dim=2, hidden_dims=[]).eval()
    with torch.no_grad():
        model.output.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
        model.output.bias.zero_()
    only_one_item = csr_array(np.float32([[1, 0, 0, 0], [0, 0, 0, 3]]))
    inferred = MaximumLikelihood(max_norm=8.0, tolerance=1e-6).infer(model, only_one_item)
    assert (inferred.diagnostics["at_bound"] == 1).all()
    assert (inferred.diagnostics["converged"] == 0).all()
    torch.testing.assert_close(inferred.mean.norm(dim=-1), torch.tensor([8.0, 8.0]))
    assert inferred.mean[0, 0] > 7.9
    assert inferred.mean[1, 1] < -7.9


@pytest.mark.parametrize("hidden_dims", [(8,), (8, 6)])
def test_maximum_likelihood_under_tanh_layers_ends_too(hidden_dims) -> None:
    """tanh saturates: the likelihood flattens out as it rises, or the bound is met; both are said."""
    matrix = random_histories(30)
    inferred = MaximumLikelihood(max_norm=20.0, tolerance=1e-3).infer(random_vae(hidden_dims), matrix)
    lengths = inferred.mean.norm(dim=-1)
    assert inferred.mean.isfinite().all()
    assert (lengths <= 20.0 * (1 + 1e-5)).all()
    at_bound = inferred.diagnostics["at_bound"] == 1
    assert at_bound.any()
    torch.testing.assert_close(lengths[at_bound], torch.full_like(lengths[at_bound], 20.0))
    # Nobody's history is explained worse than where the climb began.
    model = random_vae(hidden_dims)
    density = PosteriorDensity(model.likelihood(SparseRows.from_csr(matrix)), with_prior=False)
    assert (density(inferred.mean) >= density(model.posterior(matrix).mean)).all()


def test_the_bound_is_left_again_where_the_way_up_leads_inward() -> None:
    """A first step of one guessed deviation, a hundred times too long, lands on the bound, behind the maximum."""
    centre = torch.tensor([[0.5, 0.0], [0.0, -0.9], [3.0, 0.0]], dtype=torch.float64)

    def paraboloid(position: torch.Tensor, problems: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift = position - centre[problems]
        return -shift.square().sum(dim=-1), -2.0 * shift

    start = torch.zeros(3, 2, dtype=torch.float64)
    found = maximise(
        paraboloid, start, torch.full_like(start, 100.0), tolerance=1e-6, max_evaluations=200, max_norm=1.0
    )
    assert found.at_bound.tolist() == [False, False, True]
    assert found.converged.tolist() == [True, True, False]
    inside = torch.tensor([[0.5, 0.0], [0.0, -0.9], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found.position, inside, rtol=0, atol=1e-6)


def test_a_start_outside_the_bound_is_brought_back() -> None:
    matrix = grouped_histories(10, seed=1)
    start = trained_vae().posterior(matrix).mean.norm(dim=-1)
    bound = 0.5 * float(start.min())
    inferred = MaximumLikelihood(max_norm=bound).infer(trained_vae(), matrix)
    assert (inferred.mean.norm(dim=-1) <= bound * (1 + 1e-5)).all()
    assert (inferred.diagnostics["at_bound"] == 1).any()


def check_least_squares_beats_the_mode() -> None:
    """The prior draws the mode of PPCA towards 0: maximum likelihood is further out, for every user."""
    matrix = grouped_histories(20, seed=1)
    mode = Mode(tolerance=1e-9).infer(ppca(rotated=True), matrix).mean
    assert (least_squares(matrix).norm(dim=-1) > mode.norm(dim=-1)).all()


def test_the_prior_shrinks() -> None:
    check_least_squares_beats_the_mode()


def test_the_check_notices_a_prior_left_out(monkeypatch) -> None:
    monkeypatch.setattr(Mode, "infer", MaximumLikelihood.infer)
    monkeypatch.setattr(Mode, "max_norm", 100.0, raising=False)
    with pytest.raises(AssertionError):
        check_least_squares_beats_the_mode()
