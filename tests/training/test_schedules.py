"""The KL weight and the learning rate over a run."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.training import LearningRateSchedule, LinearKLSchedule


def test_kl_weight_is_linear_and_then_flat() -> None:
    schedule = LinearKLSchedule(cap=0.2, epochs=2.5)
    assert schedule.kl_weight(0, 10) == 0.0
    assert schedule.kl_weight(10, 10) == pytest.approx(0.08)
    assert schedule.kl_weight(25, 10) == 0.2
    assert schedule.kl_weight(10_000, 10) == 0.2


def test_no_annealing_means_the_cap_at_once() -> None:
    assert LinearKLSchedule(cap=0.3, epochs=0.0).kl_weight(0, 10) == 0.3


@given(step=st.integers(0, 500), epochs=st.floats(0, 60), cap=st.floats(0, 2))
def test_kl_weight_never_falls_and_never_passes_the_cap(step, epochs, cap) -> None:
    schedule = LinearKLSchedule(cap, epochs)
    now, later = schedule.kl_weight(step, 7), schedule.kl_weight(step + 1, 7)
    assert 0 <= now <= later <= cap


@pytest.mark.parametrize("arguments", [{"cap": -0.1}, {"cap": float("nan")}, {"epochs": -1.0}])
def test_kl_schedule_out_of_range(arguments) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        LinearKLSchedule(**arguments)


def test_constant_learning_rate_by_default() -> None:
    assert {LearningRateSchedule().factor(step, 100) for step in range(150)} == {1.0}


def test_warm_up_then_cosine() -> None:
    schedule = LearningRateSchedule(warmup=0.1, final_factor=0.2)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.6)
    assert factors[100] == pytest.approx(0.2)
    assert all(a < b for a, b in pairwise(factors[:11]))
    assert all(a > b for a, b in pairwise(factors[10:]))


def test_the_decay_is_a_cosine() -> None:
    schedule = LearningRateSchedule(final_factor=0.2)
    assert schedule.factor(25, 100) == pytest.approx(0.6 + 0.4 * math.cos(math.pi / 4))


@pytest.mark.parametrize("arguments", [{"warmup": 1.5}, {"final_factor": -0.1}])
def test_learning_rate_schedule_out_of_range(arguments) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        LearningRateSchedule(**arguments)
