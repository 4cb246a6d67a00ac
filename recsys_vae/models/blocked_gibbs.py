"""Blocked Gibbs sampling of matrix factorisation (Salakhutdinov & Mnih 2008), all rows of a side at once.

R. Salakhutdinov, A. Mnih, "Bayesian Probabilistic Matrix Factorization using Markov Chain Monte Carlo", ICML 2008.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models.weighted_factorisation import Block, Side, products


class GaussianPrior(NamedTuple):
    """``N(mean, precision^-1)``, of every row of one side."""

    mean: Float[Tensor, " latent"]
    precision: Float[Tensor, "latent latent"]


@dataclass(frozen=True)
class NormalWishart:
    """``mean ~ N(0, (strength * precision)^-1)``, ``precision ~ Wishart(I / degrees, degrees)``, of expectation I.

    Equation 5 of the paper with ``mu_0 = 0``; ``beta_0`` is the ``strength``, ``nu_0`` the ``degrees``, at least the
    number of dimensions.
    """

    strength: float
    degrees: float

    def draw(self, factors: Float[Tensor, "rows latent"], generator: torch.Generator) -> GaussianPrior:
        """From the posterior given the rows (equation 14); without rows from the prior. In float64."""
        rows = factors.double()
        n_rows, latent_dim = rows.shape
        total = rows.sum(dim=0)
        mean = total / (self.strength + n_rows)
        # W*^-1 = W_0^-1 + sum x x' - (beta_0 + N) mean mean', which is equation 14 with mu_0 = 0.
        inverse_scale = rows.mT @ rows - torch.outer(mean, total)
        inverse_scale.diagonal().add_(self.degrees)
        root = torch.linalg.cholesky(inverse_scale)
        # Bartlett: with inverse_scale = C C', C'^-1 A A' C^-1 is a Wishart draw.
        half = 0.5 * (self.degrees + n_rows - torch.arange(latent_dim, dtype=torch.float64))
        bartlett = torch.randn(latent_dim, latent_dim, generator=generator, dtype=torch.float64).tril(-1)
        bartlett.diagonal().copy_((2.0 * torch._standard_gamma(half, generator=generator)).sqrt())
        factor = torch.linalg.solve_triangular(root.mT, bartlett, upper=True)
        # precision = F F' with F = C'^-1 A, so F'^-1 noise = C A'^-1 noise has its inverse as covariance.
        noise = torch.randn(latent_dim, 1, generator=generator, dtype=torch.float64)
        shift = root @ torch.linalg.solve_triangular(bartlett.mT, noise, upper=True)
        mean = mean + shift.squeeze(-1) / (self.strength + n_rows) ** 0.5
        return GaussianPrior(mean.to(factors), (factor @ factor.mT).to(factors))


class State(NamedTuple):
    """All that a sweep draws."""

    users: Float[Tensor, "users latent"]
    items: Float[Tensor, "items latent"]
    user_prior: GaussianPrior
    item_prior: GaussianPrior
    noise_precision: float


class Conditional(NamedTuple):
    """The law of some rows given all else: ``N(F'^-1 whitened, (F F')^-1)`` with ``F`` the Cholesky factor."""

    rows: Int[Tensor, " batch"]
    whitened: Float[Tensor, "batch latent"]
    factor: Float[Tensor, "batch latent latent"]

    def at(self, noise: Float[Tensor, "batch latent"] | None = None) -> Float[Tensor, "batch latent"]:
        """The mean; with standard normal ``noise``, a draw."""
        whitened = self.whitened if noise is None else self.whitened + noise
        solved: Tensor = torch.linalg.solve_triangular(self.factor.mT, whitened.unsqueeze(-1), upper=True)
        return solved.squeeze(-1)

    def variances(self) -> Float[Tensor, "batch latent"]:
        """Of each coordinate."""
        return torch.cholesky_inverse(self.factor).diagonal(dim1=-2, dim2=-1)


def conditionals(
    blocks: Iterable[Block],
    linear: Float[Tensor, "rows latent"],
    factors: Float[Tensor, "columns latent"],
    prior: GaussianPrior,
    noise_precision: float,
    unobserved_weight: float,
) -> Iterator[Conditional]:
    """Every row's law given all else (equations 11 to 13), block by block.

    The precision is ``prior.precision + noise_precision * (a Y'Y + sum_j r_j y_j y_j')``, and ``linear`` is
    ``sum_j (a + r_j) target_j y_j``.
    """
    shared = prior.precision + noise_precision * unobserved_weight * (factors.mT @ factors)
    right = prior.precision @ prior.mean + noise_precision * linear
    for block in blocks:
        factor = torch.linalg.cholesky(block.gram(factors).mul_(noise_precision).add_(shared))
        whitened = torch.linalg.solve_triangular(factor, right[block.rows].unsqueeze(-1), upper=False)
        yield Conditional(block.rows, whitened.squeeze(-1), factor)


class BlockedGibbs:
    """``target_ui ~ N(x_u'y_i, 1 / (noise_precision * c_ui))``, Gaussian rows under Normal-Wishart hyper-priors.

    ``c_ui`` is ``unobserved_weight`` plus the pair's value. A pair that is not observed has target 0, and no value;
    with an unobserved weight of 0 it says nothing, which is the paper's model of ratings.

    Args:
        matrix: the pairs, with their values.
        targets: one a pair, in the order of the matrix.
        unobserved_weight: see above.
        hyper_prior: of both sides.
        noise_shape: the noise precision is gamma a priori.
        noise_rate: likewise.
        dtype: of the factors.
    """

    def __init__(
        self,
        matrix: csr_array,
        targets: np.ndarray,
        unobserved_weight: float,
        hyper_prior: NormalWishart,
        *,
        noise_shape: float = 1.0,
        noise_rate: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.unobserved_weight = unobserved_weight
        self.hyper_prior = hyper_prior
        self.noise_shape = noise_shape
        self.noise_rate = noise_rate
        self.by_user = Side.of(matrix, dtype)
        positions = csr_array((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
        transposed = csr_array(positions.T.tocsr())
        self._order = torch.from_numpy(transposed.data.astype(np.int64))
        by_item = Side.of(transposed, dtype)
        values = self.by_user.values[self._order]
        self.by_item = Side(by_item.offsets, by_item.columns, values, by_item.n_columns)
        self._pattern = self.by_user.pattern()
        self._user_blocks, self._item_blocks = list(self.by_user.blocks()), list(self.by_item.blocks())
        self.set_targets(torch.from_numpy(np.asarray(targets)).to(dtype))

    def set_targets(self, targets: Float[Tensor, " nnz"]) -> None:
        """Replace the targets."""
        self.targets = targets
        self._weighted = (self.unobserved_weight + self.by_user.values) * targets

    def start(self, latent_dim: int, generator: torch.Generator) -> State:
        """Small random factors; the hyper-parameters are drawn before they are asked for."""
        dtype = self.by_user.values.dtype
        users, items = (
            0.1 * torch.randn(side.n_rows, latent_dim, generator=generator, dtype=dtype)
            for side in (self.by_user, self.by_item)
        )
        prior = GaussianPrior(torch.zeros(latent_dim, dtype=dtype), torch.eye(latent_dim, dtype=dtype))
        return State(users, items, prior, prior, 1.0)

    def sweep(self, state: State, generator: torch.Generator) -> State:
        """Noise, then of each side hyper-parameters and rows, each from its law given all else.

        ``O(nnz * latent^2 + (users + items) * latent^3)``.
        """
        noise_precision = self.draw_noise_precision(state, generator)
        a = self.unobserved_weight

        def drawn(
            blocks: list[Block], side: Side, weighted: Tensor, rows: Tensor, others: Tensor
        ) -> tuple[GaussianPrior, Tensor]:
            prior = self.hyper_prior.draw(rows, generator)
            noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
            linear, new = side.weighted_sums(weighted, others), torch.empty_like(rows)
            for law in conditionals(blocks, linear, others, prior, noise_precision, a):
                new[law.rows] = law.at(noise[law.rows])
            return prior, new

        user_prior, users = drawn(self._user_blocks, self.by_user, self._weighted, state.users, state.items)
        weighted = self._weighted[self._order]
        item_prior, items = drawn(self._item_blocks, self.by_item, weighted, state.items, users)
        return State(users, items, user_prior, item_prior, noise_precision)

    def draw_noise_precision(self, state: State, generator: torch.Generator) -> float:
        """Gamma: a shape of half the number of pairs more, a rate of half the weighted sum of squares more."""
        n_rows, n_columns = self.by_user.n_rows, self.by_item.n_rows
        n_pairs = n_rows * n_columns if self.unobserved_weight else len(self.targets)
        shape = torch.tensor(self.noise_shape + 0.5 * n_pairs, dtype=torch.float64)
        gamma = float(torch._standard_gamma(shape, generator=generator))
        return gamma / (self.noise_rate + 0.5 * self.squared_error(state))

    def squared_error(self, state: State) -> float:
        """``sum c_ui (target_ui - x_u'y_i)^2`` over all pairs that say something, added up in float64."""
        a, values = self.unobserved_weight, self.by_user.values.double()
        predicted = products(self._pattern, state.users, state.items).double()
        at_pairs = (a + values) * (self.targets.double() - predicted).square() - a * predicted.square()
        if not a:
            return float(at_pairs.sum())
        grams = [factors.double().mT @ factors.double() for factors in (state.users, state.items)]
        return float(at_pairs.sum() + a * (grams[0] * grams[1]).sum())
