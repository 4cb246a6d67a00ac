"""Items as the nodes of a tree of binary variables (Chow & Liu 1968), asked by sum-product."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.chow_liu import chow_liu_tree
from recsys_vae.graphical.completion import most_probable_completion
from recsys_vae.graphical.pairwise_tree import BinaryTree
from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive
from recsys_vae.models.evidence import evidence_of

log = logging.getLogger(__name__)


class ChowLiu(ClosedFormModel):
    """Score an item by its posterior log-odds given the history, on the tree of the largest mutual information.

    Every item is had or not. An item of the history is scored given the rest of it. ``O(items)`` a user.

    Args:
        n_items: size of the catalogue; comes from the data.
        evidence: ``positives``, where items outside the history are unknown; or ``all``, where they are known to be
            not had, so that an item depends on its neighbours in the tree alone.
        smoothing: users added to each cell of each pair's table.
        independence: the share of each pair's table that is replaced by the product of its marginals: below 1, and
            the larger, the less a neighbour says.
    """

    def __init__(
        self,
        n_items: int,
        evidence: str = "all",
        smoothing: float = 0.5,
        independence: float = 0.5,
    ) -> None:
        super().__init__(n_items)
        if evidence not in ("positives", "all"):
            raise UserError(f"model.evidence: expected positives or all, came {evidence!r}")
        check_interval("model.smoothing", smoothing, 0.0, float("inf"), include_low=False)
        check_interval("model.independence", independence, 0.0, 1.0)
        self.evidence = evidence
        self.smoothing = smoothing
        self.independence = independence
        self.parent: Tensor
        self.log_conditional: Tensor
        self.register_buffer("parent", torch.full((n_items,), -1, dtype=torch.int32))
        self.register_buffer("log_conditional", torch.full((n_items, 2, 2), 0.5, dtype=torch.float64).log())

    def fit(self, matrix: csr_array) -> ChowLiu:
        """Learn the tree and its tables; memory is that of the matrix."""
        self.check_histories(matrix)
        tree = chow_liu_tree(matrix, smoothing=self.smoothing, independence=self.independence)
        log.info("chow_liu: a tree of %d levels", tree.n_levels)
        self.parent.copy_(tree.parent)
        self.log_conditional.copy_(tree.log_conditional)
        return self

    def tree(self) -> BinaryTree:
        """What was learned; node i is item i."""
        return BinaryTree(self.parent.cpu().long(), self.log_conditional.cpu())

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Log-odds, nats, computed in float64 and given in float32: the last digits, which vary with the size of the
        batch, would break ties.
        """
        self.check_histories(histories)
        outside = -1 if self.evidence == "positives" else 0
        log_odds = self.tree().log_odds_given_others(evidence_of(histories, outside))
        return log_odds.float().to(self.device)

    @torch.no_grad()
    def complete(self, histories: csr_array, n_items: int) -> Int[Tensor, "users slate"]:
        """Of each user the ``n_items`` items that are most probable together, given the history: by max-sum.

        Unlike the best of the scores, they are chosen for each other. In the order of the catalogue; items outside
        history and slate are not had. Raises :class:`UserError` when a user has fewer items left.
        """
        self.check_histories(histories)
        check_positive("n_items", n_items)
        evidence = evidence_of(histories)
        left = int((evidence < 0).sum(dim=1).min()) if len(evidence) else n_items
        if n_items > left:
            raise UserError(f"n_items: expected at most {left}, the items outside a history, came {n_items}")
        values = most_probable_completion(self.tree(), evidence, n_items).values
        return ((values == 1) & (evidence < 0)).nonzero()[:, 1].reshape(len(values), n_items).to(self.device)
