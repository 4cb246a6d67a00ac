"""Laws of one variable given its parents: tables, noisy-or, logistic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.factor_graph import LogPotential
from recsys_vae.graphical.log_tables import MAX_TABLE, check_table_size
from recsys_vae.graphical.variables import States, check_known

SUM_TOLERANCE = 1e-6


@runtime_checkable
class Conditional(Protocol):
    """``p(child | parents)``."""

    @property
    def child(self) -> str:
        """The variable whose law it is."""
        ...

    @property
    def parents(self) -> tuple[str, ...]:
        """The variables that it depends on."""
        ...

    def log_potential(self, states: States) -> LogPotential:
        """The logarithm as a table, the axes of the parents first, the child's last."""
        ...

    def n_free_parameters(self, states: States) -> int:
        """How many numbers it takes."""
        ...


@dataclass(frozen=True, eq=False)
class Table:
    """Any law at all, as a table of probabilities with axes for the parents, in order, and last the child.

    Each row must sum to 1 within 1e-6, and is then made to do so exactly.
    """

    child: str
    parents: tuple[str, ...]
    probabilities: Any

    def __init__(self, child: str, parents: Sequence[str], probabilities: Any) -> None:
        object.__setattr__(self, "child", child)
        object.__setattr__(self, "parents", tuple(parents))
        object.__setattr__(self, "probabilities", torch.as_tensor(probabilities, dtype=torch.float64))

    def log_potential(self, states: States) -> LogPotential:
        """Raises :class:`UserError` naming the row that is no law, by the states of the parents."""
        family = (*self.parents, self.child)
        check_known("conditionals", family, states)
        expected = tuple(len(states[name]) for name in family)
        table = self.probabilities
        if table.shape != expected:
            raise UserError(
                f"conditionals: expected a table {expected} for {self.child!r}"
                f"{_given(self.parents)}, came {tuple(table.shape)}"
            )
        total = table.sum(dim=-1)
        bad = ~((total - 1.0).abs() <= SUM_TOLERANCE) | ~(table >= 0.0).all(dim=-1)
        if bool(bad.any()):
            place = tuple(int(index) for index in bad.nonzero()[0])
            row = ", ".join(f"{n}={states[n][i]}" for n, i in zip(self.parents, place, strict=True))
            row = f" given {row}" if row else ""
            if not bool((table[place] >= 0.0).all()):
                numbers = ", ".join(f"{p:g}" for p in table[place].tolist())
                raise UserError(
                    f"conditionals: expected probabilities of {self.child!r}{row}, came {numbers}"
                )
            raise UserError(
                f"conditionals: expected the probabilities of {self.child!r}{row} to sum to 1, "
                f"came {float(total[place]):.9g}"
            )
        return LogPotential(family, (table / total.unsqueeze(-1)).log())

    def n_free_parameters(self, states: States) -> int:
        """One less than its states for each configuration of the parents."""
        return (len(states[self.child]) - 1) * math.prod(len(states[name]) for name in self.parents)


@dataclass(frozen=True)
class NoisyOr:
    """Each parent that is active, by itself, turns the child on with its own probability (Pearl 1988, section 4.3.2).

    ``p(child off) = (1 - leak) * product over active parents of (1 - p)``. All variables have two states, of which
    the second is the active one.
    """

    child: str
    parents: tuple[str, ...]
    probabilities: tuple[float, ...]
    leak: float = 0.0

    def log_potential(self, states: States) -> LogPotential:
        """Raises :class:`UserError` for variables that are not binary, numbers that are no probabilities, and a table
        that would be too large.
        """
        _check_binary(self.child, self.parents, states, "a noisy-or")
        if len(self.probabilities) != len(self.parents):
            raise UserError(
                f"conditionals: expected {len(self.parents)} probabilities for {self.child!r}, "
                f"came {len(self.probabilities)}"
            )
        for value in (*self.probabilities, self.leak):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"conditionals: expected probabilities for {self.child!r}, came {value!r}")
        stays_off = [_log1m(p) for p in self.probabilities]
        log_off = _over_parents(stays_off, _log1m(self.leak))
        log_on = torch.log(-torch.expm1(log_off))
        return LogPotential((*self.parents, self.child), torch.stack([log_off, log_on], dim=-1))

    def n_free_parameters(self, states: States) -> int:
        """One for each parent, and the leak."""
        return len(self.parents) + 1


@dataclass(frozen=True)
class Logistic:
    """``p(child on) = sigmoid(bias + sum of the weights of active parents)``: Bishop 2006, eq. 8.10.

    All variables have two states, of which the second is the active one.
    """

    child: str
    parents: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float = 0.0

    def log_potential(self, states: States) -> LogPotential:
        """Raises :class:`UserError` for variables that are not binary, weights that are not finite, and a table that
        would be too large.
        """
        _check_binary(self.child, self.parents, states, "a logistic law")
        if len(self.weights) != len(self.parents):
            raise UserError(
                f"conditionals: expected {len(self.parents)} weights for {self.child!r}, came {len(self.weights)}"
            )
        if not all(math.isfinite(value) for value in (*self.weights, self.bias)):
            raise UserError(f"conditionals: expected finite weights for {self.child!r}, came {self.weights}")
        logit = _over_parents(list(self.weights), self.bias)
        table = torch.stack(
            [torch.nn.functional.logsigmoid(-logit), torch.nn.functional.logsigmoid(logit)], dim=-1
        )
        return LogPotential((*self.parents, self.child), table)

    def n_free_parameters(self, states: States) -> int:
        """One for each parent, and the bias."""
        return len(self.parents) + 1


def _over_parents(contributions: list[float], constant: float) -> Float[Tensor, " *parents"]:
    """The sum of the contributions of those that are active, for every configuration of binary parents."""
    total = torch.full((2,) * len(contributions), constant, dtype=torch.float64)
    for axis, contribution in enumerate(contributions):
        shape = [1] * len(contributions)
        shape[axis] = 2
        total = total + torch.tensor([0.0, contribution], dtype=torch.float64).reshape(shape)
    return total


def _check_binary(child: str, parents: tuple[str, ...], states: States, what: str) -> None:
    check_known("conditionals", (*parents, child), states)
    for name in (*parents, child):
        if len(states[name]) != 2:
            raise UserError(
                f"conditionals: {what} expects variables of two states, {name!r} has {len(states[name])}"
            )
    family = (*parents, child)
    check_table_size(
        "conditionals",
        family,
        [2] * len(family),
        MAX_TABLE,
        f"give {child!r} fewer parents, or join them in stages",
    )


def _log1m(probability: float) -> float:
    return math.log1p(-probability) if probability < 1.0 else -math.inf


def _given(parents: tuple[str, ...]) -> str:
    return f" given {', '.join(parents)}" if parents else ""
