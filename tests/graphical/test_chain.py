"""Chains against the same inference on graphs, and far longer than any graph could be enumerated."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.graphical import (
    FactorGraph,
    enumerate_marginals,
    enumerate_mode,
    forward_backward,
    max_sum,
    most_probable_path,
    sum_product,
)

SEEDS = st.integers(0, 2**31)


def random_chain(seed: int, *cases: int, n_steps: int | None = None, n_states: int | None = None):
    """Log-weights, some of them impossible; transitions one for all steps, or one for each."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    n_steps = n_steps or whole(1, 7)
    n_states = n_states or whole(1, 4)
    zeros = (0.0, 0.2)[whole(0, 2)]

    def table(*shape: int) -> torch.Tensor:
        values = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
        values[torch.rand(shape, generator=generator) < zeros] = -torch.inf
        return values

    steps = (n_steps - 1,) if whole(0, 2) else ()
    return table(n_states), table(*steps, n_states, n_states), table(*cases, n_steps, n_states)


def as_graph(log_initial, log_transition, log_likelihood) -> FactorGraph:
    """Of one sequence."""
    n_steps, n_states = log_likelihood.shape
    names = [f"t{step}" for step in range(n_steps)]
    potentials = [((name,), row) for name, row in zip(names, log_likelihood, strict=True)]
    potentials.append(((names[0],), log_initial))
    for step in range(n_steps - 1):
        table = log_transition[step] if log_transition.ndim == 3 else log_transition
        potentials.append(((names[step], names[step + 1]), table))
    return FactorGraph(dict.fromkeys(names, n_states), potentials)


def check_marginals(found, expected) -> None:
    together = torch.stack(list(expected.log_marginals.values()))
    torch.testing.assert_close(found.log_marginals.exp(), together.exp(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.log_evidence, expected.log_evidence, rtol=1e-12, atol=1e-10)


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_chains_equal_sum_product_max_sum_and_enumeration(seed) -> None:
    chain = random_chain(seed)
    graph = as_graph(*chain)
    try:
        expected = enumerate_marginals(graph)
    except UserError:
        with pytest.raises(
            UserError, match=r"^log_likelihood: expected a possible observation, came none at step"
        ):
            forward_backward(*chain)
        with pytest.raises(UserError, match=r"^log_likelihood: expected a possible observation, came none"):
            most_probable_path(*chain)
        return
    found = forward_backward(*chain)
    check_marginals(found, expected)
    check_marginals(found, sum_product(graph))
    mode = most_probable_path(*chain)
    best = enumerate_mode(graph)
    torch.testing.assert_close(mode.log_score, best.log_score, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(mode.log_score, max_sum(graph).log_score, rtol=1e-12, atol=1e-10)
    reached = graph.log_score(dict(zip(graph.states, mode.path.tolist(), strict=True)))
    assert reached == pytest.approx(float(best.log_score), abs=1e-10)
    if bool(best.unique):
        assert mode.path.tolist() == list(best.configuration().values())


def test_the_check_notices_transitions_that_are_turned() -> None:
    log_initial, log_transition, log_likelihood = random_chain(3, n_steps=5, n_states=3)
    turned = forward_backward(log_initial, log_transition.mT.contiguous(), log_likelihood)
    with pytest.raises(AssertionError):
        check_marginals(turned, enumerate_marginals(as_graph(log_initial, log_transition, log_likelihood)))


def test_the_mode_is_of_the_path_and_not_of_each_step() -> None:
    """Bishop's warning: the path of the marginals' modes can be impossible."""
    log_initial = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64).log()
    log_transition = torch.tensor(
        [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64
    ).log()
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    modes = forward_backward(log_initial, log_transition, nothing).log_marginals.argmax(dim=-1)
    assert modes.tolist() == [0, 0]
    found = most_probable_path(log_initial, log_transition, nothing)
    assert found.path.tolist() == [1, 0]
    assert float(found.log_score) == pytest.approx(math.log(0.35))


@pytest.mark.parametrize("cases", [(4,), (2, 3)])
def test_many_sequences_are_each_alone(cases) -> None:
    log_initial, log_transition, log_likelihood = random_chain(8, *cases, n_steps=6, n_states=3)
    log_likelihood = log_likelihood.clamp(min=-5.0)
    log_initial, log_transition = log_initial.clamp(min=-5.0), log_transition.clamp(min=-5.0)
    found = forward_backward(log_initial, log_transition, log_likelihood)
    mode = most_probable_path(log_initial, log_transition, log_likelihood)
    assert found.log_marginals.shape == (*cases, 6, 3)
    assert found.log_evidence.shape == mode.log_score.shape == cases
    for place in (
        torch.cartesian_prod(*(torch.arange(size) for size in cases)).reshape(-1, len(cases)).tolist()
    ):
        place = tuple(place)
        alone = forward_backward(log_initial, log_transition, log_likelihood[place])
        torch.testing.assert_close(found.log_marginals[place], alone.log_marginals, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.log_evidence[place], alone.log_evidence, rtol=0, atol=1e-12)
        path = most_probable_path(log_initial, log_transition, log_likelihood[place])
        assert torch.equal(mode.path[place], path.path)


def test_single_precision_is_computed_in_double() -> None:
    chain = [table.float() for table in random_chain(9, n_steps=200, n_states=3)]
    chain = [table.clamp(min=-5.0) for table in chain]
    found = forward_backward(*chain)
    exact = forward_backward(*(table.double() for table in chain))
    assert found.log_marginals.dtype == torch.float64
    assert torch.equal(found.log_marginals, exact.log_marginals)
    assert torch.equal(
        most_probable_path(*chain).log_score, most_probable_path(*(t.double() for t in chain)).log_score
    )


def check_long(found, mode, log_initial, log_transition, log_likelihood) -> None:
    """Finite, normalised, and neighbours agree: what a step's marginal says of the next is the next's."""
    assert bool(found.log_marginals.isfinite().all())
    total = found.log_marginals.logsumexp(dim=-1)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-10)
    assert math.isfinite(float(found.log_evidence))
    steps = torch.arange(len(log_likelihood))
    score = log_initial[mode.path[0]] + log_likelihood[steps, mode.path].sum()
    score = score + log_transition[mode.path[:-1], mode.path[1:]].sum()
    torch.testing.assert_close(score, mode.log_score, rtol=1e-10, atol=0)
    assert float(mode.log_score) < float(found.log_evidence)


def observations(n_steps: int, n_states: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A chain's laws, and likelihoods as small as those of pictures: e^-200 a step."""
    generator = torch.Generator().manual_seed(n_states)
    log_initial = torch.randn(n_states, generator=generator, dtype=torch.float64).log_softmax(dim=0)
    log_transition = torch.randn(n_states, n_states, generator=generator, dtype=torch.float64).log_softmax(
        dim=1
    )
    log_likelihood = torch.randn(n_steps, n_states, generator=generator, dtype=torch.float64) - 200.0
    return log_initial, log_transition, log_likelihood


def test_many_states_do_not_underflow() -> None:
    chain = observations(300, 100)
    check_long(forward_backward(*chain), most_probable_path(*chain), *chain)
    check_marginals(forward_backward(*chain), sum_product(as_graph(*chain)))


@pytest.mark.slow
def test_ten_thousand_steps_of_a_hundred_states_do_not_underflow() -> None:
    chain = observations(10_000, 100)
    check_long(forward_backward(*chain), most_probable_path(*chain), *chain)


def test_a_chain_without_observations_keeps_its_stationary_law() -> None:
    """Ten thousand steps, whose answer is known: log-evidence 0 and the same marginal throughout."""
    log_transition = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64).log()
    stationary = torch.tensor([0.75, 0.25], dtype=torch.float64).log()
    found = forward_backward(stationary, log_transition, torch.zeros(10_000, 2, dtype=torch.float64))
    assert abs(float(found.log_evidence)) < 1e-10
    torch.testing.assert_close(found.log_marginals, stationary.expand(10_000, 2), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_a_hundred_thousand_steps() -> None:
    """As a chain, and as a factor graph: the same marginals, in memory that grows with the steps alone."""
    chain = observations(100_000, 2)
    found, mode = forward_backward(*chain), most_probable_path(*chain)
    check_long(found, mode, *chain)
    graph = as_graph(*chain)
    check_marginals(found, sum_product(graph))


NONE = torch.zeros(4, 2).index_fill(0, torch.tensor(2), -torch.inf)
EMPTY = {
    "log_initial": torch.zeros(0),
    "log_transition": torch.zeros(0, 0),
    "log_likelihood": torch.zeros(4, 0),
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"log_likelihood": torch.zeros(0, 2)}, r"log_likelihood: expected \(..., steps, 2\), came \(0, 2\)"),
        (EMPTY, r"log_initial: expected \(states,\), came \(0,\)"),
        (
            {"log_transition": torch.zeros(4, 2, 2)},
            r"log_transition: expected \(2, 2\), or one for each of 3 steps, came \(4, 2, 2\)",
        ),
        ({"log_transition": torch.zeros(1, 3, 2, 2)}, r"log_transition: .* came \(1, 3, 2, 2\)"),
        ({"log_initial": torch.tensor([0.0, torch.nan])}, "log_initial: expected numbers or -inf, came NaN"),
        ({"log_transition": torch.full((2, 2), torch.inf)}, "log_transition: expected numbers or -inf"),
        ({"log_likelihood": torch.full((4, 2), torch.nan)}, "log_likelihood: expected numbers or -inf"),
        ({"log_likelihood": NONE}, "log_likelihood: expected a possible observation, came none"),
    ],
)
def test_what_a_chain_cannot_be(change, said) -> None:
    chain = {
        "log_initial": torch.zeros(2),
        "log_transition": torch.zeros(2, 2),
        "log_likelihood": torch.zeros(4, 2),
    }
    for function in (forward_backward, most_probable_path):
        with pytest.raises(UserError, match=f"^{said}"):
            function(**{**chain, **change})


def test_the_step_that_is_impossible_is_named() -> None:
    seen = torch.zeros(2, 4, 2, dtype=torch.float64)
    seen[1, 2] = -torch.inf
    with pytest.raises(UserError, match=r"came none at step 2$"):
        forward_backward(torch.zeros(2), torch.zeros(2, 2), seen)
