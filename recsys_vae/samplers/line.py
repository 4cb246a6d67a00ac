"""A coordinate for any interval of the real line, finite or not, in which every scale has the same room."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Ends of the coordinate: the distance from a finite end goes down to exp(-650) of the width, the one towards an
# infinite end up to exp(100) of it.
_NEAR = 650.0
_FAR = 100.0


@dataclass(frozen=True)
class Line:
    """The open interval ``(low, high)`` as the image of ``[start, end]``.

    ``centre + width sinh(s)`` on the whole line; ``low + width exp(s)`` or ``high - width exp(-s)`` on half of it;
    ``low + (high - low) / (1 + exp(-s))`` between finite ends.
    """

    low: float
    high: float
    centre: float
    width: float

    @property
    def start(self) -> float:
        """The least coordinate."""
        return -_FAR if math.isinf(self.low) else -_NEAR

    @property
    def end(self) -> float:
        """The greatest coordinate."""
        return _FAR if math.isinf(self.high) else _NEAR

    def position(self, coordinate: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """Strictly inside the interval."""
        if math.isinf(self.low) and math.isinf(self.high):
            return self.centre + self.width * coordinate.sinh()
        if math.isinf(self.high):
            inside = self.low + self._half_width * coordinate.exp()
        elif math.isinf(self.low):
            inside = self.high - self._half_width * (-coordinate).exp()
        else:
            inside = torch.where(
                coordinate < 0.0,
                self.low + (self.high - self.low) * coordinate.sigmoid(),
                self.high - (self.high - self.low) * (-coordinate).sigmoid(),
            )
        return inside.clamp(math.nextafter(self.low, math.inf), math.nextafter(self.high, -math.inf))

    def log_slope(self, coordinate: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """``log dx/ds``."""
        if math.isinf(self.low) and math.isinf(self.high):
            size = coordinate.abs()
            return math.log(0.5 * self.width) + size + (-2.0 * size).exp().log1p()
        if math.isinf(self.high):
            return math.log(self._half_width) + coordinate
        if math.isinf(self.low):
            return math.log(self._half_width) - coordinate
        logistic = functional.logsigmoid(coordinate) + functional.logsigmoid(-coordinate)
        return math.log(self.high - self.low) + logistic

    def coordinate(self, position: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """The inverse of :meth:`position`; infinite at and beyond the ends."""
        if math.isinf(self.low) and math.isinf(self.high):
            return ((position - self.centre) / self.width).asinh()
        above, below = (position - self.low).clamp(min=0.0), (self.high - position).clamp(min=0.0)
        if math.isinf(self.high):
            return (above / self._half_width).log()
        if math.isinf(self.low):
            return -(below / self._half_width).log()
        return above.log() - below.log()

    @property
    def _half_width(self) -> float:
        """On a half line the centre, not the spread about it, sets the unit."""
        finite = self.low if math.isinf(self.high) else self.high
        distance = abs(self.centre - finite)
        inside = self.low < self.centre < self.high
        return distance if inside and distance > 1e-290 else self.width
