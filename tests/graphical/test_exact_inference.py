"""Every exact algorithm against the table of all configurations, on random small graphs of all kinds."""

from __future__ import annotations

import gc
import importlib
import itertools
import math
import weakref
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_evidence, random_graph, random_tree

from recsys_vae.errors import UserError
from recsys_vae.graphical import (
    FactorGraph,
    JunctionTree,
    SumProduct,
    enumerate_marginals,
    enumerate_mode,
    junction_tree,
    log_tables,
    loopy_belief_propagation,
    max_sum,
    sum_product,
    variable_elimination,
)
from recsys_vae.graphical.elimination_order import HEURISTICS, eliminate
from recsys_vae.graphical.factor_tree import FactorTree
from recsys_vae.graphical.junction_tree import clique_tree

SEEDS = st.integers(0, 2**31)
ANY_GRAPH = {"junction_tree": junction_tree, "variable_elimination": variable_elimination}


def answer(algorithm, graph, evidence, **options):
    """What it says, or its error."""
    try:
        return algorithm(graph, evidence, **options)
    except UserError as error:
        return error


def check_same(found, expected) -> None:
    """The same marginals and the same evidence, or both find a contradiction."""
    if isinstance(expected, UserError):
        assert str(found) == str(expected)
        return
    assert not isinstance(found, UserError), found
    assert list(found.log_marginals) == list(expected.log_marginals)
    for name, table in expected.log_marginals.items():
        assert found.log_marginals[name].shape == table.shape
        torch.testing.assert_close(found.log_marginals[name].exp(), table.exp(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.log_evidence, expected.log_evidence, rtol=1e-12, atol=1e-10)


def check_mode(found, expected, graph) -> None:
    if isinstance(expected, UserError):
        assert str(found) == str(expected)
        return
    torch.testing.assert_close(found.log_score, expected.log_score, rtol=1e-12, atol=1e-10)
    assert torch.equal(found.unique, expected.unique)
    for case in range(len(found.log_score)) if found.log_score.ndim else (None,):
        reached = graph.log_score(found.configuration(case))
        score = found.log_score if case is None else found.log_score[case]
        assert reached == pytest.approx(float(score), abs=1e-10)
        if bool(found.unique if case is None else found.unique[case]):
            assert found.configuration(case) == expected.configuration(case)


def check_graph(seed: int) -> None:
    random = Random(seed)
    graph = (
        random_graph(random) if random.random() < 0.6 else random_tree(random, zeros=random.random() < 0.3)
    )
    evidence = random_evidence(random, graph)
    expected = answer(enumerate_marginals, graph, evidence)
    for algorithm in ANY_GRAPH.values():
        check_same(answer(algorithm, graph, evidence, order=random.choice(HEURISTICS)), expected)
    found = answer(sum_product, graph, evidence)
    if "without cycles" in str(found):
        assert has_cycle(graph)
        return
    assert not has_cycle(graph)
    check_same(found, expected)
    check_same(answer(loopy_belief_propagation, graph, evidence, tolerance=1e-13), expected)
    check_mode(answer(max_sum, graph, evidence), answer(enumerate_mode, graph, evidence), graph)


def has_cycle(graph: FactorGraph) -> bool:
    """By counting: a forest has as many edges as nodes, less its parts."""
    scopes = [potential.variables for potential in graph.log_potentials if potential.variables]
    part = {name: name for name in graph.states}

    def root(name: str) -> str:
        while part[name] != name:
            name = part[name]
        return name

    for scope in scopes:
        for name in scope[1:]:
            one, other = root(scope[0]), root(name)
            if one == other:
                return True
            part[one] = other
    return False


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_exact_algorithms_equal_enumeration(seed) -> None:
    check_graph(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_exact_algorithms_equal_enumeration_on_ten_thousand_graphs(block) -> None:
    for seed in range(1000 * block, 1000 * (block + 1)):
        check_graph(seed)


@pytest.mark.parametrize("name", [*ANY_GRAPH, "sum_product", "loopy_belief_propagation", "max_sum"])
def test_the_check_notices_a_table_read_across(monkeypatch, name) -> None:
    """Tests of the test: one algorithm sees each two-state pairwise table with its axes exchanged."""
    plain = FactorGraph.factor_graph

    def exchanged(self: FactorGraph) -> FactorGraph:
        graph = plain(self)
        turned = [
            (
                p.variables,
                p.table.T if p.table.ndim == 2 and p.table.shape[0] == p.table.shape[1] else p.table,
            )
            for p in graph.log_potentials
        ]
        return FactorGraph({n: list(s) for n, s in graph.states.items()}, turned)

    algorithm = {"sum_product": sum_product, "max_sum": max_sum, **ANY_GRAPH}.get(
        name, loopy_belief_propagation
    )
    tree = FactorGraph({"a": 2, "b": 2}, [(("a", "b"), [[0.0, 1.0], [3.0, -1.0]]), (("a",), [0.5, 0.0])])
    expected = (enumerate_mode if name == "max_sum" else enumerate_marginals)(tree)
    monkeypatch.setattr(FactorGraph, "factor_graph", exchanged)
    found = algorithm(tree)
    if name == "max_sum":
        assert found.configuration() != expected.configuration()
        return
    with pytest.raises(AssertionError):
        check_same(found, expected)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_cases_do_not_depend_on_who_is_beside_them(seed) -> None:
    random = Random(seed)
    graph = random_tree(random)
    names = random.sample(list(graph.states), 3)
    evidence = {name: [random.choice([None, *graph.states[name]]) for _ in range(4)] for name in names}
    for algorithm in (sum_product, junction_tree, variable_elimination, loopy_belief_propagation):
        together = algorithm(graph, evidence)
        for case in range(4):
            own = {name: values[case] for name, values in evidence.items() if values[case] is not None}
            alone = algorithm(graph, own)
            for name in graph.states:
                torch.testing.assert_close(
                    together.log_marginals[name][case].exp(),
                    alone.log_marginals[name].exp(),
                    rtol=0,
                    atol=1e-12,
                )


def test_small_blocks_of_cases_give_the_same() -> None:
    random = Random(3)
    graph = random_tree(random)
    evidence = {"v0": [random.choice([None, *graph.states["v0"]]) for _ in range(9)]}
    whole, tree = sum_product(graph, evidence), JunctionTree(graph)
    for found in (
        SumProduct(graph)(evidence, max_table=1),
        JunctionTree(graph, max_table=27)(evidence),
        tree(evidence),
        tree(evidence),
    ):
        check_same(found, whole)
    modes = [max_sum(graph, evidence, max_table=size) for size in (1, 10**6)]
    assert modes[0].configuration(5) == modes[1].configuration(5)


def ising_grid(side: int) -> FactorGraph:
    coupling = [[1.0, 0.0], [0.0, 1.0]]
    names = {(row, column): f"x{row}_{column}" for row in range(side) for column in range(side)}
    pairs = [
        ((names[at], names[other]), coupling)
        for at in names
        for other in ((at[0] + 1, at[1]), (at[0], at[1] + 1))
        if other in names
    ]
    return FactorGraph(dict.fromkeys(names.values(), 2), pairs)


def test_a_table_that_is_too_large_is_refused_before_it_is_made(monkeypatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("allocated")

    grid = ising_grid(30)
    for module in ("junction_tree", "variable_elimination"):
        # By importlib: in the package, the function stands for the module of its name.
        monkeypatch.setattr(importlib.import_module(f"recsys_vae.graphical.{module}"), "log_product", never)
    for algorithm in ANY_GRAPH.values():
        with pytest.raises(UserError) as error:
            algorithm(grid)
        message = str(error.value)
        assert message.startswith(f"{algorithm.__name__}: the largest table, over ")
        assert "entries (" in message
        assert "loopy_belief_propagation" in message
    with pytest.raises(UserError, match=r"would have 8 entries \(64 bytes\), the limit is max_table=4"):
        junction_tree(ising_grid(2), max_table=4)


def test_a_tree_of_many_variables_takes_small_tables() -> None:
    """Not the product of all of them, which a naive elimination of a star forms (pgmpy issue 1571)."""
    leaves = {f"leaf{number}": 2 for number in range(500)}
    star = FactorGraph({"hub": 2, **leaves}, [(("hub", name), [[1.0, 0.0], [0.0, 1.0]]) for name in leaves])
    assert JunctionTree(star).treewidth == 1
    evidence = {"leaf0": 1, "leaf7": 0, "leaf9": 1}
    found = junction_tree(star, evidence, max_table=4)
    check_same(found, sum_product(star, evidence))
    alone = variable_elimination(star, evidence, query=["hub", "leaf3"], max_table=4)
    assert list(alone.log_marginals) == ["hub", "leaf3"]
    torch.testing.assert_close(alone.log_marginals["leaf3"], found.log_marginals["leaf3"])


@pytest.mark.parametrize("heuristic", HEURISTICS)
def test_elimination_orders_of_known_graphs(heuristic) -> None:
    def width(neighbours) -> int:
        return max(map(len, eliminate(neighbours, dict.fromkeys(neighbours, 2), heuristic).cliques)) - 1

    cycle = {f"{n}": {f"{(n - 1) % 9}", f"{(n + 1) % 9}"} for n in range(9)}
    complete = {a: set("abcde") - {a} for a in "abcde"}
    path = {f"{n}": {f"{m}" for m in (n - 1, n + 1) if 0 <= m < 9} for n in range(9)}
    assert [width(cycle), width(complete), width(path), width({"a": set()})] == [2, 4, 1, 0]
    grid = ising_grid(6).neighbours()
    assert 6 <= width(grid) <= 8
    found = eliminate(cycle, dict.fromkeys(cycle, 2), heuristic, last={"0", "4"})
    assert set(found.order[-2:]) == {"0", "4"}


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.sampled_from(HEURISTICS))
def test_prices_kept_up_to_date_are_those_formed_anew(seed, heuristic) -> None:
    """The order is the one that a slow program finds, which looks at everything before each elimination."""
    random = Random(seed)
    names = [f"v{number}" for number in range(random.randint(1, 9))]
    sizes = {
        name: random.choice([1, 2, 4]) for name in names
    }  # powers of two: logarithms add up without rounding
    graph: dict[str, set[str]] = {name: set() for name in names}
    for one, other in itertools.combinations(names, 2):
        if random.random() < 0.4:
            graph[one].add(other)
            graph[other].add(one)
    found = eliminate(graph, sizes, heuristic)
    left = {name: set(others) for name, others in graph.items()}
    for name in found.order:
        prices = {}
        for candidate, around in left.items():
            missing = sum(b not in left[a] for a, b in itertools.combinations(sorted(around), 2))
            weight = (
                sizes[candidate].bit_length() - 1 + sum(sizes[other].bit_length() - 1 for other in around)
            )
            cost = {"min_fill": missing, "min_degree": len(around), "min_weight": weight}[heuristic]
            prices[candidate] = (cost, weight, names.index(candidate))
        assert prices[name] == min(prices.values())
        around = left.pop(name)
        for other in around:
            left[other] = (left[other] | around) - {name, other}


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_a_junction_tree_is_one(seed) -> None:
    """Each table fits in a clique, none lies within its neighbour, and where a variable is, is connected."""
    graph = random_graph(Random(seed))
    cliques = clique_tree(graph)
    for potential in graph.log_potentials:
        assert not potential.variables or any(
            set(potential.variables) <= set(clique.variables) for clique in cliques
        )
    for number, clique in enumerate(cliques):
        if clique.parent >= 0:
            assert clique.parent > number
            above = set(cliques[clique.parent].variables)
            assert set(clique.separator) == set(clique.variables) & above
            assert not set(clique.variables) <= above
            assert not above <= set(clique.variables)
    for name in graph.states:
        holding = [n for n, clique in enumerate(cliques) if name in clique.variables]
        edges = [n for n in holding if cliques[n].parent >= 0 and name in cliques[n].separator]
        assert len(edges) == len(holding) - 1


def test_contradictions_are_named() -> None:
    graph = FactorGraph(
        {"rain": ["no", "yes"], "wet": ["no", "yes"], "other": 2},
        [(("rain", "wet"), [[0.0, 0.0], [-torch.inf, 0.0]]), (("other",), [0.0, 1.0])],
    )
    for algorithm in (
        *ANY_GRAPH.values(),
        sum_product,
        max_sum,
        loopy_belief_propagation,
        enumerate_marginals,
    ):
        with pytest.raises(UserError, match=r"^evidence: .* the contradiction rain=yes, wet=no$"):
            algorithm(graph, {"rain": "yes", "wet": "no"})
        with pytest.raises(UserError, match=r"contradiction rain=yes, wet=no \(case 1 of 2\)"):
            algorithm(graph, {"rain": ["no", "yes"], "wet": ["no", "no"], "other": [None, None]})
        with pytest.raises(UserError, match=r"^log_potentials: no configuration is possible"):
            algorithm(FactorGraph({"a": 1}, [(("a",), [-torch.inf])]))


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({"snow": "yes"}, "evidence: expected variables of the graph, came 'snow'"),
        ({"rain": "maybe"}, r"evidence: expected one of \['no', 'yes'\] for 'rain', came 'maybe'"),
        ({"rain": 1}, r"evidence: expected one of \['no', 'yes'\] for 'rain', came 1"),
        ({"rain": ["no"], "wet": ["no", "yes"]}, r"evidence: expected as many cases .* came \[1, 2\]"),
        ({"rain": torch.tensor([0, 2])}, "evidence: expected positions from -1 to 1 for 'rain', came 0 to 2"),
        (
            {"rain": torch.tensor([0.0])},
            r"evidence: expected positions of states \(cases,\) for 'rain', came \(1,\) of torch.float32",
        ),
    ],
)
def test_what_evidence_cannot_be(evidence, said) -> None:
    graph = FactorGraph({"rain": ["no", "yes"], "wet": ["no", "yes"]})
    with pytest.raises(UserError, match=f"^{said}"):
        sum_product(graph, evidence)


@pytest.mark.parametrize(
    ("variables", "potentials", "said"),
    [
        ({"a": 0}, [], "variables: expected 'a' to have at least one state, came 0"),
        ({"a": ["x", "x"]}, [], "variables: expected the states of 'a' once each"),
        ({"a": "xy"}, [], "variables: expected the states of 'a' or their number, came 'xy'"),
        ({"": 2}, [], "variables: expected names, came ''"),
        ({"a": 2}, [(("b",), [0.0])], "log_potentials: expected variables of the graph, came 'b'"),
        ({"a": 2}, [(("a", "a"), [[0.0]])], "log_potentials: expected each variable once"),
        ({"a": 2}, [(("a",), [0.0])], r"log_potentials: expected a table \(2,\) for \['a'\], came \(1,\)"),
        ({"a": 2}, [(("a",), [0.0, torch.nan])], "log_potentials: expected numbers or -inf for .* NaN"),
        ({"a": 2}, [(("a",), [0.0, torch.inf])], r"log_potentials: expected numbers or -inf for .* \+inf"),
    ],
)
def test_what_a_graph_cannot_be(variables, potentials, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        FactorGraph(variables, potentials)


def test_a_cycle_is_shown() -> None:
    triangle = FactorGraph(
        dict.fromkeys("abcd", 2), [((a, b), torch.zeros(2, 2)) for a, b in ("ab", "bc", "ca", "cd")]
    )
    for algorithm in (sum_product, max_sum):
        with pytest.raises(UserError) as error:
            algorithm(triangle)
        message = str(error.value)
        assert message.startswith(f"{algorithm.__name__}: expected a graph without cycles, came one with ")
        shown = message.split("with ")[1].split(";")[0].split(" - ")
        assert shown[0] == shown[-1]
        assert set(shown) == set("abc")
    twice = FactorGraph({"a": 2, "b": 2}, 2 * [(("a", "b"), torch.zeros(2, 2))])
    with pytest.raises(UserError, match=r"came one with (a - b - a|b - a - b);"):
        sum_product(twice)


def test_the_size_of_a_table_is_told_in_bytes() -> None:
    with pytest.raises(UserError, match=r"2,199,023,255,552 entries \(16 TiB\)"):
        log_tables.check_table_size("x", ["a"], [2] * 41, 10)


def test_a_size_beyond_any_number_is_told_as_well() -> None:
    with pytest.raises(
        UserError, match=r"enumeration: .* over 1100 variables .* about 10\^331 entries, the limit"
    ):
        enumerate_marginals(FactorGraph({f"v{number}": 2 for number in range(1100)}))
    names = [f"v{number}" for number in range(40)]
    pairs = [(pair, torch.zeros(16, 16)) for pair in itertools.combinations(names, 2)]
    clique = FactorGraph(dict.fromkeys(names, 16), pairs)
    for algorithm in ANY_GRAPH.values():
        with pytest.raises(
            UserError, match=r"over 40 variables .* about 10\^48 entries, .* loopy_belief_propagation"
        ):
            algorithm(clique)
    with pytest.raises(UserError, match=r"about 10\^6021 entries"):
        log_tables.check_table_size("x", ["a"], [2] * 20_000, 10)


def test_no_cases_have_no_answers() -> None:
    graph = FactorGraph(
        {"a": 2, "b": 3, "c": 1}, [(("a", "b"), torch.zeros(2, 3)), (("b", "c"), torch.zeros(3, 1))]
    )
    for evidence in ({"a": []}, {"a": [], "b": [], "c": []}):
        for algorithm in (
            *ANY_GRAPH.values(),
            sum_product,
            lambda graph, evidence: JunctionTree(graph)(evidence),
            loopy_belief_propagation,
            enumerate_marginals,
        ):
            found = algorithm(graph, evidence)
            assert found.log_evidence.shape == (0,)
            assert {name: tuple(table.shape) for name, table in found.log_marginals.items()} == {
                "a": (0, 2),
                "b": (0, 3),
                "c": (0, 1),
            }
        for algorithm in (max_sum, enumerate_mode):
            mode = algorithm(graph, evidence)
            assert mode.log_score.shape == mode.unique.shape == mode.positions["b"].shape == (0,)


def test_a_graph_without_variables_has_one_configuration() -> None:
    for graph, total in ((FactorGraph({}), 0.0), (FactorGraph({}, [((), 1.5)]), 1.5)):
        for algorithm in (enumerate_marginals, *ANY_GRAPH.values(), sum_product, loopy_belief_propagation):
            found = algorithm(graph)
            assert (found.log_marginals, float(found.log_evidence)) == ({}, total)
        for algorithm in (enumerate_mode, max_sum):
            mode = algorithm(graph)
            assert (mode.configuration(), float(mode.log_score), bool(mode.unique)) == ({}, total, True)


def test_variables_of_one_state_may_be_many() -> None:
    """More than a tensor has axes, all joined to each other and to one that may differ."""
    names = [f"v{number}" for number in range(70)]
    pairs = [(pair, [[0.25]]) for pair in itertools.combinations(names, 2)]
    only = FactorGraph(dict.fromkeys(names, 1), pairs)
    mixed = FactorGraph(
        {**dict.fromkeys(names, 1), "a": 2}, [*pairs, *((("a", name), [[0.0], [0.01]]) for name in names)]
    )
    for algorithm in (enumerate_marginals, junction_tree, variable_elimination):
        found = algorithm(only, {"v3": 0})
        assert found.marginal("v3") == {0: 1.0}
        assert float(found.log_evidence) == pytest.approx(0.25 * len(pairs))
        found = algorithm(mixed, {"v3": [0, None]})
        assert found.marginal("v3", 1) == {0: 1.0}
        assert found.marginal("a", 1)[1] == pytest.approx(1.0 / (1.0 + math.exp(-0.7)))
        expected = 0.25 * len(pairs) + math.log1p(math.exp(0.7))
        assert found.log_evidence.tolist() == pytest.approx([expected, expected])
    mode = enumerate_mode(mixed)
    assert list(mode.positions) == list(mixed.states)
    assert (mode.configuration()["v3"], mode.configuration()["a"]) == (0, 1)


def test_one_large_variable_among_many_small_ones_is_told() -> None:
    """Each would take as much as the largest: refused before it is made; the junction tree takes each as it is."""
    names = [f"v{number}" for number in range(20_000)]
    graph = FactorGraph(
        {**dict.fromkeys(names, 2), "item": 2000}, [((names[0], "item"), torch.zeros(2, 2000))]
    )
    for algorithm in (sum_product, max_sum):
        with pytest.raises(UserError, match=r"the 2000 of 'item': 40,002,000 entries \(305 MiB\), the limit"):
            algorithm(graph)


def test_marginals_are_read_by_name_and_case() -> None:
    graph = FactorGraph({"a": ["x", "y"], "b": 1}, [(("a",), [0.0, torch.log(torch.tensor(3.0))])])
    found = sum_product(graph)
    assert found.marginal("a") == pytest.approx({"x": 0.25, "y": 0.75})
    assert found.marginal("b") == {0: 1.0}
    several = sum_product(graph, {"a": ["x", None]})
    assert several.marginal("a", 0) == {"x": 1.0, "y": 0.0}
    assert several.marginal("a", -1) == pytest.approx({"x": 0.25, "y": 0.75})
    for result, name, case, said in (
        (found, "c", None, "name: expected variables of the graph, came 'c'"),
        (found, "a", 0, "case: expected none"),
        (several, "a", None, "case: expected a number from 0 to 1, came None"),
        (several, "a", 2, "case: expected a number from 0 to 1, came 2"),
    ):
        with pytest.raises(UserError, match=said):
            result.marginal(name, case)


def test_a_tree_asked_twice_is_compiled_once_and_goes_with_its_graph() -> None:
    table = torch.tensor([[0.3, 0.1], [0.2, 0.9]])
    graph = FactorGraph({"a": 2, "b": 2}, [(("a", "b"), table)])
    first = sum_product(graph).log_marginals["a"]
    assert FactorTree.of(graph, "sum_product") is FactorTree.of(graph, "max_sum")
    table[0, 0] = 5.0  # the graph has its own
    assert torch.equal(sum_product(graph).log_marginals["a"], first)
    compiled = weakref.ref(FactorTree.of(graph, "sum_product"))
    del graph
    gc.collect()
    assert compiled() is None
