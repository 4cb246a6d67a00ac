"""Trees of binary variables as arrays: inference on thousands of nodes for a batch of cases, a level at a time.

The recursions are those of sum-product and max-sum (Bishop 2006, sections 8.4.4 and 8.4.5). What a graph of named
variables holds node by node lies here in arrays, so that the two passes take as many steps as the tree has levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recsys_vae.errors import UserError

if TYPE_CHECKING:
    from recsys_vae.graphical.bayesian_network import BayesianNetwork

_SUM_TOLERANCE = 1e-6
_BLOCK_ENTRIES = 2**22  # numbers in one array of messages: 32 MiB
_ROUNDING = 1e-12  # scores closer than this, relative to their size, count as equal


class BinaryMarginals(NamedTuple):
    """``log_marginals`` of both states of every node, and ``log_evidence`` of each case, nats."""

    log_marginals: Float[Tensor, "cases nodes states"]
    log_evidence: Float[Tensor, " cases"]


class BinaryMode(NamedTuple):
    """The joint mode of each case, its log-probability (nats), and whether every other configuration has less.

    Of configurations that tie, up to rounding, it is the one with 0 at the first node, from the roots downwards,
    where they differ.
    """

    values: Int[Tensor, "cases nodes"]
    log_score: Float[Tensor, " cases"]
    unique: Bool[Tensor, " cases"]


class BinaryTree:
    """A forest of binary variables: each node's parent, and its law given the parent's state.

    >>> tables = torch.tensor([[[0.8, 0.2], [0.8, 0.2]], [[0.9, 0.1], [0.1, 0.9]]])
    >>> tree = BinaryTree(torch.tensor([-1, 0]), tables.log())
    >>> round(float(tree.sum_product(torch.tensor([[-1, 1]])).log_marginals[0, 0, 1].exp()), 4)
    0.6923

    Args:
        parent: of each node; -1 for a root.
        log_conditional: ``[node, state of the parent, own state]``, nats; both rows of a root are its marginal law.

    ``order`` lists the nodes from the roots downwards, siblings side by side; ``rank`` is its inverse. In that order
    are ``above``, the rank of each node's parent, and ``tables``; ``levels`` are slices of it, one for each depth.

    Raises :class:`UserError` for parents that are no forest, and naming a row that is no law.
    """

    def __init__(
        self, parent: Int[Tensor, " nodes"], log_conditional: Float[Tensor, "nodes states states"]
    ) -> None:
        n_nodes = len(parent)
        self.parent = parent.to(torch.int64)
        self.log_conditional = _checked_tables(self.parent, log_conditional.to(torch.float64))
        order, sizes = _by_depth(self.parent)
        self.n_nodes = n_nodes
        self.order = order
        self.rank = torch.empty_like(order).index_copy_(0, order, torch.arange(n_nodes))
        above = self.parent[order]
        self.above = torch.where(above >= 0, self.rank[above.clamp_min(0)], -1)
        self.tables = self.log_conditional[order].unsqueeze(-1)  # (nodes, parent's state, own state, 1)
        bounds = [0]
        for size in sizes:
            bounds.append(bounds[-1] + size)
        self.levels = [slice(a, b) for a, b in itertools.pairwise(bounds)]

    @property
    def n_levels(self) -> int:
        """Nodes on the longest path from a root downwards."""
        return len(self.levels)

    def sum_product(self, evidence: Int[Tensor, "cases nodes"]) -> BinaryMarginals:
        """Marginals of every node given what is observed: 0 or 1, and -1 where nothing is. ``O(nodes)`` a case.

        Raises :class:`UserError` for other numbers, and for evidence that is impossible.
        """
        self.check_evidence(evidence)
        marginals = torch.empty((*evidence.shape, 2), dtype=torch.float64)
        log_evidence = torch.empty(len(evidence), dtype=torch.float64)
        for cases in self._blocks(len(evidence)):
            local = self._local(evidence[cases])
            below, messages = self._upwards(local)
            given_others, log_evidence[cases] = self._downwards(local, below, messages)
            self.refuse_contradiction(evidence, log_evidence, cases)
            marginals[cases] = given_others.add_(local)[self.rank].permute(2, 0, 1)
        return BinaryMarginals(marginals, log_evidence)

    def log_odds_given_others(self, evidence: Int[Tensor, "cases nodes"]) -> Float[Tensor, "cases nodes"]:
        """``log p(1 | evidence at other nodes) - log p(0 | evidence at other nodes)`` of every node, nats.

        Of a node without evidence, these are the posterior log-odds. ``O(nodes)`` a case, and finite.

        Raises :class:`UserError` for numbers other than -1, 0 and 1, and when a conditional probability is 0.
        """
        self.check_evidence(evidence)
        if bool((self.log_conditional == -torch.inf).any()):
            raise UserError("log_conditional: expected probabilities above 0, came 0")
        log_odds = torch.empty(evidence.shape, dtype=torch.float64)
        for cases in self._blocks(len(evidence)):
            local = self._local(evidence[cases])
            given_others, _ = self._downwards(local, *self._upwards(local))
            log_odds[cases] = (given_others[:, 1] - given_others[:, 0])[self.rank].T
        return log_odds

    def max_sum(self, evidence: Int[Tensor, "cases nodes"]) -> BinaryMode:
        """The most probable configuration of all nodes together, by back-pointers. ``O(nodes)`` a case.

        Raises :class:`UserError` as :meth:`sum_product`.
        """
        self.check_evidence(evidence)
        values = torch.empty(evidence.shape, dtype=torch.int64)
        log_score = torch.empty(len(evidence), dtype=torch.float64)
        unique = torch.empty(len(evidence), dtype=torch.bool)
        for cases in self._blocks(len(evidence)):
            ordered, log_score[cases], unique[cases] = self._decode(self._local(evidence[cases]))
            self.refuse_contradiction(evidence, log_score, cases)
            values[cases] = ordered[self.rank].T
        return BinaryMode(values, log_score, unique)

    def bayesian_network(self, names: Sequence[str]) -> BayesianNetwork:
        """The same distribution over named variables with states 0 and 1."""
        from recsys_vae.graphical.bayesian_network import BayesianNetwork
        from recsys_vae.graphical.conditionals import Table

        if len(names) != self.n_nodes or len(set(names)) != len(names):
            raise UserError(f"names: expected {self.n_nodes} names, each once, came {len(set(names))}")
        conditionals = []
        for node, (parent, table) in enumerate(
            zip(self.parent.tolist(), self.log_conditional.exp(), strict=True)
        ):
            law = (
                Table(names[node], [], table[0]) if parent < 0 else Table(names[node], [names[parent]], table)
            )
            conditionals.append(law)
        return BayesianNetwork(dict.fromkeys(names, 2), conditionals)

    def _local(self, evidence: Tensor) -> Float[Tensor, "nodes states cases"]:
        """0 where a state agrees with the evidence, -inf where not, nodes in the order of their levels."""
        observed = evidence.T[self.order].unsqueeze(1)
        other = torch.tensor([1, 0])[:, None]
        return torch.zeros((), dtype=torch.float64).masked_fill(observed == other, -torch.inf)

    def _upwards(self, local: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the messages from a node's children, and the message that it sends to its parent."""
        below = torch.zeros_like(local)
        messages = torch.empty_like(local)
        for level in reversed(self.levels):
            belief = (below[level] + local[level]).unsqueeze(1)
            through = self.tables[level] + belief
            messages[level] = torch.logaddexp(through[:, :, 0], through[:, :, 1])
            if level.start > 0:
                below.index_add_(0, self.above[level], messages[level])
        return below, messages

    def _downwards(self, local: Tensor, below: Tensor, messages: Tensor) -> tuple[Tensor, Tensor]:
        """Log-beliefs of each node from the evidence at all others, and the log-evidence of each case.

        With a node's own evidence added they are its log-marginals: already normalised, for what comes from above
        is the parent's posterior over the message that went up.
        """
        log_evidence = messages[self.levels[0], 0].sum(dim=0)
        given_others = torch.empty_like(local)
        for level in self.levels:
            tables = self.tables[level]
            if level.start == 0:
                from_above = tables[:, 0] - messages[level, :1]
            else:
                above = self.above[level]
                posterior = given_others[above] + local[above]
                # Where the message is 0, the parent cannot be in that state: 0 / 0 is 0.
                rest = torch.where(posterior == -torch.inf, -torch.inf, posterior - messages[level])
                through = rest.unsqueeze(2) + tables
                from_above = torch.logaddexp(through[:, 0], through[:, 1])
            given_others[level] = from_above + below[level]
        return given_others, log_evidence

    def _decode(self, local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States by level ``(nodes, cases)``, their log-probability, and whether no other ties."""
        n_nodes, _, n_cases = local.shape
        best = local.clone()
        take_one = torch.empty((n_nodes, 2, n_cases), dtype=torch.bool)
        close = torch.empty((n_nodes, 2, n_cases), dtype=torch.bool)
        log_score = torch.zeros(n_cases, dtype=torch.float64)
        for level in reversed(self.levels):
            through = self.tables[level] + best[level].unsqueeze(1)
            zero, one = through[:, :, 0], through[:, :, 1]
            message = torch.maximum(zero, one)
            slack = _ROUNDING * message.abs().clamp(min=1.0).where(message > -torch.inf, 0.0)
            take_one[level] = zero < message - slack
            close[level] = torch.minimum(zero, one) >= message - slack
            if level.start > 0:
                best.index_add_(0, self.above[level], message)
            else:
                log_score = message[:, 0].sum(dim=0)
        values = torch.empty((n_nodes, n_cases), dtype=torch.int64)
        tied = torch.zeros(n_cases, dtype=torch.bool)
        for level in self.levels:
            above = self.above[level]
            state = values[above] if level.start > 0 else torch.zeros_like(values[level])
            chosen = state.unsqueeze(1)
            values[level] = take_one[level].gather(1, chosen).squeeze(1).to(torch.int64)
            tied |= close[level].gather(1, chosen).squeeze(1).any(dim=0)
        return values, log_score, ~tied

    def _blocks(self, n_cases: int) -> list[slice]:
        size = max(1, _BLOCK_ENTRIES // (2 * max(self.n_nodes, 1)))
        return [slice(start, min(start + size, n_cases)) for start in range(0, n_cases, size)]

    def check_evidence(self, evidence: Int[Tensor, "cases nodes"]) -> None:
        """Raise :class:`UserError` for evidence that is not of these nodes, or neither 0, 1 nor -1."""
        if evidence.shape[1] != self.n_nodes:
            raise UserError(f"evidence: expected {self.n_nodes} columns, came {evidence.shape[1]}")
        if evidence.numel() and not -1 <= int(evidence.min()) <= int(evidence.max()) <= 1:
            raise UserError(
                f"evidence: expected 0, 1, and -1 for none, came {int(evidence.min())} to {int(evidence.max())}"
            )

    def refuse_contradiction(self, evidence: Tensor, log_evidence: Tensor, cases: slice) -> None:
        """Raise :class:`UserError` naming the first of these cases whose evidence has probability 0."""
        impossible = (log_evidence[cases] == -torch.inf).nonzero()
        if len(impossible):
            case = cases.start + int(impossible[0])
            nodes = (evidence[case] >= 0).nonzero().squeeze(1).tolist()
            told = ", ".join(f"{node}={int(evidence[case, node])}" for node in nodes[:6])
            more = ", ..." if len(nodes) > 6 else ""
            raise UserError(
                f"evidence: expected a possible observation, came the contradiction {told}{more} (case {case})"
            )


def _checked_tables(parent: Tensor, tables: Tensor) -> Tensor:
    if tables.shape != (len(parent), 2, 2):
        raise UserError(
            f"log_conditional: expected a table {(len(parent), 2, 2)}, came {tuple(tables.shape)}"
        )
    total = tables.logsumexp(dim=-1)
    bad = ~(total.abs() <= _SUM_TOLERANCE)
    if bool(bad.any()):
        node, state = (int(index) for index in bad.nonzero()[0])
        raise UserError(
            f"log_conditional: expected probabilities that sum to 1, came {float(total[node, state].exp()):.9g} "
            f"for node {node} given state {state} of its parent"
        )
    tables = tables - total.unsqueeze(-1)
    unequal = (parent < 0) & (tables[:, 0] - tables[:, 1]).nan_to_num().abs().amax(dim=-1).gt(_SUM_TOLERANCE)
    if bool(unequal.any()):
        raise UserError(
            f"log_conditional: expected both rows of a root alike, came others for node {int(unequal.nonzero()[0])}"
        )
    return tables


def _by_depth(parent: Tensor) -> tuple[Tensor, list[int]]:
    """Nodes by depth, those of one level by their parents' places, and how many a level has."""
    n_nodes = len(parent)
    if n_nodes and not -1 <= int(parent.min()) <= int(parent.max()) < n_nodes:
        raise UserError(
            f"parent: expected nodes below {n_nodes} or -1, came {int(parent.min())} to {int(parent.max())}"
        )
    children: list[list[int]] = [[] for _ in range(n_nodes)]
    level: list[int] = []
    for node, above in enumerate(parent.tolist()):
        (children[above] if above >= 0 else level).append(node)
    order: list[int] = []
    sizes = []
    while level:
        order += level
        sizes.append(len(level))
        level = [child for node in level for child in children[node]]
    if len(order) < n_nodes:
        node = min(set(range(n_nodes)) - set(order))
        raise UserError(f"parent: expected a forest, came a cycle above node {node}")
    return torch.tensor(order, dtype=torch.int64), sizes
