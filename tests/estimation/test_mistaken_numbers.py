"""What is no number where one is expected: one line that says so, and nothing from NumPy or torch."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from recsys_vae.errors import UserError
from recsys_vae.estimation import (
    KernelDensity,
    fit_atom_prior,
    lindsey,
    robbins,
    robbins_mean,
    smoothed_robbins,
    tweedie_covariance,
    tweedie_mean,
    tweedie_variance,
)
from recsys_vae.estimation.arguments import whole

NAN, INFINITY = float("nan"), float("inf")
SPREAD = [float(x) for x in range(50)]


def unchecked(function):
    """As those call it who have no type checker; these tests have one."""
    return inspect.unwrap(function)


def assert_said(said: str, function, *arguments) -> None:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", 1, 1), "x: expected numbers, came 'a'"),
        ((1j, 1, 1), "x: expected numbers, came 1j"),
        ((np.array([1j]), [1.0], 1), "x: expected numbers, came array([0.+1.j])"),
        ((torch.tensor([1j]), [1.0], 1), "x: expected numbers, came tensor([0.+1.j])"),
        ((np.full((9, 9), 1j), [1.0], 1), "x: expected numbers, came array([["),
        (([[1.0], [1.0, 2.0]], 1, 1), "x: expected numbers, came [[1.0], [1.0, 2.0]]"),
        (([1.0, NAN], [1.0, 1.0], 1), "x: expected finite numbers, came nan at 1"),
        (([1.0], ["b"], 1), "score: expected numbers, came ['b']"),
        (([1.0], [INFINITY], 1), "score: expected finite numbers, came inf at 0"),
        (([1.0], torch.tensor([1j]), 1), "score: expected numbers"),
        (([1.0], [1.0], "c"), "covariance: expected numbers, came 'c'"),
        (([1.0], [1.0], torch.tensor(1j)), "covariance: expected numbers"),
        (([1.0], [1.0], NAN), "covariance: expected finite numbers, came nan"),
        (([1.0, 1.0], [1.0, 1.0], [[1.0, 0.0], [0.0, INFINITY]]), "covariance: expected finite numbers"),
    ],
)
def test_tweedie_s_mean(arguments, said) -> None:
    assert_said(said, tweedie_mean, *arguments)


def test_tweedie_s_covariance_and_variance() -> None:
    assert_said("hessian: expected numbers, came 'a'", tweedie_covariance, "a", 1)
    assert_said("hessian: expected finite numbers, came nan at (0, 0)", tweedie_covariance, [[NAN]], 1)
    assert_said("second_derivative: expected numbers, came 1j", tweedie_variance, 1j, 1)
    assert_said("variance: expected numbers, came 'b'", tweedie_variance, 1.0, "b")
    assert_said("variance: expected variances above 0", tweedie_variance, 1.0, 0.0)
    assert_said("variance: expected 2 variances", tweedie_variance, [1.0, 1.0], [1.0, 1.0, 1.0])
    assert_said("variance: expected numbers, came a matrix", tweedie_variance, [1.0], [[1.0]])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([0, 1, 2], [0.0, 0.0], [0.0, 0.0, 0.0]), "x and log_p and log_p_next: expected batch shapes"),
        (([0, 1, 2], [0.0, 0.0, 0.0], [0.0, 0.0]), "x and log_p and log_p_next: expected batch shapes"),
        (([0.5], [0.0], [0.0]), "x: expected whole numbers"),
        (([0], "a", [0.0]), "log_p: expected numbers, came 'a'"),
        (([0], [-INFINITY], [0.0]), "log_p: expected finite numbers, came -inf at 0"),
        (([0], [0.0], torch.tensor([1j])), "log_p_next: expected numbers"),
        (([0], [0.0], [NAN]), "log_p_next: expected logarithms of probabilities, came nan at 0"),
        (([0], [0.0], [INFINITY]), "log_p_next: expected logarithms of probabilities, came inf at 0"),
    ],
)
def test_robbins_mean(arguments, said) -> None:
    assert_said(said, robbins_mean, *arguments)


def test_a_count_that_cannot_be_followed_has_a_rate_of_0() -> None:
    assert robbins_mean([3, 1], [-1.0, 0.0], [-INFINITY, 0.0]).tolist() == [0.0, 2.0]


def test_large_counts_take_no_memory() -> None:
    # A place for each count up to the largest would be 800 GB.
    observed = [0, 1, 1, 10**11, 10**11 + 1]
    at = [0, 1, 10**11, 10**11 + 1, 10**15]
    np.testing.assert_array_equal(robbins(observed, at), [2.0, 0.0, 10**11 + 1, 0.0, np.nan])
    assert_said("observed: expected counts below 2**53, came 9.0072e+15 at 1", robbins, [0, 2**53], [0])
    assert_said(
        "observed: expected counts of at most 1000000, came 100000000001", smoothed_robbins, observed, [0]
    )


@pytest.mark.parametrize("value", [2.0, 2.5, "a", None, True])
def test_what_is_no_whole_number(value) -> None:
    came = f"expected a whole number of at least 2, came {value!r}"
    assert_said(f"degree: {came}", unchecked(lindsey), SPREAD, value)
    assert_said(f"n_atoms: {came}", unchecked(fit_atom_prior), SPREAD, 1.0, value)
    n_bins = came.replace("at least 2", "at least 4")
    assert_said(f"n_bins: {n_bins}", unchecked(lindsey), SPREAD, 3, value)
    degree = came.replace("at least 2", "at least 1")
    assert_said(f"degree: {degree}", unchecked(smoothed_robbins), SPREAD, [0], value)


def test_numpy_s_whole_numbers_are_whole() -> None:
    assert whole("degree", np.int64(3), 2) == 3


def test_numbers_too_near_for_bins_and_complex_points() -> None:
    assert_said("x: expected numbers that differ by more than rounding", lindsey, [1.0, 1.0 + 3e-16])
    assert_said("x: expected numbers, came tensor", lindsey, torch.tensor([1j, 2.0]))
    assert_said("points: expected numbers, came tensor", KernelDensity, torch.tensor([[1j], [2.0]]))
