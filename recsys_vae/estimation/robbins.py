"""Robbins' formula: the posterior mean of a Poisson rate from the counts' own frequencies (Robbins 1956).

It is Tweedie's formula for the Poisson family. With ``x | rate ~ Poisson(rate)`` and any prior on the rate,
``E[rate | x] = (x + 1) p(x + 1) / p(x)``, ``p`` being the counts' marginal probability (Efron & Hastie 2016, eq. 6.5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import Legendre, legendre
from scipy import special
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, broadcast, counts, finite, real, refuse, whole
from recsys_vae.estimation.laws import from_scipy
from recsys_vae.estimation.poisson_regression import poisson_regression

# Above, one more is the same in float64.
_LARGEST = 2**53
# Of what is smoothed: the fit holds degree + 1 numbers for each count up to the largest.
_LARGEST_SMOOTHED = 10**6


def robbins_mean(x: Numbers, log_p: Numbers, log_p_next: Numbers) -> Float[Tensor, ...]:
    """``E[rate | x]`` from the marginal law's logarithm at ``x`` and at ``x + 1``; that may be minus infinity.

    Raises :class:`UserError` for what are no counts, no logarithms of probabilities, or do not broadcast.
    """
    count, own, following = counts("x", x), finite("log_p", log_p), real("log_p_next", log_p_next)
    wrong = following.isnan() | (following == torch.inf)
    refuse("log_p_next", "logarithms of probabilities", following, wrong)
    broadcast(x=count.shape, log_p=own.shape, log_p_next=following.shape)
    return (count + 1.0) * (following - own).exp()


def robbins(observed: Numbers, at: Numbers) -> Float[Tensor, ...]:
    """``E[rate | x]`` at each count of ``at``, with the observed frequencies in place of probabilities.

    It is NaN at a count that nobody observed, and jumps about where few did: see :func:`smoothed_robbins`.

    Args:
        observed: the counts of many problems, flat.
        at: counts.

    Raises :class:`UserError` for what are no counts.
    """
    tally = _Tally.of(observed)
    x = counts("at", at)
    seen, following = tally.of_count(x), tally.of_count(x + 1.0)
    return torch.where(seen > 0, (x + 1.0) * following / seen, torch.nan)


def smoothed_robbins(observed: Numbers, at: Numbers, degree: int = 5) -> Float[Tensor, ...]:
    """:func:`robbins` with ``log(x! p(x))`` smoothed to a polynomial, by Lindsey's method.

    ``x! p(x)`` is the mixture of ``rate^x exp(-rate)`` over the prior, smooth whatever the prior is; the factorial,
    which is not, stays out of the fit as an offset. Beyond the largest count observed the ratio stays as it was there.

    Args:
        observed: the counts of many problems, flat, up to a million.
        at: counts.
        degree: of the polynomial, at least 1 (one rate for all).

    Raises :class:`UserError` for what are no counts, counts that are all the same, and a degree too high for them.
    """
    x, found = counts("at", at), _Tally.of(observed)
    whole("degree", degree, 1)
    largest = int(found.counts[-1])
    if largest <= degree:
        raise UserError(
            f"observed: expected counts above {degree} for degree {degree}, the largest is {largest}"
        )
    if largest > _LARGEST_SMOOTHED:
        raise UserError(f"observed: expected counts of at most {_LARGEST_SMOOTHED}, came {largest}")
    tally = np.zeros(largest + 1)
    tally[found.counts.long().numpy()] = found.n_problems.numpy()
    support = np.arange(largest + 1, dtype=np.float64)
    design = legendre.legvander(2.0 * support / largest - 1.0, degree)
    offset = np.log(tally.sum()) - special.gammaln(support + 1.0)
    fitted = Legendre(poisson_regression(design, tally, offset), domain=[0.0, largest])
    place = x.clamp(max=largest - 1.0).numpy()
    return from_scipy(np.exp(fitted(place + 1.0) - fitted(place)))


class _Tally(NamedTuple):
    """The counts that were observed, in order, and of how many problems each is."""

    counts: Float[Tensor, " counts"]
    n_problems: Float[Tensor, " counts"]

    @classmethod
    def of(cls, observed: Numbers) -> _Tally:
        values = counts("observed", observed)
        if values.ndim != 1 or not values.numel():
            raise UserError(f"observed: expected a flat list of counts, came shape {tuple(values.shape)}")
        refuse("observed", "counts below 2**53", values, values >= _LARGEST)
        found, n_problems = values.unique(return_counts=True)  # type: ignore[no-untyped-call]
        return cls(found, n_problems.double())

    def of_count(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """How many problems have each count of ``x``."""
        place = torch.searchsorted(self.counts, x.contiguous()).clamp(max=len(self.counts) - 1)
        return torch.where(self.counts[place] == x, self.n_problems[place], 0.0)
