"""Messages on graphs with cycles against a slow program that sends the same; and climbs to local modes."""

from __future__ import annotations

import itertools
import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_evidence, random_graph, random_tree

from recsys_vae.errors import UserError
from recsys_vae.graphical import (
    FactorGraph,
    enumerate_marginals,
    enumerate_mode,
    iterated_conditional_modes,
    loopy_belief_propagation,
    sum_product,
)

SEEDS = st.integers(0, 2**31)


def answer(algorithm, graph, evidence, **options):
    """What it says, or its error."""
    try:
        return algorithm(graph, evidence, **options)
    except UserError as error:
        return error


def plain_messages(graph: FactorGraph, n_rounds: int, damping: float = 0.0):
    """Factors to variables, in probabilities: one number at a time, straight from the definition."""
    sizes = {name: len(states) for name, states in graph.states.items()}
    factors = [(p.variables, p.table.exp()) for p in graph.log_potentials if p.variables]
    to_variable = {
        (number, name): [1.0 / sizes[name]] * sizes[name]
        for number, (scope, _) in enumerate(factors)
        for name in scope
    }
    around = {name: [n for n, (scope, _) in enumerate(factors) if name in scope] for name in sizes}
    for _ in range(n_rounds):
        # A factor of one variable says at once all that it ever will.
        for number, (scope, table) in enumerate(factors):
            if len(scope) == 1:
                to_variable[number, scope[0]] = table.tolist()
        new = dict(to_variable)
        for number, (scope, table) in enumerate(factors):
            for name in scope if len(scope) > 1 else ():
                total = [0.0] * sizes[name]
                for places in itertools.product(*(range(sizes[n]) for n in scope)):
                    value = float(table[places])
                    for other, place in zip(scope, places, strict=True):
                        if other != name:
                            for heard in around[other]:
                                value *= to_variable[heard, other][place] if heard != number else 1.0
                    total[places[scope.index(name)]] += value
                fresh = [value / sum(total) for value in total]
                old = to_variable[number, name]
                mixed = [f ** (1 - damping) * o**damping for f, o in zip(fresh, old, strict=True)]
                new[number, name] = [value / sum(mixed) for value in mixed]
        to_variable = new
    beliefs = {}
    for name, size in sizes.items():
        belief = [math.prod(to_variable[n, name][state] for n in around[name]) for state in range(size)]
        beliefs[name] = torch.tensor(belief, dtype=torch.float64) / sum(belief)
    return beliefs


def loopy_graph(seed: int, strength: float = 0.7) -> FactorGraph:
    """Two cycles that share an edge, a factor of three variables, and a branch."""
    random = Random(seed)
    sizes = {name: random.randint(2, 3) for name in "abcdef"}
    scopes = ["ab", "bc", "cd", "da", "ac", "bde", "ef", "a", "d"]
    generator = torch.Generator().manual_seed(seed)
    tables = [
        strength * torch.randn([sizes[n] for n in scope], generator=generator, dtype=torch.float64)
        for scope in scopes
    ]
    return FactorGraph(sizes, [(tuple(scope), table) for scope, table in zip(scopes, tables, strict=True)])


def frustrated(coupling: float) -> FactorGraph:
    """Six variables each of which would differ from every other."""
    names = "abcdef"
    table = [[0.0, coupling], [coupling, 0.0]]
    pairs = [((one, other), table) for one, other in itertools.combinations(names, 2)]
    fields = [((name,), [0.0, 0.1 * (number + 1)]) for number, name in enumerate(names)]
    return FactorGraph(dict.fromkeys(names, 2), [*pairs, *fields])


def same_beliefs(found, expected, tolerance: float) -> None:
    for name, table in expected.items():
        torch.testing.assert_close(found.log_marginals[name].exp(), table, rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("damping", [0.0, 0.4])
def test_a_slow_program_sends_the_same_messages(seed, damping) -> None:
    """After each of a few rounds, long before they settle, and at the end."""
    graph = loopy_graph(seed)
    for n_rounds in (1, 2, 5):
        found = loopy_belief_propagation(graph, damping=damping, max_iterations=n_rounds)
        assert int(found.n_iterations) == n_rounds
        assert not bool(found.converged)
        same_beliefs(found, plain_messages(graph, n_rounds, damping), 1e-12)
    found = loopy_belief_propagation(graph, damping=damping, tolerance=1e-13)
    assert bool(found.converged)
    assert float(found.residual) <= 1e-13
    same_beliefs(found, plain_messages(graph, 150, damping), 1e-10)


def test_the_check_notices_damping_that_is_not_there() -> None:
    graph = loopy_graph(0)
    found = loopy_belief_propagation(graph, damping=0.4, max_iterations=2)
    with pytest.raises(AssertionError):
        same_beliefs(found, plain_messages(graph, 2), 1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_the_residual_schedule_ends_at_the_same_point(seed, share) -> None:
    graph = loopy_graph(seed)
    flooded = loopy_belief_propagation(graph, tolerance=1e-12)
    found = loopy_belief_propagation(graph, schedule="residual", share=share, tolerance=1e-12)
    assert bool(found.converged)
    same_beliefs(found, {name: table.exp() for name, table in flooded.log_marginals.items()}, 1e-9)
    torch.testing.assert_close(found.log_evidence, flooded.log_evidence, rtol=0, atol=1e-9)


def test_the_smallest_share_renews_one_message_in_a_round() -> None:
    graph = loopy_graph(1)
    before = loopy_belief_propagation(graph, max_iterations=1, schedule="residual", share=0.001)
    own = {"a": graph.log_potentials[7].table, "d": graph.log_potentials[8].table}
    moved = 0
    for name, states in graph.states.items():
        unmoved = own.get(name, torch.zeros(len(states), dtype=torch.float64)).softmax(dim=0)
        moved += not torch.allclose(before.log_marginals[name].exp(), unmoved, rtol=0, atol=1e-12)
    assert moved == 1


def test_beliefs_are_near_the_marginals_where_links_are_weak() -> None:
    graph = loopy_graph(2, strength=0.2)
    exact, found = enumerate_marginals(graph), loopy_belief_propagation(graph)
    same_beliefs(found, {name: table.exp() for name, table in exact.log_marginals.items()}, 0.01)
    assert abs(float(found.log_evidence - exact.log_evidence)) < 0.01
    assert abs(float(found.log_evidence - exact.log_evidence)) > 1e-9


def test_damping_settles_what_swings() -> None:
    graph = frustrated(1.0)
    swinging = loopy_belief_propagation(graph, max_iterations=400)
    assert not bool(swinging.converged)
    assert int(swinging.n_iterations) == 400
    assert float(swinging.residual) > 0.01
    damped = loopy_belief_propagation(graph, damping=0.5)
    assert bool(damped.converged)
    same_beliefs(damped, plain_messages(graph, 80, 0.5), 1e-6)


def test_each_case_says_whether_it_converged() -> None:
    graph = frustrated(1.0)
    found = loopy_belief_propagation(graph, {name: [0, None] for name in "abcd"}, max_iterations=400)
    assert found.converged.tolist() == [True, False]
    assert int(found.n_iterations[0]) < int(found.n_iterations[1]) == 400
    alone = loopy_belief_propagation(graph, dict.fromkeys("abcd", 0), max_iterations=400)
    assert int(alone.n_iterations) == int(found.n_iterations[0])
    for name in graph.states:
        torch.testing.assert_close(
            found.log_marginals[name][0], alone.log_marginals[name], rtol=0, atol=1e-12
        )
    torch.testing.assert_close(found.log_evidence[0], alone.log_evidence, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_trees_are_exact_whatever_the_settings(seed) -> None:
    """Also zeros and contradictions, in spite of damping; and minus the Bethe free energy is the log-evidence."""
    random = Random(seed)
    graph = random_tree(random, zeros=random.random() < 0.5)
    evidence = random_evidence(random, graph)
    options = {"damping": random.choice([0.0, 0.5]), "schedule": random.choice(["flooding", "residual"])}
    expected = answer(sum_product, graph, evidence)
    found = answer(loopy_belief_propagation, graph, evidence, tolerance=1e-14, **options)
    if isinstance(expected, UserError):
        assert str(found) == str(expected)
        return
    assert bool(found.converged.all())
    for name, table in expected.log_marginals.items():
        torch.testing.assert_close(found.log_marginals[name].exp(), table.exp(), rtol=0, atol=1e-9)
        assert torch.equal(found.log_marginals[name] == -torch.inf, table == -torch.inf)
    torch.testing.assert_close(found.log_evidence, expected.log_evidence, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("strength", [3.0, 30.0, 300.0, 1e5])
@pytest.mark.parametrize("damping", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("schedule", ["flooding", "residual"])
def test_trees_are_exact_however_strong_the_potentials(strength, damping, schedule) -> None:
    """A message's smallest probability may decide: potentials of hundreds of nats against each other, and zeros."""
    for seed in range(4):
        random = Random(seed)
        tree = random_tree(random, zeros=seed % 2 == 1)
        graph = FactorGraph(
            {name: list(states) for name, states in tree.states.items()},
            [(p.variables, strength * p.table) for p in tree.log_potentials],
        )
        expected = answer(sum_product, graph, {})
        found = answer(loopy_belief_propagation, graph, {}, damping=damping, schedule=schedule)
        if isinstance(expected, UserError):
            assert str(found) == str(expected)
            continue
        assert bool(found.converged)
        for name, table in expected.log_marginals.items():
            torch.testing.assert_close(found.log_marginals[name], table, rtol=1e-12, atol=1e-6)
        torch.testing.assert_close(found.log_evidence, expected.log_evidence, rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.5, 0.9])
def test_a_small_message_decides_between_two_strong_ones(damping) -> None:
    """By hand: the odds of a are 30 - 25 nats, though what b hears of a is e^-30 at its other state."""
    potentials = [
        (("a",), [0.0, -30.0]),
        (("a", "b"), [[0.0, -60.0], [-60.0, 0.0]]),
        (("b",), [0.0, 25.0]),
    ]
    found = loopy_belief_propagation(FactorGraph({"a": 2, "b": 2}, potentials), damping=damping)
    assert bool(found.converged)
    assert found.marginal("a")[1] == pytest.approx(1.0 / (1.0 + math.exp(5.0)), abs=1e-8)
    assert float(found.log_evidence) == pytest.approx(math.log1p(math.exp(-5.0)), abs=1e-6)
    names = [f"x{number}" for number in range(10)]
    pairs = [((a, b), [[0.0, -300.0], [-300.0, 0.0]]) for a, b in itertools.pairwise(names)]
    chain = FactorGraph(dict.fromkeys(names, 2), [*pairs, *(((name,), [0.0, -25.0]) for name in names)])
    far = loopy_belief_propagation(chain, damping=damping)
    assert bool(far.converged)
    assert float(far.log_marginals["x0"][1]) == pytest.approx(-250.0, abs=1e-6)


def test_a_case_that_is_done_stands_still() -> None:
    """Beside one that takes longer, at a tolerance that leaves room to move: the same to the last bit as alone."""
    names = [f"v{number}" for number in range(6)]
    ring = [((a, b), [[0.9, 0.0], [0.0, 0.9]]) for a, b in zip(names, names[1:] + names[:1], strict=True)]
    graph = FactorGraph(dict.fromkeys(names, 2), [*ring, (("v0",), [0.0, 0.7])])
    options = {"damping": 0.5, "tolerance": 1e-2}
    given = {name: [0 if number < 5 else None, None] for number, name in enumerate(names)}
    together = loopy_belief_propagation(graph, given, **options)
    assert len(set(together.n_iterations.tolist())) == 2
    for case in range(2):
        own = {name: places[case] for name, places in given.items() if places[case] is not None}
        alone = loopy_belief_propagation(graph, own, **options)
        assert int(alone.n_iterations) == int(together.n_iterations[case])
        for name in names:
            assert torch.equal(alone.log_marginals[name], together.log_marginals[name][case])


def test_without_couplings_there_is_nothing_to_send() -> None:
    found = loopy_belief_propagation(FactorGraph({"a": 2, "b": 3}, [(("a",), [0.0, 1.0])]))
    assert bool(found.converged)
    assert int(found.n_iterations) == 0
    assert found.marginal("b") == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})
    assert float(found.log_evidence) == pytest.approx(math.log(3.0 * (1.0 + math.e)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"damping": 1.0}, r"damping: expected a number in \[0, 1\), came 1.0"),
        ({"damping": math.nan}, r"damping: expected a number in \[0, 1\), came nan"),
        ({"share": 0.0}, r"share: expected a number in \(0, 1\], came 0.0"),
        ({"tolerance": 0.0}, "tolerance: expected a positive number, came 0.0"),
        ({"max_iterations": 0}, "max_iterations: expected a whole number of at least 1, came 0"),
    ],
)
def test_what_messages_cannot_be_asked(options, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        loopy_belief_propagation(loopy_graph(0), **options)


def check_local_mode(graph: FactorGraph, evidence, found, case: int | None) -> None:
    """By trying every change of one variable that the evidence allows."""

    def one(values):
        return values if case is None else values[case]

    configuration = found.configuration(case)
    score = graph.log_score(configuration)
    assert float(one(found.log_score)) == pytest.approx(score, abs=1e-10)
    as_good = 0
    for name, states in graph.states.items():
        given_state = evidence.get(name) if case is None else evidence.get(name, [None] * 99)[case]
        if given_state is not None:
            assert configuration[name] == given_state
            continue
        for state in states:
            if state != configuration[name]:
                other = graph.log_score({**configuration, name: state})
                assert other <= score + 1e-9
                as_good += other >= score - 1e-12
    assert bool(one(found.unique)) == (as_good == 0)


@settings(max_examples=120, deadline=None)
@given(SEEDS)
def test_climbs_end_at_local_modes(seed) -> None:
    random = Random(seed)
    graph = random_graph(random)
    evidence = random_evidence(random, graph)
    start = {name: random.choice(states) for name, states in graph.states.items() if random.random() < 0.5}
    found = answer(iterated_conditional_modes, graph, evidence, start=start)
    if isinstance(found, UserError):
        assert str(found).startswith(
            "start: expected one from which a possible configuration is met, evidence "
        )
        return
    assert bool(found.converged.all())
    for case in range(len(found.log_score)) if found.log_score.ndim else (None,):
        check_local_mode(graph, evidence, found, case)


@pytest.mark.parametrize("seed", range(6))
def test_the_score_never_falls(seed) -> None:
    """Sweep by sweep from the same start, and the last is where the climb stays."""
    graph = loopy_graph(seed, strength=2.0)
    random = Random(seed)
    start = {name: random.choice(states) for name, states in graph.states.items()}
    scores = [graph.log_score(start)]
    for n_sweeps in range(1, 12):
        found = iterated_conditional_modes(graph, start=start, max_sweeps=n_sweeps)
        scores.append(float(found.log_score))
        assert int(found.n_sweeps) <= n_sweeps
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(scores))
    assert scores[1] > scores[0]
    assert bool(found.converged)
    assert not bool(iterated_conditional_modes(graph, start=start, max_sweeps=1).converged)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_without_couplings_the_climb_finds_the_mode(seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = {f"v{number}": 1 + number % 3 for number in range(5)}
    tables = [((name,), torch.randn(size, generator=generator).double()) for name, size in sizes.items()]
    graph = FactorGraph(sizes, [*tables, (("v2",), [0.5, 0.0, 0.25])])
    worst = {name: int(table.argmin()) for (name,), table in tables}
    exact = enumerate_mode(graph)
    for found in (iterated_conditional_modes(graph), iterated_conditional_modes(graph, start=worst)):
        assert found.configuration() == exact.configuration()
        assert float(found.log_score) == pytest.approx(float(exact.log_score), abs=1e-12)
        assert bool(found.unique)


def test_a_climb_stops_at_a_local_mode_that_is_not_the_best() -> None:
    agree = FactorGraph({"a": 2, "b": 2}, [(("a", "b"), [[1.0, 0.0], [0.0, 2.0]])])
    found = iterated_conditional_modes(agree, start={"a": 0, "b": 0})
    assert found.configuration() == {"a": 0, "b": 0}
    assert bool(found.unique)
    assert enumerate_mode(agree).configuration() == {"a": 1, "b": 1}
    # A tie is left alone, and told.
    tie = iterated_conditional_modes(FactorGraph({"a": 2}, []), start={"a": 1})
    assert (tie.configuration(), bool(tie.unique), int(tie.n_sweeps)) == ({"a": 1}, False, 1)
    # Equal but for rounding is a tie, too.
    near = FactorGraph({"a": 2}, [(("a",), [0.1, 0.3]), (("a",), [0.2, 0.0])])
    assert not bool(iterated_conditional_modes(near).unique)


def test_a_climb_that_was_cut_short_is_not_unique_where_better_is_beside_it() -> None:
    """Each of three in a row learns of the last only in a later sweep."""

    def agree(strength: float) -> list[list[float]]:
        return [[0.0, -strength], [-strength, 0.0]]

    potentials = [(("a", "b"), agree(9.0)), (("b", "c"), agree(12.0)), (("c",), [0.0, 20.0])]
    graph = FactorGraph(dict.fromkeys("abc", 2), potentials)
    start = dict.fromkeys("abc", 0)
    cut = iterated_conditional_modes(graph, start=start, max_sweeps=1)
    assert cut.configuration() == {"a": 0, "b": 0, "c": 1}
    assert not bool(cut.converged)
    assert not bool(cut.unique)
    whole = iterated_conditional_modes(graph, start=start)
    assert whole.configuration() == {"a": 1, "b": 1, "c": 1}
    assert (bool(whole.converged), bool(whole.unique), int(whole.n_sweeps)) == (True, True, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda g: iterated_conditional_modes(g, start={"z": 0}),
            "start: expected variables of the graph, came 'z'",
        ),
        (
            lambda g: iterated_conditional_modes(g, start={"a": 9}),
            r"start: expected one of \[0, 1\] for 'a', came 9",
        ),
        (
            lambda g: iterated_conditional_modes(g, {"z": 0}),
            "evidence: expected variables of the graph, came 'z'",
        ),
        (
            lambda g: iterated_conditional_modes(g, max_sweeps=0),
            "max_sweeps: expected a whole number of at least 1",
        ),
        (
            lambda g: iterated_conditional_modes(g, {"a": [0, 1], "b": [0, 0]}),
            "start: expected one from which a possible configuration is met, evidence a=1, b=0",
        ),
    ],
)
def test_what_a_climb_cannot_be_asked(call, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        call(FactorGraph({"a": 2, "b": 2}, [(("a", "b"), [[0.0, 0.0], [-torch.inf, 0.0]])]))
