"""Pictures of graphs: whole files that hold every name, in which nothing lies on anything else."""

from __future__ import annotations

import itertools
import struct
from random import Random
from xml.etree import ElementTree as ET

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.graphical.bayesian_network import BayesianNetwork
from recsys_vae.graphical.conditionals import Table
from recsys_vae.graphical.drawing import Plate, canvas, draw, pictures
from recsys_vae.graphical.factor_graph import FactorGraph
from recsys_vae.graphical.linear_gaussian import LinearGaussian, LinearGaussianNetwork
from recsys_vae.graphical.markov_random_field import MarkovRandomField

SEEDS = st.integers(0, 2**31)
ASIA = {
    "asia": [],
    "tub": ["asia"],
    "smoke": [],
    "lung": ["smoke"],
    "bronc": ["smoke"],
    "either": ["lung", "tub"],
    "xray": ["either"],
    "dysp": ["bronc", "either"],
}


class Arrows:
    """A directed graph of nothing but its edges."""

    def __init__(self, parents) -> None:
        self.parents = parents


class Lines:
    """An undirected graph of nothing but its edges."""

    def __init__(self, edges) -> None:
        self.names = sorted({name for edge in edges for name in edge})
        self.edges = edges

    def neighbours(self) -> dict[str, set[str]]:
        return {n: {o for e in self.edges if n in e for o in e if o != n} for n in self.names}


def network(parents) -> BayesianNetwork:
    laws = [Table(n, above, torch.full([2] * (len(above) + 1), 0.5)) for n, above in parents.items()]
    return BayesianNetwork(dict.fromkeys(parents, 2), laws)


def picture_of(graph, tmp_path, monkeypatch, **options):
    """What is handed to the canvas."""
    seen = []

    def keep(picture, path) -> None:
        seen.append(picture)
        path.write_text("<svg/>")

    with monkeypatch.context() as patched:
        patched.setattr(pictures, "write_picture", keep)
        draw(graph, tmp_path / "a.svg", **options)
    return seen[0]


def random_dag(random: Random, n: int) -> dict[str, list[str]]:
    names = ["name " * random.randint(0, 3) + f"{k}" for k in range(n)]
    density = random.random() * 0.5
    return {name: [o for o in names[:k] if random.random() < density] for k, name in enumerate(names)}


def corners(node) -> tuple[float, float, float, float]:
    (x, y), (width, height) = node.centre, node.size
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def check_picture(picture, members) -> None:
    """Nodes apart, names within them, edges off the nodes of others, plates around theirs and no others."""
    boxes = {name: corners(node) for name, node in picture.nodes.items()}
    for one, other in itertools.combinations(boxes.values(), 2):
        assert not overlap(one, other)
    for node in picture.nodes.values():
        assert canvas.text_width(node.label) + 6.0 < node.size[0] or not node.label
    for (label, plate), names in zip(picture.plates, members, strict=True):
        assert canvas.text_width(label, canvas.LABEL_SIZE) < plate[2] - plate[0]
        for name, box in boxes.items():
            inside = plate[0] < box[0] and plate[1] + 8.0 < box[1] and box[2] < plate[2] and box[3] < plate[3]
            assert inside if name in names else not overlap(plate, box), (label, name)


def check_edges(picture) -> None:
    for edge in picture.edges:
        line = canvas._route(picture, edge)
        for name, node in picture.nodes.items():
            if name not in edge:
                assert (canvas._distance(line, node) > 0.0).all(), (edge, name)


def test_a_network_as_svg(tmp_path) -> None:
    path = draw(network(ASIA), tmp_path / "asia.svg", observed=["dysp", "asia"], plates=[("patients", ASIA)])
    assert path == tmp_path / "asia.svg"
    text = path.read_text(encoding="utf-8")
    words = ["".join(e.itertext()).strip() for e in ET.fromstring(text).iter() if e.tag.endswith("}text")]
    assert sorted(words) == sorted([*ASIA, "patients"])
    assert text.count(f"fill: {canvas.SHADE}") == 2
    # An arrowhead for each edge; all other shapes are filled white, shaded or not at all.
    assert text.count(f'style="fill: {canvas.INK}"') >= 8
    again = draw(network(ASIA), tmp_path / "b.svg", observed=["asia", "dysp"], plates=[("patients", ASIA)])
    assert again.read_bytes() == path.read_bytes()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["asia.svg", "b.svg"]


def test_a_network_as_png(tmp_path) -> None:
    small = draw(network({"a": []}), tmp_path / "a.PNG").read_bytes()
    large = draw(network(ASIA), tmp_path / "asia.png").read_bytes()
    assert small[:8] == large[:8] == b"\x89PNG\r\n\x1a\n"
    (width, height), (wide, tall) = (struct.unpack(">II", data[16:24]) for data in (small, large))
    assert wide > 3 * width
    assert tall > 3 * height
    assert draw(network(ASIA), tmp_path / "b.png").read_bytes() == large


def test_names_are_text_whatever_they_hold(tmp_path) -> None:
    names = ["x_1", "$\\frac$", "<b> & co", "größe", "a very long name that needs a wide node"]
    path = draw(LinearGaussianNetwork({name: LinearGaussian() for name in names}), tmp_path / "a.svg")
    words = {"".join(element.itertext()).strip() for element in ET.parse(path).iter()}
    assert set(names) <= words


def test_each_kind_of_graph_has_its_shapes(tmp_path, monkeypatch) -> None:
    table = torch.zeros(2, 2)
    potentials = [(("a", "b"), table), (("b", "c"), table), (("c",), table[0])]
    field = picture_of(MarkovRandomField(dict.fromkeys("abc", 2), potentials), tmp_path, monkeypatch)
    assert not field.arrows
    assert sorted(field.edges) == [("a", "b"), ("b", "c")]
    factors = picture_of(
        FactorGraph(dict.fromkeys("abc", 2), potentials), tmp_path, monkeypatch, observed="b"
    )
    kinds = {name: node.kind for name, node in factors.nodes.items()}
    assert {name: kinds[name] for name in "abc"} == {"a": "variable", "b": "observed", "c": "variable"}
    assert sum(kind == "factor" for kind in kinds.values()) == 3
    assert len(factors.edges) == 5
    assert all(len({kinds[name] == "factor" for name in edge}) == 2 for edge in factors.edges)
    arrows = picture_of(network(ASIA), tmp_path, monkeypatch)
    assert arrows.arrows
    assert sorted(arrows.edges) == sorted((p, name) for name, above in ASIA.items() for p in above)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_layers_with_random_plates(tmp_path_factory, seed) -> None:
    random = Random(seed)
    parents = random_dag(random, random.randint(1, 9))
    members: list[list[str]] = []
    for _ in range(random.randint(0, 3)):
        inside = random.sample(list(parents), random.randint(1, len(parents)))
        # Apart, or one within the other: these can always be boxed.
        if all(not set(inside) & set(o) or set(inside) <= set(o) or set(o) <= set(inside) for o in members):
            members.append(inside)
    plates = [Plate(f"plate {k} of these", inside) for k, inside in enumerate(members)]
    with pytest.MonkeyPatch.context() as patched:
        picture = picture_of(Arrows(parents), tmp_path_factory.getbasetemp(), patched, plates=plates)
    check_picture(picture, members)
    check_edges(picture)
    for parent, name in picture.edges:
        assert picture.nodes[parent].centre[1] > picture.nodes[name].centre[1] + picture.nodes[name].size[1]


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_lines_at_random(tmp_path_factory, seed) -> None:
    random = Random(seed)
    n = random.randint(2, 12)
    edges = [(f"node {a}", f"{b}") for a, b in itertools.combinations(range(n), 2) if random.random() < 0.3]
    graph = Lines(edges or [("a", "b")])
    plates = [("some", graph.names[:2])] if random.random() < 0.3 else []
    with pytest.MonkeyPatch.context() as patched:
        picture = picture_of(graph, tmp_path_factory.getbasetemp(), patched, plates=plates)
    check_picture(picture, [names for _, names in plates])


@pytest.mark.parametrize(
    ("parents", "members"),
    [
        ({"U": [], "V": [], "R": ["U", "V"], "s": []}, [["U", "R"], ["V", "R"]]),
        (
            {"a": [], "t": ["a"], "z": ["t"], "w": ["z", "f"], "f": ["b"], "b": []},
            [["t", "z", "w"], ["z", "w"], ["f"]],
        ),
        (ASIA, [list(ASIA), ["lung", "bronc"], ["asia", "tub"]]),
        # In the order of the nodes b would lie within the box around the others.
        (dict.fromkeys("abcd", ()), [["d", "a", "c"], ["b", "c"]]),
        (dict.fromkeys("abcd", ()), [["d", "c"], ["c", "a"]]),
    ],
)
def test_plates_as_in_books(tmp_path, monkeypatch, parents, members) -> None:
    plates = [(f"of them N{k}", names) for k, names in enumerate(members)]
    picture = picture_of(Arrows(parents), tmp_path, monkeypatch, plates=plates)
    check_picture(picture, members)
    check_edges(picture)
    # Crossing or nested, no border lies on another.
    for (_, one), (_, other) in itertools.combinations(picture.plates, 2):
        assert all(abs(a - b) > 4.0 for a, b in zip(one, other, strict=True)) or not overlap(one, other)


def test_plates_that_no_layer_can_hold_apart(tmp_path) -> None:
    # Each of the three outer nodes shares a box with the one between, which has two sides only.
    plates = [("N", ["a", "m"]), ("N", ["b", "m"]), ("N", ["c", "m"])]
    with pytest.raises(UserError, match=r"^plates: expected sets that can be boxed apart"):
        draw(Arrows(dict.fromkeys("abcm", ())), tmp_path / "a.svg", plates=plates)


def test_crowded_lines_part(tmp_path, monkeypatch) -> None:
    star = [("hub", f"a leaf with a long name {k}") for k in range(24)]
    check_picture(picture_of(Lines(star), tmp_path, monkeypatch), [])
    complete = [(f"variable {a}", f"variable {b}") for a, b in itertools.combinations(range(10), 2)]
    check_picture(picture_of(Lines(complete), tmp_path, monkeypatch), [])


def test_trees_of_lines_keep_edges_off_nodes(tmp_path, monkeypatch) -> None:
    chain = [(f"z{k}", f"z{k + 1}") for k in range(9)]
    picture = picture_of(Lines(chain), tmp_path, monkeypatch)
    check_edges(picture)
    heights = [node.centre[1] for node in picture.nodes.values()]
    assert max(heights) - min(heights) < 1.0
    star = [("hub", f"leaf {k}") for k in range(9)]
    check_edges(picture_of(Lines(star), tmp_path, monkeypatch))


def test_plates_of_factors_hold_the_factors_of_their_variables(tmp_path, monkeypatch) -> None:
    table = torch.zeros(2, 2)
    graph = FactorGraph(
        dict.fromkeys("mxy", 2), [(("m",), table[0]), (("m", "x"), table), (("x", "y"), table)]
    )
    picture = picture_of(graph, tmp_path, monkeypatch, plates=[("N", ["x", "y"])])
    factors = [name for name, node in picture.nodes.items() if node.kind == "factor"]
    check_picture(picture, [["x", "y", *factors[1:]]])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.svg", {"observed": ["x"]}, "observed: expected nodes of the graph, came 'x'"),
        ("a.svg", {"plates": [("N", ["a", "x"])]}, "plates: expected nodes of the graph, came 'x'"),
        ("a.svg", {"plates": [("N", [])]}, "plates: expected at least one node in 'N', came none"),
        ("a.jpg", {}, "path: expected a name ending in .svg or .png, came "),
        ("a", {}, "path: expected a name ending in .svg or .png, came "),
        ("none/a.svg", {}, "path: expected an existing folder, "),
        ("folder.svg", {}, "path: expected a file, "),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, name, options, said) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(UserError, match=f"^{said}"):
        draw(network({"a": []}), tmp_path / name, **options)
    assert [found.name for found in tmp_path.iterdir()] == ["folder.svg"]


def test_graphs_that_are_not_drawn(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^graph: expected 1 to 2,000 nodes to draw, came 0"):
        draw(FactorGraph({}), tmp_path / "a.svg")
    with pytest.raises(UserError, match=r"^graph: expected 1 to 2,000 nodes to draw, came 2,001"):
        draw(Arrows({f"{k}": [] for k in range(2001)}), tmp_path / "a.svg")
    with pytest.raises(UserError, match=r"^parents: expected no directed cycle"):
        draw(Arrows({"a": ["b"], "b": ["a"]}), tmp_path / "a.svg")


def test_a_failure_leaves_the_old_picture(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.svg"
    path.write_text("old")

    def fail(picture, temporary) -> None:
        temporary.write_text("half")
        raise RuntimeError

    monkeypatch.setattr(pictures, "write_picture", fail)
    with pytest.raises(RuntimeError):
        draw(network({"a": []}), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
