"""Kernels where all is finite or exact: detailed balance by pairs, Gibbs by enumeration, leapfrog in float64."""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from exact_targets import BANANA, DTYPE, FUNNEL, GAUSSIAN
from torch import Tensor

from recsys_vae.samplers import AutoregressiveProposal, Tuning, gibbs, hmc, mala, metropolis_hastings
from recsys_vae.samplers.density import value_and_gradient
from recsys_vae.samplers.finite_chain import FiniteChain, chain_of_acceptance, chain_of_counts
from recsys_vae.samplers.hmc import kinetic_energy, leapfrog
from recsys_vae.samplers.kernel import GradientState

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.05, 3.0, 1.5], dtype=DTYPE)
LAW = WEIGHTS / WEIGHTS.sum()


def log_weight(position: Tensor) -> Tensor:
    return WEIGHTS.log()[position[..., 0].long()]


@dataclass(frozen=True)
class TableProposal:
    """Proposes states of a lattice from a table; ``end`` says which, where it is given."""

    table: Tensor
    end: Tensor | None = None

    def draw(self, position: Tensor, tuning: Tuning, generator: torch.Generator | None) -> Tensor:
        if self.end is not None:
            return self.end.to(position).unsqueeze(-1)
        rows = self.table[position[..., 0].long()]
        return torch.multinomial(rows, 1, generator=generator).to(position)

    def log_density(self, to: Tensor, given: Tensor, tuning: Tuning) -> Tensor:
        return self.table.log()[given[..., 0].long(), to[..., 0].long()]


@dataclass(frozen=True)
class OneWayRatio(TableProposal):
    """Forgets that the way back has another probability."""

    def log_density(self, to: Tensor, given: Tensor, tuning: Tuning) -> Tensor:
        return torch.zeros_like(to[..., 0])


def asymmetric_table() -> Tensor:
    """Some moves have no way back, and some states propose themselves."""
    table = torch.rand(6, 6, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    table[0, 3] = table[4, 1] = 0.0
    return table / table.sum(dim=1, keepdim=True)


def chain_of(proposal: TableProposal) -> FiniteChain:
    """The transition matrix of the production kernel: its own acceptance for each ordered pair."""

    def acceptance(start: Tensor, end: Tensor) -> Tensor:
        kernel = metropolis_hastings(replace(proposal, end=end))
        state = kernel.init(start.to(DTYPE).unsqueeze(-1), log_weight)
        tuning = kernel.default_tuning(state.position)
        return kernel.step(state, log_weight, tuning, torch.Generator())[1].acceptance

    return chain_of_acceptance(proposal.table, acceptance)


def test_metropolis_hastings_balances_every_pair_of_a_lattice() -> None:
    chain = chain_of(TableProposal(asymmetric_table()))
    assert chain.is_irreducible
    assert chain.is_aperiodic
    assert chain.detailed_balance_violation(LAW) < 1e-16
    torch.testing.assert_close(chain.stationary_law(), LAW, rtol=1e-12, atol=0.0)
    # A move that has no way back is never made.
    assert chain.transition[3, 0] == chain.transition[1, 4] == 0.0


def test_without_the_correction_the_pairs_do_not_balance() -> None:
    assert chain_of(OneWayRatio(asymmetric_table())).detailed_balance_violation(LAW) > 1e-3


def test_the_steps_taken_are_those_of_the_matrix() -> None:
    proposal = TableProposal(asymmetric_table())
    kernel = metropolis_hastings(proposal)

    def step(start: Tensor, generator: torch.Generator) -> Tensor:
        state = kernel.init(start.to(DTYPE).unsqueeze(-1), log_weight)
        tuning = kernel.default_tuning(state.position)
        return kernel.step(state, log_weight, tuning, generator)[0].position[:, 0].long()

    counted = chain_of_counts(step, 6, 20_000, seed=2)
    error = (counted.chain.transition - chain_of(proposal).transition).abs() / counted.standard_error
    assert error.max() < 4.5


@pytest.mark.parametrize("reverse", [False, True])
def test_gibbs_on_a_table_keeps_the_joint_law(reverse) -> None:
    """Each path of a sweep through the kernel, weighed by the conditionals at the positions they were given."""
    table = torch.rand(3, 4, generator=torch.Generator().manual_seed(3), dtype=DTYPE)
    table[1, 2] = 0.0
    joint = table / table.sum()
    states = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    matrix = torch.zeros(12, 12, dtype=DTYPE)
    for first in range(3):
        for second in range(4):
            weights: list[Tensor] = []

            def draw(position: Tensor, own: int, value: int, weights: list[Tensor] = weights) -> Tensor:
                other = position[..., 1 - own].long()
                columns = joint[:, other].T if own == 0 else joint[other]
                weights.append((columns / columns.sum(dim=-1, keepdim=True))[:, value])
                return torch.full_like(position[..., :1], float(value))

            conditionals = [
                lambda position, generator, value=first: draw(position, 0, value),
                lambda position, generator, value=second: draw(position, 1, value),
            ]
            order = [1, 0] if reverse else [0, 1]
            kernel = gibbs([conditionals[own] for own in order], blocks=[[own] for own in order])
            state = kernel.init(states.to(DTYPE), lambda z: torch.zeros_like(z[..., 0]))
            new, info = kernel.step(
                state, lambda z: torch.zeros_like(z[..., 0]), kernel.default_tuning(state.position), None
            )
            assert info.accepted.all()
            assert (new.position == torch.tensor([first, second])).all()
            matrix[torch.arange(12), 4 * first + second] += weights[0] * weights[1]
    chain = FiniteChain(matrix)
    law = joint.flatten()
    assert chain.stationarity_violation(law) < 1e-16
    torch.testing.assert_close(chain.stationary_law(), law, rtol=1e-12, atol=1e-18)


def test_gibbs_by_slices_on_a_staircase_is_reversible_in_counts() -> None:
    """A density that is constant on unit cells: what one update of one coordinate does to the cells, by counting."""

    def staircase(position: Tensor) -> Tensor:
        cell = position[..., 0].floor().long()
        inside = (cell >= 0) & (cell < 6)
        return torch.where(inside, WEIGHTS.log()[cell.clamp(0, 5)], -torch.inf)

    kernel = gibbs(max_steps_out=3)

    def step(start: Tensor, generator: torch.Generator) -> Tensor:
        within = torch.rand(start.shape, generator=generator, dtype=DTYPE)
        state = kernel.init((start + within).unsqueeze(-1), staircase)
        tuning = kernel.default_tuning(state.position, 1.3)
        return kernel.step(state, staircase, tuning, generator)[0].position[:, 0].floor().long()

    counted = chain_of_counts(step, 6, 20_000, seed=4)
    flow = LAW.unsqueeze(1) * counted.chain.transition
    error = LAW.unsqueeze(1) * counted.standard_error
    imbalance = (flow - flow.T).abs() / (error.square() + error.T.square()).sqrt()
    assert imbalance.max() < 4.5
    assert (counted.chain.transition > 0).all(dim=1).any()


def gradient_state(target: Any, n: int = 200) -> tuple[GradientState, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    position = target.draw(n, generator)
    momentum = torch.randn(n, 2, generator=generator, dtype=DTYPE)
    width = torch.tensor([0.05, 0.08], dtype=DTYPE).expand(n, 2)
    return GradientState(position, *value_and_gradient(target.log_density, position)), momentum, width


@pytest.mark.parametrize("target", [GAUSSIAN, BANANA, FUNNEL], ids=str)
def test_leapfrog_is_reversible(target) -> None:
    state, momentum, width = gradient_state(target)
    there = leapfrog(state, momentum, target.log_density, width, 25)
    assert (there.state.position - state.position).abs().max() > 0.5
    back = leapfrog(there.state, -there.momentum, target.log_density, width, 25)
    torch.testing.assert_close(back.state.position, state.position, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(-back.momentum, momentum, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(back.state.log_density, state.log_density, rtol=0.0, atol=1e-10)


class TwiceDifferentiable:
    """The banana with a gradient that can itself be differentiated."""

    def __call__(self, position: Tensor) -> Tensor:
        return BANANA.log_density(position)

    def value_and_gradient(self, position: Tensor) -> tuple[Tensor, Tensor]:
        first, second = position.unbind(-1)
        residual = (second - 0.7 * (first.square() - 1.0)) / 0.49
        gradient = torch.stack([-first + residual * 1.4 * first, -residual], dim=-1)
        return BANANA.log_density(position), gradient


def test_leapfrog_keeps_volume() -> None:
    density = TwiceDifferentiable()
    for seed in range(3):
        start = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)
        position = start[None, :2]
        torch.testing.assert_close(
            density.value_and_gradient(position)[1], value_and_gradient(BANANA.log_density, position)[1]
        )

        def move(phase: Tensor) -> Tensor:
            position, momentum = phase[None, :2], phase[None, 2:]
            state = GradientState(position, *density.value_and_gradient(position))
            width = torch.tensor([[0.2, 0.3]], dtype=DTYPE)
            end = leapfrog(state, momentum, density, width, 7)
            return torch.cat([end.state.position[0], end.momentum[0]])

        jacobian = torch.autograd.functional.jacobian(move, start)
        assert (jacobian - torch.eye(4, dtype=DTYPE)).abs().max() > 0.3
        assert abs(float(torch.linalg.det(jacobian)) - 1.0) < 1e-10


@pytest.mark.parametrize("target", [GAUSSIAN, BANANA], ids=str)
def test_the_energy_error_of_leapfrog_falls_with_the_square_of_the_step(target) -> None:
    state, momentum, _width = gradient_state(target)
    errors = []
    for n_steps in (40, 80, 160, 320):
        width = torch.full_like(momentum, 2.0 / n_steps)
        end = leapfrog(state, momentum, target.log_density, width, n_steps)
        change = kinetic_energy(end.momentum) - end.state.log_density
        change = change - (kinetic_energy(momentum) - state.log_density)
        errors.append(float(change.abs().median()))
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(abs(slope - 2.0) < 0.1 for slope in slopes[1:]), slopes


class Recorder:
    """Stands in for the acceptance rule, to see what a kernel would accept."""

    def __init__(self, genuine: Any) -> None:
        self.genuine = genuine

    def __call__(self, state: Any, moved: Any, log_ratio: Tensor, generator: Any) -> Any:
        self.state, self.moved, self.log_ratio = state, moved, log_ratio
        return self.genuine(state, moved, log_ratio, generator)


def test_mala_accepts_by_the_densities_of_its_two_gaussians(monkeypatch) -> None:
    module = importlib.import_module("recsys_vae.samplers.mala")
    recorder = Recorder(module.metropolis_accept)
    monkeypatch.setattr(module, "metropolis_accept", recorder)
    scale = torch.tensor([0.7, 1.3], dtype=DTYPE)
    start = BANANA.draw(100, torch.Generator().manual_seed(6))
    kernel = mala()
    tuning = kernel.default_tuning(start, 0.6)._replace(scale=scale)
    kernel.step(
        kernel.init(start, BANANA.log_density), BANANA.log_density, tuning, torch.Generator().manual_seed(7)
    )

    def log_proposal(to: Tensor, given: Tensor) -> Tensor:
        _value, gradient = value_and_gradient(BANANA.log_density, given)
        width = 0.6 * scale
        law = torch.distributions.Normal(given + 0.5 * width.square() * gradient, width)
        return law.log_prob(to).sum(dim=-1)

    end = recorder.moved.position
    expected = BANANA.log_density(end) + log_proposal(start, end)
    expected = expected - BANANA.log_density(start) - log_proposal(end, start)
    torch.testing.assert_close(recorder.log_ratio, expected, rtol=1e-10, atol=1e-10)


def test_a_trajectory_of_one_step_is_langevin_s_and_is_accepted_alike(monkeypatch) -> None:
    """HMC with one leapfrog step is MALA, whose ratio is known by other means."""
    recorders = []
    start = BANANA.draw(100, torch.Generator().manual_seed(6))
    for name, kernel in (("mala", mala()), ("hmc", hmc(n_leapfrog=1.0, jitter=0.0))):
        module = importlib.import_module(f"recsys_vae.samplers.{name}")
        recorder = Recorder(module.metropolis_accept)
        monkeypatch.setattr(module, "metropolis_accept", recorder)
        generator = torch.Generator().manual_seed(8)
        if name == "mala":
            torch.rand((), generator=generator)  # what HMC draws the length with
        tuning = kernel.default_tuning(start, 0.6)
        kernel.step(kernel.init(start, BANANA.log_density), BANANA.log_density, tuning, generator)
        recorders.append(recorder)
    torch.testing.assert_close(recorders[0].moved.position, recorders[1].moved.position)
    torch.testing.assert_close(recorders[0].log_ratio, recorders[1].log_ratio, rtol=1e-9, atol=1e-9)


def test_the_autoregressive_proposal_balances_its_gaussian() -> None:
    # On N(m, s^2) itself nothing is ever refused, whatever the step.
    proposal = AutoregressiveProposal(mean=0.5, standard_deviation=2.0)
    law = torch.distributions.Normal(0.5, 2.0)

    def log_density(z: Tensor) -> Tensor:
        return law.log_prob(z).sum(dim=-1)

    start = torch.randn(500, 3, generator=torch.Generator().manual_seed(9), dtype=DTYPE)
    for step_size in (0.1, 1.0, 5.0):
        kernel = metropolis_hastings(proposal)
        tuning = kernel.default_tuning(start, step_size)
        _new, info = kernel.step(kernel.init(start, log_density), log_density, tuning, torch.Generator())
        torch.testing.assert_close(info.acceptance, torch.ones(500, dtype=DTYPE), rtol=0.0, atol=1e-12)
