"""Draws from graphs against exact marginals, within error bars; and what a start and the evidence must be."""

from __future__ import annotations

import itertools
import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_graph, random_tree

from recsys_vae.errors import UserError
from recsys_vae.graphical import (
    BayesianNetwork,
    FactorGraph,
    MarkovRandomField,
    Table,
    ancestral_sample,
    blanket_conditionals,
    enumerate_marginals,
    gibbs_sample,
    junction_tree,
    likelihood_weighting,
    sampling,
)
from recsys_vae.samplers import gibbs, sample
from recsys_vae.samplers.diagnostics import ess_mean

SEEDS = st.integers(0, 2**31)
ERRORS = 4.5
ROWS = {0: [[0.7, 0.3]], 1: [[0.9, 0.1], [0.25, 0.75]], 2: [[0.95, 0.05], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]]}
PARENTS = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["d"]}


def network(**laws) -> BayesianNetwork:
    """A diamond with a tail, whose variables are listed against their order; ``laws`` replace some."""
    tables = [
        Table(n, up, torch.tensor(ROWS[len(up)]).reshape([2] * (len(up) + 1))) for n, up in PARENTS.items()
    ]
    tables = [laws.get(table.child, table) for table in tables]
    return BayesianNetwork({name: ["no", "yes"] for name in reversed(PARENTS)}, tables)


def field() -> MarkovRandomField:
    """A cycle with a chord, of two to three states, and a variable by itself."""
    generator = torch.Generator().manual_seed(5)
    sizes = {"p": 2, "q": 3, "r": 2, "s": 3, "alone": 3}
    cliques = ["pq", "qr", "rs", "sp", "pr", "q", "s"]
    tables = [
        torch.randn([sizes[n] for n in clique], generator=generator, dtype=torch.float64)
        for clique in cliques
    ]
    return MarkovRandomField(sizes, zip(map(tuple, cliques), tables, strict=True))


def answer(algorithm, graph, evidence, **options):
    """What it says, or its error."""
    try:
        return algorithm(graph, evidence, **options)
    except UserError as error:
        return error


def shares(positions: torch.Tensor, n_states: int) -> torch.Tensor:
    return torch.stack([(positions == state).double().mean() for state in range(n_states)])


def far(found: torch.Tensor, exact: torch.Tensor, error: torch.Tensor) -> bool:
    """Whether any is off by more than rounding and the error bars allow."""
    return bool(((found - exact).abs() > ERRORS * error + 1e-9).any())


def check_independent(draws, exact) -> None:
    for name, positions in draws.items():
        truth = exact.log_marginals[name].exp()
        error = (truth * (1 - truth) / len(positions)).sqrt()
        assert not far(shares(positions, len(truth)), truth, error), name


def check_chains(draws, exact) -> None:
    """Shares against probabilities, in standard errors by the chains' own effective sample size."""
    for name, positions in draws.items():
        truth = exact.log_marginals[name].exp()
        for state, probability in enumerate(truth.tolist()):
            hits = (positions == state).double()
            if 0.0 < probability < 1.0:
                error = math.sqrt(probability * (1 - probability) / float(ess_mean(hits)))
                assert abs(float(hits.mean()) - probability) < ERRORS * error, (name, state)
            else:
                assert float(hits.mean()) == pytest.approx(probability, abs=1e-12)


def check_weighted(draws, exact) -> None:
    for name, states in draws.states.items():
        found, error = draws.marginal(name), draws.standard_error(name)
        truth = exact.marginal(name)
        for state in states:
            assert abs(found[state] - truth[state]) <= ERRORS * error[state] + 1e-9, (name, state)
    off = abs(float(draws.log_evidence - exact.log_evidence))
    assert off <= ERRORS * float(draws.log_evidence_error) + 1e-9


def test_ancestral_draws_have_the_marginals() -> None:
    graph = network()
    draws = ancestral_sample(graph, 40_000, seed=1)
    assert list(draws) == list(graph.states)
    check_independent(draws, junction_tree(graph))
    assert all(
        torch.equal(ancestral_sample(graph, 100, seed=3)[n], ancestral_sample(graph, 100, seed=3)[n])
        for n in draws
    )
    # Pairs too, not only the marginals: d given each state of both its parents.
    for b, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
        given_both = draws["d"][(draws["b"] == b) & (draws["c"] == c)]
        truth = torch.tensor(ROWS[2][2 * b + c], dtype=torch.float64)
        assert not far(shares(given_both, 2), truth, (truth * (1 - truth) / len(given_both)).sqrt())


def test_draws_of_certain_laws_are_certain() -> None:
    certain = network(
        b=Table("b", ["a"], [[1.0, 0.0], [0.0, 1.0]]), e=Table("e", ["d"], [[0.0, 1.0], [0.0, 1.0]])
    )
    draws = ancestral_sample(certain, 20_000)
    assert torch.equal(draws["a"], draws["b"])
    assert bool((draws["e"] == 1).all())


@pytest.mark.parametrize(
    "evidence", [{}, {"e": "yes"}, {"d": "no", "a": "yes"}, {"a": "no"}, dict.fromkeys(PARENTS, "yes")]
)
def test_weighted_draws_have_the_marginals_and_the_evidence(evidence) -> None:
    graph = network()
    draws = likelihood_weighting(graph, evidence, n_draws=20_000, seed=2)
    check_weighted(draws, junction_tree(graph, evidence))
    assert 1.0 <= draws.effective_sample_size <= 20_000 * (1 + 1e-9)
    assert float(draws.weights.sum()) == pytest.approx(1.0)
    if not evidence:
        assert draws.effective_sample_size == pytest.approx(20_000)
        assert float(draws.log_evidence) == pytest.approx(0.0, abs=1e-12)


def test_error_bars_of_weighted_draws_are_as_wide_as_the_spread() -> None:
    """Over many runs: the standard deviation of the estimates is what each run says of itself."""
    graph = network()
    evidence = {"e": "yes", "d": "no"}
    runs = [likelihood_weighting(graph, evidence, n_draws=400, seed=seed) for seed in range(400)]
    told = torch.tensor([run.standard_error("b")["yes"] for run in runs])
    found = torch.tensor([run.marginal("b")["yes"] for run in runs])
    assert 0.85 < float(found.std() / told.mean()) < 1.15
    told = torch.stack([run.log_evidence_error for run in runs])
    found = torch.stack([run.log_evidence for run in runs])
    assert 0.85 < float(found.std() / told.mean()) < 1.15


def test_impossible_evidence_is_named() -> None:
    certain = network(b=Table("b", ["a"], [[1.0, 0.0], [0.0, 1.0]]))
    impossible = {"a": "no", "b": "yes"}
    with pytest.raises(UserError, match=r"^evidence: .* some of 50 draws make possible, came a=no, b=yes$"):
        likelihood_weighting(certain, impossible, n_draws=50)
    everything = {**dict.fromkeys(PARENTS, "yes"), "a": "no"}
    for evidence in (impossible, everything):
        told = ", ".join(f"{name}={state}" for name, state in evidence.items())
        with pytest.raises(UserError, match=f"^evidence: .* the contradiction {told}$"):
            gibbs_sample(certain, evidence)
    with pytest.raises(UserError, match=r"^log_potentials: no configuration is possible"):
        gibbs_sample(FactorGraph({"a": 2}, [(("a",), [-torch.inf, -torch.inf])]))


@pytest.mark.parametrize("evidence", [{}, {"e": "yes"}, {"d": "no", "a": "yes"}])
def test_gibbs_on_a_network(evidence) -> None:
    graph = network()
    draws = gibbs_sample(graph, evidence, n_draws=1000, n_warmup=50, n_chains=8, seed=4)
    assert list(draws) == list(graph.states)
    assert draws["a"].shape == (1000, 8)
    check_chains(draws, junction_tree(graph, evidence))


@pytest.mark.parametrize("evidence", [{}, {"q": 2}, {"p": 1, "alone": 0, "s": None}])
def test_gibbs_on_a_field(evidence) -> None:
    graph = field()
    exact = junction_tree(graph, {name: state for name, state in evidence.items() if state is not None})
    check_chains(gibbs_sample(graph, evidence, n_draws=1000, n_warmup=50, n_chains=8, seed=6), exact)


def test_the_gibbs_kernel_takes_the_conditionals() -> None:
    graph, evidence = field(), {"s": 1}
    names, conditionals = blanket_conditionals(graph, evidence)
    assert names == ["p", "q", "r", "alone"]
    tables = graph.factor_graph().log_potentials

    def log_density(position: torch.Tensor) -> torch.Tensor:
        place = {name: position[..., number].long() for number, name in enumerate(names)}
        place["s"] = torch.ones_like(place["p"])
        return sum(t.table[tuple(place[name] for name in t.variables)] for t in tables)

    start = torch.zeros(8, len(names), dtype=torch.float64)
    result = sample(gibbs(conditionals=conditionals), log_density, start, n_draws=1000, n_warmup=50, seed=7)
    draws = {name: result.draws[..., number].long() for number, name in enumerate(names)}
    check_chains(draws, junction_tree(graph, evidence))


def test_the_checks_notice_a_law_that_is_replaced() -> None:
    """Tests of the tests: 'd' follows another law than the one whose marginals are expected."""
    other = network(
        d=Table("d", ["b", "c"], torch.tensor([0.5, 0.5, 0.4, 0.6, 0.6, 0.4, 0.1, 0.9]).reshape(2, 2, 2))
    )
    exact = junction_tree(network())
    for check, draws in (
        (check_independent, ancestral_sample(other, 40_000, seed=1)),
        (check_weighted, likelihood_weighting(other, n_draws=20_000, seed=2)),
        (check_chains, gibbs_sample(other, n_draws=1000, n_warmup=50, n_chains=8, seed=4)),
    ):
        with pytest.raises(AssertionError):
            check(draws, exact)
    with pytest.raises(AssertionError):
        check_weighted(
            likelihood_weighting(other, {"d": "yes"}, n_draws=20_000, seed=2),
            junction_tree(network(), {"d": "yes"}),
        )


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_chains_start_and_stay_where_something_is_possible(seed) -> None:
    random = Random(seed)
    graph = random_tree(random, zeros=True) if random.random() < 0.5 else random_graph(random)
    observed = random.sample(list(graph.states), random.randint(0, min(2, len(graph.states))))
    evidence = {name: random.choice(graph.states[name]) for name in observed}
    exact = answer(enumerate_marginals, graph, evidence)
    draws = answer(gibbs_sample, graph, evidence, n_draws=4, n_warmup=0, n_chains=3, seed=seed)
    if isinstance(exact, UserError):
        assert str(draws) == str(exact)
        return
    for draw in range(4):
        for chain in range(3):
            configuration = {
                name: graph.states[name][int(place[draw, chain])] for name, place in draws.items()
            }
            assert graph.log_score(configuration) > -math.inf
            assert all(configuration[name] == state for name, state in evidence.items())


def test_exact_starts_are_draws_from_the_law() -> None:
    """Where a random start is nearly never possible: six variables that must agree, one of them preferring 1."""
    agree = [[0.0, -torch.inf], [-torch.inf, 0.0]]
    names = "abcdef"
    graph = FactorGraph(
        dict.fromkeys(names, 2),
        [((one, other), agree) for one, other in itertools.pairwise(names)] + [(("c",), [0.0, 1.0])],
    )
    draws = gibbs_sample(graph, n_draws=1, n_warmup=0, n_chains=4000, seed=8)
    assert all(torch.equal(draws[name], draws["a"]) for name in names)
    # A possible random start, 1 in 32, is as often 0 as 1; all others are exact.
    truth = 31 / 32 / (1 + math.exp(-1.0)) + 1 / 64
    assert abs(float(draws["a"].double().mean()) - truth) < ERRORS * math.sqrt(truth * (1 - truth) / 4000)


def test_a_network_starts_after_its_parents(monkeypatch) -> None:
    """No elimination where laws are certain but nothing is observed."""

    def never(*_: object) -> None:
        raise AssertionError("eliminated")

    monkeypatch.setattr(sampling, "_exact_draws", never)
    certain = network(
        b=Table("b", ["a"], [[1.0, 0.0], [0.0, 1.0]]), c=Table("c", ["a"], [[0.0, 1.0], [1.0, 0.0]])
    )
    draws = gibbs_sample(certain, n_draws=3, n_warmup=0, n_chains=50)
    assert torch.equal(draws["a"], draws["b"])
    assert torch.equal(draws["a"], 1 - draws["c"])


def test_all_observed() -> None:
    evidence = dict.fromkeys(PARENTS, "yes")
    names, conditionals = blanket_conditionals(network(), evidence)
    assert (names, conditionals) == ([], [])
    draws = gibbs_sample(network(), evidence, n_draws=3, n_chains=2)
    assert all(torch.equal(place, torch.ones(3, 2, dtype=torch.int64)) for place in draws.values())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: ancestral_sample(g, 0), "n_draws: expected a whole number of at least 1, came 0"),
        (
            lambda g: likelihood_weighting(g, n_draws=1),
            "n_draws: expected a whole number of at least 2, came 1",
        ),
        (lambda g: gibbs_sample(g, n_draws=0), "n_draws: expected a whole number of at least 1, came 0"),
        (lambda g: gibbs_sample(g, n_chains=0), "n_chains: expected a whole number of at least 1, came 0"),
        (lambda g: gibbs_sample(g, n_warmup=-1), "n_warmup: expected a whole number of at least 0, came -1"),
        (
            lambda g: likelihood_weighting(g, {"a": ["no", "yes"]}),
            "evidence: expected one state for each variable",
        ),
        (lambda g: gibbs_sample(g, {"z": "no"}), "evidence: expected variables of the graph, came 'z'"),
        (
            lambda g: blanket_conditionals(g, {"a": "maybe"}),
            r"evidence: expected one of \['no', 'yes'\] for 'a'",
        ),
        (lambda g: likelihood_weighting(g, n_draws=2).marginal("z"), "name: expected variables of the graph"),
        (
            lambda g: likelihood_weighting(g, n_draws=2).standard_error("z"),
            "name: expected variables of the graph",
        ),
    ],
)
def test_what_cannot_be_asked(call, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        call(network())
