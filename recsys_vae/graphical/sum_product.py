"""Sum-product on trees, polytrees and forests: two passes, every marginal (Kschischang et al. 2001; Bishop 8.4.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.graphical.factor_graph import DiscreteGraph
from recsys_vae.graphical.factor_tree import FactorTree
from recsys_vae.graphical.log_tables import MAX_TABLE, log_divide
from recsys_vae.graphical.marginals import Marginals
from recsys_vae.graphical.variables import Evidence


def sum_product(
    graph: DiscreteGraph, evidence: Mapping[str, Any] | None = None, *, max_table: int = MAX_TABLE
) -> Marginals:
    """Marginals of every variable and the log-evidence, in time and memory linear in the number of variables.

    >>> from recsys_vae.graphical import FactorGraph
    >>> chain = FactorGraph({"a": 2, "b": 2}, [(("a",), [0.0, 1.0]), (("a", "b"), [[1.0, 0.0], [0.0, 1.0]])])
    >>> round(sum_product(chain, {"b": 1}).marginal("a")[1], 4)
    0.8808

    To ask one graph often, compile it once: :class:`SumProduct`.

    Args:
        graph: of any kind, whose factor graph has no cycles; it may be in several parts.
        evidence: a state for each observed variable; or for each a list of states, for many cases at once.
        max_table: cases go in blocks whose messages have at most so many entries.

    Raises :class:`UserError` for a graph with a cycle, showing it, and for contradictory evidence, naming it.
    """
    return SumProduct(graph)(evidence, max_table=max_table)


class SumProduct:
    """A tree compiled once, to be asked under any evidence. Errors as :func:`sum_product`."""

    def __init__(self, graph: DiscreteGraph) -> None:
        self.tree = FactorTree.of(graph, "sum_product")

    def __call__(
        self, evidence: Mapping[str, Any] | Evidence | None = None, *, max_table: int = MAX_TABLE
    ) -> Marginals:
        """Marginals of every variable under the evidence."""
        observed = Evidence.of(evidence, self.tree.states)
        parts = [self._propagate(observed, cases) for cases in self.tree.blocks(observed.n_cases, max_table)]
        log_evidence = torch.cat([total for _, total in parts])
        observed.refuse_contradiction(log_evidence)
        beliefs = torch.cat([belief for belief, _ in parts], dim=1)
        if not observed.batched:
            beliefs, log_evidence = beliefs[:, 0], log_evidence[0]
        sizes = self.tree.n_states.tolist()
        rows = zip(self.tree.names, beliefs.unbind(0), sizes, strict=True)
        width = self.tree.max_states
        tables = {name: row if size == width else row[..., :size] for name, row, size in rows}
        return Marginals(self.tree.states, tables, log_evidence)

    def _propagate(
        self, observed: Evidence, cases: slice
    ) -> tuple[Float[Tensor, "variables cases states"], Float[Tensor, " cases"]]:
        """Log-marginals of every variable, and the log-evidence of each case."""
        tree = self.tree
        beliefs = tree.local(observed, cases)
        log_evidence = tree.constant.repeat(cases.stop - cases.start)
        sent = []
        for group in reversed(tree.groups):
            message = group.with_messages(beliefs).flatten(3).logsumexp(dim=3)
            # The scale of each message is kept apart, or it would eat the digits of long chains.
            peak = message.amax(dim=2)
            peak = peak.where(peak > -torch.inf, 0.0)
            log_evidence = log_evidence + peak.sum(dim=0)
            message = message - peak.unsqueeze(-1)
            beliefs[:, :, : message.shape[-1]].index_add_(0, group.parent, message)
            sent.append(message)
        for group, message in zip(tree.groups, reversed(sent), strict=True):
            # A parent's state that was impossible to the factor stays so, whatever the others say of it.
            others = log_divide(beliefs[group.parent, :, : message.shape[-1]], message)
            joint = group.with_messages(beliefs)
            joint = joint + others.reshape(*others.shape, *(1,) * len(group.children))
            for axis, child in enumerate(group.children, start=3):
                rest = [dim for dim in range(2, joint.ndim) if dim != axis]
                belief = joint.logsumexp(dim=rest)
                peak = belief.amax(dim=2, keepdim=True)
                beliefs[child, :, : belief.shape[-1]] = belief - peak.where(peak > -torch.inf, 0.0)
        log_evidence = log_evidence + beliefs[tree.roots].logsumexp(dim=2).sum(dim=0)
        total = beliefs.logsumexp(dim=2, keepdim=True)
        return beliefs - total.where(total > -torch.inf, 0.0), log_evidence
