"""Iterated conditional modes: one variable at a time to its best state given all others (Besag 1986; Bishop 8.3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.factor_graph import DiscreteGraph, LogPotential
from recsys_vae.graphical.marginals import JointMode
from recsys_vae.graphical.variables import Evidence, State, States, check_known, state_index

# Scores closer than this, relative to their size, count as equal.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class LocalMode(JointMode):
    """A configuration that no change of a single variable improves; ``unique`` says that none leaves it as good.

    Args:
        converged: whether the last sweep changed nothing.
        n_sweeps: until then.
    """

    converged: Bool[Tensor, "*cases"]
    n_sweeps: Int[Tensor, "*cases"]


def iterated_conditional_modes(
    graph: DiscreteGraph,
    evidence: Mapping[str, Any] | None = None,
    *,
    start: Mapping[str, State] | None = None,
    max_sweeps: int = 1000,
) -> LocalMode:
    """Climb from ``start`` to a local mode; the score never falls, so it ends.

    Args:
        graph: of any kind.
        evidence: a state for each observed variable; or for each a list of states, for many cases at once.
        start: a state for each variable, where the evidence does not say; those left out begin at the state that
            their own potentials (those of no other variable) prefer, the first of equals.
        max_sweeps: over all variables.

    Raises :class:`UserError` for an unknown variable or state, and for a climb that ends where nothing is possible:
    then another start may do better, or the evidence is contradictory.
    """
    if isinstance(max_sweeps, bool) or max_sweeps < 1:
        raise UserError(f"max_sweeps: expected a whole number of at least 1, came {max_sweeps!r}")
    states = graph.states
    check_known("start", start or {}, states)
    observed = Evidence.of(evidence, states)
    climb = _Climb(states, graph.factor_graph().log_potentials, observed, start or {})
    changed = torch.ones(observed.n_cases, dtype=torch.bool)
    sweeps = torch.zeros(observed.n_cases, dtype=torch.int64)
    for _ in range(max_sweeps):
        if not bool(changed.any()):
            break
        sweeps += changed
        changed = climb.sweep()
    score = climb.score()
    if bool((score == -torch.inf).any()):
        case = int((score == -torch.inf).nonzero()[0])
        told = ", ".join(f"{name}={state}" for name, state in observed.of_case(case).items()) or "none"
        raise UserError(f"start: expected one from which a possible configuration is met, evidence {told}")
    positions = climb.positions
    found = (score, climb.unique(), ~changed, sweeps)
    if not observed.batched:
        positions = {name: place[0] for name, place in positions.items()}
        found = tuple(values[0] for values in found)  # type: ignore[assignment]
    return LocalMode(states, positions, *found)


class _Climb:
    """Positions ``(cases,)`` of all variables, and the potentials around each."""

    def __init__(
        self,
        states: States,
        potentials: tuple[LogPotential, ...],
        observed: Evidence,
        start: Mapping[str, State],
    ) -> None:
        self._potentials = potentials
        self._around: dict[str, list[LogPotential]] = {name: [] for name in states}
        for potential in potentials:
            for name in potential.variables:
                self._around[name].append(potential)
        self._observed = observed
        self._n_states = {name: len(own) for name, own in states.items()}
        self.positions: dict[str, Tensor] = {}
        for name in states:
            if name in start:
                place = state_index("start", name, start[name], states)
            else:
                own = [p.table for p in self._around[name] if len(p.variables) == 1]
                place = int(torch.stack(own).sum(dim=0).argmax()) if own else 0
            self.positions[name] = torch.full((observed.n_cases,), place)
            if name in observed.observed:
                given = observed.observed[name]
                self.positions[name] = torch.where(given >= 0, given, self.positions[name])

    def _conditional(self, name: str) -> Tensor:
        """Score of each state of a variable given all others, ``(cases, states)``."""
        total = torch.zeros(self._observed.n_cases, self._n_states[name], dtype=torch.float64)
        for potential in self._around[name]:
            axis = potential.variables.index(name)
            others = [other for other in potential.variables if other != name]
            table = potential.table.movedim(axis, -1)
            total = total + table[tuple(self.positions[other] for other in others)]
        indicator = self._observed.log_indicator(name)
        return total if indicator is None else total + indicator

    def sweep(self) -> Bool[Tensor, " cases"]:
        """Every variable once, in order; returns which cases changed. A state is left only for a better one."""
        changed = torch.zeros(self._observed.n_cases, dtype=torch.bool)
        for name, place in self.positions.items():
            scores = self._conditional(name)
            best, at = scores.max(dim=1)
            rises = best > scores.gather(1, place[:, None]).squeeze(1)
            self.positions[name] = torch.where(rises, at, place)
            changed |= rises
        return changed

    def score(self) -> Tensor:
        """Sum of all log-potentials, ``(cases,)``."""
        total = torch.zeros(self._observed.n_cases, dtype=torch.float64)
        for potential in self._potentials:
            total = total + potential.table[tuple(self.positions[name] for name in potential.variables)]
        return total

    def unique(self) -> Bool[Tensor, " cases"]:
        """Whether every change of one variable makes it worse."""
        alone = torch.ones(self._observed.n_cases, dtype=torch.bool)
        for name, place in self.positions.items():
            scores = self._conditional(name)
            own = scores.gather(1, place[:, None])
            near = own - _ROUNDING * own.abs().clamp(min=1.0).where(own > -torch.inf, 0.0)
            alone &= (scores >= near).sum(dim=1) == 1
        return alone
