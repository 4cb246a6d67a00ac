"""The diagonal Gaussian that stands for a user's taste, whichever model infers it."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class GaussianPosterior(NamedTuple):
    """A diagonal Gaussian over each user's taste: its mean and the logarithm of its variance."""

    mean: Float[Tensor, "users latent"]
    log_variance: Float[Tensor, "users latent"]

    @property
    def standard_deviation(self) -> Float[Tensor, "users latent"]:
        """``exp(log_variance / 2)``."""
        return (0.5 * self.log_variance).exp()
