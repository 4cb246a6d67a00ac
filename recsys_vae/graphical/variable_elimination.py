"""Variable elimination: one marginal at a time in any graph (Zhang & Poole 1994; Koller & Friedman 2009, ch. 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recsys_vae.graphical.elimination_order import Elimination, eliminate
from recsys_vae.graphical.factor_graph import DiscreteGraph, without_single_states
from recsys_vae.graphical.log_tables import MAX_TABLE, LogTable, check_table_size, log_product, log_sum
from recsys_vae.graphical.marginals import Marginals
from recsys_vae.graphical.variables import Evidence, States, check_known


def variable_elimination(
    graph: DiscreteGraph,
    evidence: Mapping[str, Any] | None = None,
    *,
    query: Sequence[str] | None = None,
    order: str = "min_fill",
    max_table: int = MAX_TABLE,
) -> Marginals:
    """The marginals of ``query`` and the log-evidence; each variable costs an elimination of all others.

    A variable that is observed in every case is cut out of the tables first, so evidence makes the problem smaller.

    Args:
        graph: of any kind, connected or not.
        evidence: a state for each observed variable; or for each a list of states, for many cases at once.
        query: the variables wanted; none: all of them, for which :func:`junction_tree` is cheaper.
        order: heuristic; see :func:`~recsys_vae.graphical.elimination_order.eliminate`.
        max_table: the largest table that may be formed, in entries of float64, all cases together.

    Raises :class:`UserError` for contradictory evidence, naming it, for an unknown variable, and where a table would
    exceed ``max_table``.
    """
    states = graph.states
    observed = Evidence.of(evidence, states)
    wanted = list(states) if query is None else list(query)
    check_known("query", wanted, states)
    tables, fixed = reduced_tables(graph, observed)
    free = [name for name in states if name not in fixed]
    neighbours: dict[str, set[str]] = {name: set() for name in free}
    for table in tables:
        for name in table.variables:
            neighbours[name].update(set(table.variables) - {name})
    sizes = {name: len(states[name]) for name in free}
    beliefs: dict[str, Tensor] = {}
    log_evidence: Tensor | None = None
    for name in wanted:
        if name in fixed:
            indicator = observed.log_indicator(name)
            beliefs[name] = torch.zeros(1, 1, dtype=torch.float64) if indicator is None else indicator
            continue
        elimination = eliminate(neighbours, sizes, order, last={name})
        _check(elimination, sizes, observed.n_cases, max_table)
        belief = _eliminate(tables, elimination.order[:-1], [name], sizes)
        beliefs[name] = belief.values
        log_evidence = belief.values.logsumexp(dim=1)
    if log_evidence is None:
        elimination = eliminate(neighbours, sizes, order)
        _check(elimination, sizes, observed.n_cases, max_table)
        log_evidence = _eliminate(tables, elimination.order, [], sizes).values
    return _result(states, observed, beliefs, log_evidence)


def reduced_tables(graph: DiscreteGraph, observed: Evidence) -> tuple[list[LogTable], set[str]]:
    """All tables under the evidence, and the variables that are cut out of them.

    These are observed in every case, or have one state.
    """
    factors = without_single_states(graph.factor_graph())
    fixed = {name for name, places in observed.observed.items() if bool((places >= 0).all())}
    fixed |= graph.states.keys() - factors.states.keys()
    tables = []
    for potential in factors.log_potentials:
        cut = [name for name in potential.variables if name in fixed]
        kept = tuple(name for name in potential.variables if name not in fixed)
        values = potential.table[None]
        if cut:
            axes = [potential.variables.index(name) for name in cut]
            turned = potential.table.movedim(axes, list(range(len(axes))))
            values = turned[tuple(observed.observed[name] for name in cut)]
        tables.append(LogTable(kept, values))
    for name in observed.observed:
        indicator = observed.log_indicator(name)
        if name not in fixed and indicator is not None:
            tables.append(LogTable((name,), indicator))
    return tables, fixed


def _eliminate(
    tables: Sequence[LogTable], order: Sequence[str], keep: list[str], sizes: Mapping[str, int]
) -> LogTable:
    remaining = list(tables)
    for name in order:
        having = [table for table in remaining if name in table.variables]
        remaining = [table for table in remaining if name not in table.variables]
        scope = list(dict.fromkeys(other for table in having for other in table.variables)) or [name]
        product = log_product(having, scope, [sizes[other] for other in scope])
        remaining.append(log_sum(product, scope, [other for other in scope if other != name]))
    product = log_product(remaining, keep, [sizes[name] for name in keep])
    return LogTable(tuple(keep), product)


def _check(elimination: Elimination, sizes: Mapping[str, int], n_cases: int, max_table: int) -> None:
    if not elimination.cliques:
        return

    def entries(clique: tuple[str, ...]) -> int:
        count = n_cases
        for name in clique:
            count *= sizes[name]
        return count

    largest = max(elimination.cliques, key=entries)
    check_table_size(
        "variable_elimination", largest, [n_cases, *(sizes[name] for name in largest)], max_table
    )


def _result(
    states: States, observed: Evidence, beliefs: Mapping[str, Tensor], log_evidence: Tensor
) -> Marginals:
    log_evidence = log_evidence.expand(observed.n_cases)
    observed.refuse_contradiction(log_evidence)
    tables = {}
    for name, belief in beliefs.items():
        table = belief - belief.logsumexp(dim=1, keepdim=True)
        tables[name] = table.expand(observed.n_cases, -1) if observed.batched else table[0]
    return Marginals(states, tables, log_evidence if observed.batched else log_evidence[0])
