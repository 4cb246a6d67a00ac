"""Warm-up: the step size of each chain by dual averaging, the scale by running variances, the trajectories' length."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.samplers.kernel import StepInfo, Tuning


class DualAveraging(NamedTuple):
    """State of Nesterov's dual averaging of ``log step_size``, per chain (Hoffman & Gelman 2014, section 3.2)."""

    log_step_size: Float[Tensor, "*chains"]
    log_average: Float[Tensor, "*chains"]
    error_sum: Float[Tensor, "*chains"]
    centre: Float[Tensor, "*chains"]
    n_seen: int

    @classmethod
    def start(cls, step_size: Float[Tensor, "*chains"]) -> DualAveraging:
        """Begin at ``step_size``, inclined to larger ones."""
        log_step_size = step_size.log()
        zeros = torch.zeros_like(log_step_size)
        return cls(log_step_size, zeros, zeros, log_step_size + math.log(10.0), 0)

    def update(self, acceptance: Float[Tensor, "*chains"], target: float) -> DualAveraging:
        """Larger steps after acceptance above ``target``, smaller ones after less."""
        count = self.n_seen + 1
        weight = 1.0 / (count + 10.0)
        error_sum = (1.0 - weight) * self.error_sum + weight * (target - acceptance)
        log_step_size = self.centre - math.sqrt(count) / 0.05 * error_sum
        forgetting = count**-0.75
        log_average = forgetting * log_step_size + (1.0 - forgetting) * self.log_average
        return DualAveraging(log_step_size, log_average, error_sum, self.centre, count)


class Welford(NamedTuple):
    """Running mean and sum of squared deviations over draws, and over the first axis: a target's own chains."""

    mean: Float[Tensor, "*targets latent"]
    squares: Float[Tensor, "*targets latent"]
    n_seen: int

    @classmethod
    def start(cls, position: Float[Tensor, "chains *targets latent"]) -> Welford:
        """Nothing seen yet."""
        return cls(torch.zeros_like(position[0]), torch.zeros_like(position[0]), 0)

    def update(self, position: Float[Tensor, "chains *targets latent"]) -> Welford:
        """Take in one position of every chain (Chan et al.'s pairwise form)."""
        n_new = len(position)
        mean = position.mean(dim=0)
        squares = (position - mean).square().sum(dim=0)
        total = self.n_seen + n_new
        shift = mean - self.mean
        return Welford(
            self.mean + shift * (n_new / total),
            self.squares + squares + shift.square() * (self.n_seen * n_new / total),
            total,
        )

    def regularised_scale(self, prior: Float[Tensor, "*#targets latent"]) -> Float[Tensor, "*targets latent"]:
        """Standard deviation, drawn towards ``prior`` by the weight of five draws."""
        variance = (self.squares + 5.0 * prior.square()) / (self.n_seen + 5.0)
        return variance.sqrt()


class LengthAscent(NamedTuple):
    """Adam on the logarithm of the trajectories' length, up the slopes that a ChEES step reports."""

    log_length: float
    slope_mean: float
    slope_square: float
    n_seen: int

    def update(self, slope: Float[Tensor, "*chains"], max_length: float) -> LengthAscent:
        """One step of 0.025 (the paper's) up the mean slope; a slope that is not finite is left out."""
        value = float(slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).mean())
        count = self.n_seen + 1
        mean = 0.0 * self.slope_mean + value  # the paper's beta_1 is 0
        square = 0.95 * self.slope_square + 0.05 * value**2
        corrected = square / (1.0 - 0.95**count)
        step = 0.025 * mean / (math.sqrt(corrected) + 1e-8) if corrected > 0.0 else 0.0
        return LengthAscent(min(max(self.log_length + step, 0.0), math.log(max_length)), mean, square, count)


class WarmUp:
    """What the chains learn before draws count; ``tuning`` is the present state, :meth:`finish` the learned one.

    The first 15 % move to the target with the scale as given; then, in windows that double, the scale becomes the
    running standard deviation over draws and chains; the last 10 % settle the step size (Stan's scheme). Where the
    trajectories' length is learned too, the windows end at half of the warm-up: a length means little before the
    scale is right, so it starts anew after every window.

    Args:
        tuning: where to begin.
        n_steps: length of the warm-up.
        target_acceptance: of the kernel; none leaves the step size alone.
        adapt_scale: whether to learn the scale, or to keep the one given.
        max_leapfrog: bound on trajectories whose length is learned; none where it is not.
    """

    def __init__(
        self,
        tuning: Tuning,
        n_steps: int,
        target_acceptance: float | None,
        *,
        adapt_scale: bool = True,
        max_leapfrog: int | None = None,
    ) -> None:
        self.tuning = tuning
        self._target = target_acceptance
        learns_length = max_leapfrog is not None
        self._window_ends = _window_ends(n_steps, 0.5 if learns_length else 0.9) if adapt_scale else []
        self._first = round(0.15 * n_steps)
        self._step = DualAveraging.start(tuning.step_size)
        self._first_length = LengthAscent(math.log(tuning.n_leapfrog), 0.0, 0.0, 0)
        self._length = self._first_length
        self._max_leapfrog = math.inf if max_leapfrog is None else float(max_leapfrog)
        self._welford: Welford | None = None
        self._count = 0

    def update(self, position: Float[Tensor, "chains *targets latent"], info: StepInfo) -> None:
        """Learn from one step."""
        if self._target is not None:
            reached = info.acceptance if info.steering is None else info.steering
            self._step = self._step.update(reached, self._target)
            self.tuning = self.tuning._replace(step_size=self._step.log_step_size.exp())
        if info.length_slope is not None:
            self._length = self._length.update(info.length_slope, self._max_leapfrog)
            self.tuning = self.tuning._replace(n_leapfrog=math.exp(self._length.log_length))
        self._count += 1
        if self._window_ends and self._count > self._first:
            self._welford = (self._welford or Welford.start(position)).update(position)
            if self._count == self._window_ends[0]:
                self._window_ends.pop(0)
                scale = self._welford.regularised_scale(self.tuning.scale)
                self._welford = None
                self.tuning = self.tuning._replace(scale=scale)
                self._step = DualAveraging.start(self._step.log_average.exp())
                self._length = self._first_length

    def finish(self) -> Tuning:
        """The learned tuning: the averaged step size."""
        if self._target is None or self._step.n_seen == 0:
            return self.tuning
        return self.tuning._replace(step_size=self._step.log_average.exp())


def _window_ends(n_steps: int, last: float) -> list[int]:
    """Steps after which the scale is set anew: windows from 25 steps on, each twice the last, up to a share of all."""
    start, stop = round(0.15 * n_steps), round(last * n_steps)
    ends, width = [], 25
    while start + width <= stop:
        # A window that the next, doubled one would not fit behind takes all that is left.
        end = start + width if start + 3 * width <= stop else stop
        ends.append(end)
        start, width = end, 2 * width
    return ends
