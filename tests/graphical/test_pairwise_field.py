"""Binary fields in arrays against sums over every configuration, and against the graphs of named variables."""

from __future__ import annotations

import itertools
import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical import pairwise_field as module
from recsys_vae.graphical.loopy_belief_propagation import loopy_belief_propagation
from recsys_vae.graphical.markov_random_field import MarkovRandomField
from recsys_vae.graphical.pairwise_field import (
    BinaryField,
    iterated_conditional_modes,
    loopy_marginals,
    loopy_max_sum,
)

SEEDS = st.integers(0, 2**31)


def random_field(random: Random, n_nodes: int, pairs: list[tuple[int, int]], strength: float) -> BinaryField:
    """On these pairs, each turned either way."""
    turned = [random.choice([(a, b), (b, a)]) for a, b in random.sample(pairs, len(pairs))]
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    edges = torch.tensor(turned, dtype=torch.int64).reshape(-1, 2).T
    couplings = strength * torch.randn(len(pairs), generator=generator, dtype=torch.float64)
    return BinaryField(edges, couplings, 1.5 * torch.randn(n_nodes, generator=generator, dtype=torch.float64))


def random_forest(random: Random, strength: float = 3.0) -> BinaryField:
    """Up to eight nodes, in parts or together."""
    n_nodes = random.randint(1, 8)
    names = random.sample(range(n_nodes), n_nodes)
    pairs = [
        (names[place], names[random.randrange(place)]) for place in range(1, n_nodes) if random.random() < 0.8
    ]
    return random_field(random, n_nodes, pairs, strength)


def grid(seed: int, width: int, strength: float) -> BinaryField:
    """A square of nodes, each coupled with those beside it."""
    across = [(width * row + column, width * row + column + 1) for row, column in _places(width)]
    down = [(width * column + row, width * (column + 1) + row) for row, column in _places(width)]
    return random_field(Random(seed), width * width, across + down, strength)


def _places(width: int) -> list[tuple[int, int]]:
    return list(itertools.product(range(width), range(width - 1)))


def random_evidence(random: Random, n_nodes: int, n_cases: int = 3) -> Tensor:
    return torch.tensor([[random.choice([-1, -1, 0, 1]) for _ in range(n_nodes)] for _ in range(n_cases)])


def configurations(n_nodes: int) -> Tensor:
    return torch.tensor(list(itertools.product([0, 1], repeat=n_nodes)))


def log_weights(field: BinaryField, values: Tensor) -> Tensor:
    """From the definition, edge by edge."""
    total = values.double() @ field.biases
    for (one, other), coupling in zip(field.edges.T.tolist(), field.couplings, strict=True):
        total = total + coupling * values[:, one] * values[:, other]
    return total


def agreeing(values: Tensor, weights: Tensor, evidence: Tensor) -> Tensor:
    agrees = ((values == evidence) | (evidence < 0)).all(dim=1)
    return weights.masked_fill(~agrees, -torch.inf)


def enumerated_log_odds(field: BinaryField, case: Tensor) -> Tensor:
    """Of every node, what is observed of it left out."""
    values = configurations(field.n_nodes)
    weights = log_weights(field, values)
    odds = []
    for node in range(field.n_nodes):
        others = case.clone()
        others[node] = -1
        law = agreeing(values, weights, others)
        one = values[:, node] == 1
        odds.append(law[one].logsumexp(dim=0) - law[~one].logsumexp(dim=0))
    return torch.stack(odds)


def named(field: BinaryField) -> MarkovRandomField:
    """The same field as a graph of named variables."""
    names = [f"v{node}" for node in range(field.n_nodes)]
    pairs = [
        ((names[one], names[other]), [[0.0, 0.0], [0.0, float(coupling)]])
        for (one, other), coupling in zip(field.edges.T.tolist(), field.couplings, strict=True)
    ]
    alone = [((name,), [0.0, float(bias)]) for name, bias in zip(names, field.biases, strict=True)]
    return MarkovRandomField(dict.fromkeys(names, 2), [*alone, *pairs])


def named_log_odds(field: BinaryField, evidence: Tensor, **options) -> tuple[Tensor, Tensor]:
    by_name = {
        f"v{node}": [None if state < 0 else int(state) for state in evidence[:, node]]
        for node in range(field.n_nodes)
    }
    found = loopy_belief_propagation(named(field), by_name, **options)
    tables = torch.stack([found.log_marginals[f"v{node}"] for node in range(field.n_nodes)], dim=1)
    return tables[..., 1] - tables[..., 0], found.log_evidence


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, damping=st.sampled_from([0.0, 0.4]))
def test_on_forests_loopy_messages_are_exact(seed, damping) -> None:
    random = Random(seed)
    field = random_forest(random)
    evidence = random_evidence(random, field.n_nodes)
    found = loopy_marginals(field, evidence, damping=damping, tolerance=1e-13)
    assert bool(found.converged.all())
    values = configurations(field.n_nodes)
    weights = log_weights(field, values)
    for number, case in enumerate(evidence):
        expected = enumerated_log_odds(field, case)
        torch.testing.assert_close(found.log_odds[number], expected, rtol=0.0, atol=1e-10)
        total = agreeing(values, weights, case).logsumexp(dim=0)
        torch.testing.assert_close(found.log_partition[number], total, rtol=0.0, atol=1e-10)


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, damping=st.sampled_from([0.0, 0.4]))
def test_on_forests_max_sum_attains_the_maximum(seed, damping) -> None:
    random = Random(seed)
    field = random_forest(random)
    evidence = random_evidence(random, field.n_nodes)
    found = loopy_max_sum(field, evidence, damping=damping, tolerance=1e-13)
    assert bool(found.converged.all())
    values = configurations(field.n_nodes)
    weights = log_weights(field, values)
    for number, case in enumerate(evidence):
        law = agreeing(values, weights, case)
        assert bool(((found.values[number] == case) | (case < 0)).all())
        attained = log_weights(field, found.values[number : number + 1])[0]
        torch.testing.assert_close(attained, law.max(), rtol=0.0, atol=1e-10)
        torch.testing.assert_close(found.energy[number], -law.max(), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_on_cycles_the_graphs_of_named_variables_say_the_same(seed) -> None:
    field = grid(seed, width=4, strength=0.8)
    evidence = random_evidence(Random(seed), 16, n_cases=4)
    found = loopy_marginals(field, evidence, tolerance=1e-12)
    expected, log_evidence = named_log_odds(field, evidence, tolerance=1e-12)
    assert bool(found.converged.all())
    free = evidence < 0
    torch.testing.assert_close(found.log_odds[free], expected[free], rtol=0.0, atol=1e-9)
    torch.testing.assert_close(found.log_partition, log_evidence, rtol=0.0, atol=1e-9)
    # And they are not the exact ones, which would make the comparison idle.
    assert any(
        float((found.log_odds[k] - enumerated_log_odds(field, evidence[k]))[free[k]].abs().max()) > 1e-6
        for k in range(4)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("start", "share"), [("even", 0.5), ("zeros", 0.0)])
def test_round_by_round_the_messages_are_those_of_the_definition(seed, start, share) -> None:
    """Tables of two numbers, one message at a time, damped in the logarithm of their ratio."""
    field = grid(seed, width=3, strength=1.5)
    edges, couplings = field.edges.T.tolist(), field.couplings.tolist()
    coupling = {pair: c for (a, b), c in zip(edges, couplings, strict=True) for pair in ((a, b), (b, a))}
    message = {pair: share * strength for pair, strength in coupling.items()}
    for n_rounds in range(1, 5):
        new = {}
        for source, target in coupling:
            table = [0.0, 0.0]
            for x, y in itertools.product([0, 1], repeat=2):
                weight = math.exp(float(field.biases[source]) * x + coupling[source, target] * x * y)
                for (other, to), sent in message.items():
                    if to == source and other != target:
                        weight *= math.exp(sent * x)
                table[y] += weight
            new[source, target] = 0.7 * math.log(table[1] / table[0]) + 0.3 * message[source, target]
        message = new
        heard = field.biases.clone()
        for (_, target), sent in message.items():
            heard[target] += sent
        found = loopy_marginals(
            field, torch.full((1, 9), -1), start=start, damping=0.3, max_iterations=n_rounds
        )
        torch.testing.assert_close(found.log_odds[0], heard, rtol=0.0, atol=1e-12)
        assert not bool(found.converged)


def frustrated(coupling: float) -> BinaryField:
    """Six nodes each of which would differ from every other."""
    pairs = torch.tensor(list(itertools.combinations(range(6), 2))).T
    couplings = torch.full((pairs.shape[1],), -coupling, dtype=torch.float64)
    return BinaryField(pairs, couplings, torch.full((6,), 2.0, dtype=torch.float64))


def test_each_case_says_whether_it_converged_and_none_depends_on_the_others() -> None:
    field = frustrated(6.0)
    evidence = torch.tensor([[-1] * 6, [0, 0, 0, 0, -1, -1], [1, -1, -1, -1, 0, 0]])
    for search in (loopy_marginals, loopy_max_sum):
        found = search(field, evidence, max_iterations=300)
        assert found.converged.tolist() == [False, True, True]
        assert int(found.n_iterations[0]) == 300
        assert bool((found.n_iterations[1:] < 200).all())
        for number in range(3):
            alone = search(field, evidence[number : number + 1], max_iterations=300)
            for whole, one in zip(found, alone, strict=True):
                torch.testing.assert_close(whole[number : number + 1], one, rtol=1e-12, atol=1e-12)
    assert bool(loopy_marginals(field, evidence, damping=0.5).converged.all())


def test_cases_in_blocks(monkeypatch) -> None:
    field = grid(1, width=4, strength=0.8)
    evidence = random_evidence(Random(1), 16, n_cases=11)
    whole = [loopy_marginals(field, evidence), loopy_max_sum(field, evidence, damping=0.3)]
    energy = field.energy(evidence.abs())
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 100)
    parts = [loopy_marginals(field, evidence), loopy_max_sum(field, evidence, damping=0.3)]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(field.energy(evidence.abs()), energy, rtol=1e-12, atol=1e-12)


def test_strong_couplings_and_far_biases_keep_their_digits() -> None:
    # Of two nodes: log((1 + e^(b + J)) / (1 + e^b)), which is b + J, J or 0 up to rounding.
    for bias, coupling, expected in ((-600.0, 650.0, 50.0), (600.0, -650.0, -600.0), (-700.0, 500.0, 0.0)):
        field = BinaryField(torch.tensor([[0], [1]]), torch.tensor([coupling]), torch.tensor([bias, 0.0]))
        assert float(loopy_marginals(field, torch.tensor([[-1, -1]])).log_odds[0, 1]) == pytest.approx(
            expected, abs=1e-12
        )
    weak = BinaryField(
        torch.tensor([[0], [1]]), torch.tensor([1e-12]).double(), torch.tensor([30.0, 0.0]).double()
    )
    assert float(loopy_marginals(weak, torch.tensor([[-1, -1]])).log_odds[0, 1]) == pytest.approx(
        1e-12, abs=1e-15
    )


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_energies_and_conditionals_are_those_of_the_definition(seed) -> None:
    random = Random(seed)
    field = grid(seed, width=3, strength=2.0) if random.random() < 0.5 else random_forest(random)
    values = random_evidence(random, field.n_nodes, n_cases=5).clamp_min(0)
    torch.testing.assert_close(field.energy(values), -log_weights(field, values), rtol=0.0, atol=1e-12)
    for node in range(field.n_nodes):
        one, zero = values.clone(), values.clone()
        one[:, node], zero[:, node] = 1, 0
        expected = log_weights(field, one) - log_weights(field, zero)
        torch.testing.assert_close(field.log_odds(values)[:, node], expected, rtol=0.0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_colours_differ_between_neighbours_and_leave_nobody_out(seed) -> None:
    random = Random(seed)
    field = random.choice(
        [lambda: grid(seed, 5, 1.0), lambda: random_forest(random), lambda: frustrated(1.0)]
    )()
    colour = torch.full((field.n_nodes,), -1)
    for number, group in enumerate(field.colours):
        assert bool((colour[group.nodes] == -1).all())
        colour[group.nodes] = number
    assert bool((colour >= 0).all())
    assert bool((colour[field.edges[0]] != colour[field.edges[1]]).all())


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_climbs_never_rise_and_end_where_no_single_change_helps(seed) -> None:
    random = Random(seed)
    field = grid(seed, width=4, strength=2.0)
    evidence = random_evidence(random, 16)
    start = torch.randint(0, 2, (3, 16), generator=torch.Generator().manual_seed(seed))
    energies = [field.energy(torch.where(evidence < 0, start, evidence))]
    for n_sweeps in range(1, 9):
        found = iterated_conditional_modes(field, start, evidence=evidence, max_sweeps=n_sweeps)
        assert bool((found.energy <= energies[-1] + 1e-12).all())
        energies.append(found.energy)
    found = iterated_conditional_modes(field, start, evidence=evidence)
    assert bool(found.converged.all())
    assert bool(((found.values == evidence) | (evidence < 0)).all())
    for node in range(16):
        other = found.values.clone()
        other[:, node] = 1 - other[:, node]
        rises = -log_weights(field, other) >= found.energy - 1e-12
        assert bool((rises | (evidence[:, node] >= 0)).all())


def test_a_climb_in_parts_of_the_energy_never_moves_two_neighbours_at_once() -> None:
    # Each of two would follow the other: moved together they would change places for ever.
    field = BinaryField(torch.tensor([[0], [1]]), torch.tensor([4.0]), torch.tensor([-2.0, -2.0]))
    found = iterated_conditional_modes(field, torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]]))
    assert bool(found.converged.all())
    assert found.values[:, 0].tolist() == found.values[:, 1].tolist()
    assert found.n_iterations.tolist() == [2, 2, 1, 1]


def test_where_both_states_are_alike_even_messages_do_not_choose() -> None:
    """Nodes that would all agree, and one that leans to 1: max-sum follows it, unless it starts from zeros."""
    field = grid(0, width=4, strength=1.0)
    couplings = torch.full_like(field.couplings, 4.0)
    biases = -2.0 * torch.bincount(field.edges.flatten(), minlength=16).double()
    biases[5] += 1.0
    nothing = torch.full((1, 16), -1)
    found = {
        start: loopy_max_sum(BinaryField(field.edges, couplings, biases), nothing, start=start, damping=0.3)
        for start in ("even", "zeros")
    }
    assert found["even"].values.tolist() == [[1] * 16]
    assert found["zeros"].values.tolist() == [[0] * 16]
    assert float(found["even"].energy) == pytest.approx(-1.0)


def test_without_couplings_or_cases() -> None:
    field = BinaryField(torch.zeros((2, 0), dtype=torch.int64), torch.zeros(0), torch.tensor([0.5, -1.0]))
    found = loopy_marginals(field, torch.tensor([[-1, 1]]))
    assert found.log_odds.tolist() == [[0.5, -1.0]]
    assert float(found.log_partition) == pytest.approx(math.log1p(math.exp(0.5)) - 1.0)
    assert (bool(found.converged), int(found.n_iterations)) == (True, 0)
    assert loopy_max_sum(field, torch.tensor([[-1, -1]])).values.tolist() == [[1, 0]]
    assert iterated_conditional_modes(field, torch.tensor([[0, 1]])).values.tolist() == [[1, 0]]
    nobody = torch.zeros((0, 4), dtype=torch.int64)
    square = grid(0, 2, 1.0)
    assert loopy_marginals(square, nobody).log_odds.shape == (0, 4)
    assert loopy_max_sum(square, nobody).values.shape == (0, 4)
    assert iterated_conditional_modes(square, nobody).values.shape == (0, 4)


@pytest.mark.parametrize(
    ("edges", "couplings", "biases", "said"),
    [
        ([[0, 1]], [1.0, 1.0], [0.0, 0.0], "edges: expected two rows, came 1"),
        ([[0], [2]], [1.0], [0.0, 0.0], "edges: expected nodes from 0 to 1, came 0 to 2"),
        ([[1], [1]], [1.0], [0.0, 0.0], "edges: expected different nodes, came 1 twice"),
        ([[0, 1], [1, 0]], [1.0, 1.0], [0.0, 0.0], "edges: expected each pair once, came one twice"),
        ([[0], [1]], [701.0], [0.0, 0.0], "couplings: expected numbers from -700 to 700, came 701.0"),
        ([[0], [1]], [1.0], [0.0, math.nan], "biases: expected finite numbers, came nan"),
    ],
)
def test_what_is_no_field(edges, couplings, biases, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        BinaryField(torch.tensor(edges), torch.tensor(couplings), torch.tensor(biases))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda f, e: loopy_marginals(f, e, damping=1.0),
            r"damping: expected a number in \[0, 1\), came 1.0",
        ),
        (lambda f, e: loopy_max_sum(f, e, tolerance=0.0), "tolerance: expected a positive number, came 0.0"),
        (
            lambda f, e: loopy_marginals(f, e, max_iterations=0),
            "max_iterations: expected a whole number of at",
        ),
        (
            lambda f, e: loopy_max_sum(f, e, max_iterations=False),
            "max_iterations: expected a whole number of at",
        ),
        (lambda f, e: loopy_marginals(f, e[:, :3]), "evidence: expected 4 columns, came 3"),
        (lambda f, e: loopy_max_sum(f, e + 3), "evidence: expected 0, 1, and -1 for none, came 2 to 2"),
        (lambda f, e: iterated_conditional_modes(f, e), "start: expected 0 and 1, came -1 to -1"),
        (lambda f, e: iterated_conditional_modes(f, e + 1, max_sweeps=True), "max_sweeps: expected a whole"),
        (
            lambda f, e: iterated_conditional_modes(f, e + 1, evidence=e[:0]),
            "evidence: expected 1 cases like start, came 0",
        ),
        (lambda f, e: f.energy(e), "values: expected 0 and 1, came -1 to -1"),
    ],
)
def test_what_a_field_cannot_be_asked(call, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        call(grid(0, 2, 1.0), torch.full((1, 4), -1))
