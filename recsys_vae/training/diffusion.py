"""The objective of DiffRec: the evidence lower bound of a diffusion model (Wang et al. 2023, arXiv:2304.04971)."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models import DiffRec, SparseRows
from recsys_vae.models.base import check_interval
from recsys_vae.training.objective import Objective, ObjectiveTerms

WEIGHTINGS = ("elbo", "simplified")


class DiffusionELBO(Objective):
    """``log p(x_0 | x_1)`` and the KL terms of all other steps, both estimated from one step a user drawn at random.

    Each step's term is a weight times ``|denoised - x_0|^2``. ``elbo`` weighs as the bound does, up to constants (eq.
    10 and 11); ``simplified`` weighs all steps alike (as eq. 14 of Ho et al. 2020). Terms are divided by the
    probability of their step, so that their mean does not depend on how steps are drawn.

    The paper draws steps in proportion to the root mean square of their past terms. Under little noise the squared
    error is nearly the same at every step, and that is nearly in proportion to the weights, which need no past.

    Args:
        weighting: ``elbo`` or ``simplified``.
        uniform_share: of the draws; the others are in proportion to the weights. 1 draws every step equally often.
    """

    trains = DiffRec

    def __init__(self, weighting: str = "simplified", uniform_share: float = 0.1) -> None:
        if weighting not in WEIGHTINGS:
            raise UserError(
                f"objective.weighting: expected one of {', '.join(WEIGHTINGS)}, came {weighting!r}"
            )
        check_interval(
            "objective.uniform_share", uniform_share, 0.0, 1.0, include_low=False, include_high=True
        )
        self.weighting = weighting
        self.uniform_share = uniform_share

    def weights_and_probabilities(self, model: DiffRec) -> tuple[Tensor, Tensor]:
        """Of steps 1 to T, float64."""
        weights = model.diffusion.elbo_weights
        if self.weighting == "simplified":
            weights = torch.ones_like(weights)
        shares = weights / weights.sum()
        return weights, (1.0 - self.uniform_share) * shares + self.uniform_share / len(weights)

    def __call__(
        self,
        model: DiffRec,
        histories: SparseRows,
        generator: torch.Generator | None,
        users: Tensor | None = None,
    ) -> ObjectiveTerms:
        """Terms per user: step 1's is the log-likelihood, any other's the KL."""
        clean = histories.dense()
        weights, probabilities = (values.to(clean) for values in self.weights_and_probabilities(model))
        steps = 1 + torch.multinomial(probabilities, len(clean), replacement=True, generator=generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        denoised = model.denoise(model.diffusion.corrupt(clean, steps, noise), steps, generator=generator)
        error = (denoised - clean).square().sum(dim=-1)
        term = error * (weights / probabilities)[steps - 1]
        first = steps == 1
        return ObjectiveTerms(-term * first, term * ~first)
