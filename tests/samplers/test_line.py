from __future__ import annotations

import math

import pytest
import torch

from recsys_vae.samplers.line import Line

INTERVALS = [(-math.inf, math.inf), (2.0, math.inf), (0.0, math.inf), (-math.inf, -1.0), (-3.0, 5.0)]


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_position_its_slope_and_its_inverse(low, high) -> None:
    line = Line(low, high, centre=3.0, width=0.5)
    coordinate = torch.linspace(-9.0, 9.0, 37, dtype=torch.float64, requires_grad=True)
    position = line.position(coordinate)
    assert (position.diff() > 0).all()
    (slope,) = torch.autograd.grad(position.sum(), coordinate)
    torch.testing.assert_close(line.log_slope(coordinate), slope.log(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(line.coordinate(position), coordinate, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_positions_are_strictly_inside_and_finite(low, high) -> None:
    line = Line(low, high, centre=3.0, width=0.5)
    position = line.position(torch.linspace(line.start, line.end, 1001, dtype=torch.float64))
    assert (position > low).all()
    assert (position < high).all()
    assert position.isfinite().all()
