"""What the estimators check of hyper-parameters and data. All that passes here is float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_vae.errors import UserError

# What NumPy or torch makes numbers of: a number, a nested list, an array, a column of a table, a tensor.
Numbers = Any


def finite(name: str, values: Any) -> Tensor:
    """``values`` as a float64 tensor. Raises :class:`UserError` for what is no real number, or not finite."""
    return floating(name, values).double()


def floating(name: str, values: Any) -> Tensor:
    """:func:`finite`, but a tensor keeps its precision."""
    tensor = real(name, values)
    refuse(name, "finite numbers", tensor, ~torch.isfinite(tensor))
    return tensor


def real(name: str, values: Any) -> Tensor:
    """:func:`floating`, but infinities and NaN pass."""
    try:
        tensor = values if isinstance(values, Tensor) else _from_numpy(np.asarray(values))
    except (TypeError, ValueError, OverflowError):
        raise _no_numbers(name, values) from None
    if tensor.is_complex():
        raise _no_numbers(name, values)
    return tensor if tensor.is_floating_point() else tensor.double()


def whole(name: str, value: object, least: int) -> int:
    """``value`` itself. Raises :class:`UserError` unless it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name}: expected a whole number of at least {least}, came {value!r}")
    return int(value)


def positive(name: str, values: Any) -> Tensor:
    """:func:`finite`, and above zero."""
    tensor = finite(name, values)
    refuse(name, "numbers above 0", tensor, tensor <= 0)
    return tensor


def counts(name: str, values: Any) -> Tensor:
    """:func:`finite`, and whole numbers of 0 or more."""
    tensor = finite(name, values)
    refuse(name, "whole numbers of at least 0", tensor, (tensor < 0) | (tensor != tensor.round()))
    return tensor


def binary(name: str, values: Any) -> Tensor:
    """:func:`finite`, and 0 or 1."""
    tensor = finite(name, values)
    refuse(name, "zeros and ones", tensor, (tensor != 0) & (tensor != 1))
    return tensor


def observations(name: str, tensor: Tensor, axes: int = 1) -> Tensor:
    """``tensor`` itself, if it has axes to run over. Raises :class:`UserError` for a lone number."""
    if tensor.ndim < axes:
        raise UserError(f"{name}: expected at least {axes} axes, came shape {tuple(tensor.shape)}")
    return tensor


def groups(values: Tensor, labels: Any, n_groups: int) -> Tensor:
    """``labels`` as an index tensor. Raises :class:`UserError` unless each value has one of ``0 ... n_groups - 1``."""
    index = counts("groups", labels).long()
    if values.ndim != 1 or index.shape != values.shape:
        raise UserError(
            f"groups: expected one for each value of a flat list, came {tuple(index.shape)} for "
            f"{tuple(values.shape)}"
        )
    if index.numel() and int(index.max()) >= n_groups:
        raise UserError(f"groups: expected numbers below {n_groups}, came {int(index.max())}")
    return index


def broadcast(**shapes: Sequence[int]) -> torch.Size:
    """The common batch shape. Raises :class:`UserError` naming the arguments whose shapes do not go together."""
    try:
        return common_shape(*(tuple(shape) for shape in shapes.values()))
    except RuntimeError:
        listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise UserError(
            f"{' and '.join(shapes)}: expected batch shapes that broadcast, came {listed}"
        ) from None


def common_shape(*shapes: Sequence[int]) -> torch.Size:
    """The shape that all broadcast to, where it is known that they do."""
    return torch.Size(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def total_by_group(values: Tensor, index: Tensor, n_groups: int) -> Tensor:
    """Sum of the values of each group."""
    return torch.zeros(n_groups, dtype=values.dtype, device=values.device).index_add_(0, index, values)


def refuse(name: str, expected: str, tensor: Tensor, wrong: Tensor) -> None:
    """Raise :class:`UserError` that names the first number that is ``wrong``, if there is one."""
    if wrong.any():
        place = tuple(int(i) for i in wrong.nonzero()[0])
        where = f" at {place if len(place) > 1 else place[0]}" if place else ""
        raise UserError(f"{name}: expected {expected}, came {float(tensor[place]):g}{where}")


def _from_numpy(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.dtype.kind == "c" else array.astype(np.float64))


def _no_numbers(name: str, values: Any) -> UserError:
    came = " ".join(repr(values).split())  # an array's has many lines
    return UserError(f"{name}: expected numbers, came {came if len(came) <= 80 else came[:77] + '...'}")
