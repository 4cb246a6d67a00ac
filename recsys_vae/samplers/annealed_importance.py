"""Annealed importance sampling (Neal 2001), and its reverse: log-normalisers between two stochastic bounds.

The path is geometric, ``f_b = initial^(1 - b) * target^b`` with b from 0 to 1; Hamiltonian Monte Carlo moves between.
Both directions together are bidirectional Monte Carlo (Grosse, Ghahramani & Adams 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.arguments import (
    check_count,
    checked_log_density,
    device_of,
    generator_for,
)
from recsys_vae.samplers.density import value_and_gradient
from recsys_vae.samplers.distribution import DiagonalGaussian, Distribution
from recsys_vae.samplers.hmc import HMC
from recsys_vae.samplers.kernel import GradientState, LogDensity, StepInfo, Tuning

_PILOT_CHAINS = 4
# Dual averaging wants many steps at one density; here each temperature has one. Steps grow or shrink by this factor.
_PILOT_RATE = 0.1


@dataclass(frozen=True)
class AnnealedDraws:
    """Weighted paths through the temperatures; each member of the batch has its own target.

    Args:
        draws: the end of each path.
        log_weights: of the paths, nats. Forward, their exponentials are unbiased for the target's integral; backward,
            for its inverse.
        acceptance: mean acceptance of each transition, over chains and batch.
        backward: whether the paths began at the target.
    """

    draws: Float[Tensor, "chains *batch latent"]
    log_weights: Float[Tensor, " chains *batch"]
    acceptance: Float[Tensor, " transitions"]
    backward: bool = False

    @property
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """Estimate of the logarithm of the target's integral, nats: on average too low forward, too high backward."""
        log_mean = self.log_weights.logsumexp(dim=0) - math.log(len(self.log_weights))
        return -log_mean if self.backward else log_mean

    @property
    def log_normaliser_error(self) -> Float[Tensor, "*batch"]:
        """Standard error of ``log_normaliser``, from the spread of the weights; NaN for a single chain."""
        weights = (self.log_weights - self.log_weights.amax(dim=0)).exp()
        if len(weights) == 1:
            return torch.full_like(weights[0], torch.nan)
        return weights.std(dim=0) / weights.mean(dim=0) / math.sqrt(len(weights))


class Sandwich(NamedTuple):
    """Stochastic bounds on a log-normaliser, nats: each is on its side on average, and the gap bounds both errors."""

    lower: Float[Tensor, "*batch"]
    upper: Float[Tensor, "*batch"]


@torch.no_grad()
def annealed_importance(
    log_density_fn: LogDensity,
    initial: Distribution,
    n_temperatures: int = 100,
    n_chains: int = 16,
    *,
    kernel: HMC | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> AnnealedDraws:
    """Anneal ``n_chains`` draws from ``initial`` into the target, for every member of the batch at once.

    Step sizes come from a pilot run of four other chains that adapts them as it goes, one for each temperature and
    member; the chains that count keep them fixed, so the weights are unbiased.

    Args:
        log_density_fn: of the target: ``(chains, *batch, latent)`` to ``(chains, *batch)``, nats, unnormalised.
        initial: normalised; its batch is the targets'.
        n_temperatures: steps from ``initial`` to the target, closest where either end is near (a logistic schedule).
        n_chains: paths for each member.
        kernel: the transition; none: HMC with 5 leapfrog steps on average.
        seed: of all randomness here.
        generator: in place of ``seed``.

    Raises :class:`UserError` for a log-density of a wrong shape, or NaN or +inf at a draw of ``initial``.
    """
    check_count("n_temperatures", n_temperatures)
    check_count("n_chains", n_chains)
    kernel = _default_kernel() if kernel is None else kernel
    generator = generator_for(seed, generator, device_of(initial), "annealed_importance")
    steps = _pilot(log_density_fn, initial, n_temperatures, kernel, generator)
    path = _Path(log_density_fn, initial, initial.draw(n_chains, generator))
    betas = schedule(n_temperatures).tolist()
    log_weights = torch.zeros_like(path.base_value)
    acceptance = []
    for number in range(1, n_temperatures + 1):
        log_weights += (betas[number] - betas[number - 1]) * path.log_ratio()
        if number < n_temperatures:
            info = path.move(betas[number], kernel, steps.at(number, path.position), generator)
            acceptance.append(info.acceptance.mean())
    return AnnealedDraws(path.position, log_weights, _stack(acceptance, path.position))


@torch.no_grad()
def annealed_importance_reversed(
    log_density_fn: LogDensity,
    initial: Distribution,
    exact_draws: Float[Tensor, "chains *batch latent"],
    n_temperatures: int = 100,
    *,
    kernel: HMC | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> AnnealedDraws:
    """Anneal exact draws of the target back into ``initial``: the same path, walked the other way.

    Args:
        log_density_fn: as for :func:`annealed_importance`.
        initial: as there.
        exact_draws: from the target; there are such where the data were simulated.
        n_temperatures: as there.
        kernel: as there.
        seed: of all randomness here.
        generator: in place of ``seed``.

    Raises :class:`UserError` as :func:`annealed_importance`, and where a draw is impossible under the target.
    """
    check_count("n_temperatures", n_temperatures)
    kernel = _default_kernel() if kernel is None else kernel
    generator = generator_for(seed, generator, device_of(initial), "annealed_importance_reversed")
    steps = _pilot(log_density_fn, initial, n_temperatures, kernel, generator)
    path = _Path(log_density_fn, initial, exact_draws)
    if bool((path.target_value == -torch.inf).any()):
        raise UserError("exact_draws: expected draws from the target, came one of density 0")
    betas = schedule(n_temperatures).tolist()
    log_weights = torch.zeros_like(path.base_value)
    acceptance = []
    for number in range(n_temperatures, 0, -1):
        log_weights += (betas[number - 1] - betas[number]) * path.log_ratio()
        if number > 1:
            info = path.move(betas[number - 1], kernel, steps.at(number - 1, path.position), generator)
            acceptance.append(info.acceptance.mean())
    return AnnealedDraws(path.position, log_weights, _stack(acceptance, path.position), backward=True)


def schedule(n_temperatures: int) -> Float[Tensor, " temperatures_plus_one"]:
    """Inverse temperatures from 0 to 1: a logistic curve between -4 and 4, stretched to the unit interval."""
    curve = torch.sigmoid(torch.linspace(-4.0, 4.0, n_temperatures + 1, dtype=torch.float64))
    return (curve - curve[0]) / (curve[-1] - curve[0])


class _Path:
    """Positions, and what both ends of the path say of them, so that a new temperature costs no evaluation."""

    def __init__(self, log_density_fn: LogDensity, initial: Distribution, position: Tensor) -> None:
        checked_log_density(log_density_fn, position)
        self._target, self._base = log_density_fn, initial.log_density
        self.position = position
        self._parts = self._evaluate(position)
        self._proposed = self._parts
        self._beta = 0.0

    def _evaluate(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *value_and_gradient(self._base, position), *value_and_gradient(self._target, position)

    @property
    def base_value(self) -> Tensor:
        return self._parts[0]

    @property
    def target_value(self) -> Tensor:
        return self._parts[2]

    def log_ratio(self) -> Tensor:
        """``log target - log initial`` where the chains are."""
        return self.target_value - self.base_value

    def move(self, beta: float, kernel: HMC, tuning: Tuning, generator: torch.Generator | None) -> StepInfo:
        """One transition that leaves ``f_beta`` invariant."""
        self._beta = beta
        state = GradientState(self.position, *self._mix(self._parts))
        new, info = kernel.step(state, self, tuning, generator)
        # The last place where the kernel evaluated is the one that it proposed.
        self._parts = tuple(  # type: ignore[assignment]
            torch.where(
                info.accepted.unsqueeze(-1) if there.ndim > info.accepted.ndim else info.accepted, there, here
            )
            for there, here in zip(self._proposed, self._parts, strict=True)
        )
        self.position = new.position
        return info

    def _mix(self, parts: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        base, base_gradient, target, target_gradient = parts
        return torch.lerp(base, target, self._beta), torch.lerp(base_gradient, target_gradient, self._beta)

    def __call__(self, position: Tensor) -> Tensor:
        """The tempered log-density."""
        return self.value_and_gradient(position)[0]

    def value_and_gradient(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """The tempered log-density and its gradient, remembered for the end of the step."""
        self._proposed = self._evaluate(position)
        return self._mix(self._proposed)


class _Steps(NamedTuple):
    """Step sizes of each temperature and member, and the scale that they multiply."""

    sizes: Float[Tensor, " temperatures *batch"]
    scale: Float[Tensor, "*#batch latent"]
    n_leapfrog: float

    def at(self, number: int, position: Float[Tensor, "chains *batch latent"]) -> Tuning:
        """For every chain at a temperature."""
        return Tuning(self.sizes[number].expand(position.shape[:-1]), self.scale, self.n_leapfrog)


def _pilot(
    log_density_fn: LogDensity,
    initial: Distribution,
    n_temperatures: int,
    kernel: HMC,
    generator: torch.Generator | None,
) -> _Steps:
    """Walk up the path once with a few chains, steering each member's step size to the kernel's acceptance."""
    path = _Path(log_density_fn, initial, initial.draw(_PILOT_CHAINS, generator))
    scale = initial.standard_deviation if isinstance(initial, DiagonalGaussian) else path.position.std(dim=0)
    size = torch.full_like(path.base_value[0], kernel.initial_step_size(path.position.shape[-1]))
    sizes = [size]
    for beta in schedule(n_temperatures).tolist()[1:]:
        tuning = Tuning(size.expand(path.position.shape[:-1]), scale, float(kernel.n_leapfrog))
        info = path.move(beta, kernel, tuning, generator)
        error = info.acceptance.mean(dim=0) - kernel.target_acceptance
        size = size * (_PILOT_RATE * error).exp()
        sizes.append(size)
    return _Steps(torch.stack(sizes), scale, float(kernel.n_leapfrog))


def _default_kernel() -> HMC:
    return HMC(n_leapfrog=5.0)


def _stack(acceptance: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(acceptance) if acceptance else like.new_empty(0)
