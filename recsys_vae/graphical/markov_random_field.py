"""Undirected graphs: ``p(x) = exp(-E(x)) / Z``, the energy a sum over cliques (Bishop 2006, section 8.3)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from recsys_vae.graphical.factor_graph import FactorGraph
from recsys_vae.graphical.variables import State, check_known


class MarkovRandomField(FactorGraph):
    """Variables, and log-potentials on cliques of them.

    >>> field = MarkovRandomField({"a": 2, "b": 2}, [(("a", "b"), [[1.0, 0.0], [0.0, 1.0]])])
    >>> field.energy({"a": 1, "b": 1}), field.neighbours()
    (-1.0, {'a': {'b'}, 'b': {'a'}})

    Args:
        variables: of each its states, or how many there are.
        log_potentials: pairs of a clique's variables and a table with an axis for each: minus its energy, nats.

    Raises :class:`UserError` naming the table or variable.
    """

    def factor_graph(self) -> FactorGraph:
        """A factor for each clique."""
        return self._factor_graph

    @cached_property
    def _factor_graph(self) -> FactorGraph:
        return FactorGraph.of_checked(self.states, self.log_potentials)

    def energy(self, configuration: Mapping[str, State]) -> float:
        """Minus the sum of the log-potentials at a full configuration, nats."""
        return -self.log_score(configuration)

    @property
    def n_free_parameters(self) -> int:
        """How many numbers it takes: the entries of all tables, each of which has a scale that cancels."""
        return sum(potential.table.numel() - 1 for potential in self.log_potentials)

    def markov_blanket(self, name: str) -> set[str]:
        """The variables that share a clique with this one: given these, nothing else matters to it."""
        check_known("name", [name], self.states)
        sharing = [set(p.variables) for p in self.log_potentials if name in p.variables]
        return set().union(*sharing) - {name}
