"""Checks of the arguments that inference methods share."""

from __future__ import annotations

import math

from recsys_vae.errors import UserError


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise :class:`UserError` unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}: expected a whole number of at least {least}, came {value!r}")


def check_positive_number(name: str, value: object) -> None:
    """Raise :class:`UserError` unless ``value`` is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise UserError(f"{name}: expected a positive number, came {value!r}")
