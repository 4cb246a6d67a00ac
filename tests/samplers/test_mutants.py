"""Tests of the tests: a fault planted in a kernel makes the contract fail, and by a wide margin."""

from __future__ import annotations

import re

import kernel_contract
import pytest
from mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_planted_fault_is_found(mutant: Mutant, monkeypatch) -> None:
    mutant.plant(monkeypatch)
    # Some hundred million times less likely under a right kernel than what the contract lets pass.
    monkeypatch.setattr(kernel_contract, "P_VALUE", 1e-12)
    with pytest.raises(AssertionError):
        mutant.check(mutant.kernel())


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_same_check_passes_without_the_fault(mutant: Mutant) -> None:
    mutant.check(mutant.kernel())


def test_every_kernel_has_two_faults_at_least() -> None:
    kernels = [re.split("[:,]", mutant.name)[0] for mutant in MUTANTS]
    expected = {
        "random_walk_metropolis",
        "metropolis_hastings",
        "mala",
        "hmc",
        "chees",
        "elliptical_slice",
        "gibbs",
        "gibbs by slices",
        "cycle",
        "mixture",
    }
    assert set(kernels) == expected
    assert min(kernels.count(kernel) for kernel in expected) >= 2
