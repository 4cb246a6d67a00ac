"""How the learning rate changes over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recsys_vae.errors import UserError


@dataclass(frozen=True)
class LearningRateSchedule:
    """A factor on the optimiser's learning rate: linear warm-up, then a half cosine down to ``final_factor``.

    ``warmup`` is a share of all steps; ``final_factor = 1`` and ``warmup = 0`` keep the rate constant, as the paper.
    """

    warmup: float = 0.0
    final_factor: float = 1.0

    def __post_init__(self) -> None:
        for name in ("warmup", "final_factor"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UserError(f"learning_rate_schedule.{name}: expected a number in [0, 1], came {value!r}")

    def factor(self, step: int, total_steps: int) -> float:
        """Factor at gradient step ``step`` (the first is 0) of ``total_steps``."""
        warmup_steps = self.warmup * total_steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps))
        return self.final_factor + (1.0 - self.final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))
