from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.samplers.density_law import DensityLaw

float64 = torch.float64
inf = math.inf


def flat_between(low: float, high: float):
    return lambda x: torch.where((x > low) & (x < high), 0.0, -inf)


class TruncatedLogExponential:
    """The logarithm of an exponential variable that is less than 1."""

    def cdf(self, x):
        return np.expm1(-np.exp(x)) / np.expm1(-1.0)

    def ppf(self, u):
        return np.log(-np.log1p(u * np.expm1(-1.0)))


# log-density, low, high, logarithm of its integral, law
LAWS = {
    "normal": (lambda x: -0.5 * x**2, -inf, inf, 0.5 * math.log(2 * math.pi), scipy.stats.norm()),
    "heavy tails": (
        lambda x: -0.75 * (x**2 / 0.5).log1p(),
        -inf,
        inf,
        0.5 * math.log(0.5) + float(scipy.special.betaln(0.25, 0.5)),
        scipy.stats.t(0.5),
    ),
    "a kink": (lambda x: -(x - 0.123).abs(), -inf, inf, math.log(2.0), scipy.stats.laplace(0.123)),
    "jumps within an infinite line": (flat_between(2.0, 3.0), -inf, inf, 0.0, scipy.stats.uniform(2, 1)),
    "a pole at the end": (
        lambda x: -0.9 * x.log() - x,
        0.0,
        inf,
        float(scipy.special.gammaln(0.1)),
        scipy.stats.gamma(0.1),
    ),
    "widely spread": (
        lambda x: -x.log() - 0.5 * (x.log() / 3) ** 2,
        0.0,
        inf,
        math.log(3 * math.sqrt(2 * math.pi)),
        scipy.stats.lognorm(3),
    ),
    "half a line to the left": (
        lambda x: x - x.exp(),  # of log(E), E exponential
        -inf,
        0.0,
        math.log1p(-math.exp(-1.0)),
        TruncatedLogExponential(),
    ),
    "uniform": (lambda x: torch.zeros_like(x), -3.0, 4.0, math.log(7.0), scipy.stats.uniform(-3, 7)),
    "beta": (
        lambda x: x.log() + 4 * (-x).log1p(),
        0.0,
        1.0,
        float(scipy.special.betaln(2, 5)),
        scipy.stats.beta(2, 5),
    ),
    "triangle": (
        lambda x: torch.where(x < 0.3, x / 0.3, (1 - x) / 0.7).log(),
        0.0,
        1.0,
        math.log(0.5),
        scipy.stats.triang(0.3),
    ),
    "narrow within a wide interval": (
        lambda x: -0.5 * ((x - 4.0) / 1e-4) ** 2,
        0.0,
        1e4,
        math.log(1e-4 * math.sqrt(2 * math.pi)),
        scipy.stats.norm(4.0, 1e-4),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_cdf_quantiles_and_normaliser_to_twelve_digits(name) -> None:
    log_density, low, high, log_normaliser, expected = LAWS[name]
    tolerance = 1e-10 if name.startswith("narrow") else 1e-12  # the rounding of x near 4, in units of 1e-4
    law = DensityLaw(log_density, low, high)
    u = torch.cat(
        [torch.logspace(-9, -2, 50, dtype=float64), torch.linspace(0.01, 1 - 1e-9, 5000, dtype=float64)]
    )
    x = law.quantile(u)
    assert np.abs(expected.cdf(x.numpy()) - u.numpy()).max() < tolerance
    assert float((law.cdf(torch.from_numpy(expected.ppf(u.numpy()))) - u).abs().max()) < tolerance
    assert law.log_normaliser == pytest.approx(log_normaliser, abs=tolerance)
    assert (x.diff() >= 0).all()
    assert ((x > low) & (x < high)).all()


def test_poles_at_both_ends() -> None:
    # near 1 a pole is lost in the rounding of x itself: 1e-16 holds 1e-8 of the mass
    law = DensityLaw(lambda x: -0.5 * x.log() - 0.5 * (-x).log1p(), 0.0, 1.0)
    u = torch.linspace(0.0, 1.0, 1001, dtype=float64)
    assert np.abs(scipy.stats.beta(0.5, 0.5).cdf(law.quantile(u).numpy()) - u.numpy()).max() < 1e-8


def test_a_law_far_from_the_guess_loses_no_more_than_its_positions_do() -> None:
    place, scale = 123456.7, 1e-4
    law = DensityLaw(lambda x: -0.5 * ((x - place) / scale) ** 2)
    u = torch.linspace(0.001, 0.999, 999, dtype=float64)
    error = np.abs(scipy.stats.norm(place, scale).cdf(law.quantile(u).numpy()) - u.numpy()).max()
    assert error < 2.0 * 0.4 * math.ulp(place) / scale


@pytest.mark.parametrize("nudge", [-1e-4, -1e-9, 0.0, 1e-9, 1e-4])
def test_a_skewed_peak_beside_the_border_of_two_panels(nudge) -> None:
    # steep on one side, so that the nodes that see it first are across the border, which lies at sinh(2)
    steep, gentle, summit = 1e9, 1e3, math.sinh(2.0) + nudge
    law = DensityLaw(lambda x: torch.where(x < summit, steep * (x - summit), gentle * (summit - x)))
    assert law.log_normaliser == pytest.approx(math.log(1 / steep + 1 / gentle), abs=1e-10)
    mirrored = DensityLaw(lambda x: torch.where(x < summit, gentle * (x - summit), steep * (summit - x)))
    assert mirrored.log_normaliser == pytest.approx(math.log(1 / steep + 1 / gentle), abs=1e-10)


def test_a_density_that_all_but_vanishes_within_a_panel() -> None:
    # a log-density of -1e300 beside the mass must not pass for rounding noise
    law = DensityLaw(lambda x: -x - (-x).exp(), low=-700.0)
    u = torch.linspace(0.001, 0.999, 999, dtype=float64)
    assert np.abs(scipy.stats.gumbel_r().cdf(law.quantile(u).numpy()) - u.numpy()).max() < 1e-10
    assert law.log_normaliser == pytest.approx(0.0, abs=1e-10)


def test_two_narrow_peaks_far_apart() -> None:
    def log_density(x: torch.Tensor) -> torch.Tensor:
        left = math.log(0.3 / 0.01) - 0.5 * ((x + 1000) / 0.01) ** 2
        right = math.log(0.7 / 0.02) - 0.5 * ((x - 1000) / 0.02) ** 2
        return torch.logaddexp(left, right)

    law = DensityLaw(log_density)
    x = np.concatenate([-1000 + np.linspace(-0.05, 0.05, 101), 1000 + np.linspace(-0.1, 0.1, 101)])
    expected = 0.3 * scipy.stats.norm(-1000, 0.01).cdf(x) + 0.7 * scipy.stats.norm(1000, 0.02).cdf(x)
    assert np.abs(law.cdf(torch.from_numpy(x)).numpy() - expected).max() < 1e-10
    u = torch.linspace(0.001, 0.999, 999, dtype=float64)
    torch.testing.assert_close(law.cdf(law.quantile(u)), u, rtol=0.0, atol=1e-10)


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e3), st.floats(-1e6, 1e6))
@settings(max_examples=15, deadline=None)
def test_any_place_scale_and_offset(place, scale, offset) -> None:
    law = DensityLaw(lambda x: offset - 0.5 * ((x - place) / scale) ** 2)
    u = torch.linspace(0.001, 0.999, 101, dtype=float64)
    error = np.abs(scipy.stats.norm(place, scale).cdf(law.quantile(u).numpy()) - u.numpy()).max()
    # the rounding of x, and of the log-density
    assert error < 1e-10 + 4e-16 * (abs(place) / scale + abs(offset))


def test_ends() -> None:
    law = DensityLaw(lambda x: -x, low=1.0)
    assert law.quantile(torch.tensor([0.0, 1.0], dtype=float64)).tolist() == [1.0, inf]
    assert law.cdf(torch.tensor([-inf, 0.0, 1.0, inf], dtype=float64)).tolist() == [0.0, 0.0, 0.0, 1.0]
    whole = DensityLaw(lambda x: -(x**2))
    assert whole.cdf(torch.tensor([-inf, inf], dtype=float64)).tolist() == [0.0, 1.0]
    assert whole.quantile(torch.tensor([[0.0], [1.0]], dtype=float64)).tolist() == [[-inf], [inf]]


@pytest.mark.parametrize(
    ("log_density", "interval", "message"),
    [
        (torch.zeros_like, {}, "expected a density that can be integrated, .* towards -inf"),
        (
            lambda x: -x.log(),
            {"low": 0.0, "high": 1.0},
            "expected a density that can be integrated, .* towards 0.0",
        ),
        (lambda x: x, {"low": 0.0}, "expected a density that can be integrated, .* towards inf"),
        (lambda x: torch.full_like(x, -inf), {}, "expected a finite value somewhere .* came -inf at all"),
        (lambda x: x.log(), {"high": 0.0}, "expected finite values or -inf, came nan at -"),
        (lambda x: torch.full_like(x, inf), {}, "expected finite values or -inf, came inf"),
        (lambda x: x.sum(), {}, r"expected values of shape \(\d+,\), one a point, came \(\)"),
    ],
)
def test_what_is_no_density(log_density, interval, message) -> None:
    with pytest.raises(UserError, match=f"log_density_fn: {message}"):
        DensityLaw(log_density, **interval)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="low: expected less than high"):
        DensityLaw(torch.zeros_like, 1.0, 1.0)
    with pytest.raises(UserError, match="width"):
        DensityLaw(torch.zeros_like, width=0.0)
    with pytest.raises(UserError, match="u: expected numbers in"):
        DensityLaw(torch.zeros_like, 0.0, 1.0).quantile(torch.tensor([1.5]))
