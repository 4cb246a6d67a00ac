"""Every conjugate model against numerical integration, against sampling, and against what updating must obey."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats

from recsys_vae.errors import UserError
from recsys_vae.estimation import (
    BernoulliStatistics,
    BetaBernoulli,
    CategoricalStatistics,
    DirichletCategorical,
    GammaPoisson,
    GaussianStatistics,
    LinearRegression,
    NormalInverseGamma,
    PoissonStatistics,
)

GAUSSIAN = np.array([1.2, -0.4, 2.2, 0.7])
BINARY = np.array([1, 0, 1, 1, 0])
LABELS = np.array([0, 2, 2, 1, 2])
COUNTS = np.array([3, 0, 4, 2])
DESIGN = np.array([[1.0, -1.0], [1.0, 0.5], [1.0, 0.0], [1.0, 2.0], [1.0, 1.5]])
RESPONSE = np.array([0.3, 1.7, 0.8, 3.1, 3.3])

NIG = {"alpha": 1.3, "beta": 0.8, "gamma": 0.6, "delta": -0.5}


def nig_density(mean, variance, alpha, beta, gamma, delta):
    """Written with SciPy's laws: an independent form of Prince's eq. 3.13."""
    return stats.norm.pdf(mean, delta, np.sqrt(variance / gamma)) * stats.invgamma.pdf(
        variance, alpha, scale=beta
    )


def integrate_over_nig(weight, **hyper):
    """Integral of ``weight * prior * likelihood of GAUSSIAN`` over a grid of log-variances and standardised means."""
    log_variance, standardised = np.linspace(-8.0, 30.0, 1501)[:, None], np.linspace(-12.0, 12.0, 301)
    variance = np.exp(log_variance)
    scale = np.sqrt(variance / (hyper["gamma"] + len(GAUSSIAN)))
    centre = (GAUSSIAN.sum() + hyper["gamma"] * hyper["delta"]) / (len(GAUSSIAN) + hyper["gamma"])
    mean = centre + scale * standardised
    likelihood = stats.norm.pdf(GAUSSIAN[:, None, None], mean, np.sqrt(variance)).prod(axis=0)
    joint = weight(mean, variance) * nig_density(mean, variance, **hyper) * likelihood * variance * scale
    return integrate.simpson(integrate.simpson(joint, x=standardised), x=log_variance[:, 0])


class TestNormalInverseGamma:
    prior = NormalInverseGamma(**NIG)

    def test_evidence_and_posterior_moments_by_quadrature(self) -> None:
        evidence = integrate_over_nig(lambda mean, variance: 1.0, **NIG)
        posterior = self.prior.posterior(GAUSSIAN)
        assert float(self.prior.log_evidence(GAUSSIAN)) == pytest.approx(math.log(evidence), abs=1e-7)
        mean = integrate_over_nig(lambda mean, variance: mean, **NIG) / evidence
        variance = integrate_over_nig(lambda mean, variance: variance, **NIG) / evidence
        assert float(posterior.mean_law.mean) == pytest.approx(mean, rel=1e-6)
        assert float(posterior.variance_law.mean) == pytest.approx(variance, rel=1e-5)
        square = integrate_over_nig(lambda mean, variance: mean**2, **NIG) / evidence
        assert float(posterior.mean_law.variance) == pytest.approx(square - mean**2, rel=1e-5)

    @pytest.mark.parametrize("point", [(0.2, 0.7), (1.5, 3.0), (-2.0, 0.1)])
    def test_posterior_density_is_prior_times_likelihood_over_evidence(self, point) -> None:
        mean, variance = point
        joint = math.log(nig_density(mean, variance, **NIG))
        joint += stats.norm.logpdf(GAUSSIAN, mean, math.sqrt(variance)).sum()
        density = self.prior.posterior(GAUSSIAN).log_prob(mean, variance)
        assert float(density) == pytest.approx(joint - float(self.prior.log_evidence(GAUSSIAN)), abs=1e-10)

    def test_map_in_the_texts_own_formula(self) -> None:
        mean, variance = self.prior.map(GAUSSIAN)
        a, b, c, d = NIG.values()
        n = len(GAUSSIAN)
        expected_mean = (GAUSSIAN.sum() + c * d) / (n + c)
        squares = ((GAUSSIAN - expected_mean) ** 2).sum() + 2 * b + c * (d - expected_mean) ** 2
        assert float(mean) == pytest.approx(expected_mean, rel=1e-14)
        assert float(variance) == pytest.approx(squares / (n + 3 + 2 * a), rel=1e-14)

    def test_modes_are_maxima_found_by_search(self) -> None:
        posterior = self.prior.posterior(GAUSSIAN)
        joint = optimize.minimize(
            lambda p: -float(posterior.log_prob(p[0], math.exp(p[1]))), [0.0, 0.0], method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-13},
        )  # fmt: skip
        # The density is that of the variance, not of its logarithm: a search over either finds the same place.
        assert [joint.x[0], math.exp(joint.x[1])] == pytest.approx(
            [float(v) for v in self.prior.map(GAUSSIAN)], rel=1e-5
        )
        mean, variance = self.prior.marginal_map(GAUSSIAN)
        of_variance = optimize.minimize_scalar(
            lambda v: -float(posterior.variance_law.log_prob(v)), bounds=(0.05, 5.0), method="bounded",
            options={"xatol": 1e-10},
        )  # fmt: skip
        assert float(variance) == pytest.approx(of_variance.x, rel=1e-6)
        of_mean = optimize.minimize_scalar(
            lambda m: -float(posterior.mean_law.log_prob(m)), bounds=(-3, 3), method="bounded"
        )
        assert float(mean) == pytest.approx(of_mean.x, abs=1e-5)

    def test_predictive_is_the_average_of_the_likelihood(self) -> None:
        evidence = integrate_over_nig(lambda mean, variance: 1.0, **NIG)
        predictive = self.prior.predictive(GAUSSIAN)
        for value in (-1.0, 0.6, 4.0):
            average = integrate_over_nig(
                lambda mean, variance, x=value: stats.norm.pdf(x, mean, np.sqrt(variance)), **NIG
            )
            assert float(predictive.log_prob(value).exp()) == pytest.approx(average / evidence, rel=1e-5)
        total = integrate.quad(lambda x: float(predictive.log_prob(x).exp()), -np.inf, np.inf)[0]
        assert total == pytest.approx(1.0, abs=1e-7)

    def test_posterior_draws_agree_with_the_laws(self) -> None:
        posterior = self.prior.posterior(np.tile(GAUSSIAN, 3))
        mean, variance = posterior.sample(40_000, torch.Generator().manual_seed(1))
        for draws, law in ((mean, posterior.mean_law), (variance, posterior.variance_law)):
            assert stats.kstest(draws.numpy(), lambda v, law=law: law.cdf(v).numpy()).pvalue > 1e-3
        # Given the variance, the mean is Gaussian: its standardised draws know nothing of the variance.
        standardised = (mean - posterior.delta) * (posterior.gamma / variance).sqrt()
        assert stats.kstest(standardised.numpy(), "norm").pvalue > 1e-3
        assert abs(np.corrcoef(standardised**2, variance)[0, 1]) < 4.5 / math.sqrt(40_000)

    def test_predictive_draws_are_draws_through_the_posterior(self) -> None:
        generator = torch.Generator().manual_seed(2)
        predictive = self.prior.predictive(GAUSSIAN)
        mean, variance = self.prior.posterior(GAUSSIAN).sample(40_000, generator)
        by_hand = mean + variance.sqrt() * torch.randn(40_000, generator=generator, dtype=torch.float64)
        for draws in (by_hand, predictive.sample(40_000, generator)):
            assert stats.kstest(draws.numpy(), lambda v: predictive.cdf(v).numpy()).pvalue > 1e-3

    def test_maximum_likelihood_and_its_limits(self) -> None:
        mean, variance = self.prior.maximum_likelihood(GAUSSIAN)
        assert float(mean) == pytest.approx(GAUSSIAN.mean(), rel=1e-14)
        assert float(variance) == pytest.approx(GAUSSIAN.var(), rel=1e-14)
        for flat in (NormalInverseGamma.flat(), NormalInverseGamma.flat().posterior(GAUSSIAN[:0])):
            assert [float(v) for v in flat.map(GAUSSIAN)] == pytest.approx([float(mean), float(variance)])
        # A prior that is worth next to nothing tends to Jeffreys', not to the flat one.
        faint = NormalInverseGamma(alpha=1e-9, beta=1e-9, gamma=1e-9, delta=7.0).posterior(GAUSSIAN)
        limit = NormalInverseGamma.jeffreys().posterior(GAUSSIAN)
        for name in ("alpha", "beta", "gamma", "delta"):
            assert float(getattr(limit, name)) == pytest.approx(float(getattr(faint, name)), abs=1e-7)

    def test_reference_intervals_are_the_t_test_s(self) -> None:
        posterior = NormalInverseGamma.reference().posterior(GAUSSIAN)
        low, high = posterior.mean_law.interval(0.95)
        expected = stats.ttest_1samp(GAUSSIAN, 0.0).confidence_interval(0.95)
        assert [float(low), float(high)] == pytest.approx([expected.low, expected.high], rel=1e-9)

    def test_data_far_from_zero_keep_their_digits(self) -> None:
        shifted = NormalInverseGamma(alpha=1.3, beta=0.8, gamma=0.6, delta=1e8 - 0.5)
        assert float(shifted.posterior(GAUSSIAN + 1e8).beta) == pytest.approx(
            float(self.prior.posterior(GAUSSIAN).beta), rel=1e-6
        )

    def test_groups_of_unequal_size_are_so_many_problems(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 5, 40)
        labels[labels == 3] = 4  # the fourth group is empty
        x = rng.normal(size=40) + 100.0
        together = self.prior.posterior(GaussianStatistics.of_groups(x, labels, 5))
        for group in range(5):
            alone = self.prior.posterior(x[labels == group])
            for name in ("alpha", "beta", "gamma", "delta"):
                assert float(getattr(together, name)[group]) == pytest.approx(float(getattr(alone, name)))


class TestBetaBernoulli:
    prior = BetaBernoulli(alpha=1.7, beta=0.9)

    def weight(self, function):
        def integrand(p):
            likelihood = np.prod(np.where(BINARY == 1, p, 1.0 - p))
            return function(p) * stats.beta.pdf(p, 1.7, 0.9) * likelihood

        return integrate.quad(integrand, 0.0, 1.0, epsabs=1e-13, epsrel=1e-11)[0]

    def test_evidence_posterior_and_predictive_by_quadrature(self) -> None:
        evidence = self.weight(lambda p: 1.0)
        assert float(self.prior.log_evidence(BINARY)) == pytest.approx(math.log(evidence), abs=1e-9)
        mean = self.weight(lambda p: p) / evidence
        law = self.prior.posterior(BINARY).law
        assert float(law.mean) == pytest.approx(mean, rel=1e-9)
        assert float(law.variance) == pytest.approx(
            self.weight(lambda p: p * p) / evidence - mean**2, rel=1e-8
        )
        predictive = self.prior.predictive(BINARY)
        assert float(predictive.log_prob(1).exp()) == pytest.approx(mean, rel=1e-9)
        assert float(predictive.log_prob([0, 1]).exp().sum()) == pytest.approx(1.0, abs=1e-14)
        assert float(predictive.log_prob(0.5)) == -math.inf
        counts = self.prior.predictive_count(4, BINARY)
        for k in range(5):
            average = self.weight(lambda p, k=k: stats.binom.pmf(k, 4, p)) / evidence
            assert float(counts.log_prob(k).exp()) == pytest.approx(average, rel=1e-8)
        assert float(counts.log_prob(range(5)).exp().sum()) == pytest.approx(1.0, abs=1e-13)

    def test_modes(self) -> None:
        posterior = self.prior.posterior(BINARY)
        found = optimize.minimize_scalar(
            lambda p: -float(posterior.law.log_prob(p)), bounds=(0, 1), method="bounded"
        )
        assert float(self.prior.map(BINARY)) == pytest.approx(found.x, abs=1e-5)
        assert float(self.prior.marginal_map(BINARY)) == float(self.prior.map(BINARY))
        assert float(BetaBernoulli.flat().map(BINARY)) == pytest.approx(BINARY.mean(), rel=1e-14)
        assert float(BetaBernoulli.flat().map([0, 0])) == 0.0
        assert float(BetaBernoulli.flat().map([1, 1])) == 1.0
        assert float(BetaBernoulli(alpha=0.5, beta=2.0).map([0])) == 0.0
        assert math.isnan(float(BetaBernoulli.flat().mode))
        assert math.isnan(float(BetaBernoulli.jeffreys().mode))
        assert float(BetaBernoulli.haldane().posterior(BINARY).law.mean) == pytest.approx(BINARY.mean())

    def test_draws(self) -> None:
        generator = torch.Generator().manual_seed(3)
        law = self.prior.posterior(BINARY).law
        assert stats.kstest(law.sample(20_000, generator).numpy(), lambda v: law.cdf(v).numpy()).pvalue > 1e-3
        for predicted in (self.prior.predictive(BINARY), self.prior.predictive_count(6, BINARY)):
            check_moments(predicted, generator)

    def test_a_count_has_the_binomial_coefficient_in_its_evidence(self) -> None:
        sequences = self.prior.log_evidence(BINARY)
        count = self.prior.log_evidence(BernoulliStatistics.of_binomial(5, 3))
        assert float(count - sequences) == pytest.approx(math.log(10), abs=1e-12)


class TestDirichletCategorical:
    alpha = np.array([0.8, 1.5, 2.1])
    prior = DirichletCategorical(alpha=[0.8, 1.5, 2.1])

    def weight(self, function):
        """Over logits of the first two shares against the third, where nothing is singular."""
        logit = np.linspace(-40.0, 40.0, 1001)
        p = np.stack(np.broadcast_arrays(logit[:, None], logit, 0.0))
        p = np.exp(p - p.max(axis=0))
        p /= p.sum(axis=0)
        tally = np.bincount(LABELS)[:, None, None]
        exponent = self.alpha[:, None, None] + tally  # the Jacobian is the product of the shares
        log_norm = special.gammaln(self.alpha.sum()) - special.gammaln(self.alpha).sum()
        joint = function(p) * np.exp((exponent * np.log(p)).sum(axis=0) + log_norm)
        return integrate.simpson(integrate.simpson(joint, x=logit), x=logit)

    def test_evidence_and_posterior_by_quadrature(self) -> None:
        evidence = self.weight(lambda p: 1.0)
        assert float(self.prior.log_evidence(LABELS)) == pytest.approx(math.log(evidence), abs=1e-6)
        law = self.prior.posterior(LABELS).law
        predictive = self.prior.predictive(LABELS)
        for k in range(3):
            mean = self.weight(lambda p, k=k: p[k]) / evidence
            assert float(law.mean[k]) == pytest.approx(mean, rel=1e-5)
            assert float(predictive.log_prob(k).exp()) == pytest.approx(mean, rel=1e-5)
        assert float(predictive.log_prob([0, 1, 2]).exp().sum()) == pytest.approx(1.0, abs=1e-14)
        assert float(predictive.log_prob(3)) == -math.inf

    def test_the_law_of_tallies_sums_to_one_and_marginalises_to_a_beta_binomial(self) -> None:
        tallies = [t for t in itertools.product(range(6), repeat=3) if sum(t) == 5]
        law = self.prior.predictive_counts(5, LABELS)
        probabilities = law.log_prob(np.array(tallies, dtype=float)).exp().numpy()
        assert probabilities.sum() == pytest.approx(1.0, abs=1e-13)
        posterior = self.alpha + np.bincount(LABELS)
        first = stats.betabinom(5, posterior[0], posterior[1:].sum())
        for k in range(6):
            assert probabilities[[t[0] == k for t in tallies]].sum() == pytest.approx(first.pmf(k), rel=1e-10)
        assert float(law.log_prob([5.0, 1.0, 0.0])) == -math.inf

    def test_modes(self) -> None:
        posterior = self.prior.posterior(LABELS)

        def negative(free):
            p = np.exp([*free, 0.0])
            return -float(posterior.law.log_prob(p / p.sum()))

        found = np.exp([*optimize.minimize(negative, [0.0, 0.0], tol=1e-12).x, 0.0])
        np.testing.assert_allclose(self.prior.map(LABELS).numpy(), found / found.sum(), atol=1e-6)
        a = posterior.alpha.numpy()
        for k, mode in enumerate(self.prior.marginal_map(LABELS).tolist()):
            one = optimize.minimize_scalar(
                lambda p, k=k: -stats.beta.logpdf(p, a[k], a.sum() - a[k]), bounds=(0, 1), method="bounded"
            )
            assert mode == pytest.approx(one.x, abs=1e-5)
        shares = np.bincount(LABELS) / len(LABELS)
        np.testing.assert_allclose(DirichletCategorical.flat(3).map(LABELS).numpy(), shares, rtol=1e-14)
        np.testing.assert_allclose(self.prior.maximum_likelihood(LABELS).numpy(), shares, rtol=1e-14)
        np.testing.assert_allclose(DirichletCategorical.haldane(3).posterior(LABELS).law.mean.numpy(), shares)
        assert DirichletCategorical.flat(3).map([0, 0]).tolist() == [1.0, 0.0, 0.0]
        assert DirichletCategorical.jeffreys(3).map([0]).isnan().all()

    def test_draws(self) -> None:
        generator = torch.Generator().manual_seed(4)
        law = self.prior.posterior(LABELS).law
        check_moments(law, generator)
        check_moments(self.prior.predictive_counts(6, LABELS), generator)
        labels = self.prior.predictive(LABELS).sample((30, 1000), generator)
        observed = np.bincount(labels.numpy().ravel(), minlength=3)
        assert stats.chisquare(observed, 30_000 * law.mean.numpy()).pvalue > 1e-3
        batched = DirichletCategorical(alpha=[[50.0, 1.0], [1.0, 50.0]]).predictive()
        assert batched.sample((200,), generator).double().mean(0).tolist() == pytest.approx(
            [1 / 51, 50 / 51], abs=0.05
        )

    def test_two_categories_are_the_beta_bernoulli(self) -> None:
        two = DirichletCategorical(alpha=[0.9, 1.7])
        one = BetaBernoulli(alpha=1.7, beta=0.9)
        assert float(two.log_evidence(BINARY)) == pytest.approx(float(one.log_evidence(BINARY)), abs=1e-12)
        assert float(two.map(BINARY)[1]) == pytest.approx(float(one.map(BINARY)), rel=1e-12)

    def test_rows_of_counts_are_independent_multinomials(self) -> None:
        rows = np.array([[2, 0, 1], [0, 3, 1]])
        labels = np.repeat([0, 1, 2, 0, 1, 2], rows.ravel())
        by_rows = self.prior.log_evidence(CategoricalStatistics.of_multinomial(rows))
        ways = math.log(3) + math.log(4)
        assert float(by_rows) == pytest.approx(float(self.prior.log_evidence(labels)) + ways, abs=1e-12)


class TestGammaPoisson:
    prior = GammaPoisson(shape=1.4, rate=0.7)

    def weight(self, function, exposure=1.0):
        def integrand(rate):
            likelihood = np.prod(stats.poisson.pmf(COUNTS, rate * exposure))
            return function(rate) * stats.gamma.pdf(rate, 1.4, scale=1 / 0.7) * likelihood

        return integrate.quad(integrand, 0.0, 40.0, epsabs=1e-16, epsrel=1e-11, limit=200)[0]

    def test_evidence_posterior_and_predictive_by_quadrature(self) -> None:
        evidence = self.weight(lambda rate: 1.0)
        assert float(self.prior.log_evidence(COUNTS)) == pytest.approx(math.log(evidence), abs=1e-9)
        mean = self.weight(lambda rate: rate) / evidence
        law = self.prior.posterior(COUNTS).law
        assert float(law.mean) == pytest.approx(mean, rel=1e-9)
        second = self.weight(lambda rate: rate**2) / evidence
        assert float(law.variance) == pytest.approx(second - mean**2, rel=1e-7)
        for exposure in (1.0, 2.5):
            predictive = self.prior.predictive(COUNTS, exposure=exposure)
            for k in (0, 2, 7):
                average = self.weight(lambda rate, k=k, e=exposure: stats.poisson.pmf(k, rate * e)) / evidence
                assert float(predictive.log_prob(k).exp()) == pytest.approx(average, rel=1e-8)
            assert float(predictive.log_prob(np.arange(400)).exp().sum()) == pytest.approx(1.0, abs=1e-12)
            assert float(predictive.log_prob(1.5)) == -math.inf

    def test_exposures_count(self) -> None:
        lengths = np.array([0.5, 1.0, 2.0, 1.5])
        statistics = PoissonStatistics.of(COUNTS, lengths)
        evidence = self.weight(lambda rate: 1.0, exposure=lengths)
        assert float(self.prior.log_evidence(statistics)) == pytest.approx(math.log(evidence), abs=1e-9)
        assert float(self.prior.maximum_likelihood(statistics)) == COUNTS.sum() / 5.0

    def test_modes_and_limits(self) -> None:
        law = self.prior.posterior(COUNTS).law
        found = optimize.minimize_scalar(lambda r: -float(law.log_prob(r)), bounds=(0, 20), method="bounded")
        assert float(self.prior.map(COUNTS)) == pytest.approx(found.x, abs=1e-4)
        assert float(GammaPoisson.flat().map(COUNTS)) == pytest.approx(COUNTS.mean(), rel=1e-14)
        faint = GammaPoisson(shape=0.5, rate=1e-12).posterior(COUNTS).law.mean
        assert float(GammaPoisson.jeffreys().posterior(COUNTS).law.mean) == pytest.approx(
            float(faint), rel=1e-10
        )
        assert float(GammaPoisson(shape=0.5, rate=1.0).map([0])) == 0.0
        assert math.isnan(float(GammaPoisson.flat().mode))

    def test_draws(self) -> None:
        generator = torch.Generator().manual_seed(5)
        law = self.prior.posterior(COUNTS).law
        assert stats.kstest(law.sample(20_000, generator).numpy(), lambda v: law.cdf(v).numpy()).pvalue > 1e-3
        check_moments(self.prior.predictive(COUNTS, exposure=2.0), generator)


class TestLinearRegression:
    prior = LinearRegression(alpha=1.5, beta=0.7, gamma=[[1.0, 0.3], [0.3, 0.5]], delta=[0.2, -0.1])

    def test_one_constant_feature_is_the_normal_inverse_gamma(self) -> None:
        one = LinearRegression(alpha=1.3, beta=0.8, gamma=0.6, delta=[-0.5])
        other = NormalInverseGamma(**NIG)
        ones = np.ones((len(GAUSSIAN), 1))
        assert float(one.log_evidence(ones, GAUSSIAN)) == pytest.approx(
            float(other.log_evidence(GAUSSIAN)), abs=1e-12
        )
        for mine, theirs in ((one.map, other.map), (one.marginal_map, other.marginal_map)):
            weights, variance = mine(ones, GAUSSIAN)
            assert [float(weights[0]), float(variance)] == pytest.approx([float(v) for v in theirs(GAUSSIAN)])
        at_one = one.predictive([[1.0]], ones, GAUSSIAN)
        assert float(at_one.log_prob([2.0])[0]) == pytest.approx(
            float(other.predictive(GAUSSIAN).log_prob(2.0))
        )

    def test_evidence_is_a_multivariate_t(self) -> None:
        # Without the weights the responses are jointly t: location X delta, shape (beta/alpha)(I + X gamma^-1 X').
        gamma = self.prior.gamma.numpy()
        shape = 0.7 / 1.5 * (np.eye(len(DESIGN)) + DESIGN @ np.linalg.inv(gamma) @ DESIGN.T)
        joint = stats.multivariate_t(DESIGN @ [0.2, -0.1], shape, df=3.0)
        evidence = self.prior.log_evidence(DESIGN, RESPONSE)
        assert float(evidence) == pytest.approx(joint.logpdf(RESPONSE), abs=1e-10)

    def test_evidence_by_quadrature_over_the_variance(self) -> None:
        gamma = np.linalg.inv(self.prior.gamma.numpy())
        shape = np.eye(len(DESIGN)) + DESIGN @ gamma @ DESIGN.T

        def integrand(variance):
            likelihood = stats.multivariate_normal.pdf(RESPONSE, DESIGN @ [0.2, -0.1], variance * shape)
            return likelihood * stats.invgamma.pdf(variance, 1.5, scale=0.7)

        total = integrate.quad(integrand, 1e-6, np.inf, epsabs=1e-14, limit=300)[0]
        assert float(self.prior.log_evidence(DESIGN, RESPONSE)) == pytest.approx(math.log(total), abs=1e-7)

    def test_posterior_density_is_prior_times_likelihood_over_evidence(self) -> None:
        posterior = self.prior.posterior(DESIGN, RESPONSE)
        for weights, variance in (([0.5, 1.0], 0.3), ([1.5, -0.5], 2.0)):
            covariance = variance * np.linalg.inv(self.prior.gamma.numpy())
            joint = stats.multivariate_normal.logpdf(weights, [0.2, -0.1], covariance)
            joint += stats.invgamma.logpdf(variance, 1.5, scale=0.7)
            joint += stats.norm.logpdf(RESPONSE, DESIGN @ weights, math.sqrt(variance)).sum()
            expected = joint - float(self.prior.log_evidence(DESIGN, RESPONSE))
            assert float(posterior.log_prob(weights, variance)) == pytest.approx(expected, abs=1e-10)

    def test_mode_by_search_and_the_limits(self) -> None:
        posterior = self.prior.posterior(DESIGN, RESPONSE)
        found = optimize.minimize(
            lambda p: -float(posterior.log_prob(p[:2], math.exp(p[2]))), [0.0, 0.0, 0.0], tol=1e-12
        ).x
        weights, variance = self.prior.map(DESIGN, RESPONSE)
        assert [*weights.tolist(), float(variance)] == pytest.approx(
            [*found[:2], math.exp(found[2])], abs=1e-5
        )
        least_squares, mean_square = self.prior.maximum_likelihood(DESIGN, RESPONSE)
        expected = np.linalg.lstsq(DESIGN, RESPONSE)[0]
        np.testing.assert_allclose(least_squares.numpy(), expected, rtol=1e-10)
        assert float(mean_square) == pytest.approx(((RESPONSE - DESIGN @ expected) ** 2).mean())
        flat = LinearRegression.flat(2).map(DESIGN, RESPONSE)
        np.testing.assert_allclose(flat[0].numpy(), expected, rtol=1e-10)
        assert float(flat[1]) == pytest.approx(float(mean_square), rel=1e-10)
        ridge = LinearRegression(alpha=1.0, beta=1.0, gamma=2.0, delta=[0.0, 0.0]).map(DESIGN, RESPONSE)[0]
        solved = np.linalg.solve(DESIGN.T @ DESIGN + 2.0 * np.eye(2), DESIGN.T @ RESPONSE)
        np.testing.assert_allclose(ridge.numpy(), solved, rtol=1e-12)
        faint = LinearRegression(alpha=1e-10, beta=1e-10, gamma=1e-10, delta=[3.0, 3.0])
        limit = LinearRegression.jeffreys(2).posterior(DESIGN, RESPONSE)
        np.testing.assert_allclose(limit.delta.numpy(), faint.map(DESIGN, RESPONSE)[0].numpy(), rtol=1e-8)
        assert float(limit.alpha) == pytest.approx(2.5)

    def test_reference_intervals_are_those_of_least_squares(self) -> None:
        law = LinearRegression.reference(2).posterior(DESIGN, RESPONSE).weight_laws
        fitted = stats.linregress(DESIGN[:, 1], RESPONSE)
        half = stats.t.ppf(0.975, 3)
        low, high = law.interval(0.95)
        assert float(high[1] - low[1]) == pytest.approx(2 * half * fitted.stderr, rel=1e-9)
        assert float(high[0] - low[0]) == pytest.approx(2 * half * fitted.intercept_stderr, rel=1e-9)

    def test_predictive_integrates_to_one_and_its_draws_go_through_the_posterior(self) -> None:
        at = np.array([[1.0, 3.0], [1.0, -2.0]])
        predictive = self.prior.predictive(at, DESIGN, RESPONSE)
        for row in range(2):

            def density(y, row=row):
                return float(predictive.log_prob([y, y])[row].exp())

            assert integrate.quad(density, -np.inf, np.inf)[0] == pytest.approx(1.0, abs=1e-7)
        generator = torch.Generator().manual_seed(6)
        weights, variance = self.prior.posterior(DESIGN, RESPONSE).sample(20_000, generator)
        noise = torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
        draws = weights @ torch.from_numpy(at).T + variance.sqrt()[:, None] * noise
        for row in range(2):

            def below(y, row=row):
                return stats.t.cdf(
                    y, float(predictive.degrees), predictive.location[row], predictive.scale[row]
                )

            assert stats.kstest(draws[:, row].numpy(), below).pvalue > 1e-3
            assert stats.kstest(predictive.sample(20_000, generator)[:, row].numpy(), below).pvalue > 1e-3

    def test_a_batch_is_its_members(self) -> None:
        responses = np.stack([RESPONSE, RESPONSE[::-1], -RESPONSE])
        batch = self.prior.posterior(DESIGN, responses)
        assert batch.sample(7, torch.Generator().manual_seed(0))[0].shape == (7, 3, 2)
        located = batch.predictive(DESIGN[:2])
        for row in range(3):
            one = self.prior.posterior(DESIGN, responses[row])
            torch.testing.assert_close(batch.delta[row], one.delta)
            torch.testing.assert_close(batch.beta[row], one.beta)
            torch.testing.assert_close(located.location[row], one.predictive(DESIGN[:2]).location)
        assert self.prior.log_evidence(DESIGN, responses).shape == (3,)


def check_moments(law, generator) -> None:
    """Means of draws within 4.5 standard errors, variances within 6 % (some 20,000 draws of a light-tailed law)."""
    n_draws = 20_000
    draws = law.sample(n_draws, generator)
    error = (law.variance / n_draws).sqrt()
    assert ((draws.mean(0) - law.mean).abs() < 4.5 * error).all()
    assert (draws.var(0) / law.variance - 1.0).abs().max() < 0.06


MODELS = {
    "gaussian": (NormalInverseGamma(**NIG), (GAUSSIAN,)),
    "bernoulli": (BetaBernoulli(alpha=1.7, beta=0.9), (BINARY,)),
    "categorical": (DirichletCategorical(alpha=[0.8, 1.5, 2.1]), (LABELS,)),
    "poisson": (GammaPoisson(shape=1.4, rate=0.7), (COUNTS,)),
    "regression": (TestLinearRegression.prior, (DESIGN, RESPONSE)),
}
PARAMETERS = ("alpha", "beta", "gamma", "delta", "shape", "rate")


@pytest.mark.parametrize("name", MODELS)
class TestEveryModel:
    def test_the_evidence_is_the_product_of_predictives(self, name) -> None:
        model, data = MODELS[name]
        total = 0.0
        for n in range(len(data[0])):
            before, following = [part[:n] for part in data], data[-1][n]
            if name == "regression":
                total += float(model.predictive(data[0][n : n + 1], *before).log_prob([following])[0])
            else:
                total += float(model.predictive(*before).log_prob(following))
        assert float(model.log_evidence(*data)) == pytest.approx(total, abs=1e-10)

    def test_one_part_then_the_other_is_both(self, name) -> None:
        model, data = MODELS[name]
        both = model.posterior(*data)
        one_by_one = model
        for n in range(len(data[0])):
            one_by_one = one_by_one.posterior(*(part[n : n + 1] for part in data))
        for parameter in PARAMETERS:
            if hasattr(model, parameter):
                torch.testing.assert_close(
                    getattr(one_by_one, parameter), getattr(both, parameter), rtol=1e-12, atol=1e-12
                )

    def test_nothing_seen_changes_nothing(self, name) -> None:
        model, data = MODELS[name]
        nothing = tuple(part[:0] for part in data)
        assert float(model.log_evidence(*nothing)) == pytest.approx(0.0, abs=1e-12)
        for parameter in PARAMETERS:
            if hasattr(model, parameter):
                torch.testing.assert_close(
                    getattr(model.posterior(*nothing), parameter), getattr(model, parameter)
                )
        with pytest.raises(UserError, match=r"at least one observation|rank"):
            model.maximum_likelihood(*nothing)

    def test_a_batch_is_its_members(self, name) -> None:
        model, data = MODELS[name]
        batch = tuple(np.stack([part, part[::-1]])[None] for part in data)
        evidence = model.log_evidence(*batch)
        assert evidence.shape == (1, 2)
        torch.testing.assert_close(evidence, model.log_evidence(*data).expand(1, 2))


def test_hyper_parameters_broadcast_against_the_problems() -> None:
    priors = NormalInverseGamma(alpha=1.0, beta=1.0, gamma=[[0.5], [2.0]], delta=0.0)
    x = np.stack([GAUSSIAN, GAUSSIAN + 1.0, GAUSSIAN - 1.0])
    posterior = priors.posterior(x)
    assert posterior.sample((4, 5), torch.Generator().manual_seed(0))[0].shape == (4, 5, 2, 3)
    for (i, gamma), j in itertools.product(enumerate([0.5, 2.0]), range(3)):
        one = NormalInverseGamma(alpha=1.0, beta=1.0, gamma=gamma, delta=0.0)
        assert float(priors.map(x)[0][i, j]) == pytest.approx(float(one.map(x[j])[0]))
        assert float(priors.log_evidence(x)[i, j]) == pytest.approx(float(one.log_evidence(x[j])))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NormalInverseGamma(alpha=0.0, beta=1.0, gamma=1.0, delta=0.0), "alpha: expected numbers above 0"),
        (lambda: NormalInverseGamma(alpha=1.0, beta=-1.0, gamma=1.0, delta=0.0), "beta"),
        (lambda: NormalInverseGamma(alpha=1.0, beta=1.0, gamma=[1.0, 0.0], delta=0.0), "gamma.*came 0 at 1"),
        (lambda: NormalInverseGamma(alpha=1.0, beta=1.0, gamma=1.0, delta=math.nan), "delta: expected finite"),
        (lambda: NormalInverseGamma(alpha=[1.0] * 2, beta=[1.0] * 3, gamma=1.0, delta=0.0), "alpha and beta"),
        (lambda: BetaBernoulli(alpha=0.0, beta=1.0), "alpha"),
        (lambda: BetaBernoulli(alpha=1.0, beta="much"), "beta: expected numbers, came 'much'"),
        (lambda: GammaPoisson(shape=-1.0, rate=1.0), "shape"),
        (lambda: GammaPoisson(shape=1.0, rate=math.inf), "rate"),
        (lambda: DirichletCategorical(alpha=[1.0, 0.0]), "alpha"),
        (lambda: DirichletCategorical(alpha=[1.0]), "two categories"),
        (lambda: LinearRegression(alpha=1.0, beta=1.0, gamma=[[1.0, 2.0], [2.0, 1.0]], delta=[0.0, 0.0]), "gamma"),
        (lambda: LinearRegression(alpha=1.0, beta=1.0, gamma=-1.0, delta=[0.0]), "gamma"),
        (lambda: LinearRegression(alpha=1.0, beta=1.0, gamma=1.0, delta=0.0), "delta: expected at least 1 axes"),
        (lambda: GammaPoisson(shape=1.0, rate=1.0).posterior([1.0, 2.5]), "x: expected whole numbers.*came 2.5 at 1"),
        (lambda: GammaPoisson(shape=1.0, rate=1.0).posterior([1, -1]), "x: expected whole numbers.*came -1"),
        (lambda: BetaBernoulli(alpha=1.0, beta=1.0).posterior([0, 1, 2]), "x: expected zeros and ones, came 2"),
        (lambda: BernoulliStatistics.of_binomial(3, 4), "successes"),
        (lambda: DirichletCategorical(alpha=[1.0, 1.0]).posterior([0, 2]), "x: expected labels below 2"),
        (lambda: DirichletCategorical(alpha=[1.0, 1.0]).posterior([0.5]), "x: expected whole numbers"),
        (lambda: NormalInverseGamma(**NIG).posterior([1.0, math.nan]), "x: expected finite numbers, came nan at 1"),
        (lambda: NormalInverseGamma(**NIG).posterior(3.0), "x: expected at least 1 axes"),
        (lambda: NormalInverseGamma(**{**NIG, "delta": [0.0, 1.0]}).posterior(np.ones((3, 4))), "broadcast"),
        (lambda: TestLinearRegression.prior.posterior(DESIGN, RESPONSE[:3]), "response: expected 5 values"),
        (lambda: TestLinearRegression.prior.posterior(DESIGN[:, :1], RESPONSE), "design: expected 2 columns"),
        (lambda: LinearRegression.flat(2).posterior(np.ones((4, 2)), np.ones(4)), "design"),
        (lambda: NormalInverseGamma.jeffreys().log_evidence(GAUSSIAN), "improper"),
        (lambda: NormalInverseGamma.flat().predictive(GAUSSIAN[:1]), "improper"),
        (lambda: GammaPoisson.flat().predictive(), "improper"),
        (lambda: NormalInverseGamma(**NIG).predictive().interval(1.0), "level"),
        (lambda: GaussianStatistics.of_groups([1.0, 2.0], [0, 3], 3), "groups: expected numbers below 3"),
        (lambda: GaussianStatistics.of_groups([1.0, 2.0], [0], 3), "groups"),
    ],
)  # fmt: skip
def test_mistakes_are_named(build, message) -> None:
    with pytest.raises(UserError, match=message):
        build()
