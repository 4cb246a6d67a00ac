"""Bayesian networks learned from data by greedy search over graphs (Koller & Friedman 2009, section 18.4.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import gammaln

from recsys_vae.errors import UserError
from recsys_vae.graphical.bayesian_network import BayesianNetwork
from recsys_vae.graphical.conditionals import Table
from recsys_vae.graphical.log_tables import MAX_TABLE, check_table_size
from recsys_vae.graphical.variables import State, States, named_states

_ROUNDING = 1e-9  # a gain below this share of the score is none

Parents = tuple[frozenset[int], ...]


class LearnedNetwork(NamedTuple):
    """``network`` with fitted tables, its ``score`` in nats, and ``trace``: the best score after each step that raised
    it.

    The trace begins with the graph that the climb set out from, and is that of the climb that found the network.
    """

    network: BayesianNetwork
    score: float
    trace: list[float]


class _Change(NamedTuple):
    gain: float
    parents: Parents


def hill_climb(
    data: Mapping[str, Any],
    states: Mapping[str, int | Sequence[State]],
    *,
    max_parents: int = 3,
    score: str = "bic",
    equivalent_sample_size: float = 10.0,
    smoothing: float = 1.0,
    tabu: int = 20,
    restarts: int = 0,
    seed: int = 0,
) -> LearnedNetwork:
    """From no edges, add, remove or reverse the one edge that raises the score most, until none does.

    Graphs that say the same have equal scores, and the way up may lead through several of them: where no change helps,
    the search takes the best that leads to a graph not seen before (Glover 1989), a number of times. All scores are
    sums over families, so that a step costs a few families; those seen are kept.
    Of changes that gain alike, the first is made, in the order of the variables.

    >>> coin = torch.tensor([0, 1] * 50)
    >>> learned = hill_climb({"a": coin, "b": coin, "c": torch.arange(100) // 2 % 2}, {"a": 2, "b": 2, "c": 2})
    >>> learned.network.parents
    {'a': ('b',), 'b': (), 'c': ()}

    Args:
        data: of each variable the position of its state in every case.
        states: of each variable its states, or how many there are.
        max_parents: of a variable.
        score: ``bic``, the log-likelihood less half the log of the number of cases for each free parameter (Schwarz
            1978); ``aic``, less 1 for each; ``bdeu``, the log-evidence under Dirichlet priors (Heckerman et al. 1995).
        equivalent_sample_size: of the ``bdeu`` prior, in cases.
        smoothing: cases added to every cell of the tables that are returned; the score is without them.
        tabu: how many steps in a row may fail to beat the best graph so far; with 0 it is pure hill climbing.
        restarts: how often the search begins anew, from the best graph found, randomly changed; the best is kept.
        seed: of these changes.

    Raises :class:`UserError` naming the variable or setting.
    """
    for name, value in (("max_parents", max_parents), ("tabu", tabu), ("restarts", restarts)):
        if isinstance(value, bool) or value < 0:
            raise UserError(f"{name}: expected a whole number of at least 0, came {value!r}")
    if not 0.0 < equivalent_sample_size < math.inf:
        raise UserError(f"equivalent_sample_size: expected a number above 0, came {equivalent_sample_size!r}")
    if not 0.0 <= smoothing < math.inf:
        raise UserError(f"smoothing: expected a number of at least 0, came {smoothing!r}")
    families = _Families(data, named_states(states), score, equivalent_sample_size)
    rng = np.random.default_rng(seed)
    best, trace = _climb(families, (frozenset(),) * families.n_variables, max_parents, tabu)
    for _ in range(restarts):
        changed = _shaken(families, best, max_parents, rng)
        parents, steps = _climb(families, changed, max_parents, tabu)
        if steps[-1] > trace[-1] + _ROUNDING * abs(trace[-1]):
            best, trace = parents, steps
    return LearnedNetwork(families.network(best, smoothing), trace[-1], trace)


def _climb(families: _Families, parents: Parents, max_parents: int, tabu: int) -> tuple[Parents, list[float]]:
    """The best graph on the way, and the scores of the best so far."""
    best, trace = parents, [families.total(parents)]
    visited = {parents}
    patience = 0
    while patience <= tabu:
        step: _Change | None = None
        threshold = _ROUNDING * max(1.0, abs(trace[-1]))
        for change in _changes(families, parents, max_parents):
            if change.parents not in visited and (step is None or change.gain > step.gain + threshold):
                step = change
        if step is None:
            break
        parents = step.parents
        visited.add(parents)
        patience += 1
        if families.total(parents) > trace[-1] + threshold:
            best, patience = parents, 0
            trace.append(families.total(parents))
    return best, trace


def _changes(families: _Families, parents: Parents, max_parents: int) -> Iterator[_Change]:
    """Every graph that is one edge away, and what it gains."""
    ancestors = _ancestors(parents)
    for child, above in enumerate(parents):
        for other in range(len(parents)):
            if other == child:
                continue
            if other in above:
                without = above - {other}
                gain = families.score(child, without) - families.score(child, above)
                yield _Change(gain, _with(parents, {child: without}))
                # Turned around, the edge closes a cycle if there is another way from the parent to the child.
                indirect = any(other in ancestors[between] for between in without)
                if len(parents[other]) < max_parents and not indirect:
                    turned = parents[other] | {child}
                    gain += families.score(other, turned) - families.score(other, parents[other])
                    yield _Change(gain, _with(parents, {child: without, other: turned}))
            elif len(above) < max_parents and child not in ancestors[other]:
                more = above | {other}
                gain = families.score(child, more) - families.score(child, above)
                yield _Change(gain, _with(parents, {child: more}))


def _with(parents: Parents, changed: Mapping[int, frozenset[int]]) -> Parents:
    return tuple(changed.get(child, above) for child, above in enumerate(parents))


def _ancestors(parents: Parents) -> list[set[int]]:
    """Of each variable, those that a directed path leads from."""
    found: list[set[int]] = []
    for child in range(len(parents)):
        seen: set[int] = set()
        waiting = list(parents[child])
        while waiting:
            variable = waiting.pop()
            if variable not in seen:
                seen.add(variable)
                waiting += parents[variable]
        found.append(seen)
    return found


def _shaken(families: _Families, parents: Parents, max_parents: int, rng: np.random.Generator) -> Parents:
    """As many random changes as there are variables."""
    for _ in range(families.n_variables):
        changes = list(_changes(families, parents, max_parents))
        if changes:
            parents = changes[int(rng.integers(len(changes)))].parents
    return parents


class _Families:
    """Counts and scores of a variable with its parents."""

    def __init__(
        self, data: Mapping[str, Any], states: States, score: str, equivalent_sample_size: float
    ) -> None:
        self.states = states
        self.names = list(states)
        self.n_variables = len(self.names)
        self._sizes = [len(states[name]) for name in self.names]
        self._columns = [_column(data, name, len(states[name])) for name in self.names]
        lengths = sorted({len(column) for column in self._columns})
        if len(lengths) != 1 or lengths[0] == 0:
            raise UserError(f"data: expected as many cases for each variable, at least one, came {lengths}")
        self._scores: dict[tuple[int, frozenset[int]], float] = {}
        kinds: dict[str, Callable[[np.ndarray], float]] = {
            "bic": lambda counts: _penalised(counts, 0.5 * math.log(lengths[0])),
            "aic": lambda counts: _penalised(counts, 1.0),
            "bdeu": lambda counts: _log_evidence(counts, equivalent_sample_size),
        }
        if score not in kinds:
            raise UserError(f"score: expected one of {sorted(kinds)}, came {score!r}")
        self._score_of = kinds[score]

    def counts(self, child: int, parents: frozenset[int]) -> np.ndarray:
        """``(configurations of the parents, states)``, the parents in the order of the variables."""
        family = [*sorted(parents), child]
        sizes = [self._sizes[variable] for variable in family]
        check_table_size("hill_climb", [self.names[variable] for variable in family], sizes, MAX_TABLE)
        place = np.zeros(len(self._columns[child]), dtype=np.int64)
        for variable, size in zip(family, sizes, strict=True):
            place = place * size + self._columns[variable]
        return np.bincount(place, minlength=math.prod(sizes)).reshape(-1, sizes[-1])

    def score(self, child: int, parents: frozenset[int]) -> float:
        """Of one family, nats."""
        key = child, parents
        if key not in self._scores:
            self._scores[key] = self._score_of(self.counts(child, parents))
        return self._scores[key]

    def total(self, parents: Parents) -> float:
        """Of a graph, nats."""
        return sum(self.score(child, above) for child, above in enumerate(parents))

    def network(self, parents: Parents, smoothing: float) -> BayesianNetwork:
        """With tables of shares; where no case has a configuration of the parents, all states are alike."""
        laws = []
        for child, above in enumerate(parents):
            counts = self.counts(child, above) + smoothing
            total = counts.sum(axis=1, keepdims=True)
            shares = np.where(total > 0.0, counts / np.where(total > 0.0, total, 1.0), 1.0 / counts.shape[1])
            shape = [self._sizes[variable] for variable in [*sorted(above), child]]
            table = torch.from_numpy(shares.reshape(shape))
            laws.append(Table(self.names[child], [self.names[other] for other in sorted(above)], table))
        return BayesianNetwork({name: list(states) for name, states in self.states.items()}, laws)


def _column(data: Mapping[str, Any], name: str, n_states: int) -> np.ndarray:
    if name not in data:
        raise UserError(f"data: expected every variable, came none for {name!r}")
    column = np.asarray(data[name])
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise UserError(
            f"data: expected positions of states (cases,) for {name!r}, came {column.shape} {column.dtype}"
        )
    if len(column) and not 0 <= int(column.min()) <= int(column.max()) < n_states:
        raise UserError(
            f"data: expected positions from 0 to {n_states - 1} for {name!r}, "
            f"came {int(column.min())} to {int(column.max())}"
        )
    return column.astype(np.int64)


def _penalised(counts: np.ndarray, penalty: float) -> float:
    """The largest log-likelihood of a family, less the penalty of each free parameter."""
    total = np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
    seen = counts > 0
    log_likelihood = float((counts[seen] * np.log(counts[seen] / total[seen])).sum())
    n_free: int = counts.shape[0] * (counts.shape[1] - 1)
    return log_likelihood - penalty * n_free


def _log_evidence(counts: np.ndarray, equivalent_sample_size: float) -> float:
    prior = equivalent_sample_size / counts.size
    prior_of_row = prior * counts.shape[1]
    rows = gammaln(prior_of_row) - gammaln(prior_of_row + counts.sum(axis=1))
    return float(rows.sum() + (gammaln(prior + counts) - gammaln(prior)).sum())
