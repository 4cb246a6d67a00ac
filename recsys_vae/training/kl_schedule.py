"""How the weight of the KL term grows during training."""

from __future__ import annotations

from dataclasses import dataclass

from recsys_vae.errors import UserError


@dataclass(frozen=True)
class LinearKLSchedule:
    """Grow ``kl_weight`` linearly from 0 to ``cap`` over a number of gradient steps, then keep it.

    Liang et al. 2018 (section 2.2.2) anneal over 200,000 updates to a cap of 0.2, a number made for MovieLens-20M:
    200 epochs of a small data set end long before. So the length is given here in epochs.

    Attributes:
        cap: final weight, the paper's beta; 1 is the evidence lower bound, less leans towards fitting the data.
        epochs: epochs until the cap is reached; may be fractional; 0 means the cap from the first step.
        per_item: whether the weight is for each item of a user's history, the gamma of Shenbin et al. 2020 (section
            3.4): the KL term of a user with n items weighs ``n`` times as much, as the log-likelihood does.
    """

    cap: float = 0.2
    epochs: float = 50.0
    per_item: bool = False

    def __post_init__(self) -> None:
        for name in ("cap", "epochs"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise UserError(f"kl_schedule.{name}: expected a number of at least 0, came {value!r}")

    def kl_weight(self, step: int, steps_per_epoch: int) -> float:
        """Weight at gradient step ``step`` (the first is 0)."""
        annealing_steps = self.epochs * steps_per_epoch
        if step >= annealing_steps:
            return self.cap
        return self.cap * step / annealing_steps
