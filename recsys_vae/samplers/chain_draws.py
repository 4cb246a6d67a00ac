"""One independent draw for every chain, from a distribution that knows the targets but not the chains."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.arguments import Distribution


def draw_for_chains(
    distribution: Distribution,
    position: Float[Tensor, "*chains latent"],
    generator: torch.Generator | None,
) -> Float[Tensor, "*chains latent"]:
    """Independent draws in the shape of ``position``; the batch axes broadcast to the trailing ones of the chains.

    Raises:
        UserError: when they do not.
    """
    # No draw at all still tells the shape, and takes nothing from the generator.
    batch = distribution.draw(0, generator).shape[1:]
    *chains, latent = position.shape
    n_leading = len(chains) - (len(batch) - 1)
    trailing = chains[max(n_leading, 0) :]
    if (
        n_leading < 0
        or batch[-1] != latent
        or any(size not in (1, wanted) for size, wanted in zip(batch[:-1], trailing, strict=True))
    ):
        raise UserError(
            f"distribution: expected batch and latent axes that broadcast to positions {tuple(position.shape)}, "
            f"came {tuple(batch)}"
        )
    # An axis of size 1 that is broadcast needs draws of its own for each place, not copies of one.
    copies = [wanted if size == 1 else 1 for size, wanted in zip(batch[:-1], trailing, strict=True)]
    leading = chains[:n_leading]
    draws = distribution.draw(math.prod(leading) * math.prod(copies), generator)
    draws = draws.reshape(*leading, *copies, *batch)
    n_batch = len(copies)
    pairs = [n_leading + offset + axis for axis in range(n_batch) for offset in (0, n_batch)]
    order = [*range(n_leading), *pairs, n_leading + 2 * n_batch]
    return draws.permute(order).reshape(position.shape).to(position)
