"""Every configuration, one table: the answer that all other algorithms must give, for graphs small enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.graphical.factor_graph import DiscreteGraph, without_single_states
from recsys_vae.graphical.log_tables import LogTable, check_table_size, log_product, log_sum
from recsys_vae.graphical.marginals import JointMode, Marginals
from recsys_vae.graphical.variables import Evidence

_MAX_TABLE = 2**22


def enumerate_marginals(graph: DiscreteGraph, evidence: Mapping[str, Any] | None = None) -> Marginals:
    """Marginals by summing the full joint table.

    Raises :class:`UserError` for contradictory evidence, and for a joint table of more than 4 million entries.
    """
    observed, joint, names = _joint(graph, evidence)
    beliefs = dict.fromkeys(observed.states, torch.zeros(1, 1, dtype=torch.float64))
    beliefs |= {name: log_sum(joint, names, [name]).values for name in names}
    return Marginals.of(observed, beliefs, _flat(joint).logsumexp(dim=1))


def enumerate_mode(graph: DiscreteGraph, evidence: Mapping[str, Any] | None = None) -> JointMode:
    """The joint mode by looking at every configuration; of several, the first in the order of the states.

    Raises :class:`UserError` as :func:`enumerate_marginals`.
    """
    observed, joint, names = _joint(graph, evidence)
    flat = _flat(joint)
    best, place = flat.max(dim=1)
    observed.refuse_contradiction(best)
    close = (flat >= best[:, None] - 1e-12 * best[:, None].abs().clamp(min=1.0)).sum(dim=1)
    positions = dict.fromkeys(observed.states, torch.zeros_like(place))
    for axis, name in reversed(list(enumerate(names))):
        positions[name] = place % joint.shape[axis + 1]
        place = place // joint.shape[axis + 1]
    if observed.batched:
        return JointMode(graph.states, positions, best, close == 1)
    return JointMode(graph.states, {n: p[0] for n, p in positions.items()}, best[0], close[0] == 1)


def _flat(joint: Tensor) -> Float[Tensor, "cases configurations"]:
    return joint.reshape(
        len(joint), math.prod(joint.shape[1:])
    )  # a graph without variables has one configuration


def _joint(graph: DiscreteGraph, evidence: Mapping[str, Any] | None) -> tuple[Evidence, Tensor, list[str]]:
    """The joint table, with an axis for each of the names: those of more than one state."""
    observed = Evidence.of(evidence, graph.states)
    factors = without_single_states(graph.factor_graph())
    names = list(factors.states)
    sizes = [len(factors.states[name]) for name in names]
    check_table_size("enumeration", names, [observed.n_cases, *sizes], _MAX_TABLE)
    tables = [LogTable(p.variables, p.table[None]) for p in factors.log_potentials]
    for name in observed.observed.keys() & factors.states.keys():
        indicator = observed.log_indicator(name)
        assert indicator is not None
        tables.append(LogTable((name,), indicator))
    product = log_product(tables, names, sizes)
    return observed, product.expand(observed.n_cases, *sizes), names
