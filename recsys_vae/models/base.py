"""What every recommender here is: histories in, a score for every item out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor, nn

from recsys_vae.errors import UserError
from recsys_vae.models.fit_checkpoint import NO_CHECKPOINT, FitCheckpoint


class RecommenderModel(nn.Module, ABC):
    """Scores every item from a user's history alone, so that people unseen in training need no retraining.

    All that a model has learned lies in its ``state_dict``, whose shapes follow from the constructor's
    arguments; that is what saving and loading rest on.
    """

    def __init__(self, n_items: int) -> None:
        super().__init__()
        check_positive("n_items", n_items)
        self.n_items = n_items

    @property
    def device(self) -> torch.device:
        """Where the model's tensors lie."""
        tensors = [*self.parameters(), *self.buffers()]
        return tensors[0].device

    def check_histories(self, histories: csr_array) -> None:
        """Raise :class:`UserError` when the columns are not this model's items."""
        if histories.ndim != 2 or histories.shape[1] != self.n_items:
            raise UserError(
                f"histories: expected a matrix with {self.n_items} columns (the model's items), "
                f"came {histories.shape}"
            )

    @abstractmethod
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Score of every item for every user, higher is better, on the model's device; only the order counts.

        Items of the history are scored like any other: masking them is the ranking's task. A user without
        items gets the same finite scores as any other such user.
        """


class ClosedFormModel(RecommenderModel):
    """A recommender that is fitted in one call, without gradient steps."""

    @abstractmethod
    def fit(self, matrix: csr_array) -> ClosedFormModel:
        """Learn from a training matrix ``(users, items)`` and return the model itself."""


class IterativeModel(ClosedFormModel):
    """A recommender that is fitted in one call of many iterations, which may be long enough to be killed in."""

    @abstractmethod
    def fit(self, matrix: csr_array, checkpoint: FitCheckpoint = NO_CHECKPOINT) -> IterativeModel:
        """Learn from a training matrix ``(users, items)`` and return the model itself.

        Carries on from the checkpoint, where it holds one, to the same weights, bit for bit on a CPU. Raises
        :class:`UserError` when that is damaged.
        """


class GradientModel(RecommenderModel):
    """A recommender that is trained by gradient steps on an objective, batch by batch."""


@runtime_checkable
class Marginals(Protocol):
    """What is known of each user's taste, coordinate by coordinate."""

    @property
    def mean(self) -> Float[Tensor, "users latent"]:
        """Of each coordinate."""

    @property
    def standard_deviation(self) -> Float[Tensor, "users latent"]:
        """Of each coordinate."""


@runtime_checkable
class TasteModel(Protocol):
    """A recommender that places users in a latent space."""

    def posterior(self, histories: csr_array) -> Marginals:
        """The model's own posterior of each user's taste, ``(users, latent)``."""
        ...


@runtime_checkable
class RetrievalModel(Protocol):
    """A recommender whose scores are inner products of vectors that are not longer than is worth keeping."""

    def user_vectors(self, histories: csr_array) -> Float[Tensor, "users features"]:
        """Of each user, from the history."""
        ...

    def item_vectors(self) -> Float[Tensor, "items features"]:
        """Of each item."""
        ...


@runtime_checkable
class ItemToItemModel(Protocol):
    """A recommender whose scores are, for each item, the sum of its weights from the items of the history."""

    def item_weights(self, items: slice) -> csr_array:
        """Rows of the weights ``(items, items)``, from some items that are had to every item that is scored."""
        ...


def check_positive(name: str, value: int) -> None:
    """Raise :class:`UserError` unless ``value`` is a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UserError(f"{name}: expected a whole number of at least 1, came {value!r}")


def check_interval(
    name: str, value: float, low: float, high: float, *, include_low: bool = True, include_high: bool = False
) -> None:
    """Raise :class:`UserError` unless ``value`` lies in the interval; NaN lies in none."""
    inside = (low <= value if include_low else low < value) and (
        value <= high if include_high else value < high
    )
    if isinstance(value, bool) or not inside:
        brackets = "[" if include_low else "(", "]" if include_high else ")"
        raise UserError(
            f"{name}: expected a number in {brackets[0]}{low}, {high}{brackets[1]}, came {value!r}"
        )
