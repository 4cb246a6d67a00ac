"""Products and sums of tables, all in logarithms: the one operation behind every exact algorithm here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError

# Largest table, in entries: 1 GiB of float64.
MAX_TABLE = 2**27


class LogTable(NamedTuple):
    """A log-table of some variables for a batch of cases; a batch of one stands for all cases alike."""

    variables: tuple[str, ...]
    values: Float[Tensor, " cases *states"]


def log_product(tables: Sequence[LogTable], variables: Sequence[str], sizes: Sequence[int]) -> Tensor:
    """The product of tables over ``variables``, ``(cases or 1, *sizes)``; none at all give 1."""
    product: Tensor | None = None
    for table in tables:
        aligned = align(table, variables)
        product = aligned if product is None else product + aligned
    if product is None:
        return torch.zeros((1, *sizes), dtype=torch.float64)
    return product.expand(-1, *sizes)


def align(table: LogTable, variables: Sequence[str]) -> Tensor:
    """A view of a table with its axes in the order of ``variables``, and axes of length 1 for those it lacks."""
    order = sorted(range(len(table.variables)), key=lambda axis: variables.index(table.variables[axis]))
    values = table.values.permute(0, *(axis + 1 for axis in order))
    kept = {table.variables[axis] for axis in order}
    shape = [values.shape[0]]
    sizes = iter(values.shape[1:])
    shape += [next(sizes) if name in kept else 1 for name in variables]
    return values.reshape(shape)


def log_sum(
    values: Float[Tensor, " cases *states"], variables: Sequence[str], keep: Sequence[str]
) -> LogTable:
    """Sum over the variables that are not in ``keep``, whose order the result has."""
    kept = [name for name in variables if name in keep]
    axes = [axis for axis, name in enumerate(variables, start=1) if name not in keep]
    summed = values.logsumexp(dim=axes) if axes else values
    order = [kept.index(name) + 1 for name in keep if name in kept]
    return LogTable(tuple(name for name in keep if name in kept), summed.permute(0, *order))


def log_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, where 0 / 0 is 0 (Jensen 1996): what is impossible stays so, whoever said it."""
    return torch.where(denominator == -torch.inf, -torch.inf, numerator - denominator)


def normalised(values: Float[Tensor, " cases *states"]) -> tuple[Tensor, Float[Tensor, " cases"]]:
    """Log-probabilities that sum to 1 over all axes but the first, and the logarithm of what they were divided by."""
    total = values.flatten(1).logsumexp(dim=1)
    shape = (-1, *(1,) * (values.ndim - 1))
    return values - total.where(total > -torch.inf, 0.0).reshape(shape), total


def check_table_size(
    method: str, variables: Iterable[str], sizes: Sequence[int], limit: int, instead: str | None = None
) -> None:
    """Refuse, before anything is allocated, a method whose largest table would exceed the limit.

    Raises :class:`UserError` with the table's size and what to do ``instead``; unless told otherwise, what an inference
    with an argument ``max_table`` can.
    """
    entries = math.prod(sizes)
    if entries > limit:
        names = list(variables)
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        advice = (
            f"max_table={limit:,}; raise it, observe more variables, or use loopy_belief_propagation"
            if instead is None
            else f"{limit:,}; {instead}"
        )
        raise UserError(
            f"{method}: the largest table, over {len(names)} variables ({shown}), would have {_size(entries)}, "
            f"the limit is {advice}"
        )


def _size(entries: int) -> str:
    if entries >= 10**18:  # may be beyond what a float, or a printed whole number, can hold
        return f"about 10^{math.log10(entries):.0f} entries"
    return f"{entries:,} entries ({_bytes(8 * entries)})"


def _bytes(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.3g} {unit}"
        count //= 1024
    raise AssertionError
