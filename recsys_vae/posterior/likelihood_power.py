"""Which posterior: ``p(z) p(x|z)^power``, the power a number, or one that each user's number of items divides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models import SparseRows


@dataclass(frozen=True)
class PowerPerItem:
    """A power of ``numerator / n`` for a user with n items; written ``numerator/items``.

    A model whose KL term weighs ``gamma * n`` (Shenbin et al. 2020, section 3.4) was trained for the power
    ``1 / (gamma * n)``, that of ``numerator = 1 / gamma``: every history counts as if it had that many items. Where
    items have weights, n is their sum. An empty history has a likelihood of 1, whatever its power.
    """

    numerator: float

    def __post_init__(self) -> None:
        check_power(self.numerator)

    def __str__(self) -> str:
        return f"{self.numerator:g}/items"


LikelihoodPower = float | PowerPerItem


def parse_power(value: object) -> LikelihoodPower:
    """A number, or ``NUMBER/items``. Raises :class:`UserError` for anything else, and unless it is positive."""
    if isinstance(value, str) and value.endswith("/items"):
        try:
            numerator = float(value.removesuffix("/items"))
        except ValueError:
            numerator = math.nan
        if 0.0 < numerator < math.inf:
            return PowerPerItem(numerator)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise UserError(f"likelihood_power: expected a positive number, came {value!r}")
    return float(value)


def show_power(power: LikelihoodPower) -> str:
    """As one gives it on the command line."""
    return str(power) if isinstance(power, PowerPerItem) else f"{power:g}"


def record_power(power: LikelihoodPower) -> float | str:
    """As a plain value, for files."""
    return str(power) if isinstance(power, PowerPerItem) else power


def powers_of(power: LikelihoodPower, histories: SparseRows) -> float | Tensor:
    """The power of each user ``(users,)``, or the number that all have."""
    if not isinstance(power, PowerPerItem):
        return power
    n_items = histories.row_sums(histories.values)
    return power.numerator / torch.where(n_items > 0.0, n_items, 1.0)


def check_power(power: LikelihoodPower | Tensor) -> None:
    """Raise :class:`UserError` unless it is a positive finite number, or such numbers, or a power per item."""
    if isinstance(power, PowerPerItem):
        return
    if isinstance(power, Tensor):
        if power.ndim != 1 or not bool(((power > 0.0) & power.isfinite()).all()):
            raise UserError(
                "posterior.likelihood_power: expected a positive number of each user, came others"
            )
        return
    if isinstance(power, bool) or not 0.0 < power < math.inf:
        raise UserError(f"posterior.likelihood_power: expected a positive number, came {power!r}")
