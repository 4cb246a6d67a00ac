"""Where nodes and the borders of plates go from left to right, once their order is settled. Lengths are points."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import splu

from recsys_vae.graphical.directed import topological_order

NODE_GAP = 22.0
PLATE_PAD = 11.0
_ROUNDS = 1500

# What is left of what: nodes by their numbers, ("left" | "right", plate) for a plate's borders.
Border = tuple[str, int]
Beside = dict[int | Border, set[int | Border]]


class PlateBox(NamedTuple):
    """What a plate asks of the layout: its nodes, its label's width, and how many boxes deep it is, itself counted."""

    members: Collection[str]
    label_width: float
    level: int


class Placement:
    """Where to put nodes and borders from left to right: short edges, under least distances between some."""

    def __init__(
        self, widths: Sequence[float], n_nodes: int, segments: Sequence[tuple[int, int]], n_plates: int
    ) -> None:
        self._widths = widths
        self._n = len(widths) + 2 * n_plates
        # Straight where it is long: pulls between bends are the strongest.
        self._pulls = [(a, b, (1.0, 3.0, 9.0)[(a >= n_nodes) + (b >= n_nodes)]) for a, b in segments]
        self._pulls += [(*self.borders(plate), 0.05) for plate in range(n_plates)]
        self._least: dict[tuple[int, int], float] = {}

    def borders(self, plate: int) -> tuple[int, int]:
        """Numbers of a plate's left and right border."""
        first = len(self._widths) + 2 * plate
        return first, first + 1

    def keep_order(self, layers: Sequence[Sequence[int]]) -> None:
        """Neighbours within a layer do not touch."""
        for layer in layers:
            for one, other in itertools.pairwise(layer):
                self._least[one, other] = (self._widths[one] + self._widths[other]) / 2 + NODE_GAP

    def enclose(self, plate: int, inside: Sequence[int], box: PlateBox) -> None:
        """A plate's nodes, and its label, lie between its borders."""
        left, right = self.borders(plate)
        for node in inside:
            self._least[left, node] = self._widths[node] / 2 + box.level * PLATE_PAD
            self._least[node, right] = self._widths[node] / 2 + box.level * PLATE_PAD
        self._least[left, right] = box.label_width + 2.0 * PLATE_PAD

    def keep_apart(self, beside: Beside) -> None:
        """What lies beside a plate does not touch it."""

        def at(what: int | Border) -> tuple[int, float]:
            if isinstance(what, int):
                return what, self._widths[what] / 2
            return self.borders(what[1])[what[0] == "right"], 0.0

        for one, others in beside.items():
            for other in others:
                (first, reach), (second, behind) = at(one), at(other)
                self._least.setdefault((first, second), reach + behind + PLATE_PAD)

    def at_least(self, left: int, right: int, apart: float) -> None:
        """One lies so far right of the other, or further."""
        self._least[left, right] = max(apart, self._least.get((left, right), apart))

    def solve(self) -> Float[np.ndarray, " places"]:
        """Least squares under ``x[b] - x[a] >= least``, by the alternating direction method of multipliers."""
        pulls = self._differences([(a, b) for a, b, _ in self._pulls])
        weights = np.array([weight for *_, weight in self._pulls])
        cost = pulls.T @ (pulls * weights[:, None]) + 1e-4 * eye_array(self._n)
        pairs = list(self._least)
        least = np.array([self._least[pair] for pair in pairs])
        apart = self._differences(pairs)
        solver = splu(csc_array(cost + apart.T @ apart))
        slack, dual = least.copy(), np.zeros(len(pairs))
        x = np.zeros(self._n)
        for _ in range(_ROUNDS):
            x = solver.solve(apart.T @ (slack - dual))
            reached = apart @ x
            slack, before = np.maximum(reached + dual, least), slack
            dual += reached - slack
            if np.abs(np.concatenate([reached - slack, slack - before, [0.0]])).max() < 1e-3:
                break
        # What little is missing is made up from left to right.
        follows: dict[int, list[int]] = {node: [] for node in range(self._n)}
        for one, other in pairs:
            follows[other].append(one)
        for node in map(int, topological_order({str(n): [str(o) for o in follows[n]] for n in follows})):
            x[node] = max([x[node], *(x[other] + self._least[other, node] for other in follows[node])])
        return x

    def _differences(self, pairs: Sequence[tuple[int, int]]) -> csc_array:
        rows = np.repeat(np.arange(len(pairs)), 2)
        columns = np.array(pairs, dtype=np.int64).reshape(-1)
        signs = np.tile([-1.0, 1.0], len(pairs))
        return csc_array((signs, (rows, columns)), shape=(len(pairs), self._n))
