from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys_vae.errors import UserError
from recsys_vae.samplers.finite_chain import (
    FiniteChain,
    chain_of_acceptance,
    chain_of_counts,
    chain_of_outcomes,
    metropolis_hastings_chain,
)
from recsys_vae.samplers.kernel import ChainState, Tuning, metropolis_accept
from recsys_vae.samplers.random_walk_metropolis import RandomWalkMetropolis

float64 = torch.float64


def cycle(n_states: int, stay: float = 0.0) -> FiniteChain:
    eye = torch.eye(n_states, dtype=float64)
    return FiniteChain(stay * eye + (1 - stay) * 0.5 * (eye.roll(1, dims=1) + eye.roll(-1, dims=1)))


def random_chain(n_states: int, seed: int, sparsity: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(n_states, n_states, generator=generator, dtype=float64) ** 3
    matrix *= torch.rand(n_states, n_states, generator=generator) >= sparsity
    matrix += torch.eye(n_states, dtype=float64).roll(1, dims=1) * 1e-3
    return matrix / matrix.sum(dim=1, keepdim=True)


@pytest.mark.parametrize(("n_states", "period"), [(4, 2), (6, 2), (5, 1), (3, 1)])
def test_walks_on_even_cycles_have_period_two(n_states, period) -> None:
    chain = cycle(n_states)
    assert chain.is_irreducible
    assert chain.periods().tolist() == [period] * n_states
    assert chain.is_aperiodic == (period == 1)
    assert cycle(n_states, stay=0.1).is_aperiodic


def test_one_way_cycle_has_its_length_as_period() -> None:
    chain = FiniteChain(torch.eye(7, dtype=float64).roll(1, dims=1))
    assert chain.periods().tolist() == [7] * 7
    assert not chain.is_reversible(torch.full((7,), 1 / 7, dtype=float64))
    assert chain.stationarity_violation(torch.full((7,), 1 / 7, dtype=float64)) == 0.0


def test_period_of_cycles_that_share_a_state() -> None:
    # from 0, ways back of length 4 and 6
    matrix = torch.zeros(9, 9, dtype=float64)
    matrix[0, 1] = matrix[0, 4] = 0.5
    for start, end in [(1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 8), (8, 0)]:
        matrix[start, end] = 1.0
    assert FiniteChain(matrix).periods().tolist() == [2] * 9


def test_reducible_chain() -> None:
    matrix = torch.block_diag(cycle(4).transition, cycle(3).transition)
    chain = FiniteChain(matrix)
    assert not chain.is_irreducible
    assert chain.classes().tolist() == [0, 0, 0, 0, 4, 4, 4]
    assert chain.periods().tolist() == [2, 2, 2, 2, 1, 1, 1]
    with pytest.raises(UserError, match="2 classes"):
        chain.stationary_law()


def test_states_that_are_left_for_good_have_no_weight_and_no_period() -> None:
    chain = FiniteChain(torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.25, 0.75], [0.0, 0.5, 0.5]]))
    assert chain.periods().tolist() == [0, 1, 1]
    assert chain.is_aperiodic
    assert not chain.is_irreducible
    torch.testing.assert_close(chain.stationary_law(), torch.tensor([0.0, 0.4, 0.6], dtype=float64))


@given(st.floats(1e-9, 1.0), st.floats(1e-9, 1.0))
def test_two_states(leave, come) -> None:
    chain = FiniteChain(torch.tensor([[1 - leave, leave], [come, 1 - come]], dtype=float64))
    law = torch.tensor([come, leave], dtype=float64) / (leave + come)
    torch.testing.assert_close(chain.stationary_law(), law, rtol=1e-12, atol=0.0)
    assert chain.is_reversible(law)
    # eigenvalue 1 - leave - come; distance from the start in state 0 is that power times p_1
    expected = abs(1 - leave - come) ** 5 * law.flip(0)
    torch.testing.assert_close(chain.total_variation(5), expected, rtol=1e-6, atol=1e-12)


@given(st.integers(2, 12), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_stationary_law_of_random_chains(n_states, seed) -> None:
    chain = FiniteChain(random_chain(n_states, seed, sparsity=0.5))
    law = chain.stationary_law()
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-14)
    assert chain.stationarity_violation(law) < 1e-15
    # independent: the null space of T' - 1
    _, _, basis = torch.linalg.svd(chain.transition.T - torch.eye(n_states, dtype=float64))
    torch.testing.assert_close(law, basis[-1] / basis[-1].sum(), rtol=1e-8, atol=1e-11)


def test_stationary_law_keeps_the_digits_of_tiny_parts() -> None:
    # a birth-and-death chain: p_i in proportion to ratio^i
    up, down = 1e-9, 0.5
    matrix = torch.diag(torch.full((11,), up, dtype=float64), 1) + torch.diag(
        torch.full((11,), down, dtype=float64), -1
    )
    chain = FiniteChain(matrix + (1 - matrix.sum(dim=1)).diag())
    expected = (up / down) ** torch.arange(12, dtype=float64)
    torch.testing.assert_close(chain.stationary_law(), expected / expected.sum(), rtol=1e-12, atol=0.0)


def test_total_variation_falls_to_zero_only_for_aperiodic_chains() -> None:
    assert float(cycle(6, stay=0.2).total_variation(500).max()) < 1e-12
    assert float(cycle(6).total_variation(500).min()) == pytest.approx(0.5)
    torch.testing.assert_close(cycle(6).total_variation(0), torch.full((6,), 5 / 6, dtype=float64))


log_weights_of = hnp.arrays("float64", st.integers(2, 8), elements=st.floats(-30.0, 30.0))


@given(log_weights_of, st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_metropolis_hastings_balances_whatever_the_proposal(log_weights, seed) -> None:
    weights = torch.from_numpy(log_weights)
    proposal = random_chain(len(weights), seed)
    law = weights.softmax(dim=0)
    chain = metropolis_hastings_chain(weights, proposal)
    assert chain.is_reversible(law)
    assert chain.stationarity_violation(law) < 1e-14
    torch.testing.assert_close(chain.stationary_law(), law, rtol=1e-9, atol=0.0)


def metropolis_without_correction(weights: torch.Tensor, proposal: torch.Tensor) -> FiniteChain:
    def acceptance(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        before, after = (ChainState(at.double().unsqueeze(1), weights[at]) for at in (start, end))
        return metropolis_accept(before, after, weights[end] - weights[start], None)[1]

    return chain_of_acceptance(proposal, acceptance)


def test_an_asymmetric_proposal_needs_its_correction() -> None:
    weights = torch.tensor([0.0, 1.0, -2.0, 0.5, -1.0], dtype=float64)
    law = weights.softmax(dim=0)
    asymmetric = random_chain(5, seed=1)
    assert metropolis_without_correction(weights, asymmetric).detailed_balance_violation(law) > 1e-3
    assert metropolis_hastings_chain(weights, asymmetric).detailed_balance_violation(law) < 1e-16
    symmetric = cycle(5).transition
    plain = metropolis_without_correction(weights, symmetric)
    assert plain.detailed_balance_violation(law) < 1e-16
    torch.testing.assert_close(plain.transition, metropolis_hastings_chain(weights, symmetric).transition)


def test_a_move_without_a_way_back_is_never_accepted() -> None:
    proposal = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]], dtype=float64)
    chain = metropolis_hastings_chain(torch.zeros(3, dtype=float64), proposal)
    assert chain.transition[1, 2] == 0.0
    assert chain.transition[2, 0] == 0.0
    assert chain.transition[2, 2] == 1.0


def test_chain_of_a_production_kernel() -> None:
    # one chain for each ordered pair; wherever the kernel's Gaussian step ends, the target says it is at the pair's end
    weights = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=float64)
    symmetric = cycle(4, stay=0.2).transition

    def acceptance(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        def log_density(position: torch.Tensor) -> torch.Tensor:
            at_start = position.squeeze(-1) == start
            return torch.where(at_start, weights[start], weights[end])

        kernel = RandomWalkMetropolis()
        state = kernel.init(start.double().unsqueeze(-1), log_density)
        tuning = Tuning(torch.ones(len(start), dtype=float64), torch.ones(1, dtype=float64))
        return kernel.step(state, log_density, tuning, torch.Generator().manual_seed(0))[1].acceptance

    chain = chain_of_acceptance(symmetric, acceptance)
    assert chain.detailed_balance_violation(weights.softmax(dim=0)) < 1e-16
    torch.testing.assert_close(chain.transition, metropolis_hastings_chain(weights, symmetric).transition)


def test_listed_outcomes_give_the_exact_matrix() -> None:
    def step(states: torch.Tensor, outcome: int) -> torch.Tensor:
        return (states + (-1, 0, 1)[outcome]) % 5

    chain = chain_of_outcomes(step, torch.tensor([[0.4], [0.2], [0.4]], dtype=float64), n_states=5)
    torch.testing.assert_close(chain.transition, cycle(5, stay=0.2).transition)


def test_outcomes_may_depend_on_the_state() -> None:
    probabilities = torch.tensor([[1.0, 0.25], [0.0, 0.75]], dtype=float64)
    chain = chain_of_outcomes(
        lambda states, outcome: torch.full_like(states, outcome), probabilities, n_states=2
    )
    torch.testing.assert_close(chain.transition, probabilities.T)


def test_counts_estimate_the_matrix_within_their_error() -> None:
    matrix = random_chain(6, seed=3)

    def step(states: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.multinomial(matrix[states], 1, generator=generator).squeeze(1)

    counted = chain_of_counts(step, n_states=6, n_draws=20_000)
    deviation = (counted.chain.transition - matrix) / counted.standard_error
    assert float(deviation.abs().max()) < 4.5
    assert float(deviation.square().mean()) > 0.3  # the error bars are not inflated
    wrong = matrix.roll(1, dims=0)
    assert float(((counted.chain.transition - wrong) / counted.standard_error).abs().max()) > 4.5


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.5], [0.6, 0.6]], "transition: expected rows that sum to 1, came 1.2 in row 1"),
        ([[1.5, -0.5], [0.5, 0.5]], "transition: expected probabilities, came -0.5 in row 0"),
        ([[float("nan"), 1.0], [0.5, 0.5]], "transition: expected probabilities, came nan in row 0"),
    ],
)
def test_what_is_no_transition_matrix(matrix, message) -> None:
    with pytest.raises(UserError, match=message):
        FiniteChain(torch.tensor(matrix, dtype=float64))


def test_bad_laws_steps_and_acceptances() -> None:
    chain = cycle(3)
    with pytest.raises(UserError, match="law: expected 3 probabilities that sum to 1"):
        chain.detailed_balance_violation(torch.ones(3))
    with pytest.raises(UserError, match="n_steps"):
        chain.total_variation(-1)
    with pytest.raises(UserError, match="acceptance_fn: expected 6 probabilities"):
        chain_of_acceptance(chain.transition, lambda start, end: torch.full(start.shape, 1.5))
    with pytest.raises(UserError, match="step_fn: expected 2 states from 0 to 1"):
        chain_of_outcomes(lambda states, outcome: states + outcome, torch.full((2, 1), 0.5), n_states=2)
