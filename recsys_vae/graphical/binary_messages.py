"""The messages of loopy sum-product and max-sum on pairwise fields of binary variables, all renewed at once.

A message to node i is one number: the logarithm of its value at ``x_i = 1`` over that at ``x_i = 0``. Of a source whose
log-odds without i's own message are h, over a coupling J, sum-product sends ``log((1 + exp(h + J)) / (1 + exp(h)))``
and max-sum ``max(0, h + J) - max(0, h)``. What is observed has h plus or minus infinity.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Start = Literal["even", "zeros"]


class SumRule:
    """``log((1 - p) + p exp(J))`` where ``p = 1 / (1 + exp(-h))``: nothing cancels, and h may be infinite."""

    def __init__(self, couplings: Float[Tensor, " messages"]) -> None:
        self._factor = couplings.exp().unsqueeze(1)

    def __call__(self, log_odds: Float[Tensor, "messages cases"]) -> Float[Tensor, "messages cases"]:
        """Messages of sources with these log-odds; overwrites them."""
        one = torch.sigmoid(log_odds).mul_(self._factor)
        return torch.sigmoid_(log_odds.neg_()).add_(one).log_()


class MaxRule:
    """``sign(J) clamp(h + max(0, J), 0, |J|)``, where h may be infinite."""

    def __init__(self, couplings: Float[Tensor, " messages"]) -> None:
        column = couplings.unsqueeze(1)
        self._sign, self._size, self._shift = column.sign(), column.abs(), column.clamp_min(0.0)

    def __call__(self, log_odds: Float[Tensor, "messages cases"]) -> Float[Tensor, "messages cases"]:
        """Messages of sources with these log-odds; overwrites them."""
        log_odds.add_(self._shift).clamp_min_(0.0)
        return torch.minimum(log_odds, self._size).mul_(self._sign)


class BinaryMessages:
    """Messages ``(2 edges, cases)``, first those along the edges, then those against them.

    Args:
        edges: ``(2, edges)``.
        couplings: of the edges, nats.
        biases: of the nodes, nats.
        evidence: ``(cases, nodes)``: 0, 1, or -1 where nothing is observed.
        rule: what a node sends.
        start: the first messages of nodes that are not observed: ``even``, half the coupling, which in the form of
            states -1 and 1 prefer neither; or ``zeros``, 0, what a neighbour says that is 0.

    After :meth:`run`, ``done`` tells of each case whether it settled, and ``n_iterations`` its rounds.
    """

    def __init__(
        self,
        edges: Int[Tensor, "two edges"],
        couplings: Float[Tensor, " edges"],
        biases: Float[Tensor, " nodes"],
        evidence: Int[Tensor, "cases nodes"],
        rule: type[SumRule] | type[MaxRule],
        start: Start,
    ) -> None:
        n_cases = len(evidence)
        self._edges, self._couplings, self._biases = edges, couplings, biases
        self._source, self._target = edges.flatten(), edges.flip(0).flatten()
        self._rule = rule(couplings.repeat(2))
        self._given = evidence.T
        known = torch.where(self._given > 0, torch.inf, -torch.inf).double()
        self._local = torch.where(self._given < 0, biases.unsqueeze(1), known)
        # What an observed node says never changes, and is said at once: damping is for the others.
        share = torch.tensor([0.5 if start == "even" else 0.0, 0.0, 1.0], dtype=torch.float64)
        self._messages = share[self._given.long() + 1][self._source].mul_(couplings.repeat(2).unsqueeze(1))
        self.done: Bool[Tensor, " cases"] = torch.full((n_cases,), not len(couplings))
        self.n_iterations: Int[Tensor, " cases"] = torch.zeros(n_cases, dtype=torch.int64)

    def run(self, damping: float, tolerance: float, max_iterations: int) -> None:
        """Renew all messages until none moves by more than the tolerance, nats.

        A case that has settled stands still, so that nobody's answer depends on who else is asked for.
        """
        active = (~self.done).nonzero().squeeze(1)
        local, messages = self._local[:, active], self._messages[:, active]
        for _ in range(max_iterations):
            if not len(active):
                break
            fresh = self._rule(self._from_others(local, messages)[0])
            if damping:
                fresh.mul_(1.0 - damping).add_(messages, alpha=damping)
            settled = messages.sub_(fresh).abs_().amax(dim=0) <= tolerance
            messages = fresh
            self.n_iterations[active] += 1
            if bool(settled.any()):
                self.done[active[settled]] = True
                self._messages[:, active[settled]] = messages[:, settled]
                active, local, messages = active[~settled], local[:, ~settled], messages[:, ~settled]
        self._messages[:, active] = messages

    def log_odds(self) -> Float[Tensor, "nodes cases"]:
        """Of each node from its bias and its messages, whatever is observed of it."""
        return self._biases.unsqueeze(1) + self._received(self._messages)

    def log_partition(self) -> Float[Tensor, " cases"]:
        """The Bethe approximation: of the nodes that are free, in the field that the others make."""
        free = self._given < 0
        had = (self._given > 0).double()
        one, other = self._edges
        outgoing, belief = self._from_others(self._local, self._messages)
        from_one, from_other = outgoing.chunk(2)
        coupling = self._couplings.unsqueeze(1)
        pair = torch.logaddexp(_softplus(from_other), from_one + _softplus(from_other + coupling))
        both_free = free[one] & free[other]
        total = torch.where(both_free, pair, coupling * had[one] * had[other]).sum(dim=0)
        of_free = torch.zeros_like(belief).index_add_(0, self._target, free[self._source].double())
        alone = (1.0 - of_free) * _softplus(belief)
        return total + torch.where(free, alone, self._biases.unsqueeze(1) * had).sum(dim=0)

    def _received(self, messages: Tensor) -> Float[Tensor, "nodes cases"]:
        total = messages.new_zeros((len(self._biases), messages.shape[1]))
        return total.index_add_(0, self._target, messages)

    def _from_others(self, local: Tensor, messages: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds of each message's source without the message that comes back, and of each node with all."""
        belief = self._received(messages).add_(local)
        back = messages.roll(len(self._couplings), dims=0)
        return belief.index_select(0, self._source).sub_(back), belief


def _softplus(values: Tensor) -> Tensor:
    return torch.logaddexp(values, torch.zeros_like(values))
