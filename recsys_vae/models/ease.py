"""EASE: embarrassingly shallow autoencoders (Steck 2019, arXiv:1905.03375)."""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import lapack
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models.base import ClosedFormModel, check_interval
from recsys_vae.models.sparse_rows import SparseRows, sparse_product

log = logging.getLogger(__name__)


class EASE(ClosedFormModel):
    """A linear item-to-item model with a zero diagonal, fitted in closed form.

    Minimises ``||X - X B||^2 + l2 * ||B||^2`` subject to ``diag(B) = 0``. With ``P = (X'X + l2 I)^-1`` the solution
    is ``B_ij = -P_ij / P_jj`` off the diagonal (eq. 8 of the paper).

    Args:
        n_items: size of the catalogue; comes from the data. The weights take ``4 * n_items**2`` bytes.
        l2: the paper's lambda.
        precision: of the inversion, ``float64`` or ``float32``; the weights are kept in float32.
    """

    def __init__(self, n_items: int, l2: float = 500.0, precision: str = "float64") -> None:
        super().__init__(n_items)
        check_interval("model.l2", l2, 0.0, float("inf"), include_low=False)
        if precision not in ("float32", "float64"):
            raise UserError(f"model.precision: expected float32 or float64, came {precision!r}")
        self.l2 = l2
        self.precision = precision
        self.weight: Tensor
        self.register_buffer("weight", torch.zeros(n_items, n_items))

    def fit(self, matrix: csr_array) -> EASE:
        """Invert the regularised Gram matrix by Cholesky; peak memory is ``2 * n_items**2`` numbers and the weights."""
        self.check_histories(matrix)
        dtype = np.dtype(self.precision)
        log.info("ease: %d x %d weights, inverted in %s", self.n_items, self.n_items, dtype)
        counts = matrix.astype(dtype)
        gram = np.asfortranarray((counts.T @ counts).toarray())
        gram[np.diag_indices_from(gram)] += self.l2
        prefix = "d" if dtype == np.float64 else "s"
        factor, info = getattr(lapack, f"{prefix}potrf")(gram, lower=1, overwrite_a=1, clean=0)
        if info == 0:
            precision_matrix, info = getattr(lapack, f"{prefix}potri")(factor, lower=1, overwrite_c=1)
        if info != 0:
            raise UserError(f"model.l2: {self.l2} leaves the Gram matrix singular in {dtype}; expected more")
        weight = torch.from_numpy(precision_matrix.T)  # potri fills one triangle; transposed, it is the upper
        weight.triu_()
        weight.add_(weight.triu(diagonal=1).T)
        weight.div_(-weight.diagonal().clone())
        weight.fill_diagonal_(0.0)
        self.weight.copy_(weight)
        return self

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``x B``."""
        self.check_histories(histories)
        return sparse_product(SparseRows.from_csr(histories, self.device), self.weight)
