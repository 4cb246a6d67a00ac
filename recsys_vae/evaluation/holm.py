"""Holm's step-down correction for many comparisons (Holm 1979)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def holm(p_values: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """Adjusted p values, in the given order; rejecting those up to alpha errs anywhere with chance alpha.

    With the m values sorted upwards, the i-th (from 0) becomes the largest of ``(m - j) p_j`` over j <= i, at
    most 1. NaN (no test was possible) stays NaN and does not count in m.
    """
    adjusted = np.full_like(p_values, np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
