"""Robbins' formula: the posterior mean of a Poisson rate from the counts' own frequencies (Robbins 1956).

It is Tweedie's formula for the Poisson family. With ``x | rate ~ Poisson(rate)`` and any prior on the rate,
``E[rate | x] = (x + 1) p(x + 1) / p(x)``, ``p`` being the counts' marginal probability (Efron & Hastie 2016, eq. 6.5).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import Legendre, legendre
from scipy import special
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, as_tensor, counts
from recsys_vae.estimation.laws import from_scipy
from recsys_vae.estimation.poisson_regression import poisson_regression


def robbins_mean(x: Numbers, log_p: Numbers, log_p_next: Numbers) -> Float[Tensor, ...]:
    """``E[rate | x]`` from the marginal law's logarithm at ``x`` and at ``x + 1``."""
    return (counts("x", x) + 1.0) * (as_tensor(log_p_next) - as_tensor(log_p)).exp()


def robbins(observed: Numbers, at: Numbers) -> Float[Tensor, ...]:
    """``E[rate | x]`` at each count of ``at``, with the observed frequencies in place of probabilities.

    It is NaN at a count that nobody observed, and jumps about where few did: see :func:`smoothed_robbins`.

    Args:
        observed: the counts of many problems, flat.
        at: counts.

    Raises :class:`UserError` for what are no counts.
    """
    tally = _tally(observed)
    x = counts("at", at)
    padded = torch.cat([tally, tally.new_zeros(2)])
    place = x.long().clamp(max=len(tally))
    seen, following = padded[place], padded[(place + 1)]
    return torch.where(seen > 0, (x + 1.0) * following / seen, torch.nan)


def smoothed_robbins(observed: Numbers, at: Numbers, degree: int = 5) -> Float[Tensor, ...]:
    """:func:`robbins` with ``log(x! p(x))`` smoothed to a polynomial, by Lindsey's method.

    ``x! p(x)`` is the mixture of ``rate^x exp(-rate)`` over the prior, smooth whatever the prior is; the factorial,
    which is not, stays out of the fit as an offset. Beyond the largest count observed the ratio stays as it was there.

    Args:
        observed: the counts of many problems, flat.
        at: counts.
        degree: of the polynomial, at least 1 (one rate for all).

    Raises :class:`UserError` for what are no counts, counts that are all the same, and a degree too high for them.
    """
    x, tally = counts("at", at), _tally(observed).numpy()
    if degree < 1:
        raise UserError(f"degree: expected at least 1, came {degree!r}")
    if len(tally) <= degree + 1:
        raise UserError(
            f"observed: expected counts above {degree + 1} for degree {degree}, the largest is {len(tally) - 1}"
        )
    largest = len(tally) - 1
    support = np.arange(largest + 1, dtype=np.float64)
    design = legendre.legvander(2.0 * support / largest - 1.0, degree)
    offset = np.log(tally.sum()) - special.gammaln(support + 1.0)
    fitted = Legendre(poisson_regression(design, tally, offset), domain=[0.0, largest])
    place = x.clamp(max=largest - 1.0).numpy()
    return from_scipy(np.exp(fitted(place + 1.0) - fitted(place)))


def _tally(observed: Numbers) -> Float[Tensor, " counts"]:
    values = counts("observed", observed)
    if values.ndim != 1 or not values.numel():
        raise UserError(f"observed: expected a flat list of counts, came shape {tuple(values.shape)}")
    return torch.bincount(values.long()).double()
