"""EASE in a few lines of NumPy, written from the paper alone (Steck 2019, arXiv:1905.03375): a second opinion."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def ease_weights(matrix: sp.csr_array, l2: float) -> np.ndarray:
    """Item-to-item weights ``(items, items)``, float64, zero diagonal (equation 8 of the paper)."""
    x = matrix.astype(np.float64)
    gram = (x.T @ x).toarray()
    inverse = np.linalg.inv(gram + l2 * np.eye(gram.shape[0]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def ease_scores(matrix: sp.csr_array, histories: sp.csr_array, l2: float) -> np.ndarray:
    """Scores ``(users, items)`` of unseen users' histories."""
    return np.asarray(histories.astype(np.float64) @ ease_weights(matrix, l2))
