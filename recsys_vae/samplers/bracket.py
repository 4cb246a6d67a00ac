"""The shrinking bracket of slice samplers (Neal 2003, figure 5), for all chains at once.

It draws uniformly from a bracket around the present point, which is 0; a draw below the slice's level becomes the
bracket's new end on its side. A chain that is not done after the last draw stays: moves after at most so many draws
are as likely backwards, so the target stays invariant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recsys_vae.samplers.kernel import ChainState, LogDensity, StepInfo, is_invalid

# Half of the bracket goes with each draw, on average: what is left after so many is below any resolution.
MAX_DRAWS = 60


class Bracket(NamedTuple):
    """Ends on either side of 0, the present point, and the point to try first."""

    low: Float[Tensor, "*chains"]
    high: Float[Tensor, "*chains"]
    first: Float[Tensor, "*chains"]


class SliceMove(NamedTuple):
    """The state after a move, who moved, and whose log-density was NaN or +inf at some point that was tried."""

    state: ChainState
    moved: Bool[Tensor, "*chains"]
    invalid: Bool[Tensor, "*chains"]

    def info(self) -> StepInfo:
        """What a step reports; the acceptance of a slice sampler is 1, unless it found no point."""
        acceptance = self.moved.to(self.state.log_density.dtype)
        none_divergent = torch.zeros_like(self.moved)
        return StepInfo(acceptance, self.moved, none_divergent, self.invalid, -self.state.log_density)


def uniforms(n: int, position: Float[Tensor, "*chains latent"], generator: torch.Generator | None) -> Tensor:
    """``(n, *chains)`` uniform numbers for chains at ``position``.

    Drawn for the longest search beforehand: a chain whose search is long takes nothing from another's randomness.
    """
    shape = (n, *position.shape[:-1])
    return torch.rand(shape, generator=generator, device=position.device, dtype=position.dtype)


def slice_level(
    height: Float[Tensor, "*chains"], uniform: Float[Tensor, "*chains"]
) -> Float[Tensor, "*chains"]:
    """The logarithm of a level uniform between 0 and the density whose logarithm is ``height``."""
    return height + uniform.log()


def shrink(
    state: ChainState,
    bracket: Bracket,
    level: Float[Tensor, "*chains"],
    tries: Float[Tensor, " draws *chains"],
    position_at: Callable[[Tensor], Tensor],
    log_density_fn: LogDensity,
    log_prior: Callable[[Tensor], Tensor] | None = None,
) -> SliceMove:
    """Move every chain to a uniform point of its slice within the bracket.

    Args:
        state: where the chains stand.
        bracket: contains 0.
        level: logarithm of the slice's level.
        tries: uniform numbers, one for each draw after the first.
        position_at: positions of points of the bracket.
        log_density_fn: of positions.
        log_prior: taken off the log-density before it is compared with ``level``; none: nothing is.
    """
    low, high, point = bracket
    position, log_density = state
    moved = torch.zeros_like(log_density, dtype=torch.bool)
    any_invalid = moved
    for n_tried in range(len(tries) + 1):
        proposal = position_at(point)
        value = log_density_fn(proposal)
        height = value if log_prior is None else value - log_prior(proposal)
        invalid = is_invalid(value)
        any_invalid = any_invalid | (invalid & ~moved)
        found = (height > level) & ~invalid & ~moved
        position = torch.where(found.unsqueeze(-1), proposal, position)
        log_density = torch.where(found, value, log_density)
        moved = moved | found
        if n_tried == len(tries) or bool(moved.all()):
            break
        low = torch.where(point < 0.0, point, low)
        high = torch.where(point < 0.0, high, point)
        point = torch.lerp(low, high, tries[n_tried])
    return SliceMove(ChainState(position, log_density), moved, any_invalid)
