"""What every law of probability here offers, and how it draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers

SampleShape = int | Sequence[int]


class Law(ABC):
    """A batch of probability laws: parameters broadcast to ``batch_shape``, one law for each entry.

    Densities are natural logarithms, -inf outside the support; all is float64.
    """

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """Of the parameters, broadcast."""

    @property
    @abstractmethod
    def mean(self) -> Float[Tensor, ...]:
        """Expectation; NaN or infinite where there is none."""

    @property
    @abstractmethod
    def variance(self) -> Float[Tensor, ...]:
        """Variance of each coordinate; NaN or infinite where there is none."""

    @abstractmethod
    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-density, or log-probability of a discrete law; ``value`` broadcasts against the batch."""

    @abstractmethod
    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Shaped[Tensor, ...]:
        """Independent draws, ``(*sample_shape, *batch, ...)``; without a generator from torch's own stream."""


class ContinuousLaw(Law):
    """A law of one real number, whose quantiles are known."""

    @abstractmethod
    def cdf(self, value: Numbers) -> Float[Tensor, ...]:
        """Probability of at most ``value``."""

    @abstractmethod
    def quantile(self, probability: Numbers) -> Float[Tensor, ...]:
        """The value that is not exceeded with this probability."""

    def interval(self, level: float = 0.9) -> tuple[Float[Tensor, ...], Float[Tensor, ...]]:
        """Lower and upper end of the central interval that holds ``level`` of the probability.

        Raises :class:`UserError` unless ``level`` lies between 0 and 1.
        """
        if isinstance(level, bool) or not 0.0 < level < 1.0:
            raise UserError(f"level: expected a number in (0, 1), came {level!r}")
        tail = (1.0 - level) / 2.0
        return self.quantile(tail), self.quantile(1.0 - tail)


def full_shape(sample_shape: SampleShape, *rest: Sequence[int]) -> tuple[int, ...]:
    """The draws' axes, then the others."""
    first = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
    return (*first, *(int(n) for shape in rest for n in shape))


def standard_gamma(
    shape: Float[Tensor, ...], size: tuple[int, ...], generator: torch.Generator | None
) -> Float[Tensor, ...]:
    """Draws of Gamma(shape, 1)."""
    draws: Tensor = torch._standard_gamma(shape.expand(size).contiguous(), generator=generator)
    return draws.clamp_min(torch.finfo(torch.float64).tiny)


def from_scipy(values: np.ndarray | float) -> Float[Tensor, ...]:
    """A special function's result as a tensor."""
    return torch.as_tensor(np.asarray(values, dtype=np.float64))
