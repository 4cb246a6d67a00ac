"""What the samplers' public functions check of their arguments, and the generator that they draw with."""

from __future__ import annotations

import hashlib
import numbers

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.distribution import Distribution as Distribution
from recsys_vae.samplers.kernel import LogDensity, is_invalid


def generator_for(
    seed: int, generator: torch.Generator | None, device: torch.device, stream: str = ""
) -> torch.Generator:
    """``generator`` where the caller has one, else a fresh one on ``device`` from ``seed``.

    ``stream`` names the function that draws: two that are given the same seed must not draw the same numbers, or
    what the second does would depend on the first's result. Without one, the seed is taken as it is.
    """
    if generator is not None:
        return generator
    if not stream:
        return torch.Generator(device).manual_seed(seed)
    digest = hashlib.blake2b(f"{stream} {seed}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def device_of(distribution: Distribution) -> torch.device:
    """Where a distribution draws: the device of the first tensor among its attributes, else the CPU."""
    tensors = (value for value in vars(distribution).values() if isinstance(value, Tensor))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def check_count(name: str, value: object, at_least: int = 1) -> None:
    """Raise :class:`UserError` unless ``value`` is a whole number of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < at_least:
        raise UserError(f"{name}: expected a whole number of at least {at_least}, came {value!r}")


def checked_log_density(
    log_density_fn: LogDensity, position: Float[Tensor, "*chains latent"], name: str = "log_density_fn"
) -> Float[Tensor, "*chains"]:
    """``log_density_fn(position)``, which must have a value for each position, neither NaN nor +inf.

    Raises:
        UserError: naming the count of bad values and the first position that has one.
    """
    value = log_density_fn(position)
    check_values(value, position, name)
    return value


def check_values(
    value: Tensor, position: Float[Tensor, "*chains latent"], name: str = "log_density_fn"
) -> None:
    """Raise :class:`UserError` unless ``value`` could be the log-density at ``position``."""
    if value.shape != position.shape[:-1]:
        raise UserError(
            f"{name}: expected values of shape {tuple(position.shape[:-1])} for positions "
            f"{tuple(position.shape)}, came {tuple(value.shape)}"
        )
    invalid = is_invalid(value)
    if invalid.any():
        place = first(invalid)
        raise UserError(
            f"{name}: expected finite values or -inf, came NaN or +inf at {int(invalid.sum())} of "
            f"{invalid.numel()} positions, first {float(value[place])} at {show(position[place])}"
        )


def first(flags: Bool[Tensor, "*chains"]) -> tuple[int, ...]:
    """Index of the first flag that is set."""
    return tuple(int(index) for index in flags.nonzero()[0])


def show(position: Float[Tensor, " latent"]) -> str:
    """A position for a message, cut after six coordinates."""
    shown = ", ".join(f"{float(coordinate):.6g}" for coordinate in position[:6])
    return f"[{shown}{', ...' if position.shape[0] > 6 else ''}]"
