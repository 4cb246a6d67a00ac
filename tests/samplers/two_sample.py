"""Tests of whether two samples have one law; each returns a p-value."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor


def kolmogorov_smirnov(first: Tensor, second: Tensor) -> float:
    """Smallest p-value over coordinates, Bonferroni-corrected."""
    n = first.shape[-1]
    smallest = min(
        stats.ks_2samp(first[:, i].numpy(), second[:, i].numpy(), method="asymp").pvalue for i in range(n)
    )
    return min(1.0, n * float(smallest))


def energy_distance(first: Tensor, second: Tensor, seed: int = 0, n_permutations: int = 300) -> float:
    """Energy distance (Székely & Rizzo 2004) against its permutation law.

    That law's tail is a gamma's with the three moments of the permuted distances: p-values far below one over the
    number of permutations are needed.
    """
    both = torch.cat([first, second])
    both = (both - both.mean(dim=0)) / both.std(dim=0)
    distances = torch.cdist(both, both)
    signs = torch.cat([torch.ones(len(first)), -torch.ones(len(second))]).to(distances)
    generator = torch.Generator().manual_seed(seed)
    permuted = torch.stack(
        [signs[torch.randperm(len(signs), generator=generator)] for _ in range(n_permutations)], dim=1
    )
    columns = torch.cat([signs.unsqueeze(1), permuted], dim=1)
    distance = -(columns * (distances @ columns)).sum(dim=0).numpy()
    observed, null = distance[0], distance[1:]
    skew = max(float(stats.skew(null)), 0.1)
    return float(stats.pearson3.sf(observed, skew, loc=null.mean(), scale=null.std()))


def paired_moments(before: Tensor, after: Tensor) -> float:
    """Whether functions of a chain's two ends have one mean: each chain is compared with itself.

    Smallest p-value of a z-test over functions of the position, Bonferroni-corrected.
    """
    centre, spread = before.median(dim=0).values, before.std(dim=0)

    def functions(z: Tensor) -> Tensor:
        u = (z - centre) / spread
        return torch.stack(
            [
                *u.tanh().unbind(-1),
                *u.square().tanh().unbind(-1),
                u.tanh().prod(-1),
                (-u.square().sum(-1)).exp(),
            ]
        )

    return _z_test(functions(after) - functions(before))


def exchange(before: Tensor, after: Tensor) -> float:
    """Whether ``(before, after)`` and ``(after, before)`` have one law, as a reversible chain from its target has.

    Smallest p-value of a z-test over antisymmetric functions of the pair, Bonferroni-corrected.
    """
    centre, spread = before.median(dim=0).values, before.std(dim=0)
    u, v = ((z - centre) / spread for z in (before, after))
    functions = [
        *(u.tanh() * v.square().tanh() - v.tanh() * u.square().tanh()).unbind(-1),
        u[:, 0].tanh() * v[:, 1].tanh() - v[:, 0].tanh() * u[:, 1].tanh(),
        *((u - v).pow(3) / (1.0 + (u - v).pow(4))).unbind(-1),
    ]
    return _z_test(torch.stack(functions))


def _z_test(values: Tensor) -> float:
    """Of means of 0, over the last axis."""
    error = values.std(dim=-1) / math.sqrt(values.shape[-1])
    z = (values.mean(dim=-1) / error.clamp(min=1e-12)).abs().numpy()
    return min(1.0, len(z) * float(2.0 * stats.norm.sf(np.max(z))))
