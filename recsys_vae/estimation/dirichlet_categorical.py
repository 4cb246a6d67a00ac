"""Labels, or counts of labels, under a Dirichlet prior (Bishop 2006, section 2.2.1; Prince 2012, chapter 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, broadcast, counts, observations, positive
from recsys_vae.estimation.conjugate import ConjugateModel, above_zero
from recsys_vae.estimation.continuous_laws import Dirichlet
from recsys_vae.estimation.discrete_laws import Categorical, DirichletMultinomial


@dataclass(frozen=True)
class CategoricalStatistics:
    """``tally`` of the categories; ``log_choose`` is 0 unless only counts, not the labels' order, are the data."""

    tally: Float[Tensor, "*batch categories"]
    log_choose: Float[Tensor, "*batch"]

    @classmethod
    def of(cls, x: Numbers, n_categories: int) -> CategoricalStatistics:
        """Of labels ``(*batch, n)``, whole numbers below ``n_categories``."""
        labels = observations("x", counts("x", x))
        if (labels >= n_categories).any():
            raise UserError(f"x: expected labels below {n_categories}, came {float(labels.max()):g}")
        tally = torch.zeros(*labels.shape[:-1], n_categories, dtype=torch.float64, device=labels.device)
        tally.scatter_add_(-1, labels.long(), torch.ones_like(labels))
        return cls(tally, tally.new_zeros(tally.shape[:-1]))

    @classmethod
    def of_multinomial(cls, x: Numbers) -> CategoricalStatistics:
        """Of rows of counts ``(*batch, n, categories)``: the evidence is then that of the counts."""
        rows = observations("x", counts("x", x), axes=2)
        log_choose = torch.lgamma(rows.sum(dim=-1) + 1.0) - torch.lgamma(rows + 1.0).sum(dim=-1)
        return cls(rows.sum(dim=-2), log_choose.sum(dim=-1))


class DirichletCategorical(ConjugateModel[CategoricalStatistics]):
    """Probabilities of categories under ``Dirichlet(alpha)``; categories run along the last axis of ``alpha``.

    >>> DirichletCategorical(alpha=[1.0, 1.0, 1.0]).posterior([0, 0, 2]).law.mean
    tensor([0.5000, 0.1667, 0.3333], dtype=torch.float64)

    Args:
        alpha: positive, ``(*batch, categories)``, at least two categories.

    Raises :class:`UserError` for hyper-parameters out of range.
    """

    def __init__(self, alpha: Numbers) -> None:
        self.alpha = positive("alpha", alpha)
        if self.alpha.ndim < 1 or self.alpha.shape[-1] < 2:
            raise UserError(
                f"alpha: expected at least two categories on the last axis, came shape {tuple(self.alpha.shape)}"
            )

    @classmethod
    def jeffreys(cls, n_categories: int) -> DirichletCategorical:
        """``Dirichlet(1/2, ...)``, which is proper."""
        return cls(torch.full((n_categories,), 0.5, dtype=torch.float64))

    @classmethod
    def flat(cls, n_categories: int) -> DirichletCategorical:
        """``Dirichlet(1, ...)``, whose joint posterior mode is maximum likelihood."""
        return cls(torch.ones(n_categories, dtype=torch.float64))

    @classmethod
    def haldane(cls, n_categories: int) -> DirichletCategorical:
        """The improper limit ``Dirichlet(0, ...)``, whose posterior mean is maximum likelihood."""
        return cls._of(torch.zeros(n_categories, dtype=torch.float64))

    @classmethod
    def _of(cls, alpha: Tensor) -> DirichletCategorical:
        made = cls.__new__(cls)
        made.alpha = alpha
        return made

    @property
    def batch_shape(self) -> torch.Size:
        """Of ``alpha``, without the categories."""
        return self.alpha.shape[:-1]

    def statistics(self, *data: Any) -> CategoricalStatistics:
        """Of labels ``(*batch, n)``."""
        (x,) = data
        n_categories = self.alpha.shape[-1]
        found = x if isinstance(x, CategoricalStatistics) else CategoricalStatistics.of(x, n_categories)
        if found.tally.shape[-1] != n_categories:
            raise UserError(f"x: expected {n_categories} categories, came {found.tally.shape[-1]}")
        broadcast(x=found.log_choose.shape, hyper_parameters=self.batch_shape)
        return found

    def updated(self, statistics: CategoricalStatistics) -> DirichletCategorical:
        """Add the tally."""
        return self._of(self.alpha + statistics.tally)

    def maximum_likelihood(self, x: Numbers | CategoricalStatistics) -> Float[Tensor, "*batch categories"]:
        """Shares of the categories. Raises :class:`UserError` without data."""
        tally = self.statistics(x).tally
        total = tally.sum(dim=-1, keepdim=True)
        if not above_zero(total):
            raise UserError("x: expected at least one observation in each problem, came none")
        return tally / total

    @property
    def mode(self) -> Float[Tensor, "*batch categories"]:
        """Proportional to ``alpha - 1``; NaN unless every alpha is at least 1 and one is more.

        A density that is infinite on an edge has its highest place there, but not a single one.
        """
        surplus = self.alpha - 1.0
        total = surplus.sum(dim=-1, keepdim=True)
        single = (surplus >= 0).all(dim=-1, keepdim=True) & (total > 0)
        return torch.where(single, surplus / total, torch.nan)

    @property
    def marginal_mode(self) -> Float[Tensor, "*batch categories"]:
        """Of each category's own beta marginal: ``(alpha_k - 1) / (sum of alpha - 2)``; they need not sum to one."""
        rest = self.alpha.sum(dim=-1, keepdim=True) - self.alpha
        inside = (self.alpha - 1.0) / (self.alpha + rest - 2.0)
        ends = torch.where(self.alpha > 1.0, 1.0, torch.where(rest > 1.0, 0.0, torch.nan))
        return torch.where((self.alpha > 1.0) & (rest > 1.0), inside, ends.double())

    @property
    def proper(self) -> bool:
        """Whether every alpha is above 0."""
        return above_zero(self.alpha)

    @property
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """The multivariate beta function."""
        return torch.lgamma(self.alpha).sum(dim=-1) - torch.lgamma(self.alpha.sum(dim=-1))

    def log_base_measure(self, statistics: CategoricalStatistics) -> Float[Tensor, "*batch"]:
        """1 for labels, the multinomial coefficients for counts."""
        return statistics.log_choose

    @property
    def law(self) -> Dirichlet:
        """The law of the probabilities."""
        self.require_proper("law")
        return Dirichlet(self.alpha)

    def predictive(self, x: Numbers | CategoricalStatistics | None = None) -> Categorical:
        """The law of the next label, after ``x`` where it is given."""
        return Categorical((self if x is None else self.posterior(x)).law.mean)

    def predictive_counts(
        self, trials: int, x: Numbers | CategoricalStatistics | None = None
    ) -> DirichletMultinomial:
        """The law of the tally of ``trials`` more labels, after ``x`` where it is given."""
        law = (self if x is None else self.posterior(x)).law
        return DirichletMultinomial(int(counts("trials", trials)), law.alpha)
