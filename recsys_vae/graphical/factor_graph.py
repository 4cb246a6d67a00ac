"""Factor graphs: what every graph of discrete variables becomes before anything is inferred."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.variables import State, States, check_known, named_states, state_index


@dataclass(frozen=True, eq=False)
class LogPotential:
    """The logarithm of a non-negative function of some variables, as a table with an axis for each.

    -inf marks what is impossible.
    """

    variables: tuple[str, ...]
    table: Float[Tensor, "*states"]


@runtime_checkable
class DiscreteGraph(Protocol):
    """What inference asks of a graph: its variables with their states, and itself as a factor graph."""

    @property
    def states(self) -> States:
        """The states of each variable."""
        ...

    def factor_graph(self) -> FactorGraph:
        """The same distribution as a product of potentials."""
        ...


class FactorGraph:
    """Variables, and log-potentials on sets of them; ``p(x)`` is proportional to the product (Kschischang et al. 2001).

    >>> graph = FactorGraph({"a": 2, "b": ["no", "yes"]}, [(("a", "b"), [[0.0, 1.0], [1.0, 0.0]])])
    >>> graph.degree("a"), graph.n_states("b")
    (1, 2)

    Args:
        variables: of each its states, or how many there are.
        log_potentials: pairs of variables and a table with an axis for each, nats; -inf is impossible. A variable may
            be in any number of them, also in none.

    Raises :class:`UserError` naming the table or variable.
    """

    def __init__(
        self,
        variables: Mapping[str, int | Sequence[State]],
        log_potentials: Iterable[LogPotential | tuple[Sequence[str], Any]] = (),
    ) -> None:
        self.states: States = named_states(variables)
        self.log_potentials = tuple(read_log_potential(given, self.states) for given in log_potentials)

    @classmethod
    def of_checked(cls, states: States, log_potentials: Iterable[LogPotential]) -> FactorGraph:
        """A graph of parts that another graph has checked: nothing is looked at again."""
        graph = cls.__new__(cls)
        graph.states = states
        graph.log_potentials = tuple(log_potentials)
        return graph

    def factor_graph(self) -> FactorGraph:
        """Itself."""
        return self

    def n_states(self, name: str) -> int:
        """How many states a variable has."""
        return len(self.states[name])

    def degree(self, name: str) -> int:
        """How many log-potentials a variable is in."""
        return sum(name in potential.variables for potential in self.log_potentials)

    def log_score(self, configuration: Mapping[str, State]) -> float:
        """The sum of all log-potentials at a full configuration: ``log p(x)``, up to the log-normaliser."""
        return log_score(self.log_potentials, configuration, self.states)

    def neighbours(self) -> dict[str, set[str]]:
        """The undirected graph that joins variables which share a potential."""
        joined: dict[str, set[str]] = {name: set() for name in self.states}
        for potential in self.log_potentials:
            for name in potential.variables:
                joined[name].update(potential.variables)
        return {name: others - {name} for name, others in joined.items()}


def without_single_states(graph: FactorGraph) -> FactorGraph:
    """The same, less the variables of one state, of which there is nothing to infer; itself where there are none.

    Tables have no axes for them, of which there may be more than a tensor can have.
    """
    states = {name: own for name, own in graph.states.items() if len(own) > 1}
    if len(states) == len(graph.states):
        return graph
    kept = (tuple(name for name in p.variables if name in states) for p in graph.log_potentials)
    pairs = zip(kept, graph.log_potentials, strict=True)
    return FactorGraph.of_checked(states, [LogPotential(scope, p.table.squeeze()) for scope, p in pairs])


def read_log_potential(
    given: LogPotential | tuple[Sequence[str], Any], states: States, argument: str = "log_potentials"
) -> LogPotential:
    """A checked log-potential, in float64."""
    names, values = (given.variables, given.table) if isinstance(given, LogPotential) else given
    names = (names,) if isinstance(names, str) else tuple(names)
    check_known(argument, names, states)
    if len(set(names)) != len(names):
        raise UserError(f"{argument}: expected each variable once in a table, came {list(names)}")
    table = torch.as_tensor(values, dtype=torch.float64).clone()  # graphs do not change
    expected = tuple(len(states[name]) for name in names)
    if table.shape != expected:
        raise UserError(
            f"{argument}: expected a table {expected} for {list(names)}, came {tuple(table.shape)}"
        )
    if bool((table.isnan() | (table == math.inf)).any()):
        raise UserError(f"{argument}: expected numbers or -inf for {list(names)}, came NaN or +inf")
    return LogPotential(names, table)


def log_score(
    potentials: Iterable[LogPotential], configuration: Mapping[str, State], states: States
) -> float:
    """The sum of log-potentials at a full configuration, nats.

    Raises :class:`UserError` where a variable is missing.
    """
    for name in states:
        if name not in configuration:
            raise UserError(f"configuration: expected a state of every variable, came none of {name!r}")
    check_known("configuration", configuration, states)
    place = {n: state_index("configuration", n, configuration[n], states) for n in states}
    return float(sum(float(p.table[tuple(place[name] for name in p.variables)]) for p in potentials))
