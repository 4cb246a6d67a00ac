"""Small random forests of binary variables, and the answers that summing every configuration gives."""

from __future__ import annotations

import itertools
from random import Random

import torch
from torch import Tensor

from recsys_vae.graphical.pairwise_tree import BinaryTree


def random_forest(random: Random, *, zeros: bool = False, max_nodes: int = 8) -> BinaryTree:
    """Of every shape, in any order of the nodes; with ``zeros``, some rows are certain."""
    n_nodes = random.randint(1, max_nodes)
    shape = random.choice(["any", "star", "chain", "scattered"])
    names = random.sample(range(n_nodes), n_nodes)
    parent = torch.full((n_nodes,), -1, dtype=torch.int64)
    for place in range(1, n_nodes):
        above = {"any": random.randrange(place), "star": 0, "chain": place - 1}.get(
            shape, random.randint(-1, place - 1)
        )
        parent[names[place]] = names[above] if above >= 0 else -1
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    share = torch.rand(n_nodes, 2, generator=generator, dtype=torch.float64)
    if zeros:
        share[torch.rand(n_nodes, 2, generator=generator) < 0.3] = 0.0
    share[parent < 0, 1] = share[parent < 0, 0]
    return BinaryTree(parent, torch.stack([1.0 - share, share], dim=-1).log())


def random_evidence(random: Random, tree: BinaryTree, n_cases: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    evidence = torch.randint(0, 2, (n_cases, tree.n_nodes), generator=generator)
    observed = torch.rand(n_cases, tree.n_nodes, generator=generator) < random.random()
    return evidence.masked_fill(~observed, -1)


def enumerated(tree: BinaryTree) -> tuple[Tensor, Tensor]:
    """Every configuration, and its log-probability: a product of table entries."""
    configurations = torch.tensor(list(itertools.product([0, 1], repeat=tree.n_nodes)))
    log_probability = torch.zeros(len(configurations), dtype=torch.float64)
    for node, parent in enumerate(tree.parent.tolist()):
        above = configurations[:, parent] if parent >= 0 else torch.zeros_like(configurations[:, 0])
        log_probability = log_probability + tree.log_conditional[node][above, configurations[:, node]]
    return configurations, log_probability


def agreeing(configurations: Tensor, log_probability: Tensor, evidence: Tensor) -> Tensor:
    """The log-probabilities, -inf where a configuration does not agree with one case's evidence."""
    agrees = ((configurations == evidence) | (evidence < 0)).all(dim=1)
    return log_probability.masked_fill(~agrees, -torch.inf)


def sampled(tree: BinaryTree, n_cases: int, seed: int) -> Tensor:
    """Independent draws, parents before children."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.zeros(n_cases, tree.n_nodes, dtype=torch.int64)
    for node in tree.order.tolist():
        parent = int(tree.parent[node])
        state = values[:, parent] if parent >= 0 else values[:, node]
        probability = tree.log_conditional[node, :, 1].exp()[state]
        values[:, node] = torch.rand(n_cases, generator=generator, dtype=torch.float64) < probability
    return values
