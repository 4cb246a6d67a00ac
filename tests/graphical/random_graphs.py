"""Small graphs of every kind, and evidence on them, from a stream of random numbers."""

from __future__ import annotations

from random import Random
from typing import Any

import torch

from recsys_vae.graphical import FactorGraph, MarkovRandomField


def random_graph(random: Random) -> FactorGraph:
    """Up to five variables of one to three states, in parts or together, with tables that may hold zeros."""
    names = [f"v{number}" for number in range(random.randint(1, 5))]
    n_states = {name: random.randint(1, 3) for name in names}
    zeros = random.random() < 0.3
    potentials = []
    for _ in range(random.randint(0, 5)):
        scope = random.sample(names, random.randint(0, min(3, len(names))))
        potentials.append((scope, _table(random, [n_states[name] for name in scope], zeros)))
    kind = random.choice([FactorGraph, MarkovRandomField])
    return kind(n_states, potentials)


def random_tree(random: Random, *, zeros: bool = False, n_variables: int = 6) -> FactorGraph:
    """A forest: each factor joins new variables to at most one that is there."""
    n_states = {f"v{number}": random.randint(1, 3) for number in range(n_variables)}
    waiting = random.sample(list(n_states), n_variables)
    there = [waiting.pop()]
    potentials = []
    while waiting:
        new = [waiting.pop() for _ in range(min(len(waiting), random.randint(1, 2)))]
        above = [random.choice(there)] if random.random() < 0.9 else []
        scope = random.sample([*new, *above], len(new) + len(above))
        potentials.append((scope, _table(random, [n_states[name] for name in scope], zeros)))
        there += new
    potentials += [([name], _table(random, [n_states[name]], zeros)) for name in random.sample(there, 2)]
    return FactorGraph(n_states, potentials)


def random_evidence(random: Random, graph: FactorGraph) -> dict[str, Any]:
    """On some variables; one case, or three, in which a variable may also be unobserved."""
    observed = random.sample(list(graph.states), random.randint(0, len(graph.states)))
    if random.random() < 0.5:
        return {name: random.choice(graph.states[name]) for name in observed}
    return {name: [random.choice([None, *graph.states[name]]) for _ in range(3)] for name in observed}


def _table(random: Random, sizes: list[int], zeros: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    table = 2.0 * torch.randn(sizes, generator=generator, dtype=torch.float64)
    if zeros:
        table[torch.rand(sizes, generator=generator) < 0.25] = -torch.inf
    return table
