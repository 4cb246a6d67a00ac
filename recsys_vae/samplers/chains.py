"""Running a kernel: warm-up, thinning, storage. No kernel loops over draws; no loop here looks inside a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers import diagnostics as diagnose
from recsys_vae.samplers.adaptation import WarmUp
from recsys_vae.samplers.arguments import check_count
from recsys_vae.samplers.kernel import Kernel, LogDensity, StepInfo, Tuning, is_invalid
from recsys_vae.samplers.moments import RunningMoments

# Called with the name of the phase, how many steps are done and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ChainDiagnostics:
    """Whether to believe the draws of each target (the axes between chains and latent, if any).

    ``ess_*`` count all chains of a target. ``r_hat``, ``ess_bulk``, ``ess_tail`` and ``mcse_mean`` are the
    rank-normalised ones of Vehtari et al. 2021 when the draws were kept; else ``r_hat`` is plain split R-hat,
    ``ess_bulk`` comes from batch means and ``ess_tail`` is NaN. ``divergences`` and ``invalid`` are counts over the
    kept steps, warm-up left out; ``bfmi`` is Betancourt's fraction of missing information, per chain.
    """

    r_hat: Float[Tensor, "*targets latent"]
    ess_bulk: Float[Tensor, "*targets latent"]
    ess_tail: Float[Tensor, "*targets latent"]
    mcse_mean: Float[Tensor, "*targets latent"]
    acceptance: Float[Tensor, " chains *targets"]
    divergences: Tensor
    invalid: Tensor
    bfmi: Float[Tensor, " chains *targets"]

    def summary(self) -> dict[str, float]:
        """The worst of each over targets and coordinates, in JSON types."""
        return {
            "max_r_hat": float(self.r_hat.max()),
            "min_ess_bulk": float(self.ess_bulk.min()),
            "min_ess_tail": float(self.ess_tail.min()),
            "mean_acceptance": float(self.acceptance.mean()),
            "min_acceptance": float(self.acceptance.min()),
            "divergences": int(self.divergences.sum()),
            "invalid": int(self.invalid.sum()),
            "min_bfmi": float(self.bfmi.min()),
        }


@dataclass(frozen=True)
class SampleResult:
    """Draws of every chain, with what is needed to judge them.

    ``draws`` is none when they were not kept; ``mean`` and ``variance`` are there always. ``energy`` and
    ``divergent`` are per draw. ``tuning`` and ``position`` let another run go on without warm-up.
    """

    draws: Float[Tensor, "draws chains *targets latent"] | None
    mean: Float[Tensor, "*targets latent"]
    variance: Float[Tensor, "*targets latent"]
    energy: Float[Tensor, "draws chains *targets"]
    divergent: Tensor
    diagnostics: ChainDiagnostics
    tuning: Tuning
    position: Float[Tensor, "chains *targets latent"]


def sample(
    kernel: Kernel[Any],
    log_density_fn: LogDensity,
    initial: Float[Tensor, "chains *targets latent"],
    n_draws: int = 1000,
    n_warmup: int = 500,
    *,
    thin: int = 1,
    seed: int = 0,
    step_size: float | None = None,
    scale: Float[Tensor, "*#targets latent"] | None = None,
    adapt_scale: bool = True,
    tuning: Tuning | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    keep_draws: bool = True,
    on_draw: Callable[[Tensor], None] | None = None,
    progress: Progress | None = None,
) -> SampleResult:
    """Run every chain: ``n_warmup`` steps that tune the kernel, then ``n_draws`` draws, ``thin`` steps apart.

    >>> import torch
    >>> from recsys_vae.samplers import hmc, sample
    >>> result = sample(hmc(), lambda z: -0.5 * z.square().sum(-1), torch.zeros(4, 2), n_draws=500, seed=1)
    >>> result.draws.shape, bool(result.diagnostics.r_hat.max() < 1.05)
    (torch.Size([500, 4, 2]), True)

    Args:
        kernel: such as ``hmc()``.
        log_density_fn: maps ``(..., latent)`` to ``(...)``: nats, up to a constant. Where a kernel needs the
            gradient, by its own ``value_and_gradient``, or else by automatic differentiation.
        initial: where the chains begin; axes between chains and latent are targets (users, say) of their own.
        n_draws: draws of each chain that are kept or counted.
        n_warmup: steps before the first draw; 0 keeps ``step_size`` and ``scale``.
        thin: steps between draws.
        seed: of all randomness here.
        step_size: where warm-up begins, in units of ``scale``; none: the kernel's own choice.
        scale: guess of each coordinate's standard deviation; none: 1.
        adapt_scale: whether warm-up learns ``scale``; chains of one target pool what they see.
        tuning: of an earlier result, in place of ``step_size`` and ``scale``.
        transform: from the coordinates that the chains move in to those of the draws; none: the same.
        keep_draws: whether to store draws; without, memory does not grow with their number.
        on_draw: called with each draw's positions, ``(chains, *targets, latent)``.
        progress: called after every step.

    Raises :class:`UserError` naming the argument: a wrong shape, a log-density that is NaN or +inf at the start, a
    step size or scale that is not positive, fewer than 4 draws. Later in a chain such a density is a rejected
    move, counted in ``diagnostics.invalid``.
    """
    _check(initial, n_draws, n_warmup, thin, seed, step_size, scale, tuning)
    generator = torch.Generator(device=initial.device).manual_seed(seed)
    with torch.no_grad():
        state = kernel.init(initial.detach().clone(), log_density_fn)
        _check_start(state, initial)
        if tuning is None:
            tuning = kernel.default_tuning(initial, step_size)
            if scale is not None:
                tuning = tuning._replace(scale=scale.to(initial))
        if n_warmup:
            warm_up = WarmUp(
                tuning,
                n_warmup,
                kernel.target_acceptance,
                adapt_scale=adapt_scale,
                max_leapfrog=kernel.max_leapfrog,
            )
            for step in range(n_warmup):
                state, info = kernel.step(state, log_density_fn, warm_up.tuning, generator)
                warm_up.update(state.position, info)
                if progress is not None:
                    progress("warm-up", step + 1, n_warmup)
            tuning = warm_up.finish()
        record = _Record(initial, n_draws, thin, keep_draws)
        for draw in range(n_draws):
            for _ in range(thin):
                state, info = kernel.step(state, log_density_fn, tuning, generator)
                record.step(info)
            position = state.position if transform is None else transform(state.position)
            record.draw(draw, position, info)
            if on_draw is not None:
                on_draw(position)
            if progress is not None:
                progress("draws", draw + 1, n_draws)
        return record.result(tuning, state.position)


class _Record:
    """What is kept of a run."""

    def __init__(self, initial: Tensor, n_draws: int, thin: int, keep_draws: bool) -> None:
        chains = initial.shape[:-1]
        self.n_steps = n_draws * thin
        self.draws = initial.new_empty((n_draws, *initial.shape)) if keep_draws else None
        self.moments = RunningMoments(n_draws)
        self.energy = initial.new_empty((n_draws, *chains))
        self.divergent = torch.zeros((n_draws, *chains), dtype=torch.bool, device=initial.device)
        self.acceptance = initial.new_zeros(chains)
        self.divergences = torch.zeros(chains, dtype=torch.int64, device=initial.device)
        self.invalid = torch.zeros_like(self.divergences)

    def step(self, info: StepInfo) -> None:
        self.acceptance += info.acceptance
        self.divergences += info.divergent
        self.invalid += info.invalid

    def draw(self, index: int, position: Tensor, info: StepInfo) -> None:
        if self.draws is not None:
            self.draws[index] = position
        else:
            self.moments.update(position)
        self.energy[index] = info.energy
        self.divergent[index] = info.divergent

    def result(self, tuning: Tuning, position: Tensor) -> SampleResult:
        if self.draws is not None:
            flat = self.draws.flatten(0, 1)
            mean, variance = flat.mean(dim=0), flat.var(dim=0)
            r_hat, ess_bulk = diagnose.r_hat(self.draws), diagnose.ess_bulk(self.draws)
            ess_tail, mcse = diagnose.ess_tail(self.draws), diagnose.mcse_mean(self.draws)
        else:
            mean, variance = self.moments.mean(), self.moments.variance()
            r_hat, ess_bulk = self.moments.r_hat(), self.moments.effective_sample_size()
            ess_tail, mcse = torch.full_like(ess_bulk, torch.nan), (variance / ess_bulk).sqrt()
        found = ChainDiagnostics(
            r_hat=r_hat,
            ess_bulk=ess_bulk,
            ess_tail=ess_tail,
            mcse_mean=mcse,
            acceptance=self.acceptance / self.n_steps,
            divergences=self.divergences,
            invalid=self.invalid,
            bfmi=diagnose.bfmi(self.energy),
        )
        return SampleResult(self.draws, mean, variance, self.energy, self.divergent, found, tuning, position)


def _check(
    initial: Tensor,
    n_draws: object,
    n_warmup: object,
    thin: object,
    seed: object,
    step_size: float | None,
    scale: Tensor | None,
    tuning: Tuning | None,
) -> None:
    if initial.ndim < 2 or initial.numel() == 0 or not initial.is_floating_point():
        raise UserError(
            "initial: expected positions (chains, ..., latent) of floating-point numbers, "
            f"came {tuple(initial.shape)} of {initial.dtype}"
        )
    if not initial.isfinite().all():
        raise UserError("initial: expected finite positions, came NaN or infinity")
    diagnose.check_enough_draws(n_draws)
    check_count("n_warmup", n_warmup, 0)
    check_count("thin", thin)
    check_count("seed", seed, 0)
    if step_size is not None and not 0.0 < step_size < float("inf"):
        raise UserError(f"step_size: expected a positive number, came {step_size!r}")
    if scale is not None:
        _check_scale("scale", scale, initial)
    if tuning is not None:
        if tuning.step_size.shape != initial.shape[:-1]:
            raise UserError(
                f"tuning: expected step sizes {tuple(initial.shape[:-1])}, came {tuple(tuning.step_size.shape)}"
            )
        if not bool(((tuning.step_size > 0) & tuning.step_size.isfinite()).all()):
            raise UserError("tuning: expected positive step sizes, came some that are not")
        _check_scale("tuning.scale", tuning.scale, initial)


def _check_scale(name: str, scale: Tensor, initial: Tensor) -> None:
    trailing = initial.shape[initial.ndim - scale.ndim :]
    fits = all(size in (1, wanted) for size, wanted in zip(scale.shape, trailing, strict=False))
    if not fits or not 1 <= scale.ndim <= initial.ndim or scale.shape[-1] != initial.shape[-1]:
        raise UserError(
            f"{name}: expected a shape that fits {tuple(initial.shape)}, came {tuple(scale.shape)}"
        )
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise UserError(f"{name}: expected positive numbers, came some that are not")


def _check_start(state: Any, initial: Tensor) -> None:
    log_density = state.log_density
    if log_density.shape != initial.shape[:-1]:
        raise UserError(
            f"log_density_fn: expected a shape {tuple(initial.shape[:-1])} for positions {tuple(initial.shape)}, "
            f"came {tuple(log_density.shape)}"
        )
    bad = is_invalid(log_density) | (log_density == -torch.inf)
    if bool(bad.any()):
        where = tuple(int(index) for index in bad.nonzero()[0])
        raise UserError(
            f"log_density_fn: expected finite numbers at the initial positions, came {float(log_density[where])} "
            f"at chain {where} ({int(bad.sum())} in all)"
        )
    gradient = getattr(getattr(state, "latest", state), "gradient", None)
    if gradient is not None and not bool(gradient.isfinite().all()):
        n_bad = int((~gradient.isfinite()).any(dim=-1).sum())
        raise UserError(
            f"log_density_fn: expected finite gradients at the initial positions, came NaN or infinity at {n_bad} of "
            f"{log_density.numel()}"
        )
