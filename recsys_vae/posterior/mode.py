"""Point estimates of the taste: the posterior's mode (MAP), and the maximum of the likelihood alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models import RecommenderModel, SparseRows
from recsys_vae.posterior.base import InferredPosterior, PosteriorMethod, Progress
from recsys_vae.posterior.checks import check_at_least, check_positive_number
from recsys_vae.posterior.density import PosteriorDensity, encoder_gaussian, latent_model, rows_of
from recsys_vae.posterior.lbfgs import Maximum, maximise
from recsys_vae.posterior.likelihood_power import LikelihoodPower, powers_of


@dataclass(frozen=True)
class Mode(PosteriorMethod):
    """``argmax_z log p(z) + likelihood_power * log p(x | z)``, by L-BFGS from the encoder's mean.

    Users converge on their own; ``diagnostics`` say how: ``gradient_norm``, ``scaled_gradient_norm`` (the distance to
    the mode in the encoder's standard deviations, to first order), ``converged`` and ``evaluations``.

    Args:
        tolerance: the scaled gradient norm at which a user is done.
        max_evaluations: of the density, for each user.
        towards: how far to go from the encoder's mean to the mode: 1 is all the way. The encoder was trained to rank,
            the mode knows the history better; a point between can rank better than either.
        batch_size: users at a time.
    """

    tolerance: float = 0.1
    max_evaluations: int = 200
    towards: float = 1.0
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_positive_number("posterior.tolerance", self.tolerance)
        check_at_least("posterior.max_evaluations", self.max_evaluations, 1)
        check_at_least("posterior.batch_size", self.batch_size, 1)
        check_positive_number("posterior.towards", self.towards)
        if self.towards > 1.0:
            raise UserError(f"posterior.towards: expected a number in (0, 1], came {self.towards!r}")

    def infer(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> InferredPosterior:
        """The mode of every user; no randomness."""
        return self._climb(model, histories, likelihood_power, with_prior=True, max_norm=torch.inf)

    def _climb(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower,
        *,
        with_prior: bool,
        max_norm: float,
    ) -> InferredPosterior:
        latent = latent_model(model)
        rows = rows_of(model, histories)
        start = encoder_gaussian(latent, rows)
        found = maximise(
            _OfUsers(latent, histories, rows, likelihood_power, with_prior),
            start.mean,
            start.standard_deviation,
            tolerance=self.tolerance,
            max_evaluations=self.max_evaluations,
            max_norm=max_norm,
        )
        position = torch.lerp(start.mean, found.position, self.towards)
        return InferredPosterior(position, torch.zeros_like(position), diagnostics=_diagnostics(found))


@dataclass(frozen=True)
class MaximumLikelihood(Mode):
    """``argmax_z log p(x | z)``: the prior left out, by L-BFGS from the encoder's mean.

    A likelihood need not have a maximum: a short history is explained ever better by tastes ever further out. Such
    a user stops where ``|z|`` reaches ``max_norm``, and ``diagnostics["at_bound"]`` says so.

    Args:
        max_norm: bound on ``|z|``; under the prior it is about ``sqrt(latent_dim)``.
    """

    max_norm: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_number("posterior.max_norm", self.max_norm)

    def infer(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> InferredPosterior:
        """The maximum, or the place where the bound is met; no randomness, and no power: it moves no maximum."""
        return self._climb(model, histories, 1.0, with_prior=False, max_norm=self.max_norm)


class _OfUsers:
    """The density of some of the users: those that have not converged.

    The likelihood of a subset is prepared anew only when the subset has shrunk by a fifth; until then the others are
    carried along. Preparing costs a sparse product, an evaluation two dense ones.
    """

    def __init__(
        self,
        model: object,
        histories: csr_array,
        rows: SparseRows,
        likelihood_power: LikelihoodPower,
        with_prior: bool,
    ) -> None:
        self._model: object = model
        self._histories = histories
        self._power, self._with_prior = likelihood_power, with_prior
        self._device = rows.items.device
        self._users = torch.arange(rows.n_users, device=self._device)
        self._density = self._prepare(rows)

    def _prepare(self, rows: SparseRows) -> PosteriorDensity:
        likelihood = latent_model(self._model).likelihood(rows)  # type: ignore[arg-type]
        return PosteriorDensity(likelihood, powers_of(self._power, rows), with_prior=self._with_prior)

    def __call__(
        self, position: Float[Tensor, "some latent"], users: Tensor
    ) -> tuple[Float[Tensor, " some"], Float[Tensor, "some latent"]]:
        """Value and gradient of ``users`` at their positions."""
        if len(users) <= 0.8 * len(self._users):
            self._users = users
            rows = SparseRows.from_csr(self._histories[users.cpu().numpy()], self._device)
            self._density = self._prepare(rows)
        places = torch.searchsorted(self._users, users)
        everyone = position.new_zeros(len(self._users), position.shape[-1])
        everyone[places] = position
        value, gradient = self._density.value_and_gradient(everyone)
        return value[places], gradient[places]


def _diagnostics(found: Maximum) -> dict[str, Tensor]:
    return {
        "gradient_norm": found.gradient_norm,
        "scaled_gradient_norm": found.scaled_gradient_norm,
        "converged": found.converged.to(found.value.dtype),
        "at_bound": found.at_bound.to(found.value.dtype),
        "evaluations": found.n_evaluations.to(found.value.dtype),
    }
