"""A Gaussian forward process of few steps, and what Tweedie's formula says of the way back.

``x_t | x_0 ~ N(sqrt(1 - v_t) x_0, v_t I)``, with little noise at step 1 and most at the last. In the papers' symbols
``1 - v_t`` is alpha-bar_t (Ho et al. 2020, arXiv:2006.11239, eq. 4); numbers as small as ``v_t`` is for recommendation
keep their digits here, where ``1 - alpha-bar_t`` would lose them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation import tweedie_mean
from recsys_vae.models.base import check_interval, check_positive


@dataclass(frozen=True)
class GaussianDiffusion:
    """``v_t = noise_scale * (noise_min + (t - 1) / (n_steps - 1) * (noise_max - noise_min))`` for t = 1 to n_steps.

    Eq. 4 of Wang et al. 2023 (arXiv:2304.04971). ``v_0`` is 0; a single step has ``noise_scale * noise_min``.
    """

    n_steps: int
    noise_scale: float
    noise_min: float
    noise_max: float

    def __post_init__(self) -> None:
        check_positive("model.n_steps", self.n_steps)
        check_interval("model.noise_scale", self.noise_scale, 0.0, float("inf"), include_low=False)
        check_interval("model.noise_min", self.noise_min, 0.0, float("inf"), include_low=False)
        if not self.noise_min < self.noise_max:
            raise UserError(
                f"model.noise_max: expected more than noise_min, {self.noise_min}, came {self.noise_max!r}"
            )
        if not self.noise_scale * self.noise_max < 1.0:
            raise UserError(
                "model.noise_scale: expected noise_scale * noise_max below 1, for it is the share of noise in the "
                f"last step's variance, came {self.noise_scale} * {self.noise_max}"
            )

    @cached_property
    def variances(self) -> Float[Tensor, " steps_plus_one"]:
        """``v_0`` to ``v_T``, float64."""
        steps = torch.linspace(self.noise_min, self.noise_max, self.n_steps, dtype=torch.float64)
        return torch.cat([steps.new_zeros(1), self.noise_scale * steps])

    @cached_property
    def elbo_weights(self) -> Float[Tensor, " steps"]:
        """What a squared error of x_0 costs at step t = 1 to T, in nats, float64.

        ``KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))`` is the weight times ``|denoised - x_0|^2``: half of what the
        step loses of the ratio of signal to noise (Wang et al. 2023, eq. 10). At step 1, whose term is
        ``-log p(x_0 | x_1)``, the weight is 1, as there: a Gaussian of variance 1/2 without its constant.
        """
        precisions = self.variances[1:].reciprocal()
        return torch.cat([precisions.new_ones(1), 0.5 * (precisions[:-1] - precisions[1:])])

    def corrupt(
        self,
        clean: Float[Tensor, "users items"],
        steps: Int[Tensor, " users"],
        noise: Float[Tensor, "users items"],
    ) -> Float[Tensor, "users items"]:
        """``x_t`` for a step t of each user's own, from ``x_0`` and standard normal noise."""
        variances = self.variances[steps.cpu()].unsqueeze(-1)
        signal, deviation = ((1.0 - variances).sqrt(), variances.sqrt())
        return torch.addcmul(signal.to(clean) * clean, deviation.to(clean), noise)

    def noise(
        self, noisy: Float[Tensor, "*batch items"], denoised: Float[Tensor, "*batch items"], step: int
    ) -> Float[Tensor, "*batch items"]:
        """The standard normal noise that makes ``noisy`` of ``denoised``: its mean given x_t, if that is x_0's."""
        variance = float(self.variances[step])
        return (noisy - math.sqrt(1.0 - variance) * denoised) / math.sqrt(variance)

    def score(
        self, noisy: Float[Tensor, "*batch items"], denoised: Float[Tensor, "*batch items"], step: int
    ) -> Float[Tensor, "*batch items"]:
        """``grad log q(x_t)`` at ``noisy``, if ``denoised`` is ``E[x_0 | x_t]``: ``-E[noise | x_t] / sqrt(v_t)``."""
        return -self.noise(noisy, denoised, step) / math.sqrt(self.variances[step])

    def earlier_mean(
        self,
        noisy: Float[Tensor, "*batch items"],
        score: Float[Tensor, "*batch items"],
        step: int,
        earlier: int,
    ) -> Float[Tensor, "*batch items"]:
        """``E[x_s | x_t]`` for ``s < t`` by Tweedie's formula, from the score at ``x_t``; s = 0 is the denoised mean.

        ``x_t | x_s`` is normal about ``sqrt(a) x_s`` with variance ``1 - a``, where ``a = (1 - v_t) / (1 - v_s)``.
        """
        before, after = float(self.variances[earlier]), float(self.variances[step])
        added = (after - before) / (1.0 - before)  # 1 - a
        return tweedie_mean(noisy, score, added) / math.sqrt(1.0 - added)
