"""Directed graphs: ``p(x) = product over k of p(x_k | parents of k)`` (Bishop 2006, section 8.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from recsys_vae.errors import UserError
from recsys_vae.graphical.conditionals import Conditional
from recsys_vae.graphical.directed import children_of, markov_blanket, topological_order
from recsys_vae.graphical.factor_graph import FactorGraph, LogPotential, log_score
from recsys_vae.graphical.markov_random_field import MarkovRandomField
from recsys_vae.graphical.variables import State, States, check_known, named_states


class BayesianNetwork:
    """Variables, and for each its law given its parents.

    >>> from recsys_vae.graphical import BayesianNetwork, Table, junction_tree
    >>> network = BayesianNetwork(
    ...     {"rain": ["no", "yes"], "wet": ["no", "yes"]},
    ...     [Table("rain", [], [0.8, 0.2]), Table("wet", ["rain"], [[0.9, 0.1], [0.1, 0.9]])],
    ... )
    >>> round(junction_tree(network, evidence={"wet": "yes"}).marginal("rain")["yes"], 4)
    0.6923

    Args:
        variables: of each its states, or how many there are.
        conditionals: one for each variable, in any order.

    Raises :class:`UserError` for a variable without a law or with two, a directed cycle, and a law that is none,
    naming the row.
    """

    def __init__(
        self, variables: Mapping[str, int | Sequence[State]], conditionals: Iterable[Conditional]
    ) -> None:
        self.states: States = named_states(variables)
        by_child: dict[str, Conditional] = {}
        for conditional in conditionals:
            check_known("conditionals", [conditional.child, *conditional.parents], self.states)
            if conditional.child in by_child:
                raise UserError(f"conditionals: expected one for {conditional.child!r}, came two")
            family = [conditional.child, *conditional.parents]
            if len(set(family)) != len(family):
                raise UserError(f"conditionals: expected each variable once in the law of {family[0]!r}")
            by_child[conditional.child] = conditional
        for name in self.states:
            if name not in by_child:
                raise UserError(f"conditionals: expected one for every variable, came none for {name!r}")
        self.conditionals = {name: by_child[name] for name in self.states}
        self.order = topological_order(self.parents)
        self._potentials = {name: law.log_potential(self.states) for name, law in self.conditionals.items()}

    @classmethod
    def from_bif(cls, path: str | Path) -> BayesianNetwork:
        """Read a ``.bif`` file. Raises :class:`UserError` naming the file, the line and what was expected there."""
        from recsys_vae.graphical.bif import read_bif

        return cls(*read_bif(path))

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Of each variable, the ones that its law depends on."""
        return {name: tuple(law.parents) for name, law in self.conditionals.items()}

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Of each variable, the ones whose laws depend on it."""
        return children_of(self.parents)

    @property
    def n_free_parameters(self) -> int:
        """Over all laws."""
        return sum(law.n_free_parameters(self.states) for law in self.conditionals.values())

    def log_potential(self, name: str) -> LogPotential:
        """The law of a variable as a log-table, the axes of its parents first, its own last."""
        check_known("name", [name], self.states)
        return self._potentials[name]

    def log_probability(self, configuration: Mapping[str, State]) -> float:
        """Of a full configuration, nats."""
        return log_score(self._potentials.values(), configuration, self.states)

    def markov_blanket(self, name: str) -> set[str]:
        """Given these, nothing else matters to the variable."""
        check_known("name", [name], self.states)
        return markov_blanket(self.parents, name)

    def factor_graph(self) -> FactorGraph:
        """A factor for each law."""
        return self._factor_graph

    @cached_property
    def _factor_graph(self) -> FactorGraph:
        return FactorGraph.of_checked(self.states, self._potentials.values())

    def moralise(self) -> MarkovRandomField:
        """The undirected graph of the same distribution: parents of a common child are joined, arrows dropped."""
        listed = {name: list(states) for name, states in self.states.items()}
        return MarkovRandomField(listed, self._potentials.values())
