"""Directed graphs: laws, parameters, order, conversion, and the interchange format of the standard networks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.graphical import (
    BayesianNetwork,
    FactorGraph,
    Logistic,
    MarkovRandomField,
    NoisyOr,
    Table,
    enumerate_marginals,
    junction_tree,
    sum_product,
    variable_elimination,
)
from recsys_vae.graphical.bif import read_bif, write_bif
from recsys_vae.graphical.directed import (
    ancestors,
    descendants,
    is_polytree,
    markov_blanket,
    moral_graph,
    topological_order,
)

NETWORKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "networks"


def random_network(random: Random, n_variables: int = 5, max_states: int = 3) -> BayesianNetwork:
    names = [f"v{number}" for number in range(n_variables)]
    sizes = {name: random.randint(1, max_states) for name in names}
    order = random.sample(names, n_variables)
    laws = []
    for place, name in enumerate(order):
        parents = random.sample(order[:place], random.randint(0, min(place, 2)))
        generator = torch.Generator().manual_seed(random.getrandbits(32))
        shape = [sizes[parent] for parent in parents] + [sizes[name]]
        table = torch.rand(shape, generator=generator, dtype=torch.float64)
        if random.random() < 0.3 and shape[-1] > 1:
            table[..., 0] *= torch.rand(shape[:-1], generator=generator) < 0.5
        laws.append(Table(name, parents, table / table.sum(dim=-1, keepdim=True)))
    return BayesianNetwork(sizes, laws)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_all_three_graphs_are_one_distribution(seed) -> None:
    random = Random(seed)
    network = random_network(random)
    name = random.choice(list(network.states))
    evidence = {name: random.choice(network.states[name])}
    try:
        expected = enumerate_marginals(network, evidence)
    except UserError:
        with pytest.raises(UserError, match=rf"contradiction {name}="):
            junction_tree(network, evidence)
        return
    for graph in (network, network.moralise(), network.factor_graph()):
        found = junction_tree(graph, evidence)
        torch.testing.assert_close(found.log_evidence, expected.log_evidence, rtol=0, atol=1e-10)
        for other in network.states:
            assert found.marginal(other) == pytest.approx(expected.marginal(other), abs=1e-10)
    assert float(junction_tree(network).log_evidence) == pytest.approx(0.0, abs=1e-12)
    assert isinstance(network.moralise(), MarkovRandomField)
    assert network.moralise().neighbours() == moral_graph(network.parents)
    if is_polytree(network.parents):
        torch.testing.assert_close(sum_product(network, evidence).log_evidence, expected.log_evidence)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_the_log_probability_is_the_product_of_the_laws(seed) -> None:
    network = random_network(Random(seed), n_variables=4, max_states=2)
    total = 0.0
    for states in itertools.product(*network.states.values()):
        configuration = dict(zip(network.states, states, strict=True))
        by_hand = 1.0
        for name, law in network.conditionals.items():
            row = law.probabilities[tuple(configuration[parent] for parent in law.parents)]
            by_hand *= float(row[configuration[name]])
        assert math.exp(network.log_probability(configuration)) == pytest.approx(by_hand, abs=1e-12)
        total += by_hand
    assert total == pytest.approx(1.0)


def test_numbers_of_free_parameters() -> None:
    """M variables of K states: K^M - 1 where all are joined, M (K - 1) where none are (Bishop 2006, section 8.1.3)."""
    for n_states, n_variables in ((2, 3), (3, 4)):
        names = [f"v{number}" for number in range(n_variables)]
        joined, apart = [], []
        for place, name in enumerate(names):
            shape = [n_states] * (place + 1)
            joined.append(Table(name, names[:place], torch.full(shape, 1 / n_states)))
            apart.append(Table(name, [], [1 / n_states] * n_states))
        sizes = dict.fromkeys(names, n_states)
        assert BayesianNetwork(sizes, joined).n_free_parameters == n_states**n_variables - 1
        assert BayesianNetwork(sizes, apart).n_free_parameters == n_variables * (n_states - 1)
    laws = [Table("a", [], [0.5, 0.5]), Table("b", [], [0.5, 0.5]), NoisyOr("c", ("a", "b"), (0.1, 0.2))]
    assert BayesianNetwork(dict.fromkeys("abc", 2), laws).n_free_parameters == 5
    field = MarkovRandomField({"a": 3, "b": 2}, [(("a", "b"), torch.zeros(3, 2))])
    assert field.n_free_parameters == 5
    assert field.energy({"a": 2, "b": 1}) == 0.0


def test_noisy_or_and_logistic_by_hand() -> None:
    states = dict.fromkeys("abc", (0, 1))
    noisy = NoisyOr("c", ("a", "b"), (0.3, 1.0), leak=0.1).log_potential(states).table.exp()
    for a, b in itertools.product((0, 1), repeat=2):
        off = 0.9 * 0.7**a * 0.0**b
        assert noisy[a, b].tolist() == pytest.approx([off, 1 - off])
    logistic = Logistic("c", ("a", "b"), (2.0, -1.0), bias=0.5).log_potential(states).table.exp()
    for a, b in itertools.product((0, 1), repeat=2):
        on = 1 / (1 + math.exp(-(0.5 + 2 * a - b)))
        assert logistic[a, b].tolist() == pytest.approx([1 - on, on])
    sure = Logistic("a", (), (), bias=-800.0).log_potential({"a": (0, 1)}).table
    assert sure.tolist() == pytest.approx([0.0, -800.0])


BINARY = {"a": ["no", "yes"], "b": ["no", "yes"]}


@pytest.mark.parametrize(
    ("laws", "said"),
    [
        ([Table("a", [], [0.5, 0.5])], "conditionals: expected one for every variable, came none for 'b'"),
        (2 * [Table("a", [], [0.5, 0.5])], "conditionals: expected one for 'a', came two"),
        (
            [Table("a", ["b"], [[0.5, 0.5]] * 2), Table("b", ["a"], [[0.5, 0.5]] * 2)],
            "parents: expected no directed cycle, came (a -> b -> a|b -> a -> b)",
        ),
        (
            [Table("a", [], [0.5, 0.5]), Table("b", ["a"], [[0.5, 0.5], [0.9, 0.3]])],
            r"conditionals: expected the probabilities of 'b' given a=yes to sum to 1, came 1\.2",
        ),
        (
            [Table("a", [], [1.5, -0.5]), Table("b", [], [0.5, 0.5])],
            r"conditionals: expected probabilities of 'a', came 1\.5, -0\.5",
        ),
        (
            [Table("a", [], [0.5, math.nan]), Table("b", [], [0.5, 0.5])],
            r"conditionals: expected probabilities of 'a', came 0\.5, nan",
        ),
        (
            [Table("a", [], [0.5, 0.5]), Table("b", ["a"], [0.5, 0.5])],
            r"conditionals: expected a table \(2, 2\) for 'b' given a, came \(2,\)",
        ),
        ([Table("c", [], [1.0])], "conditionals: expected variables of the graph, came 'c'"),
        (
            [Table("a", ["a"], [[0.5, 0.5]] * 2)],
            "conditionals: expected each variable once in the law of 'a'",
        ),
        (
            [Table("a", [], [0.5, 0.5]), NoisyOr("b", ("a",), (1.2,))],
            r"conditionals: expected probabilities for 'b', came 1\.2",
        ),
        (
            [Table("a", [], [0.5, 0.5]), NoisyOr("b", ("a",), ())],
            "conditionals: expected 1 probabilities for 'b', came 0",
        ),
        (
            [Table("a", [], [0.5, 0.5]), Logistic("b", ("a",), (math.inf,))],
            "conditionals: expected finite weights for 'b'",
        ),
    ],
)
def test_what_a_network_cannot_be(laws, said) -> None:
    with pytest.raises(UserError, match=f"^{said}") as error:
        BayesianNetwork(BINARY, laws)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("law", [NoisyOr, Logistic])
def test_a_law_whose_table_is_too_large_is_refused_before_it_is_made(law) -> None:
    names = [f"p{number}" for number in range(45)]
    laws = [*(Table(name, [], [0.5, 0.5]) for name in names), law("c", tuple(names), (0.1,) * 45)]
    with pytest.raises(
        UserError, match=r"^conditionals: .* over 46 variables .* \(512 TiB\), .*; give 'c' fewer parents"
    ):
        BayesianNetwork(dict.fromkeys([*names, "c"], 2), laws)


def test_parameterised_laws_want_two_states() -> None:
    laws = [Table("a", [], [0.2, 0.3, 0.5]), NoisyOr("b", ("a",), (0.5,))]
    with pytest.raises(UserError, match="a noisy-or expects variables of two states, 'a' has 3"):
        BayesianNetwork({"a": 3, "b": 2}, laws)


PARENTS = {"e": ["c"], "c": ["a", "b"], "a": [], "b": [], "d": ["b"], "f": []}


def test_order_blanket_and_relatives() -> None:
    order = topological_order(PARENTS)
    assert all(order.index(parent) < order.index(name) for name in PARENTS for parent in PARENTS[name])
    assert markov_blanket(PARENTS, "a") == {"b", "c"}
    assert markov_blanket(PARENTS, "b") == {"a", "c", "d"}
    assert markov_blanket(PARENTS, "f") == set()
    assert descendants(PARENTS, ["b"]) == {"c", "d", "e"}
    assert ancestors(PARENTS, ["e"]) == {"a", "b", "c"}
    assert moral_graph(PARENTS)["a"] == {"b", "c"}
    assert is_polytree(PARENTS)
    assert not is_polytree({**PARENTS, "e": ["c", "a"]})
    with pytest.raises(UserError, match="parents: expected nodes of the graph, came 'x', a parent of 'a'"):
        topological_order({"a": ["x"]})


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31))
def test_given_its_blanket_a_variable_is_independent_of_the_rest(seed) -> None:
    random = Random(seed)
    network = random_network(random, max_states=2)
    name = random.choice(list(network.states))
    blanket = network.markov_blanket(name)
    held = {other: random.choice(network.states[other]) for other in sorted(blanket)}
    rest = [other for other in network.states if other != name and other not in blanket]
    if not rest:
        return
    try:
        alone = enumerate_marginals(network, held).marginal(name)
        more = enumerate_marginals(network, held | {rest[0]: network.states[rest[0]][0]}).marginal(name)
    except UserError:  # impossible
        return
    assert more == pytest.approx(alone, abs=1e-9)


@pytest.mark.skipif(not NETWORKS.exists(), reason="the standard networks are not on this machine")
@pytest.mark.parametrize(
    ("name", "n_variables", "n_parameters"),
    [
        ("asia", 8, 18),
        ("cancer", 5, 10),
        ("child", 20, 230),
        pytest.param("water", 32, 10083, marks=pytest.mark.slow),
    ],
)
def test_the_standard_networks(tmp_path, name, n_variables, n_parameters) -> None:
    """The counts are those of the bnlearn repository."""
    network = BayesianNetwork.from_bif(NETWORKS / f"{name}.bif")
    assert len(network.states) == n_variables
    assert network.n_free_parameters == n_parameters
    write_bif(network, tmp_path / "again.bif")
    again = BayesianNetwork.from_bif(tmp_path / "again.bif")
    assert again.states == network.states
    assert again.parents == network.parents
    for variable in network.states:
        torch.testing.assert_close(
            again.log_potential(variable).table.exp(),
            network.log_potential(variable).table.exp(),
            rtol=1e-14,
            atol=0,
        )
    query = list(network.states)[:1]
    evidence = {list(network.states)[-1]: network.states[list(network.states)[-1]][0]}
    by_tree, one_by_one = (
        junction_tree(network, evidence),
        variable_elimination(network, evidence, query=query),
    )
    for variable in query:
        assert one_by_one.marginal(variable) == pytest.approx(by_tree.marginal(variable), abs=1e-12)


BIF = """
// a comment
network "two words" { property author "x; y" ; }
variable rain { type discrete [ 2 ] { no, yes }; property p = 1 ; }
variable "wet grass" { /* states
with odd names */ type discrete[3]{ <5, 12_36, asia-1 }; }
variable sprinkler { type discrete [ 2 ] { off, on }; }
probability ( rain ) { table 0.8, 0.2; }
probability ( sprinkler | rain ) { table 0.6 0.9 0.4 0.1; }
probability ( "wet grass" | sprinkler, rain ) {
  default 0.5, 0.25, 0.25;
  (on, yes) 0.0, 0.0, 1.0;
  (off, no) 1e0, 0.0, 0;
}
"""


def test_the_grammar(tmp_path) -> None:
    path = tmp_path / "x.bif"
    path.write_text(BIF, encoding="utf-8")
    network = BayesianNetwork.from_bif(path)
    assert network.states["wet grass"] == ("<5", "12_36", "asia-1")
    table = network.log_potential("wet grass").table.exp()
    assert table[1, 1].tolist() == [0, 0, 1]
    assert table[0, 0].tolist() == [1, 0, 0]
    assert table[1, 0].tolist() == table[0, 1].tolist() == [0.5, 0.25, 0.25]
    # In a table the child's state is the slowest.
    sprinkler = network.log_potential("sprinkler").table.exp()
    torch.testing.assert_close(sprinkler, torch.tensor([[0.6, 0.4], [0.9, 0.1]], dtype=torch.float64))
    write_bif(network, tmp_path / "y.bif", "two words")
    assert BayesianNetwork.from_bif(tmp_path / "y.bif").states == network.states


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("discrete [ 2 ] { no, yes }", "discrete [ 3 ] { no, yes }", "line 4: expected 2, as many as states"),
        ("table 0.8, 0.2;", "table 0.8;", "line 8: expected 2 probabilities, came 1"),
        ("(on, yes)", "(on, maybe)", "line 12: expected a state of 'rain', came 'maybe'"),
        ("( rain )", "( snow )", "line 8: expected a variable of the file, came 'snow'"),
        (
            "default 0.5, 0.25, 0.25;",
            "",
            "line 14: expected a row for every state of the parents of 'wet grass'",
        ),
        ("table 0.8, 0.2;", "table 0.8, much;", "line 8: expected a number, came 'much'"),
        ("variable sprinkler", "variable rain", "line 7: expected a new variable, came 'rain'"),
        ("network", "netwerk", "line 3: expected network, variable or probability, came 'netwerk'"),
        ('"two words"', '"two words', "line 3: expected "),
        # What is said twice contradicts itself.
        ("table 0.8, 0.2;", "table 0.8, 0.2; table 0.2, 0.8;", "line 8: expected the law of 'rain' once"),
        ("(off, no)", "(on, yes)", "line 13: expected each row of 'wet grass' once"),
        (
            "  (off, no) 1e0, 0.0, 0;",
            "table 1 0 1 0 1 0 1 0 1 0 1 0;",
            "line 13: expected the law of 'wet grass' once",
        ),
        ("  (off, no)", "default 1, 0, 0;\n(off, no)", "line 13: expected one default for 'wet grass'"),
        (
            "( sprinkler | rain ) { table",
            "( rain ) { table",
            "line 9: expected a variable without a probability block",
        ),
        (
            "| sprinkler, rain",
            "| sprinkler, sprinkler",
            "line 10: expected each variable once in the law of 'wet grass'",
        ),
        ("no, yes }", "no, no }", "line 4: expected another state, came 'no'"),
        # What is no law.
        (
            "table 0.8, 0.2;",
            "table 0.8, 0.3;",
            "line 8: expected probabilities of 'rain' that sum to 1, came 1.1",
        ),
        ("0.6 0.9 0.4 0.1", "0.6 0.4 0.9 0.1", "line 9: expected probabilities of 'sprinkler' that sum to 1"),
        (
            "(on, yes) 0.0, 0.0, 1.0",
            "(on, yes) 0.0, 0.0, 0.9",
            "line 12: expected probabilities of 'wet grass'",
        ),
        ("default 0.5,", "default 0.4,", "line 11: expected probabilities of 'wet grass'"),
        ("table 0.8, 0.2;", "table 1.2, -0.2;", "line 8: expected a probability, came '-0.2'"),
        ("table 0.8, 0.2;", "table nan, 0.9;", "line 8: expected a probability, came 'nan'"),
        (
            "probability ( rain ) { table 0.8, 0.2; }",
            "",
            "line 4: expected a probability block for 'rain', came none",
        ),
        (
            "( rain ) { table 0.8, 0.2; }",
            "( rain | sprinkler ) { default 0.8, 0.2; }",
            "line 9: expected no directed cycle, came rain -> sprinkler -> rain",
        ),
        ('variable "wet grass"', 'variable ""', "line 5: expected a variable's name, came ''"),
        ("network", '"network"', "line 3: expected network, variable or probability, came 'network'"),
        ("1e0, 0.0, 0;\n}", "1e0, 0.0, 0;", "line 14: expected '}', came the end of the file"),
    ],
)
def test_mistakes_in_a_file_are_told_with_their_line(tmp_path, old, new, said) -> None:
    path = tmp_path / "x.bif"
    assert old in BIF
    path.write_text(BIF.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        BayesianNetwork.from_bif(path)
    assert str(error.value).startswith(f"path: {path}, {said}")


def test_names_in_quotes_are_names_whatever_they_say(tmp_path) -> None:
    """Signs and words of the format, nothing, and a byte-order mark before it all."""
    odd = ["}", "", "{", ";", ",", "table", "//", "a b", ")"]
    names = ["property", "|", "probability", "default", " "]
    laws = [Table(names[0], [], torch.full((9,), 1 / 9))]
    share = torch.arange(1, 10, dtype=torch.float64) / 10.0
    laws += [Table(name, [names[0]], torch.stack([share, 1.0 - share], dim=1)) for name in names[1:]]
    network = BayesianNetwork({names[0]: odd, **{name: ["}", "type"] for name in names[1:]}}, laws)
    write_bif(network, tmp_path / "x.bif", "}")
    marked = tmp_path / "marked.bif"
    marked.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "x.bif").read_bytes())
    for path in (tmp_path / "x.bif", marked):
        again = BayesianNetwork.from_bif(path)
        assert again.states == network.states
        assert again.parents == network.parents
        for name in names:
            torch.testing.assert_close(again.log_potential(name).table, network.log_potential(name).table)


@pytest.mark.parametrize("states", [["a\rb"], ["a\nb"], ['a"b'], [1, "1"]])
def test_states_that_the_format_cannot_hold(tmp_path, states) -> None:
    network = BayesianNetwork({"a": states}, [Table("a", [], torch.full((len(states),), 1 / len(states)))])
    with pytest.raises(UserError, match=r"^network: expected "):
        write_bif(network, tmp_path / "x.bif")
    assert not list(tmp_path.iterdir())


def test_no_file_and_no_text(tmp_path) -> None:
    with pytest.raises(UserError, match=r"path: expected a \.bif file, .*none\.bif cannot be read"):
        read_bif(tmp_path / "none.bif")
    (tmp_path / "x.bif").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        read_bif(tmp_path / "x.bif")
    network = BayesianNetwork({'a"b': 1}, [Table('a"b', [], [1.0])])
    with pytest.raises(UserError, match="network: expected names without quotes"):
        write_bif(network, tmp_path / "y.bif")
    assert [path.name for path in tmp_path.iterdir()] == ["x.bif"]


def test_a_factor_graph_is_its_own() -> None:
    graph = FactorGraph({"a": 2})
    assert graph.factor_graph() is graph
    assert graph.degree("a") == 0
