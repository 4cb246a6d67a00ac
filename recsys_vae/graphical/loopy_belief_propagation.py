"""Sum-product on graphs with cycles: the same messages, until they change no more, or do not settle.

Pearl 1988; the Bethe free energy of Yedidia, Freeman & Weiss 2005. Messages are log-ratios to their largest entry, and
so is what counts as their change: in this measure a factor magnifies no difference (the dynamic range of Ihler, Fisher
& Willsky 2005), so that what still moves bounds what is wrong, however large the potentials. Probabilities would not
do: a tiny one decides where others speak against the rest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.factor_graph import DiscreteGraph
from recsys_vae.graphical.marginals import Marginals
from recsys_vae.graphical.variables import Evidence

# A change of a log-ratio that is smaller than this, relative to its size, is none.
_ROUNDING = 1e-15


@dataclass(frozen=True)
class LoopyMarginals(Marginals):
    """Beliefs, and whether they settled.

    ``log_evidence`` is minus the Bethe free energy: exact on trees, elsewhere neither bound nor exact.

    Args:
        converged: whether no message moved by more than the tolerance at the end.
        n_iterations: rounds until then.
        residual: the largest change of a message's log-ratio in the last round, nats; infinite where a state was found
            to be impossible.
    """

    converged: Bool[Tensor, "*cases"]
    n_iterations: Int[Tensor, "*cases"]
    residual: Float[Tensor, "*cases"]


def loopy_belief_propagation(
    graph: DiscreteGraph,
    evidence: Mapping[str, Any] | None = None,
    *,
    damping: float = 0.0,
    schedule: Literal["flooding", "residual"] = "flooding",
    share: float = 0.25,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> LoopyMarginals:
    """Approximate marginals of every variable in any graph; on a tree they are exact.

    Args:
        graph: of any kind.
        evidence: a state for each observed variable; or for each a list of states, for many cases at once.
        damping: share of the old message that is kept, in [0, 1), of logarithms: ``old^damping * new^(1 - damping)``;
            helps where messages oscillate.
        schedule: ``flooding`` renews all messages in every round; ``residual`` those that would change the most
            (Elidan, McGraw & Koller 2006, many at once).
        share: of the messages that ``residual`` renews in a round.
        tolerance: largest change of a message's log-ratio, nats, at which a case is done; a change within rounding is
            none.
        max_iterations: rounds; a case that has not settled by then says so in ``converged``.

    Raises :class:`UserError` for settings out of range, and for evidence that the messages find contradictory.
    """
    _check(damping, schedule, share, tolerance, max_iterations)
    observed = Evidence.of(evidence, graph.states)
    messages = _Messages(graph, observed)
    n_cases = observed.n_cases
    done = torch.zeros(n_cases, dtype=torch.bool)
    iterations = torch.zeros(n_cases, dtype=torch.int64)
    residual = torch.zeros(n_cases, dtype=torch.float64)
    for _ in range(max_iterations):
        if not messages.edges or bool(done.all()):
            break
        proposed = messages.proposed(damping)
        change = messages.changes(proposed)
        largest = torch.stack([part.amax(dim=0) for part in change]).amax(dim=0)
        settled = ~done & (largest <= tolerance)
        residual = torch.where(done, residual, largest)
        iterations += ~done
        # A case that is done stands still, so that nobody's answer depends on who else is asked for.
        active = ~(done | settled)
        if schedule == "residual":
            every = torch.cat(change)
            bound = every.topk(math.ceil(share * len(every)), dim=0).values[-1]
            messages.renew(proposed, [active & (part >= bound) & (part > 0.0) for part in change])
        else:
            messages.renew(proposed, [active.expand_as(part) for part in change])
        done |= settled
    if not messages.edges:
        done[:] = True
    beliefs = messages.beliefs()
    log_evidence = messages.minus_bethe_energy(beliefs)
    impossible = (beliefs.amax(dim=2) == -torch.inf).any(dim=0)
    observed.refuse_contradiction(torch.where(impossible, -torch.inf, log_evidence))
    found = (log_evidence, done, iterations, residual)
    if not observed.batched:
        beliefs = beliefs[:, 0]
        found = tuple(values[0] for values in found)  # type: ignore[assignment]
    tables = {
        name: row[..., : len(graph.states[name])]
        for name, row in zip(graph.states, beliefs.unbind(0), strict=True)
    }
    return LoopyMarginals(graph.states, tables, *found)


@dataclass
class _Edges:
    """Messages to one variable of each factor of one shape: ``to_variable`` is ``(factors, cases, states)``."""

    factors: int  # number of the group
    axis: int
    variable: Tensor
    to_variable: Tensor


class _Messages:
    """All messages from factors to variables; those the other way follow from them."""

    def __init__(self, graph: DiscreteGraph, observed: Evidence) -> None:
        factors = graph.factor_graph()
        names = list(factors.states)
        index = {name: number for number, name in enumerate(names)}
        sizes = torch.tensor([len(factors.states[name]) for name in names], dtype=torch.int64)
        width = int(sizes.max()) if names else 1
        outside = torch.where(torch.arange(width) < sizes[:, None], 0.0, -torch.inf).double()
        self.local = outside[:, None, :].repeat(1, observed.n_cases, 1)
        self.constant = torch.zeros((), dtype=torch.float64)
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, list[int]]]] = defaultdict(list)
        for potential in factors.log_potentials:
            scope = [index[name] for name in potential.variables]
            if not scope:
                self.constant = self.constant + potential.table
            elif len(scope) == 1:
                self.local[scope[0], :, : len(potential.table)] += potential.table
            else:
                by_shape[tuple(potential.table.shape)].append((potential.table, scope))
        for name in observed.observed:
            indicator = observed.log_indicator(name)
            assert indicator is not None
            self.local[index[name], :, : indicator.shape[-1]] += indicator
        self.tables: list[Tensor] = []
        self.edges: list[_Edges] = []
        self.degree = torch.zeros(len(names), dtype=torch.float64)
        for shape in sorted(by_shape):
            members = by_shape[shape]
            scopes = torch.tensor([scope for _, scope in members], dtype=torch.int64)
            for axis, size in enumerate(shape):
                start = torch.zeros(len(members), observed.n_cases, size, dtype=torch.float64)
                self.edges.append(_Edges(len(self.tables), axis, scopes[:, axis].contiguous(), start))
                self.degree.index_add_(0, scopes[:, axis], torch.ones(len(members), dtype=torch.float64))
            self.tables.append(torch.stack([table for table, _ in members]).unsqueeze(1))

    def _totals(self, heard: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """What each variable hears: the sum of what is finite, and how often it hears that a state is impossible.

        Kept apart, so that one message can be taken out again: -inf minus -inf would say nothing. ``heard`` has the
        parts of each edge's messages.
        """
        finite, zeros = _parts(self.local)
        for edge, (part, zero) in zip(self.edges, heard, strict=True):
            size = part.shape[-1]
            finite[:, :, :size].index_add_(0, edge.variable, part)
            zeros[:, :, :size].index_add_(0, edge.variable, zero)
        return finite, zeros

    def _to_factors(self) -> list[Tensor]:
        """From variables to factors, ``(factors, cases, states)`` of each edge: all that a variable hears but this."""
        heard = [_parts(edge.to_variable) for edge in self.edges]
        finite, zeros = self._totals(heard)
        outgoing = []
        for edge, (part, zero) in zip(self.edges, heard, strict=True):
            size = part.shape[-1]
            rest = finite[edge.variable, :, :size] - part
            forbidden = zeros[edge.variable, :, :size] - zero > 0.5
            outgoing.append(torch.where(forbidden, -torch.inf, rest))
        return outgoing

    def proposed(self, damping: float) -> list[Tensor]:
        """New messages to the variables, 0 at their largest."""
        outgoing = self._to_factors()
        messages = []
        for edge in self.edges:
            joint = self._joint(edge.factors, outgoing, without=edge.axis)
            rest = [axis + 2 for axis in range(joint.ndim - 2) if axis != edge.axis]
            new = _to_peak(joint.logsumexp(dim=rest))
            if damping:  # what is impossible is so at once, and stays so
                new = _to_peak((1.0 - damping) * new + damping * edge.to_variable)
            messages.append(new)
        return messages

    def _joint(self, factors: int, outgoing: list[Tensor], without: int | None = None) -> Tensor:
        """The tables of a group times what its variables say, ``(factors, cases, *states)``."""
        joint = self.tables[factors]
        for edge, message in zip(self.edges, outgoing, strict=True):
            if edge.factors == factors and edge.axis != without:
                shape = [*message.shape[:2], *(1,) * (joint.ndim - 2)]
                shape[2 + edge.axis] = message.shape[2]
                joint = joint + message.reshape(shape)
        return joint.expand(-1, self.local.shape[1], *joint.shape[2:])

    def changes(self, proposed: list[Tensor]) -> list[Tensor]:
        """How far each message would move, as the largest change of a log-ratio, ``(factors, cases)``."""
        pairs = zip(proposed, self.edges, strict=True)
        return [_distance(new, edge.to_variable).amax(dim=2) for new, edge in pairs]

    def renew(self, proposed: list[Tensor], which: list[Tensor]) -> None:
        """Replace messages where ``which`` ``(factors, cases)`` says so."""
        for edge, new, chosen in zip(self.edges, proposed, which, strict=True):
            edge.to_variable = torch.where(chosen.unsqueeze(-1), new, edge.to_variable)

    def beliefs(self) -> Float[Tensor, "variables cases states"]:
        """Log-marginals of the variables."""
        finite, zeros = self._totals([_parts(edge.to_variable) for edge in self.edges])
        return _normalised(torch.where(zeros > 0.5, -torch.inf, finite))

    def minus_bethe_energy(self, beliefs: Tensor) -> Float[Tensor, " cases"]:
        """The Bethe approximation of the log-evidence: expected log-potentials plus entropies."""
        total = self.constant + _expectation(beliefs, self.local).sum(dim=(0, 2))
        own = _expectation(beliefs, beliefs).sum(dim=2)
        total = total + ((self.degree - 1.0)[:, None] * own).sum(dim=0)
        outgoing = self._to_factors()
        for number, table in enumerate(self.tables):
            joint = self._joint(number, outgoing)
            belief = _normalised(joint.flatten(2))
            potential = table.expand_as(joint).flatten(2)
            total = total + (_expectation(belief, potential) - _expectation(belief, belief)).sum(dim=(0, 2))
        return total


def _parts(values: Tensor) -> tuple[Tensor, Tensor]:
    """The finite part of log-values, and 1 where they are -inf."""
    impossible = values == -torch.inf
    return torch.where(impossible, 0.0, values), impossible.double()


def _to_peak(values: Tensor) -> Tensor:
    """Relative to the largest; where nothing is possible, so it stays."""
    peak = values.amax(dim=-1, keepdim=True)
    return values - peak.where(peak > -torch.inf, 0.0)


def _distance(new: Tensor, old: Tensor) -> Tensor:
    """Of log-ratios, beyond what rounding may do; 0 between two that are -inf."""
    moved = (new - old).abs() - _ROUNDING * old.abs()
    return torch.where(new == old, 0.0, moved.clamp(min=0.0))


def _normalised(values: Tensor) -> Tensor:
    total = values.logsumexp(dim=-1, keepdim=True)
    return values - total.where(total > -torch.inf, 0.0)


def _expectation(log_belief: Tensor, values: Tensor) -> Tensor:
    """``exp(log_belief) * values``, 0 where the belief is 0."""
    return torch.where(log_belief == -torch.inf, 0.0, log_belief.exp() * values)


def _check(damping: float, schedule: str, share: float, tolerance: float, max_iterations: int) -> None:
    if not 0.0 <= damping < 1.0:
        raise UserError(f"damping: expected a number in [0, 1), came {damping!r}")
    if schedule not in ("flooding", "residual"):
        raise UserError(f"schedule: expected flooding or residual, came {schedule!r}")
    if not 0.0 < share <= 1.0:
        raise UserError(f"share: expected a number in (0, 1], came {share!r}")
    if not 0.0 < tolerance < math.inf:
        raise UserError(f"tolerance: expected a positive number, came {tolerance!r}")
    if isinstance(max_iterations, bool) or max_iterations < 1:
        raise UserError(f"max_iterations: expected a whole number of at least 1, came {max_iterations!r}")
