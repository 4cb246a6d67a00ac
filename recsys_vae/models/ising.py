"""Items as the nodes of a sparse pairwise field of binary variables, an Ising model, learned by pseudo-likelihood."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.pairwise_field import BinaryField, iterated_conditional_modes, loopy_marginals
from recsys_vae.graphical.pseudo_likelihood import fit_pseudo_likelihood, strongest_pairs
from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive
from recsys_vae.models.evidence import evidence_of
from recsys_vae.models.progress import Progress

log = logging.getLogger(__name__)


class Ising(ClosedFormModel):
    """Score an item by its log-odds given the history, in a field that couples each item with those that tell of it.

    ``p(x) ~ exp(sum_i bias_i x_i + sum_(ij) coupling_ij x_i x_j)``, where ``x_i`` says whether item i is had. An item
    of the history is scored given the rest of it.

    Args:
        n_items: size of the catalogue; comes from the data.
        n_neighbours: how many others each item chooses, by mutual information; chosen by others, it may have more.
        l2: weighs half the sum of the squared couplings, against a loss that is summed over users and items.
        l1: weighs the sum of the couplings' sizes; makes some of them 0.
        popularity: the share of an item's bias that counts in its score. At 1 scores are log-odds; the smaller, the
            less it matters how popular an item is by itself.
        evidence: ``all``, where items outside the history are known to be not had, so that an item depends on its
            neighbours alone; or ``positives``, where they are unknown.
        hidden: with ``positives``, the probability that a history lacks an item that is had. At 1 it says nothing of
            the items outside it; the nearer to 0, the more that they are not had.
        inference: of what is unknown: ``loopy``, by loopy propagation until it settles; or ``pseudo``, one step of it,
            in which each neighbour that is unknown goes by its bias and what is known beside it. Without unknowns both
            are the same.
        damping: of loopy propagation, the share of a message that is kept.
        tolerance: of loopy propagation, nats.
        max_iterations: rounds of loopy propagation.
        fit_iterations: of L-BFGS, at most.
    """

    def __init__(
        self,
        n_items: int,
        n_neighbours: int = 100,
        l2: float = 100.0,
        l1: float = 0.0,
        popularity: float = 0.5,
        evidence: str = "all",
        hidden: float = 0.1,
        inference: str = "loopy",
        damping: float = 0.0,
        tolerance: float = 1e-5,
        max_iterations: int = 100,
        fit_iterations: int = 100,
    ) -> None:
        super().__init__(n_items)
        for name, choices, value in (
            ("evidence", ("positives", "all"), evidence),
            ("inference", ("loopy", "pseudo"), inference),
        ):
            if value not in choices:
                raise UserError(f"model.{name}: expected {' or '.join(choices)}, came {value!r}")
        check_positive("model.n_neighbours", n_neighbours)
        check_interval("model.l2", l2, 0.0, float("inf"))
        check_interval("model.l1", l1, 0.0, float("inf"))
        check_interval("model.popularity", popularity, 0.0, 1.0, include_high=True)
        check_interval("model.hidden", hidden, 0.0, 1.0, include_low=False, include_high=True)
        check_interval("model.damping", damping, 0.0, 1.0)
        check_interval("model.tolerance", tolerance, 0.0, float("inf"), include_low=False)
        check_positive("model.max_iterations", max_iterations)
        check_positive("model.fit_iterations", fit_iterations)
        self.n_neighbours = n_neighbours
        self.l2 = l2
        self.l1 = l1
        self.popularity = popularity
        self.evidence = evidence
        self.hidden = hidden
        self.inference = inference
        self.damping = damping
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.fit_iterations = fit_iterations
        room = min(n_items * n_neighbours, n_items * (n_items - 1) // 2)
        self.edges: Tensor
        self.couplings: Tensor
        self.biases: Tensor
        # What pairs leave free stays -1 and 0.
        self.register_buffer("edges", torch.full((2, room), -1, dtype=torch.int32))
        self.register_buffer("couplings", torch.zeros(room))
        self.register_buffer("biases", torch.zeros(n_items))

    def fit(self, matrix: csr_array) -> Ising:
        """Choose the pairs, and minimise the penalised pseudo-likelihood."""
        self.check_histories(matrix)
        pairs = strongest_pairs(matrix, self.n_neighbours)
        found = fit_pseudo_likelihood(
            matrix,
            pairs,
            l2=self.l2,
            l1=self.l1,
            max_iterations=self.fit_iterations,
            on_iteration=Progress(log, "ising", self.fit_iterations),
        )
        n_pairs = pairs.shape[1]
        log.info(
            "ising: %d pairs of items, %d with a coupling; loss %.1f after %d iterations%s",
            *(n_pairs, int(found.field.couplings.count_nonzero()), found.loss, found.n_iterations),
            "" if found.converged else ", not converged: model.fit_iterations allows no more",
        )
        self.edges.fill_(-1)[:, :n_pairs] = found.field.edges
        self.couplings.zero_()[:n_pairs] = found.field.couplings
        self.biases.copy_(found.field.biases)
        return self

    def field(self) -> BinaryField:
        """What was learned; node i is item i."""
        used = self.edges[0] >= 0
        return BinaryField(self.edges[:, used].cpu(), self.couplings[used].cpu(), self.biases.cpu())

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Log-odds less what ``popularity`` takes away, nats, computed in float64 and given in float32: the last
        digits, which vary with the size of the batch, would break ties.
        """
        self.check_histories(histories)
        log_odds = self._given_all(histories) if self.evidence == "all" else self._given_positives(histories)
        return (log_odds - (1.0 - self.popularity) * self.biases.cpu().double()).float().to(self.device)

    def _given_all(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Nothing is unknown, so no message is needed."""
        used = self.edges[0] >= 0
        one, other = self.edges[:, used].cpu().numpy()
        couplings = self.couplings[used].cpu().double().numpy()
        weights = csr_array((couplings, (one, other)), shape=(self.n_items, self.n_items))
        had = csr_array(
            ((histories.data != 0).astype(np.float64), histories.indices, histories.indptr),
            shape=histories.shape,
        )
        heard = had @ csr_array(weights + weights.T)
        return torch.from_numpy(heard.toarray()).add_(self.biases.cpu())

    def _given_positives(self, histories: csr_array) -> Float[Tensor, "users items"]:
        rounds = self.max_iterations if self.inference == "loopy" else 1
        field, log_hidden = self.field(), math.log(self.hidden)
        # That an item is missing from the history has this likelihood where it is had, and 1 where it is not. Biases of
        # items in the history change only their own log-odds, which are asked for as if they were missing, too.
        found = loopy_marginals(
            BinaryField(field.edges, field.couplings, field.biases + log_hidden),
            evidence_of(histories),
            start="zeros",
            damping=self.damping,
            tolerance=self.tolerance,
            max_iterations=rounds,
        )
        unsettled = int((~found.converged).sum())
        if unsettled and self.inference == "loopy":
            log.warning(
                "ising: after %d rounds the messages of %d of %d users have not settled; "
                "raise model.max_iterations or model.damping",
                *(rounds, unsettled, len(found.converged)),
            )
        return found.log_odds - log_hidden

    @torch.no_grad()
    def complete(self, histories: csr_array) -> Bool[Tensor, "users items"]:
        """What else each user has in the mode of the field to which iterated conditional modes climb from the history.

        Unlike the best of the scores, the items are chosen for each other, and their number is the field's choice. No
        change of a single item makes the whole more probable. Items of the history are had, and False here.
        """
        self.check_histories(histories)
        evidence = evidence_of(histories)
        found = iterated_conditional_modes(self.field(), evidence.clamp_min(0), evidence=evidence)
        return ((found.values == 1) & (evidence < 0)).to(self.device)
