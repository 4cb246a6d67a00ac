"""Linear-Gaussian networks against the formulas of one joint Gaussian."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from recsys_vae.errors import UserError
from recsys_vae.graphical import LinearGaussian, LinearGaussianNetwork
from recsys_vae.graphical.directed import moral_graph

SEEDS = st.integers(0, 2**31)


def random_network(random: Random, n: int) -> LinearGaussianNetwork:
    """Listed in another order than the arrows'."""
    names = [f"v{number}" for number in range(n)]
    order = random.sample(names, n)
    laws = {}
    for place, name in enumerate(order):
        parents = tuple(random.sample(order[:place], random.randint(0, min(3, place))))
        weights = tuple(random.gauss(0, 1) for _ in parents)
        laws[name] = LinearGaussian(parents, weights, random.gauss(0, 1), random.uniform(0.3, 2.0))
    return LinearGaussianNetwork({name: laws[name] for name in names})


def matrices(network: LinearGaussianNetwork) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (to, from), biases and variances, as read from the laws."""
    names = list(network.names)
    weights = np.zeros((len(names), len(names)))
    for name, law in network.conditionals.items():
        for parent, weight in zip(law.parents, law.weights, strict=True):
            weights[names.index(name), names.index(parent)] = weight
    laws = network.conditionals.values()
    return weights, np.array([law.bias for law in laws]), np.array([law.variance for law in laws])


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_moments_and_precision_are_those_of_the_closed_form(seed) -> None:
    random = Random(seed)
    network = random_network(random, random.randint(1, 8))
    weights, bias, variance = matrices(network)
    spread = np.linalg.inv(np.eye(len(bias)) - weights)
    np.testing.assert_allclose(network.mean, spread @ bias, atol=1e-10)
    np.testing.assert_allclose(network.covariance, spread @ np.diag(variance) @ spread.T, atol=1e-9)
    np.testing.assert_allclose(network.precision @ network.covariance, np.eye(len(bias)), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_the_precision_is_zero_where_the_moral_graph_has_no_edge(seed) -> None:
    random = Random(seed)
    network = random_network(random, 8)
    joined = moral_graph(network.parents)
    for row, one in enumerate(network.names):
        for column, other in enumerate(network.names):
            if row != column:
                assert (float(network.precision[row, column]) != 0.0) == (other in joined[one])


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_conditioning_is_that_of_a_joint_gaussian(seed) -> None:
    random = Random(seed)
    n = random.randint(2, 7)
    network = random_network(random, n)
    seen = random.sample(range(n), random.randint(1, n))
    rest = [number for number in range(n) if number not in seen]
    values = np.array([random.gauss(0, 2) for _ in seen])
    found = network.condition({network.names[s]: float(v) for s, v in zip(seen, values, strict=True)})
    mean, covariance = network.mean.numpy(), network.covariance.numpy()
    gain = covariance[np.ix_(rest, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    assert found.names == tuple(network.names[number] for number in rest)
    np.testing.assert_allclose(found.mean, mean[rest] + gain @ (values - mean[seen]), atol=1e-8)
    expected = covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(seen, rest)]
    np.testing.assert_allclose(found.covariance, expected, atol=1e-8)
    density = multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(values)
    assert float(found.log_evidence) == pytest.approx(density, abs=1e-8)
    for name in found.names:
        own_mean, own_variance = found.marginal(name)
        place = found.names.index(name)
        assert (own_mean, own_variance) == (found.mean[place], found.covariance[place, place])


def test_conditioning_keeps_its_digits_where_variances_differ_by_far() -> None:
    """By hand: a vague cause of precise effects. Its variance is that of the effects, its mean theirs."""
    wide = {"a": LinearGaussian(variance=1e9), "b": LinearGaussian(("a",), (1.0,), variance=1e-8)}
    found = LinearGaussianNetwork(wide).condition({"b": 1.0})
    mean, variance = found.marginal("a")
    assert float(variance) == pytest.approx(1e-8, rel=1e-12)
    assert float(mean) == pytest.approx(1.0, rel=1e-12)
    assert float(found.log_evidence) == pytest.approx(-0.5 * (np.log(2.0 * np.pi * 1e9) + 1e-9), rel=1e-12)
    effect = LinearGaussian(("a",), (1.0,), variance=1e-6)
    network = LinearGaussianNetwork({"a": LinearGaussian(variance=1e10), "b": effect, "c": effect})
    found = network.condition({"b": 1.0, "c": 1.001})
    mean, variance = found.marginal("a")
    assert float(variance) == pytest.approx(5e-7, rel=1e-12)
    assert float(mean) == pytest.approx(1.0005, rel=1e-12)
    # The difference is N(0, 2e-6), the mean of both N(0, 1e10); the change of variables has determinant 1.
    difference, middle = multivariate_normal(0.0, 2e-6), multivariate_normal(0.0, 1e10 + 5e-7)
    expected = difference.logpdf(0.001) + middle.logpdf(1.0005)
    assert float(found.log_evidence) == pytest.approx(expected, abs=1e-9)
    # Two hidden that are nearly one.
    hidden = {"a": LinearGaussian(), "b": LinearGaussian(("a",), (1.0,), variance=1e-18)}
    both = LinearGaussianNetwork({**hidden, "c": LinearGaussian(("b",), (1.0,))}).condition({"c": 1.0})
    np.testing.assert_allclose(both.covariance, np.full((2, 2), 0.5), rtol=1e-8)


def test_many_cases_at_once_are_each_alone() -> None:
    network = random_network(Random(3), 6)
    columns = {"v1": torch.tensor([0.5, -1.0, 2.0]), "v4": torch.tensor([1.0, 0.0, -3.0])}
    together = network.condition({**columns, "v2": 0.25})
    assert together.mean.shape == (3, 3)
    assert together.log_evidence.shape == (3,)
    as_lists = network.condition({**{name: column.tolist() for name, column in columns.items()}, "v2": 0.25})
    torch.testing.assert_close(as_lists.mean, together.mean, rtol=0, atol=0)
    one = network.condition({"v1": [0.5]})
    assert one.mean.shape == (1, 5)
    for case in range(3):
        alone = network.condition(
            {**{name: float(column[case]) for name, column in columns.items()}, "v2": 0.25}
        )
        torch.testing.assert_close(together.mean[case], alone.mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(together.covariance, alone.covariance, rtol=0, atol=1e-12)
        torch.testing.assert_close(together.log_evidence[case], alone.log_evidence, rtol=0, atol=1e-12)


def test_without_evidence_nothing_changes() -> None:
    network = random_network(Random(4), 5)
    for evidence in (None, {}):
        found = network.condition(evidence)
        assert found.names == network.names
        assert float(found.log_evidence) == 0.0
        torch.testing.assert_close(found.mean, network.mean, rtol=0, atol=0)
        torch.testing.assert_close(found.covariance, network.covariance, rtol=0, atol=0)


def test_the_density_is_that_of_scipy() -> None:
    network = random_network(Random(5), 6)
    values = torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = multivariate_normal(network.mean.numpy(), network.covariance.numpy()).logpdf(values.numpy())
    np.testing.assert_allclose(network.log_density(values), expected, atol=1e-9)
    assert float(network.log_density(values[0])) == pytest.approx(expected[0], abs=1e-9)


def check_draws(draws: torch.Tensor, network: LinearGaussianNetwork) -> None:
    """Means and covariances within 4.5 standard errors."""
    n = len(draws)
    off = (draws.mean(dim=0) - network.mean).abs() / (network.covariance.diagonal() / n).sqrt()
    assert float(off.max()) < 4.5
    centred = draws - network.mean
    found = centred.T @ centred / n
    diagonal = network.covariance.diagonal()
    error = ((diagonal[:, None] * diagonal + network.covariance.square()) / n).sqrt()
    assert float(((found - network.covariance).abs() / error).max()) < 4.5


def test_draws_have_the_moments() -> None:
    network = random_network(Random(6), 6)
    draws = network.sample(30_000, seed=2)
    check_draws(draws, network)
    assert torch.equal(network.sample(5, seed=9), network.sample(5, seed=9))
    laws = dict(network.conditionals)
    name = next(name for name, law in laws.items() if law.parents)
    laws[name] = LinearGaussian(
        laws[name].parents, laws[name].weights, laws[name].bias, 1.1 * laws[name].variance
    )
    with pytest.raises(AssertionError):
        check_draws(draws, LinearGaussianNetwork(laws))


@pytest.mark.parametrize(
    ("laws", "said"),
    [
        (
            {"a": LinearGaussian(("b",), (1.0,))},
            "parents: expected nodes of the graph, came 'b', a parent of 'a'",
        ),
        ({"a": LinearGaussian(("a",), (1.0,))}, "parents: expected no directed cycle, came a -> a"),
        ({"a": LinearGaussian(("b",))}, "conditionals: expected 1 weights for 'a', came 0"),
        (
            {"a": LinearGaussian(("b", "b"), (1.0, 2.0)), "b": LinearGaussian()},
            "conditionals: expected each parent of 'a' once",
        ),
        ({"a": LinearGaussian(bias=torch.nan)}, "conditionals: expected finite numbers for 'a'"),
        ({"a": LinearGaussian(variance=0.0)}, "conditionals: expected a positive variance for 'a', came 0.0"),
        (
            {"a": LinearGaussian(variance=torch.inf)},
            "conditionals: expected a positive variance for 'a', came inf",
        ),
        (
            {"a": LinearGaussian(variance=torch.nan)},
            "conditionals: expected a positive variance for 'a', came nan",
        ),
    ],
)
def test_what_a_network_cannot_be(laws, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        LinearGaussianNetwork(laws)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda n: n.condition({"z": 1.0}), "evidence: expected variables of the network, came 'z'"),
        (
            lambda n: n.condition({"a": torch.nan}),
            "evidence: expected a finite number or .* for 'a', came nan",
        ),
        (
            lambda n: n.condition({"a": torch.zeros(2, 2)}),
            r"evidence: expected a finite number or \(cases,\)",
        ),
        (
            lambda n: n.condition({"a": [1.0, 2.0], "b": [1.0]}),
            r"evidence: expected as many cases .* came \[1, 2\]",
        ),
        (
            lambda n: n.condition({"a": 1.0, "c": 1.0}),
            r"evidence: expected variables none of which follows .*'c'\]",
        ),
        (
            lambda n: n.condition({"a": 1.0}).marginal("a"),
            "name: expected one of the unobserved variables, came 'a'",
        ),
        (lambda n: n.sample(0), "n_draws: expected a whole number of at least 1, came 0"),
        (lambda n: n.log_density(torch.zeros(2)), r"values: expected \(..., 3\), came \(2,\)"),
    ],
)
def test_what_cannot_be_asked(call, said) -> None:
    laws = {
        "a": LinearGaussian(),
        "b": LinearGaussian(("a",), (2.0,)),
        "c": LinearGaussian(("a",), (1.0,), variance=1e-40),
    }
    with pytest.raises(UserError, match=f"^{said}"):
        call(LinearGaussianNetwork(laws))
