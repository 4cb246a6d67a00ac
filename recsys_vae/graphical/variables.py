"""Named variables with named states, and the evidence that speaks of them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys_vae.errors import UserError

State = str | int
States = Mapping[str, tuple[State, ...]]


def named_states(variables: Mapping[str, int | Sequence[State]]) -> dict[str, tuple[State, ...]]:
    """Of each variable its states: those given, or 0 to n - 1 where only their number is.

    Raises :class:`UserError` for a variable without states, or with one that comes twice.
    """
    named: dict[str, tuple[State, ...]] = {}
    for name, given in variables.items():
        if not isinstance(name, str) or not name:
            raise UserError(f"variables: expected names, came {name!r}")
        if isinstance(given, (str, bool)):
            raise UserError(f"variables: expected the states of {name!r} or their number, came {given!r}")
        states = tuple(range(given)) if isinstance(given, int) else tuple(given)
        if not states:
            raise UserError(f"variables: expected {name!r} to have at least one state, came {given!r}")
        if len(set(states)) != len(states):
            raise UserError(f"variables: expected the states of {name!r} once each, came {list(states)}")
        named[name] = states
    return named


def check_known(argument: str, names: Iterable[str], states: Container[str]) -> None:
    """Raise :class:`UserError` naming the first of ``names`` that is no variable."""
    for name in names:
        if name not in states:
            raise UserError(f"{argument}: expected variables of the graph, came {name!r}")


def state_index(argument: str, name: str, state: object, states: States) -> int:
    """Position of a state. Raises :class:`UserError` naming it when the variable has no such state."""
    try:
        return states[name].index(state)  # type: ignore[arg-type]
    except ValueError:
        raise UserError(
            f"{argument}: expected one of {list(states[name])} for {name!r}, came {state!r}"
        ) from None


@dataclass(frozen=True)
class Evidence:
    """What is observed, in one case or in a batch of them.

    ``observed`` holds, of each variable with evidence, the position of its state in every case, and -1 in the cases
    where it is not observed. ``batched`` tells one case from a batch of one.
    """

    states: States
    observed: dict[str, Int[Tensor, " cases"]]
    n_cases: int
    batched: bool

    @classmethod
    def of(cls, evidence: Mapping[str, Any] | Evidence | None, states: States) -> Evidence:
        """Read what users give: a state for each observed variable; or, for many cases at once, a list of states.

        In a list, ``None`` leaves the variable unobserved in that case. A tensor of integers holds positions of
        states, -1 for none.

        Raises :class:`UserError` naming the variable, its state, or lists of different lengths.
        """
        if isinstance(evidence, Evidence):
            return evidence
        evidence = {} if evidence is None else evidence
        check_known("evidence", evidence, states)
        observed: dict[str, Tensor] = {}
        for name, given in evidence.items():
            if isinstance(given, Tensor):
                observed[name] = _positions(name, given, len(states[name]))
            else:
                several = given if isinstance(given, list | tuple) else [given]
                places = [-1 if s is None else state_index("evidence", name, s, states) for s in several]
                observed[name] = torch.tensor(places, dtype=torch.int64)
        lists = {name for name, given in evidence.items() if isinstance(given, list | tuple | Tensor)}
        lengths = {len(observed[name]) for name in lists}
        if len(lengths) > 1:
            raise UserError(
                f"evidence: expected as many cases for each variable, came {sorted(lengths)} of them"
            )
        n_cases = lengths.pop() if lists else 1
        observed = {name: values.expand(n_cases) for name, values in observed.items()}
        return cls(states, observed, n_cases, bool(lists))

    def log_indicator(self, name: str, cases: slice = slice(None)) -> Float[Tensor, "cases states"] | None:
        """0 where a state agrees with the evidence, -inf where not; none for a variable that is never observed."""
        if name not in self.observed:
            return None
        position = self.observed[name][cases]
        columns = torch.arange(len(self.states[name]), device=position.device)
        agrees = (position[:, None] < 0) | (position[:, None] == columns)
        return torch.where(agrees, 0.0, -torch.inf).double()

    def of_case(self, case: int) -> dict[str, State]:
        """The observed states of one case."""
        places = {name: int(values[case]) for name, values in self.observed.items()}
        return {name: self.states[name][place] for name, place in places.items() if place >= 0}

    def refuse_contradiction(self, log_evidence: Float[Tensor, " cases"]) -> None:
        """Raise :class:`UserError` naming the evidence of the first case that has probability 0."""
        impossible = (log_evidence == -torch.inf).nonzero()
        if len(impossible):
            case = int(impossible[0])
            told = ", ".join(f"{name}={state}" for name, state in self.of_case(case).items())
            where = f" (case {case} of {self.n_cases})" if self.batched else ""
            what = f"evidence: expected a possible observation, came the contradiction {told}"
            raise UserError(what + where if told else "log_potentials: no configuration is possible")


def _positions(name: str, given: Tensor, n_states: int) -> Tensor:
    if given.ndim != 1 or given.is_floating_point() or given.is_complex():
        raise UserError(
            f"evidence: expected positions of states (cases,) for {name!r}, came {tuple(given.shape)} of {given.dtype}"
        )
    if len(given) and not -1 <= int(given.min()) <= int(given.max()) < n_states:
        raise UserError(
            f"evidence: expected positions from -1 to {n_states - 1} for {name!r}, "
            f"came {int(given.min())} to {int(given.max())}"
        )
    return given.to(torch.int64)
