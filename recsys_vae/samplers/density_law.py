"""A law on the line from its unnormalised log-density: the CDF integrated and inverted numerically.

The interval is cut into panels, narrower where the density asks for it. On each the density is a Legendre series
through its values at 16 Gauss-Legendre nodes, and the series' integral is the CDF.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.line import Line

_NODES = 16
_TOLERANCE = 1e-12  # of a panel, in units of the law's whole mass
_MAX_PANELS = 50_000
_MAX_ROUNDS = 300
_HEAVY_END = 1e-9


class _Panels(NamedTuple):
    """Intervals side by side in the line's coordinate, with the log-integrand at each one's nodes."""

    left: Float[Tensor, " panels"]
    right: Float[Tensor, " panels"]
    log_integrand: Float[Tensor, "panels nodes"]


class DensityLaw:
    """The law with density in proportion to ``exp(log_density_fn(x))`` on ``(low, high)``.

    The CDF's error is below 1e-10 for densities that are smooth between a few kinks, jumps or integrable poles at
    the ends; what the caller's rounding adds (for instance at a pole that does not lie at 0) comes on top.

    Args:
        log_density_fn: from ``(points,)`` to ``(points,)``, float64, nats. Positions as far as 1e40 times
            ``width`` may be asked for.
        low: lower end; may be -inf.
        high: upper end; may be +inf.
        centre: a guess of where on an infinite line the mass lies.
        width: a guess of its extent. Single peaks are found wherever they are, since a log-density slopes towards
            them; where it is -inf outside a short stretch, give ``low`` and ``high``.

    Raises:
        UserError: when the interval is empty, the log-density has the wrong shape, is NaN or +inf, or -inf
            everywhere, or is not integrable.
    """

    def __init__(
        self,
        log_density_fn: Callable[[Tensor], Tensor],
        low: float = -math.inf,
        high: float = math.inf,
        *,
        centre: float = 0.0,
        width: float = 1.0,
    ) -> None:
        if not low < high:
            raise UserError(f"low: expected less than high, came {low!r} and {high!r}")
        if not 0.0 < width < math.inf or not math.isfinite(centre):
            raise UserError(
                f"width: expected a positive number, and centre a finite one, came {width!r}, {centre!r}"
            )
        self._log_density_fn = log_density_fn
        self._line = Line(low, high, centre, width)
        if math.isinf(low) or math.isinf(high):
            # a narrow law far from the guess is resolved better on a line that is centred on it
            self._integrate(tolerance=1e-3)
            quartiles = self.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
            spread = max(quartiles[2] - quartiles[0], abs(quartiles[1]) * 1e-14, 1e-290)
            self._line = Line(low, high, quartiles[1], spread)
        self._integrate(tolerance=_TOLERANCE)

    @property
    def batch_shape(self) -> torch.Size:
        """A single law."""
        return torch.Size()

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def log_normaliser(self) -> float:
        """Logarithm of the integral of ``exp(log_density_fn)``, nats."""
        return self._log_unit + math.log(float(self._cumulative[-1]))

    def cdf(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """Probability of at most ``x``; 0 below the interval and 1 above."""
        coordinate = self._line.coordinate(x.to(torch.float64)).clamp(self._edges[0], self._edges[-1])
        panel = (torch.searchsorted(self._edges, coordinate, right=True) - 1).clamp(0, len(self._series) - 1)
        half = self._half[panel]
        offset = ((coordinate - self._edges[panel]) / half - 1.0).clamp(-1.0, 1.0)
        within, _ = _integral_and_value(self._series[panel], offset)
        return ((self._cumulative[panel] + half * within) / self._cumulative[-1]).clamp(0.0, 1.0)

    def quantile(self, u: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """``F^-1(u)``: Newton's method on the series, kept in its bracket by bisection; ``u`` in [0, 1]."""
        if not bool(((u >= 0.0) & (u <= 1.0)).all()):
            raise UserError(f"u: expected numbers in [0, 1], came from {float(u.min())} to {float(u.max())}")
        mass = u.to(torch.float64) * self._cumulative[-1]
        last = int((self._cumulative[1:] > self._cumulative[:-1]).nonzero()[-1])
        panel = (torch.searchsorted(self._cumulative, mass, right=True) - 1).clamp(0, last)
        half, series = self._half[panel], self._series[panel]
        wanted = (mass - self._cumulative[panel]) / half
        offset = _solve(series, wanted)
        x = self._line.position(self._edges[panel] + half * (1.0 + offset))
        return torch.where(u == 0.0, self._line.low, torch.where(u == 1.0, self._line.high, x))

    def _integrate(self, tolerance: float) -> None:
        """Split panels until each one's series has converged; sets the law's edges, series and cumulative masses."""
        n_panels = math.ceil((self._line.end - self._line.start) / 2.0)
        edges = torch.linspace(self._line.start, self._line.end, n_panels + 1, dtype=torch.float64)
        panels = self._evaluated(edges[:-1], edges[1:])
        for _ in range(_MAX_ROUNDS):
            unit = float(panels.log_integrand.max())
            if unit == -math.inf:
                raise UserError(
                    f"log_density_fn: expected a finite value somewhere in ({self._line.low}, {self._line.high}), "
                    f"came -inf at all {panels.log_integrand.numel()} points tried"
                )
            half = 0.5 * (panels.right - panels.left)
            integrand = (panels.log_integrand - unit).exp()
            series = integrand @ _TRANSFORM
            mass = 2.0 * half * series[:, 0]
            split = self._to_split(panels, integrand, series, half, tolerance * float(mass.sum()))
            if not split.any() or len(half) > _MAX_PANELS:
                break
            panels = self._halved(panels, split)
        self._check_ends(mass)
        self._edges = torch.cat([panels.left, panels.right[-1:]])
        self._half, self._series, self._log_unit = half, series, unit
        self._cumulative = torch.cat([mass.new_zeros(1), mass.cumsum(dim=0)])

    def _to_split(
        self, panels: _Panels, integrand: Tensor, series: Tensor, half: Tensor, tolerance: float
    ) -> Tensor:
        allowed = tolerance + self._noise(panels, integrand)
        split = half * series[:, -3:].abs().sum(dim=1) > allowed
        # a jump or kink between the outermost nodes of two panels shows in their series' values at the edge
        jump = (series[:-1].sum(dim=1) - (series[1:] * _SIGNS).sum(dim=1)).abs()
        gap = 1.0 - float(_POINTS[-1])
        split[:-1] |= gap * half[:-1] * jump > allowed[:-1]
        split[1:] |= gap * half[1:] * jump > allowed[1:]
        # a peak between nodes: what lies higher than both neighbours by more than a nat has not been seen whole
        rise = panels.log_integrand.flatten().diff()
        peak = (rise[:-1] > 1.0) & (rise[1:] < -1.0)
        split[((peak.nonzero().squeeze(1) + 1) // _NODES)] = True
        # the summit may lie across the border, so neighbours keep up
        wider_left = split[1:] & (half[:-1] > 1.5 * half[1:])
        wider_right = split[:-1] & (half[1:] > 1.5 * half[:-1])
        split[:-1] |= wider_left
        split[1:] |= wider_right
        magnitude = torch.maximum(panels.left.abs(), panels.right.abs())
        return split & (half > 8.0 * torch.finfo(torch.float64).eps * magnitude)

    def _noise(self, panels: _Panels, integrand: Float[Tensor, "panels nodes"]) -> Float[Tensor, " panels"]:
        """Error of each panel's mass that no splitting removes: rounding of the log-density and of positions."""
        x = self._line.position(_nodes(panels.left, panels.right))
        between = (panels.log_integrand.diff(dim=1) / x.diff(dim=1)).abs().nan_to_num(nan=0.0, posinf=0.0)
        # the gentler side: a steep one may lead to where there is no mass
        slope = torch.minimum(
            torch.cat([between[:, :1], between], dim=1), torch.cat([between, between[:, -1:]], dim=1)
        )
        relative = 1.0 + panels.log_integrand.abs() + slope * x.abs()
        weighted = torch.where(integrand > 0.0, integrand * relative, 0.0)
        return 16.0 * torch.finfo(torch.float64).eps * (panels.right - panels.left) * weighted.mean(dim=1)

    def _halved(self, panels: _Panels, split: Tensor) -> _Panels:
        left, right = panels.left[split], panels.right[split]
        middle = 0.5 * (left + right)
        halves = self._evaluated(torch.cat([left, middle]), torch.cat([middle, right]))
        merged = _Panels(*(torch.cat([old[~split], new]) for old, new in zip(panels, halves, strict=True)))
        order = merged.left.argsort()
        return _Panels(*(field[order] for field in merged))

    def _evaluated(self, left: Tensor, right: Tensor) -> _Panels:
        nodes = _nodes(left, right)
        x = self._line.position(nodes).flatten()
        value = self._log_density_fn(x)
        if value.shape != x.shape:
            raise UserError(
                f"log_density_fn: expected values of shape {tuple(x.shape)}, one a point, came {tuple(value.shape)}"
            )
        invalid = value.isnan() | (value == math.inf)
        if invalid.any():
            raise UserError(
                f"log_density_fn: expected finite values or -inf, came {float(value[invalid][0])} at "
                f"{float(x[invalid][0])!r}"
            )
        return _Panels(
            left, right, value.to(torch.float64).reshape(nodes.shape) + self._line.log_slope(nodes)
        )

    def _check_ends(self, mass: Tensor) -> None:
        share = mass[[0, -1]] / mass.sum()
        for end, part in zip((self._line.low, self._line.high), share.tolist(), strict=True):
            if not part <= _HEAVY_END:
                raise UserError(
                    f"log_density_fn: expected a density that can be integrated, came a share of {part:.2g} beyond "
                    f"all bounds towards {end}"
                )


def _nodes(left: Float[Tensor, " panels"], right: Float[Tensor, " panels"]) -> Float[Tensor, "panels nodes"]:
    return 0.5 * (left + right).unsqueeze(1) + 0.5 * (right - left).unsqueeze(1) * _POINTS


def _solve(
    series: Float[Tensor, "*points nodes"], wanted: Float[Tensor, "*points"]
) -> Float[Tensor, "*points"]:
    """Where in [-1, 1] the series' integral from -1 is ``wanted``."""
    low, high = torch.full_like(wanted, -1.0), torch.ones_like(wanted)
    offset = wanted / series[..., 0].clamp(min=torch.finfo(torch.float64).tiny) - 1.0
    for _ in range(60):
        offset = torch.where((offset > low) & (offset < high), offset, 0.5 * (low + high))
        reached, slope = _integral_and_value(series, offset)
        excess = reached - wanted
        low, high = torch.where(excess < 0.0, offset, low), torch.where(excess < 0.0, high, offset)
        step = excess / slope
        offset = offset - step
        if not bool((step.abs() > 1e-13).any()):
            break
    return offset.nan_to_num(nan=0.0).clamp(-1.0, 1.0)


def _integral_and_value(
    series: Float[Tensor, "*points nodes"], offset: Float[Tensor, "*points"]
) -> tuple[Float[Tensor, "*points"], Float[Tensor, "*points"]]:
    """Of a Legendre series: the integral from -1 to ``offset``, and the value there."""
    before, here = torch.ones_like(offset), offset
    value, integral = series[..., 0].clone(), series[..., 0] * (offset + 1.0)
    for degree in range(1, _NODES):
        after = ((2 * degree + 1) * offset * here - degree * before) / (degree + 1)
        value = value + series[..., degree] * here
        integral = integral + series[..., degree] * (after - before) / (2 * degree + 1)
        before, here = here, after
    return integral, value


def _legendre_transform() -> tuple[Tensor, Tensor]:
    """The nodes, and the matrix from values there to coefficients of the series."""
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    degrees = np.arange(_NODES)
    matrix = weights[:, None] * np.polynomial.legendre.legvander(points, _NODES - 1) * (degrees + 0.5)
    return torch.from_numpy(points), torch.from_numpy(matrix)


_SIGNS = (-1.0) ** torch.arange(_NODES, dtype=torch.float64)
_POINTS, _TRANSFORM = _legendre_transform()
