"""Evaluating a log-density and its gradient."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.samplers.kernel import LogDensity


@runtime_checkable
class WithGradient(Protocol):
    """A log-density that knows its own gradient, cheaper than automatic differentiation would find it."""

    def value_and_gradient(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density ``(*chains,)`` and its gradient ``(*chains, latent)``."""
        ...


def value_and_gradient(
    log_density_fn: LogDensity, position: Float[Tensor, "*chains latent"]
) -> tuple[Float[Tensor, "*chains"], Float[Tensor, "*chains latent"]]:
    """The log-density and its gradient at ``position``, detached.

    By the density's own ``value_and_gradient`` where it has one, else by automatic differentiation of the sum
    over chains, which is each chain's own gradient since no chain's density depends on another's position.
    """
    if isinstance(log_density_fn, WithGradient):
        return log_density_fn.value_and_gradient(position)
    with torch.enable_grad():
        leaf = position.detach().requires_grad_(True)
        value = log_density_fn(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient
