"""Whether to believe chains: rank-normalised split R-hat, effective sample sizes, Monte Carlo error.

The definitions are those of Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021 ("Rank-normalization, folding, and
localization"), and the numbers are ArviZ's, which the tests hold them to. ArviZ goes through the quantities one by
one in Python, 5 ms each; a thousand users with 200 coordinates have 200,000. Here all of them go together.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError

MIN_DRAWS = 4
# Quantities are sorted and transformed this many numbers at a time.
_BLOCK = 4_000_000


def r_hat(draws: Float[Tensor, "draws chains *rest"]) -> Float[Tensor, "*rest"]:
    """Rank-normalised split R-hat: the larger of the bulk's and of the folded draws'. 1 when the chains agree.

    Raises :class:`UserError` for fewer than 4 draws. NaN where a quantity is constant or not finite.
    """
    return _in_blocks(draws, _r_hat)


def ess_bulk(draws: Float[Tensor, "draws chains *rest"]) -> Float[Tensor, "*rest"]:
    """Effective sample size of the rank-normalised draws, over all chains."""
    return _in_blocks(draws, lambda block: _ess(_rank_normalise(_split(block))))


def ess_tail(draws: Float[Tensor, "draws chains *rest"]) -> Float[Tensor, "*rest"]:
    """The smaller effective sample size of the indicators of the 5 % and of the 95 % quantile."""
    return _in_blocks(draws, _ess_tail)


def ess_mean(draws: Float[Tensor, "draws chains *rest"]) -> Float[Tensor, "*rest"]:
    """Effective sample size for the mean: of the draws themselves."""
    return _in_blocks(draws, lambda block: _ess(_split(block)))


def mcse_mean(draws: Float[Tensor, "draws chains *rest"]) -> Float[Tensor, "*rest"]:
    """Monte Carlo standard error of the mean: standard deviation over the root of :func:`ess_mean`."""
    flat = draws.double().flatten(0, 1)
    return flat.std(dim=0) / ess_mean(draws).sqrt()


def bfmi(energy: Float[Tensor, " draws *chains"]) -> Float[Tensor, "*chains"]:
    """Energy's Bayesian fraction of missing information (Betancourt 2016), per chain; below 0.3 is a warning."""
    centred = energy.double() - energy.double().mean(dim=0)
    return centred.diff(dim=0).square().sum(dim=0) / centred.square().sum(dim=0)


def check_enough_draws(n_draws: object) -> None:
    """Raise :class:`UserError` when diagnostics would be meaningless."""
    if isinstance(n_draws, bool) or not isinstance(n_draws, numbers.Integral) or int(n_draws) < MIN_DRAWS:
        raise UserError(f"n_draws: diagnostics expect at least {MIN_DRAWS} draws, came {n_draws!r}")


def _in_blocks(draws: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``function`` from ``(draws, chains, block)`` to ``(block,)`` to all quantities."""
    n_draws, n_chains = draws.shape[:2]
    check_enough_draws(n_draws)
    flat = draws.reshape(n_draws, n_chains, -1)
    width = max(1, _BLOCK // (n_draws * n_chains))
    starts = range(0, flat.shape[-1], width)
    parts = [function(flat[..., start : start + width].double()) for start in starts]
    return torch.cat(parts).reshape(draws.shape[2:])


def _split(draws: Tensor) -> Tensor:
    """Halves of chains as chains; with an odd number of draws the one in the middle is left out."""
    half = len(draws) // 2
    return torch.cat([draws[:half], draws[-half:]], dim=1)


def _rank_normalise(draws: Tensor) -> Tensor:
    """Normal scores of the ranks over all chains; ties share their mean rank (Blom's offset 3/8)."""
    n_draws, n_chains, n_quantities = draws.shape
    values, order = draws.reshape(-1, n_quantities).t().sort(dim=-1)
    total = values.shape[-1]
    positions = torch.arange(total, device=draws.device)
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    ends = torch.ones_like(starts)
    ends[:, :-1] = starts[:, 1:]
    first = torch.where(starts, positions, 0).cummax(dim=-1).values
    last = torch.where(ends, positions, total).flip(-1).cummin(dim=-1).values.flip(-1)
    ranks = 1.0 + 0.5 * (first + last).double()
    scores = torch.special.ndtri((ranks - 0.375) / (total + 0.25))
    result = torch.empty_like(scores).scatter_(-1, order, scores)
    result = torch.where(
        draws.reshape(-1, n_quantities).t().isfinite().all(-1, keepdim=True), result, torch.nan
    )
    return result.t().reshape(n_draws, n_chains, n_quantities)


def _split_r_hat(halves: Tensor) -> Tensor:
    n = len(halves)
    between = n * halves.mean(dim=0).var(dim=0)
    within = halves.var(dim=0).mean(dim=0)
    return ((between / within + n - 1) / n).sqrt()


def _r_hat(draws: Tensor) -> Tensor:
    halves = _split(draws)
    bulk = _split_r_hat(_rank_normalise(halves))
    folded = (halves - _median(halves)).abs()
    tail = _split_r_hat(_rank_normalise(folded))
    return torch.maximum(bulk, tail)


def _median(halves: Tensor) -> Tensor:
    """The mean of the two in the middle, where ``torch.median`` takes the lower one."""
    values = halves.flatten(0, 1).sort(dim=0).values
    total = len(values)
    return 0.5 * (values[(total - 1) // 2] + values[total // 2])


def _ess_tail(draws: Tensor) -> Tensor:
    flat = draws.flatten(0, 1).sort(dim=0).values
    sizes = []
    for probability in (0.05, 0.95):
        indicator = (draws <= _quantile(flat, probability)).double()
        sizes.append(_ess(_split(indicator)))
    # The indicators of NaN are as finite as any.
    return torch.where(draws.flatten(0, 1).isfinite().all(dim=0), torch.minimum(*sizes), torch.nan)


def _quantile(ascending: Tensor, probability: float) -> Tensor:
    """Linear interpolation between the two order statistics around it (Hyndman & Fan's type 7)."""
    at = probability * (len(ascending) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ascending) - 1)
    return torch.lerp(ascending[low], ascending[high], at - low)


def _ess(chains: Tensor) -> Tensor:
    """Geyer's initial monotone sequence over the combined autocorrelations of split chains."""
    n_draws, n_chains, n_quantities = chains.shape
    autocovariance = _autocovariance(chains)
    chain_means = chains.mean(dim=0)
    mean_variance = autocovariance[0].mean(dim=0) * n_draws / (n_draws - 1.0)
    total_variance = mean_variance * (n_draws - 1.0) / n_draws
    if n_chains > 1:
        total_variance = total_variance + chain_means.var(dim=0)
    correlation = 1.0 - (mean_variance - autocovariance.mean(dim=1)) / total_variance
    correlation[0] = 1.0
    # Sums of pairs of lags (0, 1), (2, 3), ... are positive and fall for a reversible chain. They are added up to the
    # first that is not positive, or up to the last, of which the even lag alone counts, once, when it is positive.
    n_pairs = max(1, (n_draws - 1) // 2)
    pairs = correlation[: 2 * n_pairs].reshape(n_pairs, 2, n_quantities).sum(dim=1)
    leading = (pairs > 0.0).cummin(dim=0).values
    n_added = leading.sum(dim=0).clamp(max=n_pairs - 1)
    added = torch.arange(n_pairs, device=chains.device).unsqueeze(-1) < n_added
    tau = -1.0 + 2.0 * torch.where(added, pairs.cummin(dim=0).values, 0.0).sum(dim=0)
    last = correlation.gather(0, 2 * n_added.unsqueeze(0)).squeeze(0)
    tau = tau + torch.where((last > 0.0) | leading[-1], last, 0.0)
    total = n_draws * n_chains
    tau = tau.clamp(min=1.0 / math.log10(total))
    size = total / tau
    flat = chains.flatten(0, 1)
    constant = (flat.amax(dim=0) - flat.amin(dim=0)) < torch.finfo(flat.dtype).resolution
    size = torch.where(constant, float(total), size)
    return torch.where(flat.isfinite().all(dim=0), size, torch.nan)


def _autocovariance(chains: Tensor) -> Tensor:
    """Biased autocovariances at every lag, by the fast Fourier transform."""
    n_draws = len(chains)
    centred = chains - chains.mean(dim=0)
    spectrum = torch.fft.rfft(centred, n=_fast_length(2 * n_draws), dim=0)
    power = spectrum.real.square() + spectrum.imag.square()
    covariance: Tensor = torch.fft.irfft(power, n=_fast_length(2 * n_draws), dim=0)[:n_draws]
    return covariance / n_draws


def _fast_length(length: int) -> int:
    return 1 << (length - 1).bit_length()
