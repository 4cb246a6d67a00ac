"""Linear autoencoders: the scores of a history ``x`` are ``x B``, and ``B`` ``(items, items)`` has a closed form.

One formula gives the whole family. Let ``G = sum_u w_u x_u x_u'`` be the Gram matrix of the training users, each with
the weight ``w_u = c n_u^-user_exponent`` of a user of ``n_u`` items (c leaves the trace of ``G`` as it is), and

    Lambda = l2 I + dropout / (1 - dropout) diag(G)

the ridge. The weights that minimise

    sum_u w_u ||x_u - x_u B||^2 + sum_ij Lambda_ii B_ij^2    subject to    B_jj <= max_diagonal

are, with ``C = (G + Lambda)^-1`` and multipliers ``mu_j >= 0`` of the constraints, ``B = C (G - diag(mu))``, that is

    B = I - C diag(gamma),    gamma_j = Lambda_jj + mu_j = max(Lambda_jj, (1 - max_diagonal) / C_jj):

where the free solution's diagonal, ``1 - Lambda_jj C_jj`` (from 0 to 1), is within the bound, ``mu_j`` is 0; elsewhere
``B_jj`` is the bound.

| model | ridge | diagonal | paper |
| --- | --- | --- | --- |
| EASE | ``l2`` | ``max_diagonal = 0`` | Steck 2019 (arXiv:1905.03375), eq. 8 |
| EDLAE | ``l2`` and ``dropout`` | ``max_diagonal = 0`` | Steck 2020 |
| DLAE | ``l2`` and ``dropout`` | free, ``max_diagonal = 1`` | Steck 2020 |
| RLAE | ``l2`` | bounded | Moon, Kim & Lee 2023 (arXiv:2305.12922) |
| RDLAE | ``l2`` and ``dropout`` | bounded | Moon, Kim & Lee 2023 |

Steck 2020 is "Autoencoders that don't overfit towards the identity" (NeurIPS), Moon, Kim & Lee 2023 "It's enough:
relaxing diagonal constraints in linear autoencoders for recommendation" (SIGIR).

The ridge ``dropout / (1 - dropout) diag(G)`` is what dropout of the inputs costs in expectation: with a mask that hides
each item of the history with probability ``dropout`` and scales the others by ``1 / (1 - dropout)``, the expectation of
``||x - (mask x) B||^2`` is ``||x - x B||^2 + dropout / (1 - dropout) sum_ij x_i^2 B_ij^2``. With a zero diagonal it is
also the loss on the hidden items alone, up to a factor: EDLAE's "full emphasis".
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import lapack
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive
from recsys_vae.models.gram_matrix import gram_diagonal, row_blocks, weight_users, write_gram_matrix
from recsys_vae.models.memory import GIB, check_memory
from recsys_vae.models.neighbourhood_weights import neighbourhood_weights, working_memory
from recsys_vae.models.sparse_rows import SparseRows, sparse_product
from recsys_vae.models.sparse_weights import SparseWeights

log = logging.getLogger(__name__)

_BLOCK_ENTRIES = 2**24
# The inverse is wrong by about eps times the condition number, relatively: more than 1 % at worst is not accepted.
_WORST_ERROR = 0.01
_REMEDY = "lower it, and larger catalogues have sparse weights"


class LinearAutoencoder(ClosedFormModel):
    """The family's formula; the models below name its members.

    The weights take ``4 * n_items**2`` bytes. Fitting in float32 works in place, in float64 with ``8 * n_items**2``
    bytes more: for 40,000 items 6.0 GiB or 17.9 GiB in all.

    Args:
        n_items: size of the catalogue; comes from the data.
        l2: the ridge that is the same for all items.
        dropout: of the inputs, from which each item's own ridge follows.
        max_diagonal: bound of the weight that an item has for itself, from 0 to 1; 1 leaves it free.
        user_exponent: a user of n items has a weight proportional to ``n^-user_exponent``.
        precision: of the inversion, ``float64`` or ``float32``, where one that turns out to be ill-conditioned is
            repeated in float64. The weights are kept in float32.
        dense_limit: above so many items the weights are sparse, those of
            :func:`recsys_vae.models.neighbourhood_weights.neighbourhood_weights`.
        n_neighbours: weights that an item then has, at most, besides its own.
    """

    def __init__(
        self,
        n_items: int,
        l2: float,
        dropout: float,
        max_diagonal: float,
        user_exponent: float,
        precision: str = "float64",
        dense_limit: int = 40_000,
        n_neighbours: int = 100,
    ) -> None:
        super().__init__(n_items)
        check_interval("model.l2", l2, 0.0, float("inf"), include_low=False)
        check_interval("model.dropout", dropout, 0.0, 1.0)
        check_interval("model.max_diagonal", max_diagonal, 0.0, 1.0, include_high=True)
        check_interval("model.user_exponent", user_exponent, 0.0, float("inf"))
        if precision not in ("float32", "float64"):
            raise UserError(f"model.precision: expected float32 or float64, came {precision!r}")
        self.l2 = l2
        self.dropout = dropout
        self.max_diagonal = max_diagonal
        self.user_exponent = user_exponent
        check_positive("model.dense_limit", dense_limit)
        check_positive("model.n_neighbours", n_neighbours)
        self.precision = precision
        self.n_neighbours = min(n_neighbours, n_items - 1)
        self.is_sparse = n_items > dense_limit
        if self.is_sparse:
            self.sparse = SparseWeights(n_items, n_items * (self.n_neighbours + 1))
        else:
            self.weight: Tensor
            check_memory("model.dense_limit", f"{n_items} x {n_items} weights", 4 * n_items**2, _REMEDY)
            self.register_buffer("weight", torch.zeros(n_items, n_items))

    def fit(self, matrix: csr_array) -> LinearAutoencoder:
        """Invert the regularised Gram matrix by Cholesky's factorisation, or its blocks where the weights are sparse.

        Raises :class:`UserError` when the working memory is not to be had, and when ``l2`` leaves the matrix singular.
        """
        self.check_histories(matrix)
        self._announce()
        weighted = weight_users(matrix, self.user_exponent)
        ridge = self.l2 + self.dropout / (1.0 - self.dropout) * gram_diagonal(weighted)
        if self.is_sparse:
            self.sparse.store(neighbourhood_weights(weighted, ridge, self.max_diagonal, self.n_neighbours))
        else:
            self._fit_dense(weighted, ridge)
        return self

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``x B``."""
        self.check_histories(histories)
        if self.is_sparse:
            return self.sparse.product(histories).to(self.device)
        return sparse_product(SparseRows.from_csr(histories, self.device), self.weight)

    def item_weights(self, items: slice) -> csr_array:
        """Rows of ``B``, on the host."""
        if self.is_sparse:
            return csr_array(self.sparse.matrix()[items])
        return csr_array(self.weight[items].cpu().numpy())

    def _fit_dense(self, weighted: csr_array, ridge: np.ndarray) -> None:
        weight = self.weight.cpu().numpy()  # the buffer itself, unless it lies on another device
        if self.precision == "float32":
            condition = _invert_regularised_gram(weighted, ridge, weight)
            if condition * np.finfo(np.float32).eps > _WORST_ERROR:
                log.warning("condition number %.1e is too much for float32: again in float64", condition)
                self._check_working_memory("float64")
                condition = self._invert_in_float64(weighted, ridge, weight)
        else:
            condition = self._invert_in_float64(weighted, ridge, weight)
        log.info("condition number of the regularised Gram matrix: %.1e", condition)
        if condition * np.finfo(np.float64).eps > _WORST_ERROR:
            raise UserError(
                f"model.l2: expected enough to make the Gram matrix regular, came {self.l2}, "
                f"which leaves a condition number of {condition:.1e}"
            )
        _inverse_to_weights(weight, ridge, self.max_diagonal)
        self.weight.copy_(torch.from_numpy(weight))

    def _announce(self) -> None:
        name, n_items = type(self).__name__, self.n_items
        if self.is_sparse:
            size = working_memory(n_items, self.n_neighbours)
            what = f"sparse weights, {self.n_neighbours + 1} for each of {n_items} items,"
            check_memory("model.n_neighbours", what, size, "expected fewer")
            log.info("%s: %s need %.2f GiB to be found", name, what, size / GIB)
            return
        working = self._check_working_memory(self.precision)
        log.info(
            "%s: %d x %d weights take %.2f GiB, their inversion in %s %.2f GiB more",
            *(name, n_items, n_items, 4 * n_items**2 / GIB, self.precision, working / GIB),
        )

    def _check_working_memory(self, precision: str) -> int:
        """Bytes besides the weights themselves, in which float32 works."""
        size = (8 if precision == "float64" else 0) * self.n_items**2
        check_memory(
            "model.dense_limit",
            f"Gram matrix and inverse of {self.n_items} items in {precision} (besides weights of "
            f"{4 * self.n_items**2 / GIB:.1f} GiB, where model.precision=float32 works)",
            size,
            _REMEDY,
        )
        return size

    @staticmethod
    def _invert_in_float64(weighted: csr_array, ridge: np.ndarray, out: np.ndarray) -> float:
        wide = np.empty(out.shape)
        condition = _invert_regularised_gram(weighted, ridge, wide)
        out[:] = wide
        return condition


def _invert_regularised_gram(weighted: csr_array, ridge: np.ndarray, out: np.ndarray) -> float:
    """Write ``(G + diag(ridge))^-1`` into ``out`` and return an estimate of the condition number in the 1-norm.

    Where the matrix is not positive definite up to rounding, the number is infinite and ``out`` is void.
    """
    write_gram_matrix(weighted, out)
    out[np.diag_indices_from(out)] += ridge.astype(out.dtype)
    norm = max(float(np.abs(out[rows]).sum(axis=1).max()) for rows in row_blocks(len(out), _BLOCK_ENTRIES))
    prefix = "d" if out.dtype == np.float64 else "s"
    columns = out.T  # LAPACK's order; it works in place
    factor, info = getattr(lapack, f"{prefix}potrf")(columns, lower=1, overwrite_a=1, clean=0)
    if info != 0:
        return float("inf")
    reciprocal, _ = getattr(lapack, f"{prefix}pocon")(factor, norm, uplo="L")
    if reciprocal == 0.0:
        return float("inf")
    _, info = getattr(lapack, f"{prefix}potri")(factor, lower=1, overwrite_c=1)
    if info != 0:
        return float("inf")
    # The lower triangle of LAPACK's columns is the upper one of our rows; the other still holds the Gram matrix.
    for rows in row_blocks(len(out), _BLOCK_ENTRIES):
        out[rows, : rows.start] = out[: rows.start, rows].T
        square = np.triu(out[rows, rows])
        out[rows, rows] = square + np.triu(square, 1).T
    return 1.0 / float(reciprocal)


def _inverse_to_weights(inverse: np.ndarray, ridge: np.ndarray, max_diagonal: float) -> None:
    """``I - C diag(gamma)`` in place."""
    diagonal = inverse.diagonal().astype(np.float64)
    gamma = np.maximum(ridge, (1.0 - max_diagonal) / diagonal)
    inverse *= -gamma.astype(inverse.dtype)
    inverse[np.diag_indices_from(inverse)] = np.clip(1.0 - ridge * diagonal, 0.0, max_diagonal)


class EASE(LinearAutoencoder):
    """``l2`` alone, and a zero diagonal (Steck 2019). The arguments are :class:`LinearAutoencoder`'s."""

    def __init__(
        self,
        n_items: int,
        l2: float = 500.0,
        user_exponent: float = 0.0,
        precision: str = "float64",
        dense_limit: int = 40_000,
        n_neighbours: int = 100,
    ) -> None:
        super().__init__(n_items, l2, 0.0, 0.0, user_exponent, precision, dense_limit, n_neighbours)


class EDLAE(LinearAutoencoder):
    """The ridge of dropout, and a zero diagonal (Steck 2020). The arguments are :class:`LinearAutoencoder`'s."""

    def __init__(
        self,
        n_items: int,
        l2: float = 400.0,
        dropout: float = 0.5,
        user_exponent: float = 0.5,
        precision: str = "float64",
        dense_limit: int = 40_000,
        n_neighbours: int = 100,
    ) -> None:
        super().__init__(n_items, l2, dropout, 0.0, user_exponent, precision, dense_limit, n_neighbours)


class DLAE(LinearAutoencoder):
    """The ridge of dropout, and a free diagonal (Steck 2020). The arguments are :class:`LinearAutoencoder`'s."""

    def __init__(
        self,
        n_items: int,
        l2: float = 400.0,
        dropout: float = 0.5,
        user_exponent: float = 0.5,
        precision: str = "float64",
        dense_limit: int = 40_000,
        n_neighbours: int = 100,
    ) -> None:
        super().__init__(n_items, l2, dropout, 1.0, user_exponent, precision, dense_limit, n_neighbours)


class RLAE(LinearAutoencoder):
    """``l2`` alone, and a bounded diagonal (Moon et al. 2023). The arguments are :class:`LinearAutoencoder`'s."""

    def __init__(
        self,
        n_items: int,
        l2: float = 500.0,
        max_diagonal: float = 0.35,
        user_exponent: float = 0.5,
        precision: str = "float64",
        dense_limit: int = 40_000,
        n_neighbours: int = 100,
    ) -> None:
        super().__init__(n_items, l2, 0.0, max_diagonal, user_exponent, precision, dense_limit, n_neighbours)


class RDLAE(LinearAutoencoder):
    """The ridge of dropout, and a bounded diagonal (Moon et al. 2023). The arguments are those of the base."""

    def __init__(
        self,
        n_items: int,
        l2: float = 400.0,
        dropout: float = 0.5,
        max_diagonal: float = 0.35,
        user_exponent: float = 0.5,
        precision: str = "float64",
        dense_limit: int = 40_000,
        n_neighbours: int = 100,
    ) -> None:
        super().__init__(
            n_items, l2, dropout, max_diagonal, user_exponent, precision, dense_limit, n_neighbours
        )
