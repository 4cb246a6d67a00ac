"""Inverse-CDF sampling: if ``u`` is uniform on (0, 1), then ``x = F^-1(u)`` has the CDF ``F``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.arguments import check_count, first, generator_for


@runtime_checkable
class Law(Protocol):
    """A law on the line that knows its quantiles; :class:`~recsys_vae.samplers.density_law.DensityLaw` is one."""

    @property
    def batch_shape(self) -> torch.Size:
        """Axes of the laws held together; none for a single one."""
        ...

    @property
    def device(self) -> torch.device:
        """Where quantiles are found."""
        ...

    def quantile(self, u: Float[Tensor, " draws *batch"]) -> Num[Tensor, " draws *batch"]:
        """``F^-1(u)`` for ``u`` in [0, 1]."""
        ...


@dataclass(frozen=True)
class DiscreteLaw:
    """Laws on the states ``0 .. states - 1``, one for each member of the batch.

    Args:
        log_weights: nats, not necessarily normalised; -inf is a state that is never drawn.

    Raises:
        UserError: when a weight is NaN or +inf, or all weights of a member are zero.
    """

    log_weights: Float[Tensor, "*batch states"]

    def __post_init__(self) -> None:
        highest = self.log_weights.amax(dim=-1)
        bad = ~highest.isfinite()
        if bad.any():
            raise UserError(
                f"log_weights: expected finite weights or -inf, not all -inf, came {float(highest[first(bad)])} as "
                f"the largest of member {first(bad)}"
            )

    @property
    def batch_shape(self) -> torch.Size:
        """Axes of the laws held together."""
        return self.log_weights.shape[:-1]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.log_weights.device

    def quantile(self, u: Float[Tensor, " draws *batch"]) -> Int[Tensor, " draws *batch"]:
        """The first state whose CDF exceeds ``u``; never one without weight."""
        # Apple's devices have no float64, and float32 loses states among many
        exact = self.log_weights.cpu() if self.device.type == "mps" else self.log_weights
        cdf = exact.to(torch.float64).softmax(dim=-1).cumsum(dim=-1)
        total = cdf[..., -1:]
        # below the total, so that u = 1 and rounding stay on the last state with weight
        wanted = u.to(cdf).movedim(0, -1) * total
        wanted = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))
        states = torch.searchsorted(cdf, wanted.contiguous(), right=True)
        return states.movedim(-1, 0).to(self.device)


def inverse_cdf(
    law: Law | Callable[[Tensor], Tensor],
    n_draws: int,
    *,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> Num[Tensor, " draws *batch"]:
    """Independent draws from a law on the line.

    ``inverse_cdf(torch.special.ndtri, 1000)`` draws from the standard normal law by its quantile function,
    ``inverse_cdf(DensityLaw(log_density_fn, low=0.0), 1000)`` from a density, ``inverse_cdf(DiscreteLaw(log_weights),
    1000)`` from states, for every member of a batch.

    Args:
        law: what to draw from, or its quantile function, which is given ``(draws,)`` numbers in float64.
        n_draws: for each member of the law's batch.
        seed: of the draws.
        generator: used in place of one made from ``seed``.

    Raises:
        UserError: when quantiles have the wrong shape or are not finite.
    """
    check_count("n_draws", n_draws)
    if isinstance(law, Law):
        random = generator_for(seed, generator, law.device, "inverse_cdf")
        return law.quantile(open_uniform((n_draws, *law.batch_shape), random))
    u = open_uniform((n_draws,), generator_for(seed, generator, torch.device("cpu"), "inverse_cdf"))
    value = law(u)
    if value.shape != u.shape or not bool(value.isfinite().all()):
        shown = f"came shape {tuple(value.shape)}"
        if value.shape == u.shape:
            place = first(~value.isfinite())
            shown = f"came {float(value[place])} at u = {float(u[place])}"
        raise UserError(f"law: expected one finite quantile for each of {n_draws} numbers in (0, 1), {shown}")
    return value


def open_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*uniform"]:
    """Uniform on the open interval (0, 1), in float64 where the generator's device has it."""
    dtype = torch.float32 if generator.device.type == "mps" else torch.float64
    uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)
    return uniform.clamp_(min=torch.finfo(dtype).eps / 4.0)
