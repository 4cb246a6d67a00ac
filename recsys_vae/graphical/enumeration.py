"""Every configuration, one table: the answer that all other algorithms must give, for graphs small enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys_vae.graphical.factor_graph import DiscreteGraph
from recsys_vae.graphical.log_tables import LogTable, check_table_size, log_product, log_sum
from recsys_vae.graphical.marginals import JointMode, Marginals
from recsys_vae.graphical.variables import Evidence

_MAX_TABLE = 2**22


def enumerate_marginals(graph: DiscreteGraph, evidence: Mapping[str, Any] | None = None) -> Marginals:
    """Marginals by summing the full joint table.

    Raises :class:`UserError` for contradictory evidence, and for a joint table of more than 4 million entries.
    """
    observed, joint, names = _joint(graph, evidence)
    beliefs = {name: log_sum(joint, names, [name]).values for name in names}
    return Marginals.of(observed, beliefs, joint.flatten(1).logsumexp(dim=1))


def enumerate_mode(graph: DiscreteGraph, evidence: Mapping[str, Any] | None = None) -> JointMode:
    """The joint mode by looking at every configuration; of several, the first in the order of the states.

    Raises :class:`UserError` as :func:`enumerate_marginals`.
    """
    observed, joint, names = _joint(graph, evidence)
    flat = joint.flatten(1)
    best, place = flat.max(dim=1)
    observed.refuse_contradiction(best)
    close = (flat >= best[:, None] - 1e-12 * best[:, None].abs().clamp(min=1.0)).sum(dim=1)
    positions = {}
    for axis, name in reversed(list(enumerate(names))):
        positions[name] = place % joint.shape[axis + 1]
        place = place // joint.shape[axis + 1]
    positions = {name: positions[name] for name in names}
    if observed.batched:
        return JointMode(graph.states, positions, best, close == 1)
    return JointMode(graph.states, {n: p[0] for n, p in positions.items()}, best[0], close[0] == 1)


def _joint(graph: DiscreteGraph, evidence: Mapping[str, Any] | None) -> tuple[Evidence, Any, list[str]]:
    observed = Evidence.of(evidence, graph.states)
    names = list(graph.states)
    sizes = [len(graph.states[name]) for name in names]
    check_table_size("enumeration", names, [observed.n_cases, *sizes], _MAX_TABLE)
    tables = [LogTable(p.variables, p.table[None]) for p in graph.factor_graph().log_potentials]
    for name in observed.observed:
        indicator = observed.log_indicator(name)
        assert indicator is not None
        tables.append(LogTable((name,), indicator))
    product = log_product(tables, names, sizes)
    return observed, product.expand(observed.n_cases, *sizes), names
