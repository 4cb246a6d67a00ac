"""Markov chains on finitely many states, exactly: what theory promises of a kernel, checked on its matrix.

A kernel that stays on a finite lattice is turned into its transition matrix in one of three ways: from a table of
proposals and the kernel's own acceptance probability for every ordered pair of states
(:func:`chain_of_acceptance`); from a step whose random outcomes can be listed (:func:`chain_of_outcomes`); or,
where neither is at hand, by counting (:func:`chain_of_counts`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.arguments import check_count, generator_for
from recsys_vae.samplers.kernel import ChainState, metropolis_accept

ROUNDING = 1e-12


@dataclass(frozen=True)
class FiniteChain:
    """A Markov chain by its transition matrix: row ``i`` is the law of the next state after state ``i``.

    Args:
        transition: kept in float64.

    Raises:
        UserError: when a row is no probability law.
    """

    transition: Float[Tensor, "states states"]

    def __post_init__(self) -> None:
        matrix = self.transition.to(torch.float64)
        if not bool((matrix >= 0).all()):
            row = int((~(matrix >= 0)).any(dim=1).nonzero()[0])
            raise UserError(f"transition: expected probabilities, came {_worst(matrix[row])} in row {row}")
        excess = matrix.sum(dim=1) - 1.0
        row = int(excess.abs().argmax())
        if excess[row].abs() > ROUNDING * matrix.shape[0]:
            raise UserError(
                f"transition: expected rows that sum to 1, came {1 + float(excess[row])} in row {row}"
            )
        object.__setattr__(self, "transition", matrix)

    @property
    def n_states(self) -> int:
        """How many states there are."""
        return self.transition.shape[0]

    def reachable(self) -> Bool[Tensor, "states states"]:
        """Whether state ``j`` can be reached from state ``i`` in any number of steps, none included."""
        reach = (self.transition > 0).to(self.transition.dtype)
        reach.fill_diagonal_(1.0)
        for _ in range(math.ceil(math.log2(max(self.n_states, 2)))):
            reach = (reach @ reach > 0).to(reach.dtype)
        return reach > 0

    def classes(self) -> Int[Tensor, " states"]:
        """For each state its communicating class, named by its smallest member."""
        reach = self.reachable()
        return (reach & reach.T).to(torch.int64).argmax(dim=1)

    @property
    def is_irreducible(self) -> bool:
        """Whether every state can be reached from every other."""
        return bool(self.reachable().all())

    def periods(self) -> Int[Tensor, " states"]:
        """The greatest common divisor of the lengths of all ways back to each state; 0 where there is none."""
        classes = self.classes()
        periods = torch.zeros_like(classes)
        for root in set(classes.tolist()):
            members = (classes == root).nonzero().squeeze(1)
            edges = self.transition[members][:, members] > 0
            periods[members] = _period(edges)
        return periods

    @property
    def is_aperiodic(self) -> bool:
        """Whether every state that can be returned to has period 1."""
        return bool((self.periods() <= 1).all())

    def stationary_law(self) -> Float[Tensor, " states"]:
        """The law ``p`` with ``p = p T``, accurate in relative terms however small its parts.

        Raises:
            UserError: when there are several, since the chain has several classes that it cannot leave.
        """
        reach = self.reachable()
        recurrent = (~reach | reach.T).all(dim=1)  # whatever they reach reaches them
        members = recurrent.nonzero().squeeze(1)
        n_closed = len(set(self.classes()[members].tolist()))
        if n_closed != 1:
            raise UserError(
                f"transition: expected a chain with one stationary law, came {n_closed} classes of states that "
                "cannot be left, each with its own"
            )
        law = torch.zeros_like(self.transition[0])
        law[members] = _eliminated(self.transition[members][:, members])
        return law

    def stationarity_violation(self, law: Float[Tensor, " states"]) -> float:
        """``max_j |sum_i p_i T_ij - p_j|``."""
        checked = self._checked(law)
        return float((checked @ self.transition - checked).abs().max())

    def detailed_balance_violation(self, law: Float[Tensor, " states"]) -> float:
        """``max_ij |p_i T_ij - p_j T_ji|``, of which rounding leaves some 1e-17 where the law balances."""
        flow = self._checked(law).unsqueeze(1) * self.transition
        return float((flow - flow.T).abs().max())

    def is_reversible(self, law: Float[Tensor, " states"], tolerance: float = ROUNDING) -> bool:
        """Whether detailed balance holds with respect to ``law``."""
        return self.detailed_balance_violation(law) <= tolerance

    def total_variation(
        self, n_steps: int, law: Float[Tensor, " states"] | None = None
    ) -> Float[Tensor, " states"]:
        """Distance in total variation from ``law`` after ``n_steps``, for a start in each state; in ``[0, 1]``.

        Args:
            n_steps: how many; none is a number.
            law: the stationary law unless given.
        """
        check_count("n_steps", n_steps, at_least=0)
        target = self.stationary_law() if law is None else self._checked(law)
        after: Tensor = torch.linalg.matrix_power(self.transition, n_steps)
        return 0.5 * (after - target).abs().sum(dim=1)

    def _checked(self, law: Tensor) -> Tensor:
        if law.shape != (self.n_states,) or not bool((law >= 0).all()) or abs(float(law.sum()) - 1.0) > 1e-6:
            raise UserError(
                f"law: expected {self.n_states} probabilities that sum to 1, came shape {tuple(law.shape)}, "
                f"least {float(law.min()):.6g}, sum {float(law.sum()):.6g}"
            )
        return law.to(self.transition)


def chain_of_acceptance(
    proposal: Float[Tensor, "states states"],
    acceptance_fn: Callable[[Int[Tensor, " pairs"], Int[Tensor, " pairs"]], Float[Tensor, " pairs"]],
) -> FiniteChain:
    """The chain of a kernel that proposes from a table and accepts or stays.

    Args:
        proposal: row ``i`` is the law of what is proposed in state ``i``.
        acceptance_fn: the kernel's probability of accepting the move from each of the first states to each of the
            second, for instance ``StepInfo.acceptance`` of one step of as many chains as there are pairs. It is
            asked about all ordered pairs that can be proposed, at once.

    Raises:
        UserError: when the proposal is no stochastic matrix, or an acceptance no probability.
    """
    matrix = FiniteChain(proposal).transition
    start, end = (matrix > 0).nonzero(as_tuple=True)
    acceptance = acceptance_fn(start, end)
    if acceptance.shape != start.shape or not bool(((acceptance >= 0) & (acceptance <= 1)).all()):
        raise UserError(
            f"acceptance_fn: expected {start.numel()} probabilities, came shape {tuple(acceptance.shape)}, "
            f"from {float(acceptance.min()):.6g} to {float(acceptance.max()):.6g}"
        )
    moved = torch.zeros_like(matrix)
    rejected = torch.zeros_like(matrix[0])
    proposed = matrix[start, end]
    moved[start, end] = proposed * acceptance
    # 1 minus what moved would lose the digits of a small rejection
    rejected.index_add_(0, start, proposed * (1.0 - acceptance))
    return FiniteChain(moved + rejected.diag())


def metropolis_hastings_chain(
    log_weights: Float[Tensor, " states"], proposal: Float[Tensor, "states states"]
) -> FiniteChain:
    """Metropolis-Hastings (Hastings 1970) towards the law ``exp(log_weights)``, normalised, from a proposal table.

    The log-ratio ``log w_j + log q_ji - log w_i - log q_ij`` is accepted by the rule that every Metropolis kernel
    of this package uses.
    """
    log_law, log_proposal = log_weights.to(torch.float64), proposal.to(torch.float64).log()

    def acceptance(start: Tensor, end: Tensor) -> Tensor:
        log_ratio = log_law[end] + log_proposal[end, start] - log_law[start] - log_proposal[start, end]
        before, after = (ChainState(at.to(log_law).unsqueeze(1), log_law[at]) for at in (start, end))
        return metropolis_accept(before, after, log_ratio, torch.Generator(log_law.device))[1]

    return chain_of_acceptance(proposal, acceptance)


def chain_of_outcomes(
    step_fn: Callable[[Int[Tensor, " states"], int], Int[Tensor, " states"]],
    probabilities: Float[Tensor, "outcomes columns"],
    n_states: int,
) -> FiniteChain:
    """The chain of a step whose randomness is one of finitely many outcomes.

    Args:
        step_fn: where each of the states goes under the outcome of that number.
        probabilities: of each outcome: a column for each state, or one that holds in all of them.
        n_states: the states are ``0 .. n_states - 1``.
    """
    check_count("n_states", n_states)
    if probabilities.shape[1] not in (1, n_states):
        raise UserError(f"probabilities: expected 1 or {n_states} columns, came {probabilities.shape[1]}")
    states = torch.arange(n_states, device=probabilities.device)
    weights = probabilities.to(torch.float64).expand(-1, n_states)
    matrix = torch.zeros(n_states, n_states, dtype=torch.float64, device=states.device)
    for outcome, weight in enumerate(weights):
        matrix.index_put_((states, _on_lattice(step_fn(states, outcome), states)), weight, accumulate=True)
    return FiniteChain(matrix)


@dataclass(frozen=True)
class CountedChain:
    """A chain estimated by counting. ``standard_error`` is of each entry, from the binomial law."""

    chain: FiniteChain
    standard_error: Float[Tensor, "states states"]


def chain_of_counts(
    step_fn: Callable[[Int[Tensor, " chains"], torch.Generator], Int[Tensor, " chains"]],
    n_states: int,
    n_draws: int = 10_000,
    *,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> CountedChain:
    """Estimate a chain by taking one step from each state ``n_draws`` times, all in one call.

    Args:
        step_fn: one step of as many independent chains as it is given states.
        n_states: the states are ``0 .. n_states - 1``.
        n_draws: steps from each state.
        seed: of the generator handed to ``step_fn``.
        generator: used in place of one made from ``seed``.
    """
    check_count("n_states", n_states)
    check_count("n_draws", n_draws)
    random = generator_for(seed, generator, torch.device("cpu"), "counts")
    start = torch.arange(n_states, device=random.device).repeat_interleave(n_draws)
    end = _on_lattice(step_fn(start, random), start)
    pairs = start * n_states + end
    share = pairs.bincount(minlength=n_states**2).reshape(n_states, n_states).to(torch.float64) / n_draws
    # the two extra observations keep entries that were never, or always, seen from claiming no error
    smoothed = (share * n_draws + 1.0) / (n_draws + 2.0)
    return CountedChain(FiniteChain(share), (smoothed * (1.0 - smoothed) / n_draws).sqrt())


def _on_lattice(end: Tensor, start: Tensor) -> Tensor:
    n_states = int(start.max()) + 1
    if end.shape != start.shape or bool(((end < 0) | (end >= n_states)).any()):
        raise UserError(
            f"step_fn: expected {start.numel()} states from 0 to {n_states - 1}, came shape {tuple(end.shape)}, "
            f"from {int(end.min())} to {int(end.max())}"
        )
    return end


def _worst(row: Tensor) -> float:
    return float(row[~(row >= 0)][0])


def _period(edges: Bool[Tensor, "states states"]) -> int:
    """Of a strongly connected graph: the common divisor of ``level(i) + 1 - level(j)`` over its edges."""
    level = torch.full_like(edges[0], -1, dtype=torch.int64)
    frontier = torch.zeros_like(edges[0])
    frontier[0] = True
    depth = 0
    while frontier.any():
        level[frontier] = depth
        depth += 1
        frontier = edges[frontier].any(dim=0) & (level < 0)
    start, end = edges.nonzero(as_tuple=True)
    return math.gcd(*set((level[start] + 1 - level[end]).tolist()))


def _eliminated(transition: Float[Tensor, "states states"]) -> Float[Tensor, " states"]:
    """Stationary law of an irreducible chain by elimination without subtractions (Grassmann et al. 1985)."""
    work = transition.clone()
    for last in range(work.shape[0] - 1, 0, -1):
        work[:last, last] /= work[last, :last].sum()
        work[:last, :last].addr_(work[:last, last], work[last, :last])
    law = torch.zeros_like(work[0])
    law[0] = 1.0
    for state in range(1, work.shape[0]):
        law[state] = law[:state] @ work[:state, state]
    return law / law.sum()
