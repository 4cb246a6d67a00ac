"""SLIM (Ning & Karypis 2011, "SLIM: Sparse Linear Methods for Top-N Recommender Systems", ICDM)."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models.base import IterativeModel, check_interval, check_positive
from recsys_vae.models.fit_checkpoint import NO_CHECKPOINT, FitCheckpoint
from recsys_vae.models.gram_matrix import weight_users, write_gram_matrix
from recsys_vae.models.memory import GIB, check_memory
from recsys_vae.models.progress import Progress
from recsys_vae.models.sparse_rows import SparseRows, sparse_product

log = logging.getLogger(__name__)

_BLOCK = 64  # rows of the weights whose gradients come from one product


class SLIM(IterativeModel):
    """An elastic net from the other items to each item, with weights that are not negative.

    Minimises ``1/2 sum_u w_u ||x_u - x_u B||^2 + l2/2 ||B||^2 + l1 sum_ij B_ij`` subject to ``B >= 0`` and
    ``diag(B) = 0`` (eq. 3 of the paper), with users' weights ``w_u`` as in the linear autoencoders.

    Args:
        n_items: size of the catalogue; comes from the data. Fitting takes ``12 * n_items**2`` bytes.
        l1: the paper's lambda; makes weights 0.
        l2: the paper's beta.
        user_exponent: a user of n items has a weight proportional to ``n^-user_exponent``.
        tolerance: a column is done when none of its weights changes by more in a sweep.
        max_sweeps: over all weights, at most.
    """

    def __init__(
        self,
        n_items: int,
        l1: float = 1.0,
        l2: float = 200.0,
        user_exponent: float = 0.5,
        tolerance: float = 1e-3,
        max_sweeps: int = 50,
    ) -> None:
        super().__init__(n_items)
        check_interval("model.l1", l1, 0.0, float("inf"))
        check_interval("model.l2", l2, 0.0, float("inf"), include_low=False)
        check_interval("model.user_exponent", user_exponent, 0.0, float("inf"))
        check_interval("model.tolerance", tolerance, 0.0, float("inf"), include_low=False)
        check_positive("model.max_sweeps", max_sweeps)
        self.l1 = l1
        self.l2 = l2
        self.user_exponent = user_exponent
        self.tolerance = tolerance
        self.max_sweeps = max_sweeps
        what = f"Gram matrix and weights of {n_items} items"
        check_memory("model", what, 12 * n_items**2, "model=edlae can do with less")
        self.weight: Tensor
        self.register_buffer("weight", torch.zeros(n_items, n_items))

    @torch.no_grad()
    def fit(self, matrix: csr_array, checkpoint: FitCheckpoint = NO_CHECKPOINT) -> SLIM:
        """Coordinate descent on the Gram matrix; columns that have converged drop out."""
        self.check_histories(matrix)
        log.info(
            "slim: Gram matrix and weights of %d items take %.2f GiB",
            *(self.n_items, 12 * self.n_items**2 / GIB),
        )
        gram = torch.empty(self.n_items, self.n_items)
        write_gram_matrix(weight_users(matrix, self.user_exponent), gram.numpy())
        self.weight.zero_()
        gram = gram.to(self.device)
        moving = torch.ones(self.n_items, dtype=torch.bool, device=self.device)
        progress = Progress(log, "slim", self.max_sweeps)
        for n_sweeps in checkpoint.iterations(
            self.max_sweeps, lambda: {"weight": self.weight, "moving": moving}
        ):
            active = moving.nonzero().squeeze(-1)
            columns = self.weight[:, active]
            moving[active] = coordinate_descent(gram, columns, active, self.l1, self.l2) > self.tolerance
            self.weight[:, active] = columns
            del columns  # before the next ones are taken
            n_moving = int(moving.sum())
            progress(n_sweeps, f", {n_moving} columns still change")
            if not n_moving:
                break
        share = int(self.weight.count_nonzero()) / self.n_items**2
        log.info("slim: %d sweeps, %.2f %% of the weights are not 0", n_sweeps, 100.0 * share)
        if n_moving:
            log.warning("slim: %d columns still change; raise model.max_sweeps", n_moving)
        return self

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``x B``."""
        self.check_histories(histories)
        return sparse_product(SparseRows.from_csr(histories, self.device), self.weight)

    def item_weights(self, items: slice) -> csr_array:
        """Rows of ``B``, on the host."""
        return csr_array(self.weight[items].cpu().numpy())


def coordinate_descent(
    gram: Float[Tensor, "items items"],
    weight: Float[Tensor, "items columns"],
    items: Int[Tensor, " columns"],
    l1: float,
    l2: float,
) -> Float[Tensor, " columns"]:
    """Update every weight to ``items`` once, in place, and return each column's largest change.

    The columns are problems of their own, so row i of all of them is updated at once:
    ``B_ij = max(0, G_ij - sum over k but i of G_ik B_kj - l1) / (G_ii + l2)``. The sums of a block of rows come from
    one matrix product, and each row's change is then carried to the rows of the block that follow.
    """
    largest = weight.new_zeros(len(items))
    place = torch.full((len(gram),), -1, device=items.device)
    place[items] = torch.arange(len(items), device=items.device)
    own = place.tolist()
    curvature, diagonal = (gram.diagonal() + l2).tolist(), gram.diagonal().tolist()
    for start in range(0, len(gram), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(gram)))
        residual = gram[rows, items] - gram[rows] @ weight
        for offset, item in enumerate(range(rows.start, rows.stop)):
            old = weight[item]
            new = (residual[offset] + diagonal[item] * old - l1).clamp_(min=0.0).div_(curvature[item])
            if own[item] >= 0:
                new[own[item]] = 0.0
            change = new - old
            residual[offset + 1 :].addr_(gram[item + 1 : rows.stop, item], change, alpha=-1.0)
            largest = torch.maximum(largest, change.abs())
            weight[item] = new
    return largest
