"""Counts whose log-mean is linear: maximum likelihood by Newton's method (McCullagh & Nelder 1989, chapter 2)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from recsys_vae.errors import UserError

_MAX_STEPS = 100
_TOLERANCE = 1e-5  # of a step, in log-means; the step after it is its square


def poisson_regression(
    design: Float[np.ndarray, "rows features"],
    counts: Float[np.ndarray, " rows"],
    offset: Float[np.ndarray, " rows"],
) -> Float[np.ndarray, " features"]:
    """Coefficients that maximise ``sum_i counts_i eta_i - exp(eta_i)`` with ``eta = design @ coefficients + offset``.

    The objective is concave; a step that does not raise it is halved. Columns are made orthogonal first.

    Raises :class:`UserError` where there is no maximum that the steps reach: too many features for the counts.
    """
    basis, triangle = np.linalg.qr(design)
    # Start at the weighted least squares fit of log(counts + 1/2), as GLM software does.
    root = np.sqrt(counts + 0.5)
    start = np.linalg.lstsq(root[:, None] * basis, root * (np.log(counts + 0.5) - offset), rcond=None)[0]
    coefficients, value = start, _log_likelihood(basis @ start + offset, counts)
    for _ in range(_MAX_STEPS):
        mean = np.exp(basis @ coefficients + offset)
        gradient = basis.T @ (counts - mean)
        try:
            step = np.linalg.solve(basis.T @ (mean[:, None] * basis), gradient)
        except np.linalg.LinAlgError:
            break
        # Where the fit runs off to minus infinity, the steps stay as long as they are, while nothing is gained.
        if np.abs(basis @ step).max() < _TOLERANCE:
            return np.linalg.solve(triangle, coefficients + step)
        for _ in range(60):
            proposed = _log_likelihood(basis @ (coefficients + step) + offset, counts)
            if proposed > value:
                break
            step = 0.5 * step
        else:
            break
        coefficients, value = coefficients + step, proposed
    raise UserError(
        f"degree: {design.shape[1] - 1} is too high for these counts, whose fit has no maximum; expected less"
    )


def _log_likelihood(eta: Float[np.ndarray, " rows"], counts: Float[np.ndarray, " rows"]) -> float:
    with np.errstate(over="ignore"):
        return float(counts @ eta - np.exp(eta).sum())
