"""Sparse cases of binary variables, as structure learning reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from recsys_vae.errors import UserError


def binary_cases(data: Any) -> csr_array:
    """``(cases, variables)``, sparse or dense, with True where it is not 0, and nothing stored elsewhere.

    Raises :class:`UserError` for what is no matrix, is empty, or holds negative numbers or NaN.
    """
    matrix = csr_array(data)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UserError(f"data: expected a matrix (cases, variables), came {matrix.shape}")
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if not np.all(matrix.data >= 0):
        worst = matrix.data[~(matrix.data >= 0)][0]
        raise UserError(f"data: expected 0, or more where a variable is 1, came {worst}")
    matrix = csr_array((matrix.data != 0, matrix.indices, matrix.indptr), shape=matrix.shape)
    if not matrix.data.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix
