"""Randomisation test of paired differences: under the null hypothesis, either sign was as likely."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

_SIGNS_PER_CHUNK = 4_000_000  # held at a time, 8 bytes each

# A permutation that gives the observed sum again up to rounding must count as "at least as extreme".
_ROUNDING = 1e-12


def sign_flip_p_values(
    differences: Float64[np.ndarray, "users columns"], *, permutations: int = 10_000, seed: int = 0
) -> Float64[np.ndarray, " columns"]:
    """Two-sided p value of each column's mean, by flipping the signs of whole users (Fisher 1935).

    Where all ``2^users`` patterns of signs are no more than ``permutations``, they are enumerated and p is
    exact. Else p is ``(1 + count) / (1 + permutations)``, ``count`` being the random patterns whose mean is
    at least as far from 0 as the one observed: never 0, and valid at any number of permutations (Phipson &
    Smyth 2010). The columns see the same patterns. NaN without users.

    Raises ``ValueError`` unless ``permutations`` is positive.
    """
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    n_users, n_columns = differences.shape
    if n_users == 0:
        return np.full(n_columns, np.nan)
    observed = np.abs(differences.sum(axis=0))
    extreme = observed - _ROUNDING * np.abs(differences).sum(axis=0)
    exact = n_users < 63 and 2**n_users <= permutations
    n_patterns = 2**n_users if exact else permutations
    rng = np.random.default_rng(seed)
    count = np.zeros(n_columns, dtype=np.int64)
    chunk = max(1, _SIGNS_PER_CHUNK // n_users)
    for start in range(0, n_patterns, chunk):
        size = min(chunk, n_patterns - start)
        if exact:
            flipped = (np.arange(start, start + size)[:, None] >> np.arange(n_users) & 1).astype(np.uint8)
        else:
            bits = np.frombuffer(rng.bytes(size * ((n_users + 7) // 8)), dtype=np.uint8).reshape(size, -1)
            flipped = np.unpackbits(bits, axis=1, count=n_users)
        sums = (1.0 - 2.0 * flipped) @ differences
        count += (np.abs(sums) >= extreme).sum(axis=0)
    return count / n_patterns if exact else (1.0 + count) / (1.0 + n_patterns)
