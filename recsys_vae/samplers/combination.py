"""Kernels combined (Tierney 1994): one after another, or one picked at random. Each keeps the target, so all do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.kernel import ChainState, GradientState, Kernel, LogDensity, StepInfo, Tuning


class CombinedState(NamedTuple):
    """Where the chains stand, the state of the kernel that moved last, and the kind of state that each kernel takes.

    A kernel that is itself a combination takes the kinds of its own kernels; ``latest`` is of none such.
    """

    position: Float[Tensor, "*chains latent"]
    log_density: Float[Tensor, "*chains"]
    latest: Any
    kinds: tuple[Any, ...]


class _Combination(Kernel[Any]):
    """What the two combinations share.

    Kernels share ``scale``; the combination's ``step_size`` multiplies the one that each kernel begins with, so that
    warm-up turns all of them by one factor. It steers the mean of what the kernels with a target acceptance are above
    or below it; the others, and the lengths of trajectories, are left as they are.
    """

    kernels: Sequence[Kernel[Any]]

    def _set_up(self) -> None:
        kernels = tuple(self.kernels)
        if not kernels:
            raise UserError("kernels: expected at least one, came none")
        object.__setattr__(self, "kernels", kernels)
        targets = [kernel.target_acceptance for kernel in kernels if kernel.target_acceptance is not None]
        object.__setattr__(self, "target_acceptance", sum(targets) / len(targets) if targets else None)

    def init(self, position: Float[Tensor, "*chains latent"], log_density_fn: LogDensity) -> CombinedState:
        """The state at ``position``; every kernel evaluates its own."""
        states = [kernel.init(position, log_density_fn) for kernel in self.kernels]
        # The state that says most can be turned into any other.
        latest = max(map(_innermost, states), key=lambda state: isinstance(state, GradientState))
        kinds = tuple(state.kinds if isinstance(state, CombinedState) else type(state) for state in states)
        return CombinedState(position, latest.log_density, latest, kinds)

    def _step_of(
        self,
        index: int,
        state: CombinedState,
        log_density_fn: LogDensity,
        tuning: Tuning,
        generator: torch.Generator | None,
    ) -> tuple[CombinedState, StepInfo]:
        """One step of one kernel. ``steering`` is set to how far its acceptance lies above its target."""
        kernel = self.kernels[index]
        own = kernel.default_tuning(state.position)
        tuning = own._replace(step_size=own.step_size * tuning.step_size, scale=tuning.scale)
        before = state_for(kernel, state.kinds[index], state.latest, log_density_fn)
        after, info = kernel.step(before, log_density_fn, tuning, generator)
        if kernel.target_acceptance is None:
            excess = torch.zeros_like(info.acceptance)
        else:
            excess = (info.acceptance if info.steering is None else info.steering) - kernel.target_acceptance
        new = CombinedState(after.position, after.log_density, _innermost(after), state.kinds)
        return new, info._replace(length_slope=None, steering=excess)


def _innermost(state: Any) -> Any:
    return state.latest if isinstance(state, CombinedState) else state


def state_for(kernel: Kernel[Any], kind: Any, latest: Any, log_density_fn: LogDensity) -> Any:
    """``latest`` as the ``kind`` of state that ``kernel`` takes: evaluated anew only where something is missing."""
    if isinstance(kind, tuple):
        return CombinedState(latest.position, latest.log_density, latest, kind)
    if type(latest) is kind:
        return latest
    if kind is ChainState:
        return ChainState(latest.position, latest.log_density)
    return kernel.init(latest.position, log_density_fn)


@dataclass(frozen=True)
class Cycle(_Combination):
    """One step of each kernel, in order. Reversible kernels make a cycle that is not, but keeps the target.

    A step's ``acceptance`` is the mean over the kernels, its ``energy`` the last one's. ``step_size`` multiplies every
    kernel's own, and warm-up learns that factor; trajectories keep the length that their kernel begins with.

    Args:
        kernels: at least one, of any kind.
    """

    kernels: Sequence[Kernel[Any]]

    def __post_init__(self) -> None:
        self._set_up()

    def step(
        self,
        state: CombinedState,
        log_density_fn: LogDensity,
        tuning: Tuning,
        generator: torch.Generator | None,
    ) -> tuple[CombinedState, StepInfo]:
        """The cost of all steps, and of one gradient where a kernel that needs it follows one that has none."""
        infos = []
        for index in range(len(self.kernels)):
            state, info = self._step_of(index, state, log_density_fn, tuning, generator)
            infos.append(info)
        together: dict[str, Any] = {
            name: torch.stack([getattr(info, name) for info in infos]).any(dim=0)
            for name in ("accepted", "divergent", "invalid")
        }
        together["acceptance"] = torch.stack([info.acceptance for info in infos]).mean(dim=0)
        if self.target_acceptance is not None:
            excess = torch.stack([info.steering for info in infos if info.steering is not None]).sum(dim=0)
            n_steered = sum(kernel.target_acceptance is not None for kernel in self.kernels)
            together["steering"] = excess / n_steered + self.target_acceptance
        return state, StepInfo(energy=infos[-1].energy, **together)


@dataclass(frozen=True)
class Mixture(_Combination):
    """One step of a kernel picked at random, the same for all chains, whatever their positions.

    ``step_size`` multiplies every kernel's own, and warm-up learns that factor; trajectories keep the length that their
    kernel begins with.

    Args:
        kernels: at least one, of any kind.
        weights: how often each is picked, up to a factor; none: all alike.
    """

    kernels: Sequence[Kernel[Any]]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self._set_up()
        weights = [1.0] * len(self.kernels) if self.weights is None else [float(w) for w in self.weights]
        if len(weights) != len(self.kernels) or not all(0.0 < weight < math.inf for weight in weights):
            raise UserError(
                f"weights: expected {len(self.kernels)} positive numbers, one for each kernel, came {self.weights!r}"
            )
        object.__setattr__(self, "weights", tuple(weights))

    def step(
        self,
        state: CombinedState,
        log_density_fn: LogDensity,
        tuning: Tuning,
        generator: torch.Generator | None,
    ) -> tuple[CombinedState, StepInfo]:
        """The cost of one step, and of one gradient where the kernel needs it and the last one had none."""
        new, info = self._step_of(self._pick(state, generator), state, log_density_fn, tuning, generator)
        if self.target_acceptance is None or info.steering is None:
            return new, info._replace(steering=None)
        return new, info._replace(steering=info.steering + self.target_acceptance)

    def _pick(self, state: CombinedState, generator: torch.Generator | None) -> int:
        device = "cpu" if generator is None else generator.device
        weights = torch.tensor(self.weights, dtype=torch.float64, device=device)
        return int(torch.multinomial(weights, 1, generator=generator))
