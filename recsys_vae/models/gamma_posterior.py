"""Independent gamma variables, with what variational inference asks of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class GammaPosterior(NamedTuple):
    """Gamma laws by shape and rate, as many as there are entries."""

    shape: Float[Tensor, "*batch"]
    rate: Float[Tensor, "*batch"]

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """``shape / rate``."""
        return self.shape / self.rate

    @property
    def standard_deviation(self) -> Float[Tensor, "*batch"]:
        """``sqrt(shape) / rate``."""
        return self.shape.sqrt() / self.rate

    @property
    def mean_log(self) -> Float[Tensor, "*batch"]:
        """``E[log x] = digamma(shape) - log(rate)``."""
        return torch.digamma(self.shape) - self.rate.log()

    def entropy(self) -> Float[Tensor, "*batch"]:
        """In nats."""
        shape = self.shape
        return shape - self.rate.log() + torch.lgamma(shape) + (1.0 - shape) * torch.digamma(shape)

    def double(self) -> GammaPosterior:
        """The same in float64."""
        return GammaPosterior(self.shape.double(), self.rate.double())
