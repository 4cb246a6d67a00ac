"""Gibbs sampling (Geman & Geman 1984): each block of coordinates in turn, from its law given all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.bracket import MAX_DRAWS, Bracket, SliceMove, shrink, slice_level, uniforms
from recsys_vae.samplers.kernel import ChainState, Kernel, LogDensity, StepInfo, Tuning, is_invalid

# Draws a block for every chain, ``(*chains, block)``, from its law given the other coordinates of the position.
Conditional = Callable[[Tensor, torch.Generator | None], Tensor]


@dataclass(frozen=True)
class Gibbs(Kernel[ChainState]):
    """Update blocks by their conditional laws, or coordinates by slice sampling where these are not known.

    With ``conditionals`` a step is always accepted and ``log_density_fn`` serves only to report; a step whose new
    position has a log-density of NaN or +inf is rejected as a whole. Without, each coordinate of each block moves
    by Neal's (2003) univariate slice sampling, stepping out and shrinking, on ``log_density_fn``; the interval's first
    width is ``step_size * scale``.

    Args:
        conditionals: one for each block: called with positions ``(*chains, latent)`` and the generator, returns the
            block's new values ``(*chains, block)``.
        blocks: coordinates of each block; none: every coordinate is a block.
        scan: ``systematic`` takes the blocks in order; ``random`` makes as many picks as there are blocks, each
            uniform over all blocks and the same for all chains.
        max_steps_out: an interval grows to at most so many of its first widths.

    Raises:
        UserError: for blocks that are empty or repeat a coordinate, another number of conditionals, an unknown scan.
    """

    conditionals: Sequence[Conditional] | None = None
    blocks: Sequence[Sequence[int]] | None = None
    scan: Literal["systematic", "random"] = "systematic"
    max_steps_out: int = 10

    def __post_init__(self) -> None:
        if self.scan not in ("systematic", "random"):
            raise UserError(f"scan: expected 'systematic' or 'random', came {self.scan!r}")
        if self.max_steps_out < 1:
            raise UserError(
                f"max_steps_out: expected a whole number of at least 1, came {self.max_steps_out!r}"
            )
        if self.blocks is not None:
            flat = [coordinate for block in self.blocks for coordinate in block]
            if not all(len(block) for block in self.blocks) or len(set(flat)) != len(flat) or min(flat) < 0:
                raise UserError(
                    f"blocks: expected blocks of coordinates that do not overlap, came {self.blocks!r}"
                )
            if self.conditionals is not None and len(self.conditionals) != len(self.blocks):
                raise UserError(
                    f"conditionals: expected one for each of {len(self.blocks)} blocks, came {len(self.conditionals)}"
                )

    def init(self, position: Float[Tensor, "*chains latent"], log_density_fn: LogDensity) -> ChainState:
        """The state at ``position``. Raises :class:`UserError` unless every coordinate is in a block."""
        self._blocks(position.shape[-1])
        return ChainState(position, log_density_fn(position))

    def step(
        self, state: ChainState, log_density_fn: LogDensity, tuning: Tuning, generator: torch.Generator | None
    ) -> tuple[ChainState, StepInfo]:
        """As many block updates as there are blocks.

        Costs one evaluation of the log-density with conditionals; without, for each coordinate what the slowest chain
        needs, some five to ten once warm-up has learned ``scale``.
        """
        blocks = self._blocks(state.position.shape[-1])
        if self.conditionals is None:
            return self._slice_step(state, log_density_fn, tuning, blocks, generator)
        position = state.position
        for index in self._order(len(blocks), generator):
            position = self._update(position, index, blocks[index], generator)
        moved = ChainState(position, log_density_fn(position))
        invalid = is_invalid(moved.log_density)
        new = ChainState(
            torch.where(invalid.unsqueeze(-1), state.position, moved.position),
            torch.where(invalid, state.log_density, moved.log_density),
        )
        return new, SliceMove(new, ~invalid, invalid).info()

    def _update(
        self, position: Tensor, index: int, block: list[int], generator: torch.Generator | None
    ) -> Tensor:
        assert self.conditionals is not None
        values = self.conditionals[index](position, generator)
        if values.shape != (*position.shape[:-1], len(block)):
            raise UserError(
                f"conditionals: expected {(*position.shape[:-1], len(block))} from number {index}, "
                f"came {tuple(values.shape)}"
            )
        updated = position.clone()
        updated[..., block] = values.to(position)
        return updated

    def _slice_step(
        self,
        state: ChainState,
        log_density_fn: LogDensity,
        tuning: Tuning,
        blocks: list[list[int]],
        generator: torch.Generator | None,
    ) -> tuple[ChainState, StepInfo]:
        widths = (tuning.step_size.unsqueeze(-1) * tuning.scale).expand(state.position.shape)
        moved = torch.zeros_like(state.log_density, dtype=torch.bool)
        invalid = moved
        for index in self._order(len(blocks), generator):
            for coordinate in blocks[index]:
                move = slice_coordinate(
                    state, log_density_fn, coordinate, widths[..., coordinate], self.max_steps_out, generator
                )
                state, moved, invalid = move.state, moved | move.moved, invalid | move.invalid
        return state, SliceMove(state, moved, invalid).info()

    def initial_step_size(self, latent_dim: int) -> float:
        """2 standard deviations: about the width of a Gaussian's slice."""
        return 2.0

    def _blocks(self, latent_dim: int) -> list[list[int]]:
        if self.blocks is not None:
            blocks = [list(block) for block in self.blocks]
            if sorted(coordinate for block in blocks for coordinate in block) != list(range(latent_dim)):
                raise UserError(
                    f"blocks: expected every coordinate from 0 to {latent_dim - 1}, came {blocks}"
                )
            return blocks
        if self.conditionals is not None and len(self.conditionals) != latent_dim:
            raise UserError(
                f"conditionals: expected one for each of {latent_dim} coordinates, came {len(self.conditionals)}"
            )
        return [[coordinate] for coordinate in range(latent_dim)]

    def _order(self, n_blocks: int, generator: torch.Generator | None) -> Sequence[int]:
        if self.scan == "systematic":
            return range(n_blocks)
        device = "cpu" if generator is None else generator.device
        picks: list[int] = torch.randint(n_blocks, (n_blocks,), generator=generator, device=device).tolist()
        return picks


def slice_coordinate(
    state: ChainState,
    log_density_fn: LogDensity,
    coordinate: int,
    width: Float[Tensor, "*chains"],
    max_steps_out: int,
    generator: torch.Generator | None,
) -> SliceMove:
    """Move one coordinate of every chain along its slice: step out by ``width``, then shrink (Neal 2003, section 4)."""
    uniform = uniforms(MAX_DRAWS + 4, state.position, generator)
    level = slice_level(state.log_density, uniform[0])
    position_at = partial(_moved, state.position, coordinate)
    low, high = _step_out(
        lambda offset: log_density_fn(position_at(offset)), level, width, uniform[1:3], max_steps_out
    )
    bracket = Bracket(low, high, torch.lerp(low, high, uniform[3]))
    return shrink(state, bracket, level, uniform[4:], position_at, log_density_fn)


def _moved(position: Tensor, coordinate: int, offset: Tensor) -> Tensor:
    position = position.clone()
    position[..., coordinate] += offset
    return position


def _step_out(
    height_at: Callable[[Tensor], Tensor], level: Tensor, width: Tensor, uniform: Tensor, max_steps: int
) -> tuple[Tensor, Tensor]:
    """Ends of an interval around 0: placed at random, each grown by whole widths until it is below the level.

    ``height_at`` is the log-density at offsets, ``(*chains)``; ``uniform`` has two numbers a chain, ``(2, *chains)``.
    """
    place, share = uniform
    low = -width * place
    high = low + width
    # How far each end may go is random too: seen from any point of the interval, the same number of ways lead to it.
    n_left = (share * max_steps).floor().clamp(max=max_steps - 1)
    for end, direction, n_most in ((low, -1.0, n_left), (high, 1.0, max_steps - 1 - n_left)):
        growing = torch.ones_like(end, dtype=torch.bool)
        for taken in range(max_steps - 1):
            growing = growing & (taken < n_most)
            if not bool(growing.any()):
                break
            height = height_at(end)
            growing = growing & (height > level) & ~is_invalid(height)
            end += direction * width * growing
    return low, high
