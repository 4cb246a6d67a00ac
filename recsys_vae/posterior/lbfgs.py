"""Maximising many functions at once by L-BFGS, each with a memory, a step and an end of its own.

Nocedal & Wright 2006, algorithms 7.4 and 7.5. Every round evaluates all unfinished problems together: one that
accepts its trial point turns to a new direction, one that does not halves its step, and one that has converged
leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Of the points (problems, latent) with the given indices: values (problems,) and gradients (problems, latent).
ValueAndGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_SUFFICIENT = 1e-4  # share of the promised rise that a step must bring
_MEMORY = 30  # the way from the encoder to the mode is long: 8 takes 40 % more evaluations
_MIN_STEP = 1e-6


class Maximum(NamedTuple):
    """Where each problem ended.

    ``gradient_norm`` is that of the raw gradient; ``scaled_gradient_norm`` of ``scale * gradient``, which tells how
    many standard deviations the maximum is away; ``at_bound`` marks problems that were still climbing when they
    met the bound on ``|z|``.
    """

    position: Float[Tensor, "problems latent"]
    value: Float[Tensor, " problems"]
    gradient_norm: Float[Tensor, " problems"]
    scaled_gradient_norm: Float[Tensor, " problems"]
    converged: Bool[Tensor, " problems"]
    at_bound: Bool[Tensor, " problems"]
    n_evaluations: Int[Tensor, " problems"]


def maximise(
    value_and_gradient: ValueAndGradient,
    initial: Float[Tensor, "problems latent"],
    scale: Float[Tensor, "problems latent"],
    *,
    tolerance: float,
    max_evaluations: int,
    max_norm: float = torch.inf,
) -> Maximum:
    """Climb each problem until ``|scale * gradient| <= tolerance``, or ``|z| = max_norm``, or evaluations run out.

    Args:
        value_and_gradient: of some problems at some points.
        initial: where each begins; a point beyond ``max_norm`` is drawn back to it.
        scale: guess of the target's standard deviation per coordinate, the first metric of the search.
        tolerance: in standard deviations.
        max_evaluations: of each problem.
        max_norm: bound on the Euclidean length of a point; a problem that meets it while the gradient points further
            out stops there.
    """
    n_problems = len(initial)
    length = initial.norm(dim=-1, keepdim=True)
    initial = torch.where(length > max_norm, initial * (max_norm / length), initial)
    # In units of scale the first metric is the identity.
    position = initial / scale
    value, gradient = value_and_gradient(initial, torch.arange(n_problems, device=initial.device))
    gradient = gradient * scale
    memory = _Memory(position)
    direction = gradient.clone()
    # The first step has no memory to judge its length by: one standard deviation at most.
    step = 1.0 / gradient.norm(dim=-1).clamp(min=1.0)
    converged = gradient.norm(dim=-1) <= tolerance
    at_bound = torch.zeros_like(converged)
    stuck = torch.zeros_like(converged)
    n_evaluations = torch.ones(n_problems, dtype=torch.int64, device=initial.device)
    for _ in range(1, max_evaluations):
        active = (~(converged | at_bound | stuck)).nonzero().squeeze(-1)
        if not len(active):
            break
        trial = position[active] + step[active].unsqueeze(-1) * direction[active]
        length = (trial * scale[active]).norm(dim=-1)
        outside = length >= max_norm
        trial = torch.where(outside.unsqueeze(-1), trial * (max_norm / length).unsqueeze(-1), trial)
        new_value, new_gradient = value_and_gradient(trial * scale[active], active)
        new_gradient = new_gradient * scale[active]
        n_evaluations[active] += 1
        moved = trial - position[active]
        rises = _rises(value[active], gradient[active], new_value, new_gradient, moved)
        accepted, failed = active[rises], active[~rises]
        step[failed] *= 0.5
        forget = failed[step[failed] < _MIN_STEP]
        # A direction that cannot rise is dropped for the gradient, once; if that fails too, this is the end.
        fresh = memory.count[forget] == 0
        stuck[forget[fresh]] = True
        memory.forget(forget[~fresh])
        direction[forget[~fresh]] = gradient[forget[~fresh]]
        step[forget[~fresh]] = 1.0 / gradient[forget[~fresh]].norm(dim=-1).clamp(min=1.0)
        memory.add(accepted, moved[rises], gradient[accepted] - new_gradient[rises])
        position[accepted], value[accepted] = trial[rises], new_value[rises]
        gradient[accepted] = new_gradient[rises]
        converged[accepted] = gradient[accepted].norm(dim=-1) <= tolerance
        outward = (gradient[accepted] * trial[rises]).sum(dim=-1) > 0.0
        at_bound[accepted] = outside[rises] & outward & ~converged[accepted]
        direction[accepted] = memory.direction(accepted, gradient[accepted])
        step[accepted] = torch.where(
            memory.count[accepted] > 0, 1.0, 1.0 / gradient[accepted].norm(dim=-1).clamp(min=1.0)
        )
    return Maximum(
        position=position * scale,
        value=value,
        gradient_norm=(gradient / scale).norm(dim=-1),
        scaled_gradient_norm=gradient.norm(dim=-1),
        converged=converged,
        at_bound=at_bound,
        n_evaluations=n_evaluations,
    )


def _rises(value: Tensor, gradient: Tensor, new_value: Tensor, new_gradient: Tensor, moved: Tensor) -> Tensor:
    """Whether a step brings a sufficient rise.

    Near the maximum the rise drowns in the rounding of the values, but not the slopes: there the step counts when
    the slope along it has shrunk and the value has not fallen by more than rounding (Hager & Zhang 2005, eq. 4.1).
    A step that was drawn back to the bound may lead downhill, where neither is asked for less than no fall.
    """
    slope = (gradient * moved).sum(dim=-1)
    new_slope = (new_gradient * moved).sum(dim=-1)
    armijo = new_value >= value + _SUFFICIENT * slope.clamp(min=0.0)
    rounding = 16.0 * torch.finfo(value.dtype).eps * value.abs()
    flat = (slope > 0.0) & (new_value >= value - rounding) & (new_slope.abs() <= 0.9 * slope.abs())
    finite = new_value.isfinite() & new_gradient.isfinite().all(dim=-1)
    return finite & (armijo | flat)


class _Memory:
    """The last moves and changes of the gradient of every problem, each in a ring of its own."""

    def __init__(self, like: Tensor) -> None:
        n_problems, latent_dim = like.shape
        self.moves = like.new_zeros(n_problems, _MEMORY, latent_dim)
        self.changes = like.new_zeros(n_problems, _MEMORY, latent_dim)
        self.inverse_curvature = like.new_zeros(n_problems, _MEMORY)  # 1 / (move' change)
        self.count = torch.zeros(n_problems, dtype=torch.int64, device=like.device)

    def forget(self, problems: Tensor) -> None:
        self.count[problems] = 0

    def add(self, problems: Tensor, moves: Tensor, changes: Tensor) -> None:
        """Remember the pairs that show positive curvature."""
        curvature = (moves * changes).sum(dim=-1)
        curved = curvature > 1e-8 * moves.norm(dim=-1) * changes.norm(dim=-1)
        problems = problems[curved]
        place = self.count[problems] % _MEMORY
        self.moves[problems, place] = moves[curved]
        self.changes[problems, place] = changes[curved]
        self.inverse_curvature[problems, place] = 1.0 / curvature[curved]
        self.count[problems] += 1

    def direction(self, problems: Tensor, gradient: Tensor) -> Tensor:
        """The two-loop recursion."""
        count = self.count[problems]
        depth = int(count.clamp(max=_MEMORY).max()) if len(count) else 0
        direction = gradient.clone()
        steps = []
        for age in range(1, depth + 1):
            # A problem that remembers less takes no part: its factor is 0.
            place = (count - age) % _MEMORY
            move, change = self.moves[problems, place], self.changes[problems, place]
            inverse = torch.where(age <= count, self.inverse_curvature[problems, place], 0.0)
            coefficient = inverse * (move * direction).sum(dim=-1)
            direction -= coefficient.unsqueeze(-1) * change
            steps.append((move, change, inverse, coefficient))
            if age == 1:
                square = change.square().sum(dim=-1)
                first_metric = torch.where(count > 0, 1.0 / (inverse * square), 1.0)
        if steps:
            direction *= first_metric.unsqueeze(-1)
        for move, change, inverse, coefficient in reversed(steps):
            correction = inverse * (change * direction).sum(dim=-1)
            direction += (coefficient - correction).unsqueeze(-1) * move
        return direction
