"""Lindsey's method: a smooth log-density from a histogram, as empirical Bayes wants it (Efron 2011, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import Legendre, legendre
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, finite, whole
from recsys_vae.estimation.laws import from_scipy
from recsys_vae.estimation.poisson_regression import poisson_regression


@dataclass(frozen=True)
class LogPolynomialDensity:
    """A density on the line whose logarithm is a polynomial on ``[low, high]`` and goes on linearly outside.

    A polynomial of the data's range says nothing beyond it; a straight line keeps the score where it was.
    """

    polynomial: Legendre
    low: float
    high: float

    def log_density(self, x: Numbers) -> Float[Tensor, ...]:
        """At each number, nats."""
        inside = self._inside(x)
        return from_scipy(self.polynomial(inside.numpy())) + self.score(x) * (finite("x", x) - inside)

    def score(self, x: Numbers) -> Float[Tensor, ...]:
        """First derivative of the log-density at each number."""
        return from_scipy(self.polynomial.deriv()(self._inside(x).numpy()))

    def second_derivative(self, x: Numbers) -> Float[Tensor, ...]:
        """Of the log-density at each number; 0 outside the range."""
        inside = self._inside(x)
        curvature = from_scipy(self.polynomial.deriv(2)(inside.numpy()))
        return torch.where(inside == finite("x", x), curvature, 0.0)

    def _inside(self, x: Numbers) -> Tensor:
        return finite("x", x).clamp(self.low, self.high)


def lindsey(x: Numbers, degree: int = 5, n_bins: int = 60) -> LogPolynomialDensity:
    """Fit a log-polynomial density to numbers: Poisson regression of their histogram's counts on the bins' centres.

    Args:
        x: the observations, flat.
        degree: of the polynomial, at least 2 (a Gaussian).
        n_bins: of equal width between the least and the largest, more than ``degree``.

    Raises :class:`UserError` for arguments out of range, numbers without spread, and a degree too high for them.
    """
    values = finite("x", x).numpy()
    whole("degree", degree, 2)
    whole("n_bins", n_bins, degree + 1)
    if values.ndim != 1 or not values.size or values.min() == values.max():
        raise UserError(f"x: expected a flat list of numbers that differ, came shape {values.shape}")
    try:
        counts, edges = np.histogram(values, bins=n_bins)
    except ValueError:
        raise UserError("x: expected numbers that differ by more than rounding, came less") from None
    low, high = float(edges[0]), float(edges[-1])
    centres = (edges[1:] + edges[:-1]) / 2.0
    scaled = (2.0 * centres - low - high) / (high - low)
    # What the bin's mean count is where the density is 1; the regression finds the density's logarithm.
    offset = np.full(n_bins, np.log(values.size * (high - low) / n_bins))
    coefficients = poisson_regression(legendre.legvander(scaled, degree), counts.astype(np.float64), offset)
    return LogPolynomialDensity(Legendre(coefficients, domain=[low, high]), low, high)
