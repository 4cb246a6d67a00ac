"""Every way to a score, put into Tweedie's formula and held to the exact posterior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from recsys_vae.errors import UserError
from recsys_vae.estimation import (
    DenoisingScore,
    GammaPoisson,
    GaussianMixture,
    KernelDensity,
    fit_denoising_score,
    lindsey,
    robbins,
    robbins_mean,
    smoothed_robbins,
    tweedie_covariance,
    tweedie_mean,
    tweedie_variance,
)

WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.5, 0.2]), np.array([-2.0, 0.5, 3.0]), np.array([0.4, 0.2, 1.0])
LINE = GaussianMixture(WEIGHTS, MEANS[:, None], VARIANCES[:, None, None])
PLANE = GaussianMixture(
    [0.3, 0.5, 0.2],
    [[-2.0, 0.5], [1.0, 1.0], [2.5, -2.0]],
    [[[0.2, 0.05], [0.05, 0.3]], [[0.3, -0.1], [-0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]]],
)
NOISE = torch.tensor([[0.6, 0.2], [0.2, 0.4]], dtype=torch.float64)


def noisy(prior, standard_deviation, n_draws, seed):
    generator = torch.Generator().manual_seed(seed)
    clean = prior.sample(n_draws, generator)
    return clean, clean + standard_deviation * torch.randn(
        clean.shape, generator=generator, dtype=torch.float64
    )


def relative_error(found, exact) -> float:
    return float(((found - exact).square().mean() / exact.square().mean()).sqrt())


class TestGaussianMixture:
    @pytest.mark.parametrize("x", [-6.0, -1.2, 0.0, 1.7, 5.0])
    def test_mean_and_variance_of_a_mixture_prior_by_quadrature(self, x) -> None:
        variance = 0.7

        def moment(power):
            def integrand(mu):
                prior = (WEIGHTS * stats.norm.pdf(mu, MEANS, np.sqrt(VARIANCES))).sum()
                return mu**power * prior * stats.norm.pdf(x, mu, math.sqrt(variance))

            return integrate.quad(
                integrand, -14.0, 14.0, points=[x, *MEANS], epsabs=1e-18, epsrel=1e-12, limit=400
            )[0]

        mean = moment(1) / moment(0)
        marginal = LINE.convolved([[variance]])
        assert float(marginal.log_density([x])) == pytest.approx(math.log(moment(0)), abs=1e-8)
        found = tweedie_mean([x], marginal.score([x]), variance)
        assert float(found[0]) == pytest.approx(mean, abs=1e-8)
        curvature = marginal.hessian([x])[0, 0]
        assert float(tweedie_variance(curvature, variance)) == pytest.approx(
            moment(2) / moment(0) - mean**2, abs=1e-8
        )

    def test_a_full_covariance_against_a_grid(self) -> None:
        x = torch.tensor([0.4, 0.1], dtype=torch.float64)
        axis = torch.linspace(-9.0, 9.0, 721, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        likelihood = torch.distributions.MultivariateNormal(grid, NOISE).log_prob(x)
        weight = torch.softmax(PLANE.log_density(grid) + likelihood, dim=0)
        mean = weight @ grid
        covariance = (grid - mean).T @ (weight[:, None] * (grid - mean))
        marginal = PLANE.convolved(NOISE)
        torch.testing.assert_close(tweedie_mean(x, marginal.score(x), NOISE), mean, atol=1e-8, rtol=0.0)
        torch.testing.assert_close(
            tweedie_covariance(marginal.hessian(x), NOISE), covariance, atol=1e-8, rtol=0.0
        )

    def test_derivatives_are_those_of_the_density(self) -> None:
        x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(PLANE.log_density(x).sum(), x)
        torch.testing.assert_close(PLANE.score(x.detach()), gradient)
        one = x[1, 2].detach()
        hessian = torch.autograd.functional.hessian(PLANE.log_density, one)
        torch.testing.assert_close(PLANE.hessian(one), hessian)
        # Far out, where every density underflows, the score is still that of the nearest component.
        assert torch.isfinite(PLANE.score(torch.full((2,), 1e6, dtype=torch.float64))).all()

    def test_draws(self) -> None:
        draws = LINE.sample(20_000, torch.Generator().manual_seed(1)).numpy()[:, 0]

        def below(x):
            return (WEIGHTS * stats.norm.cdf(x[:, None], MEANS, np.sqrt(VARIANCES))).sum(-1)

        assert stats.kstest(draws, below).pvalue > 1e-3

    def test_mistakes_are_named(self) -> None:
        for arguments, message in (
            (([1.0, 0.0], [[0.0], [1.0]], [[[1.0]], [[1.0]]]), "weights"),
            (([1.0], [[0.0], [1.0]], [[[1.0]], [[1.0]]]), "means"),
            (([1.0], [[0.0]], [[1.0]]), "covariances"),
            (([1.0], [[0.0]], [[[-1.0]]]), "covariances"),
        ):
            with pytest.raises(UserError, match=message):
                GaussianMixture(*arguments)
        with pytest.raises(UserError, match="x: expected 2 coordinates"):
            PLANE.score([0.0])


class TestKernelDensity:
    def test_it_is_the_mixture_about_its_points(self, monkeypatch) -> None:
        monkeypatch.setattr(
            "recsys_vae.estimation.kernel_density._BLOCK_ENTRIES", 100
        )  # blocks of two positions
        points = PLANE.sample(40, torch.Generator().manual_seed(2))
        width = torch.tensor([0.5, 0.3], dtype=torch.float64)
        kernel = KernelDensity(points, width)
        mixture = GaussianMixture(torch.ones(40), points, torch.diag(width**2).expand(40, 2, 2))
        x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        for name in ("log_density", "score", "hessian"):
            torch.testing.assert_close(getattr(kernel, name)(x), getattr(mixture, name)(x))

    def test_empirical_bayes_from_noisy_draws_alone(self) -> None:
        # Neither prior nor likelihood of the mixture is shown to it: 4,000 observations are.
        _, x = noisy(PLANE, 0.7, 4000, seed=4)
        marginal = PLANE.convolved(0.49 * torch.eye(2, dtype=torch.float64))
        exact = tweedie_mean(x, marginal.score(x), 0.49)
        found = tweedie_mean(x, KernelDensity(x).score(x), 0.49)
        assert relative_error(found, exact) < 0.15
        # The observations themselves are that far off.
        assert relative_error(x, exact) > 0.3

    def test_mistakes_are_named(self) -> None:
        for arguments, message in (
            (([[1.0]],), "points"),
            (([[1.0], [1.0]],), "points: expected some that differ"),
            (([[1.0], [2.0]], 0.0), "bandwidth"),
            (([[1.0], [2.0]], [1.0, 1.0]), "bandwidth: expected one number or 1"),
        ):
            with pytest.raises(UserError, match=message):
                KernelDensity(*arguments)


class TestLindsey:
    def test_a_gaussian_s_log_density_is_found_as_the_parabola_that_it_is(self) -> None:
        x = np.random.default_rng(0).normal(1.0, 2.0, 40_000)
        fitted = lindsey(x, degree=2)
        places = np.array([-3.0, 0.0, 1.0, 4.0])
        # 4.5 standard errors of mean and variance, and the width of a bin.
        np.testing.assert_allclose(fitted.score(places).numpy(), -(places - 1.0) / 4.0, atol=0.035)
        np.testing.assert_allclose(fitted.second_derivative(places).numpy(), -0.25, atol=0.01)
        np.testing.assert_allclose(
            fitted.log_density(places).numpy(), stats.norm.logpdf(places, 1.0, 2.0), atol=0.05
        )

    def test_the_fit_matches_the_histogram_s_moments(self) -> None:
        # The score equations of Poisson regression: fitted and observed counts have the same first moments.
        x = np.random.default_rng(1).gamma(3.0, 1.0, 3000)
        fitted = lindsey(x, degree=4, n_bins=50)
        counts, edges = np.histogram(x, bins=50)
        centres = (edges[1:] + edges[:-1]) / 2
        expected = len(x) * (edges[1] - edges[0]) * fitted.log_density(centres).exp().numpy()
        for power in range(5):
            assert (expected * centres**power).sum() == pytest.approx(
                (counts * centres**power).sum(), rel=1e-6
            )

    def test_derivatives_and_what_lies_outside(self) -> None:
        fitted = lindsey(np.random.default_rng(2).normal(size=2000))
        x, step = np.linspace(fitted.low - 1.0, fitted.high + 1.0, 41), 1e-5
        score = (fitted.log_density(x + step) - fitted.log_density(x - step)) / (2 * step)
        np.testing.assert_allclose(fitted.score(x).numpy(), score.numpy(), atol=1e-6)
        inside = x[(x > fitted.low + 0.1) & (x < fitted.high - 0.1)]
        curvature = (fitted.score(inside + step) - fitted.score(inside - step)) / (2 * step)
        np.testing.assert_allclose(fitted.second_derivative(inside).numpy(), curvature.numpy(), atol=1e-5)
        assert float(fitted.second_derivative(fitted.high + 0.5)) == 0.0
        assert float(fitted.score(fitted.high + 5.0)) == float(fitted.score(fitted.high))

    def test_empirical_bayes_from_noisy_draws_alone(self) -> None:
        _, x = noisy(LINE, 0.8, 8000, seed=5)
        marginal = LINE.convolved([[0.64]])
        exact = tweedie_mean(x, marginal.score(x), 0.64)[:, 0]
        found = tweedie_mean(x[:, 0], lindsey(x[:, 0], degree=8).score(x[:, 0]), 0.64)
        assert relative_error(found, exact) < 0.1
        assert relative_error(x[:, 0], exact) > 0.2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([1.0, 1.0],), "x: expected a flat list of numbers that differ"),
            (([1.0, 2.0, 3.0], 1), "degree: expected a whole number of at least 2"),
            (([1.0, 2.0, 3.0], 5, 5), "n_bins"),
            (([1.0, 2.0, 3.0], 9, 10), "degree: 9 is too high"),
        ],
    )
    def test_mistakes_are_named(self, arguments, message) -> None:
        with pytest.raises(UserError, match=message):
            lindsey(*arguments)


class TestDenoisingScore:
    def test_the_trained_score_s_posterior_mean_is_within_two_per_cent(self) -> None:
        clean, x = noisy(PLANE, 0.7, 20_000, seed=6)
        model = fit_denoising_score(clean, 0.7, seed=1)
        _, x = noisy(PLANE, 0.7, 4000, seed=7)
        marginal = PLANE.convolved(0.49 * torch.eye(2, dtype=torch.float64))
        exact = tweedie_mean(x, marginal.score(x), 0.49)
        assert relative_error(model.posterior_mean(x.float()).double(), exact) < 0.02
        torch.testing.assert_close(model.posterior_mean(x.float()), model.denoised(x.float()))

    def test_a_gaussian_s_score_is_a_straight_line(self) -> None:
        draws = 1.0 + 2.0 * torch.randn(5000, 1, generator=torch.Generator().manual_seed(0))
        model = fit_denoising_score(draws, 1.0, n_steps=300, seed=2)
        x = torch.linspace(-3.0, 5.0, 9)[:, None]
        torch.testing.assert_close(model.score(x), -(x - 1.0) / 5.0, atol=0.06, rtol=0.0)

    def test_the_loss_is_least_at_the_true_score(self) -> None:
        # Vincent's theorem: by quadrature over noise and a two-point prior the exact denoiser beats its neighbours.
        class Exact(DenoisingScore):
            bend = 0.0

            def denoised(self, x):
                return torch.tanh(x) + self.bend * torch.sin(x)

        def risk(bend):
            model = Exact(1, 1.0)
            model.bend = bend
            nodes, weights = np.polynomial.hermite_e.hermegauss(60)
            noise = torch.tensor(nodes)[:, None]
            total = 0.0
            for sign in (-1.0, 1.0):
                error = (model.denoised(sign + noise) - sign).square().squeeze(-1)
                total += float((torch.tensor(weights) * error).sum())
            return total

        assert risk(0.0) < min(risk(0.05), risk(-0.05))

    def test_it_follows_from_the_seed(self) -> None:
        draws = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        first, again, other = (fit_denoising_score(draws, 0.5, n_steps=5, seed=seed) for seed in (3, 3, 4))
        x = torch.ones(1, 2)
        assert torch.equal(first.score(x), again.score(x))
        assert not torch.equal(first.score(x), other.score(x))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"clean": [[1.0]], "standard_deviation": 1.0}, "clean"),
            ({"clean": [[1.0], [1.0]], "standard_deviation": 1.0}, "clean"),
            ({"clean": [[1.0], [2.0]], "standard_deviation": 0.0}, "standard_deviation"),
            ({"clean": [[1.0], [2.0]], "standard_deviation": 1.0, "n_steps": 0}, "n_steps"),
        ],
    )
    def test_mistakes_are_named(self, arguments, message) -> None:
        with pytest.raises(UserError, match=message):
            fit_denoising_score(**arguments)


class TestRobbins:
    prior = GammaPoisson(shape=2.5, rate=0.8)

    def test_the_exact_marginal_gives_the_gamma_posterior_mean(self) -> None:
        marginal = self.prior.predictive()
        x = np.arange(40)
        found = robbins_mean(x, marginal.log_prob(x), marginal.log_prob(x + 1))
        np.testing.assert_allclose(found.numpy(), (x + 2.5) / 1.8, rtol=1e-11)
        by_posterior = self.prior.posterior(x[:, None]).law.mean
        np.testing.assert_allclose(found.numpy(), by_posterior.numpy(), rtol=1e-11)

    def test_frequencies_give_it_within_their_error_and_smoothing_closer(self) -> None:
        observed = self.prior.predictive().sample(20_000, torch.Generator().manual_seed(8))
        tally = np.bincount(observed.long().numpy(), minlength=30)
        x = np.arange(8)
        exact = (x + 2.5) / 1.8
        raw = robbins(observed, x).numpy()
        np.testing.assert_allclose(raw, (x + 1) * tally[1:9] / tally[:8], rtol=1e-12)
        error = raw * np.sqrt(1 / tally[:8] + 1 / tally[1:9])
        assert (np.abs(raw - exact) < 4.5 * error).all()
        # A polynomial in place of the exact log-gamma, whose error the bound holds too.
        smooth = smoothed_robbins(observed, x).numpy()
        np.testing.assert_allclose(smooth, exact, rtol=0.06)
        assert np.square(smooth - exact).mean() < np.square(raw - exact).mean()

    def test_where_nobody_was_seen(self) -> None:
        observed = [0, 0, 1, 4]
        assert robbins(observed, [0, 1, 4]).tolist() == [0.5, 0.0, 0.0]
        assert robbins(observed, [2, 9]).isnan().all()

    def test_one_rate_for_all_is_found_by_a_straight_line(self) -> None:
        # log(x! p(x)) = x log(rate) - rate: degree 1 is maximum likelihood of the one rate.
        observed = np.random.default_rng(3).poisson(3.0, 5000)
        found = smoothed_robbins(observed, [0, 2, 50], degree=1).numpy()
        np.testing.assert_allclose(found, observed.mean(), rtol=1e-3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([0, 1.5], [0]), "observed: expected whole numbers"),
            (([], [0]), "observed: expected a flat list"),
            (([0, 1, 2], [-1]), "at: expected whole numbers"),
            (([0, 1], [0]), "observed: expected counts above 5"),
            (([0, 1, 2], [0], 0), "degree"),
        ],
    )
    def test_mistakes_are_named(self, arguments, message) -> None:
        with pytest.raises(UserError, match=message):
            smoothed_robbins(*arguments)
