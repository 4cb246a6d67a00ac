"""Initial weights, drawn from an explicit generator so that a seed means the same everywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def initialise_weight(weight: Tensor, generator: torch.Generator) -> None:
    """Xavier (Glorot) uniform, as the code of Liang et al. 2018: +-sqrt(6 / (fan_in + fan_out))."""
    bound = math.sqrt(6.0 / sum(weight.shape))
    weight.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def initialise_bias(bias: Tensor, generator: torch.Generator) -> None:
    """Normal with standard deviation 0.001, cut at two standard deviations, as the code of Liang et al. 2018."""
    torch.nn.init.trunc_normal_(bias, std=0.001, a=-0.002, b=0.002, generator=generator)


@torch.no_grad()
def initialise_uniform(parameter: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Uniform in +-1 / sqrt(fan_in), PyTorch's default for the weights and biases of linear layers."""
    bound = 1.0 / math.sqrt(fan_in)
    parameter.uniform_(-bound, bound, generator=generator)
