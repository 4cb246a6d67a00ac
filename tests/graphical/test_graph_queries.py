"""d-separation, separation, cliques, chordality, treewidth: against NetworkX, and against independence in numbers."""

from __future__ import annotations

import functools
import itertools
from random import Random

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.graphical import BayesianNetwork, Table, d_separated
from recsys_vae.graphical.directed import moral_graph
from recsys_vae.graphical.undirected import (
    connected_components,
    is_chordal,
    is_forest,
    is_tree,
    maximal_cliques,
    separated,
    treewidth_bounds,
)

SEEDS = st.integers(0, 2**31)


def random_dag(random: Random, n: int) -> dict[str, list[str]]:
    names = random.sample([f"n{number}" for number in range(n)], n)
    density = random.random() * 0.6
    parents = {
        name: [o for o in names[:place] if random.random() < density] for place, name in enumerate(names)
    }
    return {name: parents[name] for name in sorted(parents)}


def random_sets(random: Random, names) -> tuple[list[str], list[str], list[str]]:
    mixed = random.sample(list(names), len(names))
    one = random.randint(1, max(1, len(mixed) // 3))
    two = random.randint(1, max(1, len(mixed) // 3))
    given_ = random.randint(0, len(mixed) - one - two)
    return mixed[:one], mixed[one : one + two], mixed[one + two : one + two + given_]


def random_neighbours(random: Random, n: int) -> dict[str, set[str]]:
    names = [f"n{number}" for number in range(n)]
    density = random.random()
    graph: dict[str, set[str]] = {name: set() for name in names}
    for one, other in itertools.combinations(names, 2):
        if random.random() < density:
            graph[one].add(other)
            graph[other].add(one)
    return graph


def as_networkx(neighbours) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(neighbours)
    graph.add_edges_from((one, other) for one, others in neighbours.items() for other in others)
    return graph


@settings(max_examples=300, deadline=None)
@given(SEEDS)
def test_d_separation_is_networkxs(seed) -> None:
    random = Random(seed)
    parents = random_dag(random, random.randint(2, 9))
    first, second, observed = random_sets(random, parents)
    graph = nx.DiGraph()
    graph.add_nodes_from(parents)
    graph.add_edges_from((parent, name) for name, above in parents.items() for parent in above)
    found = d_separated(parents, first, second, observed)
    assert bool(found) == nx.is_d_separator(graph, set(first), set(second), set(observed))
    # The explanation agrees with the answer.
    for path, nodes in found.paths:
        assert path[0] in first
        assert path[-1] in second
        assert len(set(path)) == len(path)
        assert [node.name for node in nodes] == list(path[1:-1])
        assert any(node.blocks for node in nodes) == bool(found)
        for before, after in itertools.pairwise(path):
            assert before in parents[after] or after in parents[before]
    assert str(found).startswith("d-separated" if found else "not d-separated: a path is open\n")
    if found:
        moral = moral_graph(parents)
        # What the moral graph separates is separated; the converse needs not hold.
        assert separated(moral, first, second, observed)[0] <= bool(found)
    else:
        assert not separated(moral_graph(parents), first, second, observed)[0]


def check_independence(parents, first: str, second: str, observed: list[str], seed: int) -> None:
    """With random numbers, variables are independent given others exactly where they are d-separated."""
    generator = torch.Generator().manual_seed(seed)
    laws = []
    for name, above in parents.items():
        table = 0.1 + torch.rand([2] * (len(above) + 1), generator=generator, dtype=torch.float64)
        laws.append(Table(name, above, table / table.sum(dim=-1, keepdim=True)))
    network = BayesianNetwork(dict.fromkeys(parents, 2), laws)
    names = list(network.states)
    joint = torch.zeros([2] * len(names), dtype=torch.float64)
    for place in itertools.product((0, 1), repeat=len(names)):
        joint[place] = network.log_probability(dict(zip(names, place, strict=True)))
    joint = joint.exp()
    axes = [names.index(name) for name in (first, second, *observed)]
    rest = [axis for axis in range(len(names)) if axis not in axes]
    table = joint.sum(dim=rest) if rest else joint
    table = table.permute([sorted(axes).index(axis) for axis in axes]).reshape(2, 2, -1)
    table = table / table.sum(dim=(0, 1))
    dependence = (table - table.sum(dim=1, keepdim=True) * table.sum(dim=0, keepdim=True)).abs().max()
    assert (dependence < 1e-12) == bool(d_separated(parents, first, second, observed))


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_d_separation_is_independence(seed) -> None:
    random = Random(seed)
    parents = random_dag(random, random.randint(2, 6))
    first, second, *rest = random.sample(sorted(parents), len(parents))
    check_independence(parents, first, second, random.sample(rest, random.randint(0, len(rest))), seed)


def test_the_check_notices_a_collider_taken_for_a_chain(monkeypatch) -> None:
    parents = {"a": [], "b": [], "c": ["a", "b"]}
    check_independence(parents, "a", "b", [], 1)
    from recsys_vae.graphical import d_separation

    monkeypatch.setattr(d_separation, "ancestors", lambda *_: {"a", "b", "c"})
    with pytest.raises(AssertionError):
        check_independence(parents, "a", "b", [], 1)


def test_an_explanation_reads_as_sentences() -> None:
    parents = {
        "burglary": [],
        "quake": [],
        "alarm": ["burglary", "quake"],
        "call": ["alarm"],
        "radio": ["quake"],
    }
    assert str(d_separated(parents, "burglary", "quake")) == (
        "d-separated: every path is blocked\n"
        "  burglary - alarm - quake: head-to-head at alarm, of which neither it nor a descendant is observed"
    )
    assert str(d_separated(parents, "burglary", "radio", "call")) == (
        "not d-separated: a path is open\n"
        "  burglary - alarm - quake - radio: head-to-head at alarm, whose descendant call is observed; "
        "tail-to-tail at quake, which is not observed"
    )
    assert str(d_separated(parents, "call", "burglary", "alarm")) == (
        "d-separated: every path is blocked\n"
        "  call - alarm - burglary: head-to-tail at alarm, which is observed"
    )
    assert str(d_separated({"a": [], "b": []}, "a", "b")) == "d-separated: no path joins them"
    assert "nothing lies between" in str(d_separated({"a": [], "b": ["a"]}, "a", "b"))


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("x", "b", ()), "first: expected nodes of the graph, came 'x'"),
        (("a", "x", ()), "second: expected nodes of the graph, came 'x'"),
        (("a", "b", "x"), "given: expected nodes of the graph, came 'x'"),
        (("a", "a", ()), "first: expected no node that is in second too, came 'a'"),
        (("a", "b", ["a"]), "first: expected no node that is in given too, came 'a'"),
    ],
)
def test_sets_that_cannot_be(sets, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        d_separated({"a": [], "b": ["a"]}, *sets)
    with pytest.raises(UserError, match=f"^{said}"):
        separated({"a": {"b"}, "b": {"a"}}, *sets)


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_undirected_queries_are_networkxs(seed) -> None:
    random = Random(seed)
    neighbours = random_neighbours(random, random.randint(1, 8))
    graph = as_networkx(neighbours)
    assert set(maximal_cliques(neighbours)) == {frozenset(clique) for clique in nx.find_cliques(graph)}
    assert len(list(maximal_cliques(neighbours))) == len(list(nx.find_cliques(graph)))
    assert is_chordal(neighbours) == nx.is_chordal(graph)
    assert is_tree(neighbours) == nx.is_tree(graph)
    assert is_forest(neighbours) == nx.is_forest(graph)
    assert sorted(map(sorted, connected_components(neighbours))) == sorted(
        map(sorted, nx.connected_components(graph))
    )
    lower, upper = treewidth_bounds(neighbours)
    assert lower <= exact_treewidth(neighbours) <= upper
    if is_chordal(neighbours):
        assert lower <= max(map(len, maximal_cliques(neighbours))) - 1 == upper
    if len(neighbours) >= 2:
        first, second, observed = random_sets(random, neighbours)
        without = graph.subgraph(set(neighbours) - set(observed))
        joined = any(nx.has_path(without, a, b) for a in first for b in second)
        answer, path = separated(neighbours, first, second, observed)
        assert answer != joined
        if joined:
            assert path[0] in first
            assert path[-1] in second
            assert all(b in neighbours[a] for a, b in itertools.pairwise(path))
            assert not set(path) & set(observed)


def exact_treewidth(neighbours) -> int:
    """The best of all elimination orders: a programme over sets of eliminated nodes (Bodlaender et al. 2006)."""
    names = frozenset(neighbours)

    def degree(name: str, gone: frozenset[str]) -> int:
        """Nodes that are left and can be reached through those that are gone."""
        seen, waiting = {name}, [name]
        while waiting:
            for other in neighbours[waiting.pop()]:
                if other not in seen:
                    seen.add(other)
                    if other in gone:
                        waiting.append(other)
        return len(seen - gone - {name})

    @functools.cache
    def width(gone: frozenset[str]) -> int:
        left = names - gone
        return min((max(degree(name, gone), width(gone | {name})) for name in left), default=0)

    return width(frozenset())


def test_treewidth_of_known_graphs() -> None:
    cycle = as_neighbours(nx.cycle_graph(12))
    assert treewidth_bounds(cycle) == (2, 2)
    assert treewidth_bounds(as_neighbours(nx.complete_graph(6))) == (5, 5)
    assert treewidth_bounds(as_neighbours(nx.random_labeled_tree(30, seed=1))) == (1, 1)
    lower, upper = treewidth_bounds(as_neighbours(nx.grid_2d_graph(5, 5)))
    assert lower <= 5 <= upper <= 6
    assert treewidth_bounds({}) == (-1, -1)


def as_neighbours(graph: nx.Graph) -> dict[str, set[str]]:
    return {str(node): {str(other) for other in graph[node]} for node in graph}


@pytest.mark.slow
def test_a_hundred_thousand_nodes_in_a_row() -> None:
    n = 100_000
    chain = {f"{k}": {f"{j}" for j in (k - 1, k + 1) if 0 <= j < n} for k in range(n)}
    assert is_tree(chain)
    assert is_chordal(chain)
    parents = {f"{k}": [f"{k - 1}"] if k else [] for k in range(n)}
    assert not d_separated(parents, "0", f"{n - 1}")
    assert d_separated(parents, "0", f"{n - 1}", "500", max_paths=1)
    assert separated(chain, ["0"], [f"{n - 1}"], ["7"]) == (True, ())
    assert sum(1 for _ in maximal_cliques({k: chain[k] for k in chain if int(k) < 2} | {"1": {"0"}})) == 1
    shorter = {f"{k}": {f"{j}" for j in (k - 1, k + 1) if 0 <= j < 20_000} for k in range(20_000)}
    assert treewidth_bounds(shorter) == (1, 1)
    apart: dict[str, set[str]] = {f"{k}": set() for k in range(n)}
    assert is_chordal(apart)
    colliders = {f"{k}": [f"{k - 1}", f"{k + 1}"] if k % 2 else [] for k in range(2001)}
    observed = [name for name, above in colliders.items() if above]
    assert not d_separated(colliders, "0", "2000", observed)


def test_paths_that_are_not_listed_are_not_denied() -> None:
    n = 3000
    parents = {f"{k}": [f"{k - 1}"] if k else [] for k in range(n)}
    found = d_separated(parents, "0", f"{n - 1}", f"{n // 2}")
    assert str(found) == "d-separated: any path is blocked; the search for one to show was cut short"
    wide = {"a": [], "b": [], **{f"c{k}": ["a", "b"] for k in range(20)}}
    found = d_separated(wide, "a", "b")
    assert len(found.paths) == 10
    assert str(found).endswith("\n  and so is any other")
    assert d_separated(wide, "a", "b", max_paths=20).complete
