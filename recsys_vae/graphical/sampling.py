"""Draws from graphs: ancestral, weighted by the evidence, and by Gibbs sampling over Markov blankets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.bayesian_network import BayesianNetwork
from recsys_vae.graphical.factor_graph import DiscreteGraph, LogPotential
from recsys_vae.graphical.variables import Evidence, State, States, check_known

Positions = dict[str, Tensor]


def ancestral_sample(
    network: BayesianNetwork, n_draws: int, *, seed: int = 0
) -> dict[str, Int[Tensor, " draws"]]:
    """Independent draws of all variables, as positions of states: each variable after its parents."""
    _check_count("n_draws", n_draws)
    positions, _ = _forward(network, {}, n_draws, torch.Generator().manual_seed(seed))
    return positions


@dataclass(frozen=True)
class WeightedDraws:
    """Draws weighted by how likely they make the evidence.

    Args:
        states: of each variable.
        positions: of each variable, ``(draws,)``; an observed one is the same in all.
        log_weights: log-probability of the evidence given the rest, nats.
    """

    states: States
    positions: dict[str, Int[Tensor, " draws"]]
    log_weights: Float[Tensor, " draws"]

    @property
    def weights(self) -> Float[Tensor, " draws"]:
        """Normalised."""
        return torch.softmax(self.log_weights, dim=0)

    @property
    def log_evidence(self) -> Float[Tensor, ""]:
        """The logarithm of an unbiased estimate, nats."""
        return self.log_weights.logsumexp(dim=0) - math.log(len(self.log_weights))

    @property
    def log_evidence_error(self) -> Float[Tensor, ""]:
        """Standard error of ``log_evidence``, to first order."""
        scaled = (self.log_weights - self.log_evidence).exp()
        return scaled.std() / math.sqrt(len(scaled))

    @property
    def effective_sample_size(self) -> float:
        """Kish's: ``1 / sum of squared normalised weights``."""
        return float(1.0 / self.weights.square().sum())

    def marginal(self, name: str) -> dict[State, float]:
        """Estimated probability of each state."""
        probabilities = self._probabilities(name).tolist()
        return dict(zip(self.states[name], probabilities, strict=True))

    def standard_error(self, name: str) -> dict[State, float]:
        """Of each probability of :meth:`marginal`: the delta method for self-normalised weights."""
        hits = self._hits(name)
        shift = hits - self._probabilities(name)
        error = (self.weights.unsqueeze(-1) * shift).square().sum(dim=0).sqrt()
        return dict(zip(self.states[name], error.tolist(), strict=True))

    def _hits(self, name: str) -> Tensor:
        check_known("name", [name], self.states)
        return torch.nn.functional.one_hot(self.positions[name], len(self.states[name])).double()

    def _probabilities(self, name: str) -> Tensor:
        return (self.weights.unsqueeze(-1) * self._hits(name)).sum(dim=0)


def likelihood_weighting(
    network: BayesianNetwork,
    evidence: Mapping[str, Any] | None = None,
    *,
    n_draws: int = 10_000,
    seed: int = 0,
) -> WeightedDraws:
    """Ancestral sampling with the observed variables held, each draw weighted by their laws (Fung & Chang 1990).

    Raises :class:`UserError` naming evidence that no draw makes possible.
    """
    _check_count("n_draws", n_draws, 2)
    observed = _one_case(evidence, network.states)
    generator = torch.Generator().manual_seed(seed)
    positions, log_weights = _forward(network, observed.observed, n_draws, generator)
    if bool((log_weights == -torch.inf).all()):
        told = ", ".join(f"{name}={state}" for name, state in observed.of_case(0).items())
        raise UserError(
            f"evidence: expected an observation that some of {n_draws} draws make possible, came {told}"
        )
    return WeightedDraws(network.states, positions, log_weights)


def blanket_conditionals(
    graph: DiscreteGraph, evidence: Mapping[str, Any] | None = None
) -> tuple[list[str], list[Callable[[Tensor, torch.Generator | None], Tensor]]]:
    """The unobserved variables, and for each a draw from its law given its Markov blanket.

    A draw takes positions of states ``(*chains, variables)``, as floating-point numbers in the order of the names
    returned, and gives the variable's new ones, ``(*chains, 1)``: what ``recsys_vae.samplers.gibbs`` takes as
    ``conditionals``.
    """
    observed = _one_case(evidence, graph.states)
    names = [name for name in graph.states if name not in observed.observed]
    column = {name: number for number, name in enumerate(names)}
    around: dict[str, list[LogPotential]] = {name: [] for name in names}
    for potential in graph.factor_graph().log_potentials:
        held = {name: int(observed.observed[name][0]) for name in potential.variables if name not in column}
        index = tuple(held.get(name, slice(None)) for name in potential.variables)
        kept = tuple(name for name in potential.variables if name not in held)
        for name in kept:
            around[name].append(LogPotential(kept, potential.table[index]))
    sizes = {name: len(graph.states[name]) for name in names}
    return names, [_blanket_draw(name, around[name], column, sizes[name]) for name in names]


def _blanket_draw(
    name: str, potentials: list[LogPotential], column: Mapping[str, int], n_states: int
) -> Callable[[Tensor, torch.Generator | None], Tensor]:
    turned = []
    for potential in potentials:
        others = [other for other in potential.variables if other != name]
        turned.append((others, potential.table.movedim(potential.variables.index(name), -1)))

    def draw(position: Tensor, generator: torch.Generator | None) -> Tensor:
        places = position.long()
        log_law = torch.zeros((*position.shape[:-1], n_states), dtype=torch.float64)
        for others, table in turned:
            log_law = log_law + table[tuple(places[..., column[other]] for other in others)]
        return _draw(log_law, generator).unsqueeze(-1).to(position.dtype)

    return draw


def gibbs_sample(
    graph: DiscreteGraph,
    evidence: Mapping[str, Any] | None = None,
    *,
    n_draws: int = 1000,
    n_warmup: int = 100,
    n_chains: int = 4,
    seed: int = 0,
) -> dict[str, Int[Tensor, "draws chains"]]:
    """Each unobserved variable in turn from its law given its Markov blanket (Geman & Geman 1984).

    Chains start at random: a Bayesian network's each variable after its parents, others' uniformly; and where that
    is impossible, at an exact draw by elimination. Where potentials are zero, single changes may not lead everywhere:
    then a chain keeps to the part that it began in, as different chains will show.

    Returns positions of states, of the observed variables too. Raises :class:`UserError` for contradictory evidence,
    and, where a start takes elimination, for a graph whose tables are too large for it.
    """
    _check_count("n_draws", n_draws)
    _check_count("n_chains", n_chains)
    _check_count("n_warmup", n_warmup, 0)
    observed = _one_case(evidence, graph.states)
    generator = torch.Generator().manual_seed(seed)
    names, conditionals = blanket_conditionals(graph, evidence)
    position = _start(graph, observed, names, n_chains, generator)
    kept = torch.empty(n_draws, n_chains, len(names), dtype=torch.int64)
    for step in range(n_warmup + n_draws):
        for number, draw in enumerate(conditionals):
            position[:, number] = draw(position, generator).squeeze(-1)
        if step >= n_warmup:
            kept[step - n_warmup] = position.long()
    draws = {name: kept[..., number] for number, name in enumerate(names)}
    for name, place in observed.observed.items():
        draws[name] = place.expand(n_draws, n_chains)
    return {name: draws[name] for name in graph.states}


def _start(
    graph: DiscreteGraph, observed: Evidence, names: list[str], n_chains: int, generator: torch.Generator
) -> Tensor:
    """Possible configurations ``(chains, names)``: random ones where they happen to be, else drawn exactly."""
    if isinstance(graph, BayesianNetwork):
        positions, _ = _forward(graph, observed.observed, n_chains, generator)
    else:
        positions = {
            name: observed.observed[name].expand(n_chains)
            if name in observed.observed
            else torch.randint(len(states), (n_chains,), generator=generator)
            for name, states in graph.states.items()
        }
    score = torch.zeros(n_chains, dtype=torch.float64)
    for potential in graph.factor_graph().log_potentials:
        score = score + potential.table[tuple(positions[name] for name in potential.variables)]
    impossible = (score == -torch.inf).nonzero().flatten()
    if len(impossible):
        drawn = _exact_draws(graph, observed, names, len(impossible), generator)
        for name in names:
            positions[name][impossible] = drawn[name]
    columns = [positions[name].double() for name in names]
    return torch.stack(columns, dim=-1) if columns else torch.empty(n_chains, 0, dtype=torch.float64)


def _exact_draws(
    graph: DiscreteGraph, observed: Evidence, names: list[str], n_draws: int, generator: torch.Generator
) -> Positions:
    """Variable by variable from its exact law given those before: never where nothing is possible."""
    # Not above, for most chains need none of it.
    from recsys_vae.graphical.variable_elimination import variable_elimination

    if not names:
        observed.refuse_contradiction(torch.full((1,), -torch.inf, dtype=torch.float64))
    drawn: Positions = {}
    held: dict[str, Any] = dict(observed.of_case(0))
    for name in names:
        law = variable_elimination(graph, held, query=[name]).log_marginals[name]
        drawn[name] = _draw(law.expand(n_draws, -1), generator)
        held |= drawn
    return drawn


def _forward(
    network: BayesianNetwork, observed: Positions, n_draws: int, generator: torch.Generator
) -> tuple[Positions, Float[Tensor, " draws"]]:
    """Each variable after its parents, the observed ones held; and the log-probability of these given the rest."""
    positions: Positions = {}
    log_weights = torch.zeros(n_draws, dtype=torch.float64)
    for name in network.order:
        table = network.log_potential(name).table
        rows = table[tuple(positions[parent] for parent in network.parents[name])].expand(n_draws, -1)
        if name in observed:
            positions[name] = observed[name].expand(n_draws)
            log_weights = log_weights + rows.gather(1, positions[name].unsqueeze(1)).squeeze(1)
        else:
            positions[name] = _draw(rows, generator)
    return {name: positions[name] for name in network.states}, log_weights


def _draw(log_law: Float[Tensor, "*rows states"], generator: torch.Generator | None) -> Int[Tensor, " *rows"]:
    """One position from each row, by Gumbel's trick: the largest of the log-probabilities plus noise."""
    uniform = torch.rand(log_law.shape, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
    return (log_law + noise).argmax(dim=-1)


def _one_case(evidence: Mapping[str, Any] | None, states: States) -> Evidence:
    observed = Evidence.of(evidence, states)
    if observed.batched:
        raise UserError("evidence: expected one state for each variable, came a list")
    given = {name: place for name, place in observed.observed.items() if int(place) >= 0}
    return Evidence(states, given, 1, batched=False)


def _check_count(name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}: expected a whole number of at least {least}, came {value!r}")
