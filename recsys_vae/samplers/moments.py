"""What is remembered of draws that are not kept: means, variances and batch means, chain by chain."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from scipy.stats import chi2
from torch import Tensor


class RunningMoments:
    """Moments of the two halves of each chain, and the spread of means over batches of ``sqrt(n_draws)`` draws.

    Six tensors of the size of one position hold all that split R-hat, an effective sample size and the posterior's
    mean and variance need, however long the chains.

    Args:
        n_draws: how many positions will come.
    """

    def __init__(self, n_draws: int) -> None:
        self.n_draws = n_draws
        self._n_half = n_draws // 2
        self._batch_length = max(1, math.isqrt(n_draws))
        self._count = 0
        self._halves: list[_Welford] = []
        self._batch_means: _Welford | None = None
        self._batch_sum: Tensor | None = None

    def update(self, position: Float[Tensor, "*chains latent"]) -> None:
        """Take in the next draw of every chain."""
        if self._count == 0:
            self._halves = [_Welford(position), _Welford(position)]
            self._batch_means = _Welford(position)
            self._batch_sum = torch.zeros_like(position)
        assert self._batch_sum is not None
        assert self._batch_means is not None
        # With an odd number of draws, the one in the middle counts to the second half.
        self._halves[self._count >= self._n_half].update(position)
        self._batch_sum += position
        self._count += 1
        if self._count % self._batch_length == 0:
            self._batch_means.update(self._batch_sum / self._batch_length)
            self._batch_sum.zero_()

    def mean(self) -> Float[Tensor, "*targets latent"]:
        """Mean over draws and chains (the first axis)."""
        return self._chain_means().mean(dim=0)

    def variance(self) -> Float[Tensor, "*targets latent"]:
        """Variance over draws and chains, about their common mean, unbiased for independent draws."""
        centres = self._chain_means()
        total = self.n_draws * len(centres)
        squares = sum(
            half.squares + half.count * (half.mean - centres.mean(dim=0)).square() for half in self._halves
        )
        return torch.as_tensor(squares).sum(dim=0) / (total - 1)

    def r_hat(self) -> Float[Tensor, "*targets latent"]:
        """Split R-hat (Gelman et al. 2013, section 11.4), without rank normalisation, which needs the draws."""
        means = torch.cat([half.mean for half in self._halves])
        variances = torch.cat([half.squares / (half.count - 1) for half in self._halves])
        n = self.n_draws / 2
        within = variances.mean(dim=0)
        between = means.var(dim=0)
        return ((n - 1) / n + between / within).sqrt()

    def effective_sample_size(self) -> Float[Tensor, "*targets latent"]:
        """Over all chains: the variance of the draws over that of their mean.

        The latter is had from the spread of means over batches within each chain (Jones et al. 2006), or from that of
        the chains' means where it says more than chance explains (in 1 of 20 cases): chains that have not met count
        as a few draws, however well each mixes where it is.
        """
        assert self._batch_means is not None
        n_batches, length = self._batch_means.count, self._batch_length
        n_chains = len(self._batch_means.mean)
        total = self.n_draws * n_chains
        within = self._batch_means.squares.sum(dim=0) / ((n_batches - 1) * n_chains)
        variance_of_mean = length * within / total
        if n_chains > 1:
            by_chance = float(chi2.ppf(0.95, n_chains - 1)) / (n_chains - 1)
            between = self._chain_means().var(dim=0) / n_chains
            variance_of_mean = torch.maximum(variance_of_mean, between / by_chance)
        return (self.variance() / variance_of_mean).clamp(max=total * math.log10(total))

    def _chain_means(self) -> Tensor:
        first, second = self._halves
        return (first.count * first.mean + second.count * second.mean) / self._count


class _Welford:
    """Running mean and squared deviations of each number."""

    def __init__(self, like: Tensor) -> None:
        self.mean = torch.zeros_like(like)
        self.squares = torch.zeros_like(like)
        self.count = 0

    def update(self, values: Tensor) -> None:
        self.count += 1
        shift = values - self.mean
        self.mean += shift / self.count
        self.squares.addcmul_(shift, values - self.mean)
