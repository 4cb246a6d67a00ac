"""What every conjugate model shares: its posterior is of the prior's own family (Bishop 2006, section 2.4.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError

Statistics = TypeVar("Statistics")
Model = TypeVar("Model", bound="ConjugateModel[Any]")


class ConjugateModel(ABC, Generic[Statistics]):
    """A likelihood with a prior whose posterior has the same form; an instance is a prior, or a posterior.

    Everything is float64 and batched: observations run along the last axis of the data, all axes before it are
    separate problems, and hyper-parameters broadcast against those. Wherever data are asked for, their sufficient
    statistics will do. Updating by one part of the data and then the other is updating by both.

    Public constructors ask for a proper prior. ``jeffreys`` and ``flat`` build improper limits: they have no density
    and no evidence, but a posterior, which is proper once there are data enough.
    """

    @abstractmethod
    def statistics(self, *data: Any) -> Statistics:
        """Sufficient statistics of the data, checked."""

    @abstractmethod
    def updated(self: Model, statistics: Statistics) -> Model:
        """The posterior, from statistics."""

    @property
    @abstractmethod
    def proper(self) -> bool:
        """Whether every member of the batch is a law, with a density that integrates to one."""

    @property
    @abstractmethod
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """Logarithm of the integral of the unnormalised density."""

    @abstractmethod
    def log_base_measure(self, statistics: Statistics) -> Float[Tensor, "*batch"]:
        """The factor of the likelihood that is free of parameters, as a logarithm."""

    @property
    @abstractmethod
    def mode(self) -> Any:
        """Where the joint density is highest; NaN where there is no single such place."""

    @property
    @abstractmethod
    def marginal_mode(self) -> Any:
        """Where each parameter's own marginal density is highest; it is no point estimate of all of them at once."""

    def posterior(self: Model, *data: Any) -> Model:
        """The law of the parameters after the data.

        Raises :class:`UserError` for data that are not of the model's kind.
        """
        return self.updated(self.statistics(*data))

    def map(self, *data: Any) -> Any:
        """Maximum a posteriori: the joint mode of the posterior."""
        return self.posterior(*data).mode

    def marginal_map(self, *data: Any) -> Any:
        """The mode of each parameter's marginal posterior."""
        return self.posterior(*data).marginal_mode

    def log_evidence(self, *data: Any) -> Float[Tensor, "*batch"]:
        """Logarithm of the marginal likelihood ``p(x)``, nats, by the ratio of normalisers after and before.

        Raises :class:`UserError` under an improper prior, whose evidence is arbitrary.
        """
        self.require_proper("log_evidence")
        statistics = self.statistics(*data)
        after = self.updated(statistics).log_normaliser
        return after - self.log_normaliser + self.log_base_measure(statistics)

    def require_proper(self, what: str) -> None:
        """Raise :class:`UserError` unless this is a law."""
        if not self.proper:
            raise UserError(
                f"{what}: expected a proper law, came {type(self).__name__} that is improper: "
                "a limiting prior needs more data first"
            )


def above_zero(*parameters: Float[Tensor, ...]) -> bool:
    """Whether all of them are, everywhere."""
    return all(bool((parameter > 0).all()) for parameter in parameters)


def constant(value: float) -> Float[Tensor, ""]:
    """A hyper-parameter of a limiting prior."""
    return torch.tensor(value, dtype=torch.float64)
