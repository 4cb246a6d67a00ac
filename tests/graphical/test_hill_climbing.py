"""Networks learned by search: scores written out, and graphs that data came from."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from recsys_vae.errors import UserError
from recsys_vae.graphical.bayesian_network import BayesianNetwork
from recsys_vae.graphical.conditionals import Table
from recsys_vae.graphical.hill_climbing import hill_climb

STATES = {"a": 2, "b": 2, "c": 3, "d": 2, "e": 2}
PARENTS = {"a": (), "b": (), "c": ("a", "b"), "d": ("c",), "e": ("d",)}


def made_up(n_cases: int, seed: int) -> dict[str, torch.Tensor]:
    """``a -> c <- b``, ``c -> d -> e``: two arrows are compelled by the collider, the others follow from them."""
    rng = np.random.default_rng(seed)
    a, b = (rng.random(n_cases) < 0.4), (rng.random(n_cases) < 0.6)
    laws = np.array([[[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], [[0.1, 0.2, 0.7], [0.5, 0.1, 0.4]]])
    uniform = rng.random((n_cases, 1))
    c = (uniform > laws[a.astype(int), b.astype(int)].cumsum(axis=1)).sum(axis=1).clip(max=2)
    d = rng.random(n_cases) < np.array([0.1, 0.5, 0.9])[c]
    e = rng.random(n_cases) < np.where(d, 0.8, 0.2)
    return {
        name: torch.from_numpy(v.astype(np.int64)) for name, v in zip("abcde", (a, b, c, d, e), strict=True)
    }


def equivalence_class(parents) -> tuple[set, set]:
    """The skeleton and the v-structures, which together say all that data can (Verma & Pearl 1990)."""
    skeleton = {frozenset((child, other)) for child, above in parents.items() for other in above}
    colliders = {
        (frozenset(pair), child)
        for child, above in parents.items()
        for pair in itertools.combinations(above, 2)
        if frozenset(pair) not in skeleton
    }
    return skeleton, colliders


def bic(data, states, parents) -> float:
    """Written out case by case."""
    n_cases = len(next(iter(data.values())))
    total = 0.0
    for child, above in parents.items():
        rows = [tuple(int(data[name][case]) for name in above) for case in range(n_cases)]
        own = data[child].tolist()
        for row, state in zip(rows, own, strict=True):
            same_row = rows.count(row)
            same = sum(r == row and s == state for r, s in zip(rows, own, strict=True))
            total += math.log(same / same_row)
        n_free = (states[child] - 1) * math.prod(states[name] for name in above)
        total -= 0.5 * math.log(n_cases) * n_free
    return total


@pytest.mark.parametrize("score", ["bic", "bdeu"])
@pytest.mark.parametrize("seed", range(2))
def test_the_equivalence_class_is_recovered(score, seed) -> None:
    learned = hill_climb(made_up(10_000, seed), STATES, score=score)
    assert equivalence_class(learned.network.parents) == equivalence_class(PARENTS)


@pytest.mark.parametrize("tabu", [0, 20])
def test_every_step_raises_the_score_and_no_single_change_would(tabu) -> None:
    data = made_up(2000, 5)
    learned = hill_climb(data, STATES, tabu=tabu)
    assert len(learned.trace) > 3
    assert all(later > earlier for earlier, later in itertools.pairwise(learned.trace))
    assert learned.score == learned.trace[-1]
    parents = learned.network.parents
    n_changes = 0
    for child, other in itertools.permutations(STATES, 2):
        without = {**parents, child: tuple(name for name in parents[child] if name != other)}
        changes = [{**parents, child: (*parents[child], other)}]
        if other in parents[child]:
            changes = [without, {**without, other: (*parents[other], child)}]
        for changed in changes:
            if acyclic(changed) and all(len(above) <= 3 for above in changed.values()):
                n_changes += 1
                assert family_scores(data, changed) <= learned.score + 1e-6
    assert n_changes > 8


def acyclic(parents) -> bool:
    left = dict(parents)
    while left:
        free = [child for child, above in left.items() if not set(above) & set(left)]
        if not free:
            return False
        for child in free:
            del left[child]
    return True


def family_scores(data, parents) -> float:
    """The BIC of any assignment of parents, which decomposes, by table counts."""
    n_cases = len(data["a"])
    total = 0.0
    for child, above in parents.items():
        names = [*above, child]
        counts = np.zeros([STATES[name] for name in names])
        np.add.at(counts, tuple(data[name].numpy() for name in names), 1)
        rows = counts.sum(axis=-1, keepdims=True)
        total += float((counts * np.log(np.where(counts > 0, counts / np.where(rows > 0, rows, 1), 1))).sum())
        total -= 0.5 * math.log(n_cases) * (STATES[child] - 1) * math.prod(STATES[name] for name in above)
    return total


def test_the_score_is_the_sum_over_families_written_out() -> None:
    data = {name: values[:60] for name, values in made_up(1000, 2).items()}
    learned = hill_climb(data, STATES)
    assert learned.score == pytest.approx(bic(data, STATES, learned.network.parents), rel=1e-12)
    assert learned.score == pytest.approx(family_scores(data, learned.network.parents), rel=1e-12)


def test_bdeu_is_the_log_evidence_of_dirichlet_priors() -> None:
    column = torch.tensor([0, 0, 1, 0, 1, 1, 1])
    learned = hill_climb({"a": column}, {"a": 2}, score="bdeu", equivalent_sample_size=3.0)
    counts, prior = np.array([3, 4]), 1.5
    expected = gammaln(3.0) - gammaln(10.0) + (gammaln(prior + counts) - gammaln(prior)).sum()
    assert learned.score == pytest.approx(expected, rel=1e-12)
    # A score of equivalent graphs is the same: a -> b and b -> a.
    other = torch.tensor([0, 1, 1, 0, 1, 1, 1])
    scores = [
        hill_climb({first: column, second: other}, {first: 2, second: 2}, score="bdeu").score
        for first, second in (("a", "b"), ("b", "a"))
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)


def test_tables_are_smoothed_shares() -> None:
    data = made_up(3000, 1)
    learned = hill_climb(data, STATES, smoothing=2.0)
    for name, law in learned.network.conditionals.items():
        names = [*law.parents, name]
        counts = np.zeros([STATES[each] for each in names])
        np.add.at(counts, tuple(data[each].numpy() for each in names), 1)
        expected = (counts + 2.0) / (counts + 2.0).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(learned.network.log_potential(name).table.exp().numpy(), expected)


def test_restarts_are_seeded_and_never_worse() -> None:
    data = made_up(300, 9)
    plain = hill_climb(data, STATES, tabu=0)
    again = [hill_climb(data, STATES, tabu=0, restarts=4, seed=1) for _ in range(2)]
    assert again[0].network.parents == again[1].network.parents
    assert again[0].score >= plain.score


def test_no_more_parents_than_allowed() -> None:
    data = made_up(5000, 0)
    assert all(len(above) <= 1 for above in hill_climb(data, STATES, max_parents=1).network.parents.values())
    assert not any(hill_climb(data, STATES, max_parents=0).network.parents.values())


def test_named_states_and_a_configuration_that_never_came() -> None:
    data = {"rain": np.array([0, 0, 1, 1]), "wet": np.array([0, 0, 1, 1])}
    learned = hill_climb(
        data, {"rain": ["no", "yes", "snow"], "wet": ["no", "yes"]}, smoothing=0.0, score="aic"
    )
    assert isinstance(learned.network, BayesianNetwork)
    assert isinstance(learned.network.conditionals["wet"], Table)
    assert learned.network.log_probability({"rain": "yes", "wet": "yes"}) == pytest.approx(math.log(0.5))


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ({"a": [0, 1]}, {}, "none for 'b'"),
        ({"a": [0, 1], "b": [0, 2]}, {}, "came 0 to 2"),
        ({"a": [0, 1], "b": [0, 1, 1]}, {}, "as many cases"),
        ({"a": [0, 1], "b": [0.0, 1.0]}, {}, "positions of states"),
        ({"a": [0, 1], "b": [0, 1]}, {"score": "mdl"}, "mdl"),
        ({"a": [0, 1], "b": [0, 1]}, {"max_parents": -1}, "max_parents"),
        ({"a": [0, 1], "b": [0, 1]}, {"restarts": -1}, "restarts"),
        ({"a": [0, 1], "b": [0, 1]}, {"tabu": True}, "tabu"),
        ({"a": [0, 1], "b": [0, 1]}, {"smoothing": -1.0}, "smoothing"),
        ({"a": [0, 1], "b": [0, 1]}, {"equivalent_sample_size": 0.0}, "equivalent_sample_size"),
    ],
)
def test_mistakes(data, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        hill_climb(data, {"a": 2, "b": 2}, **arguments)
