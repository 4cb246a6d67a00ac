"""What every inference algorithm returns: log-marginals and the log-evidence, of one case or of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.log_tables import normalised
from recsys_vae.graphical.variables import Evidence, State, States, check_known


@dataclass(frozen=True)
class Marginals:
    """The law of each variable given the evidence.

    Args:
        states: of each variable.
        log_marginals: of each variable, normalised, nats: ``(states,)``; ``(cases, states)`` where the evidence came as
            a batch. An observed variable has 0 at its state and -inf elsewhere.
        log_evidence: the log of the sum of the product of all potentials over every configuration that agrees with the
            evidence, nats, ``()`` or ``(cases,)``: for a Bayesian network the log-probability of the evidence; for a
            random field with no evidence the log-normaliser (log-partition).
    """

    states: States
    log_marginals: dict[str, Float[Tensor, "*cases states"]]
    log_evidence: Float[Tensor, "*cases"]

    def marginal(self, name: str, case: int | None = None) -> dict[State, float]:
        """Probability of each state. Raises :class:`UserError` for an unknown name, or a case that there is not."""
        check_known("name", [name], self.log_marginals)
        table = one_case(self.log_marginals[name], case, batched=self.log_evidence.ndim == 1)
        return dict(zip(self.states[name], table.exp().tolist(), strict=True))

    @classmethod
    def of(
        cls, evidence: Evidence, log_marginals: Mapping[str, Tensor], log_evidence: Float[Tensor, " cases"]
    ) -> Marginals:
        """From unnormalised log-beliefs ``(cases or 1, states)``.

        Raises :class:`UserError` naming the evidence of the first case that is impossible.
        """
        log_evidence = log_evidence.expand(evidence.n_cases)
        evidence.refuse_contradiction(log_evidence)
        tables = {name: normalised(log_marginals[name])[0] for name in evidence.states}
        if evidence.batched:
            tables = {name: table.expand(evidence.n_cases, -1) for name, table in tables.items()}
            return cls(evidence.states, tables, log_evidence)
        return cls(evidence.states, {name: table[0] for name, table in tables.items()}, log_evidence[0])


@dataclass(frozen=True)
class JointMode:
    """The most probable configuration given the evidence, of all variables together.

    Where several configurations are equally probable, this is one of them, and ``unique`` is false.

    Args:
        states: of each variable.
        positions: of each variable the position of its state, ``()``, or ``(cases,)`` for a batch.
        log_score: sum of all log-potentials there, nats; for a Bayesian network the log-probability of the
            configuration, evidence included.
        unique: whether every other configuration scores less, up to rounding.
    """

    states: States
    positions: dict[str, Int[Tensor, "*cases"]]
    log_score: Float[Tensor, "*cases"]
    unique: Bool[Tensor, "*cases"]

    def configuration(self, case: int | None = None) -> dict[str, State]:
        """The state of each variable. Raises :class:`UserError` for a case that there is not."""
        batched = self.log_score.ndim == 1
        return {
            name: self.states[name][int(one_case(place, case, batched=batched))]
            for name, place in self.positions.items()
        }


def one_case(values: Tensor, case: int | None, *, batched: bool) -> Tensor:
    """The entry of one case."""
    if not batched:
        if case is not None:
            raise UserError(f"case: expected none, for the evidence was no batch, came {case!r}")
        return values
    if case is None or not -len(values) <= case < len(values):
        raise UserError(f"case: expected a number from 0 to {len(values) - 1}, came {case!r}")
    return values[case]


def log_total(parts: list[Tensor], n_cases: int) -> Float[Tensor, " cases"]:
    """Sum of log-factors ``(cases or 1,)``."""
    total = torch.zeros(n_cases, dtype=torch.float64)
    for part in parts:
        total = total + part
    return total
