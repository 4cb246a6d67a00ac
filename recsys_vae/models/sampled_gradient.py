"""The multinomial log-likelihood with an unbiased gradient that looks at a sample of the items.

Two of the three products of a softmax output layer serve its gradient ``x - N * softmax(logits)``, a matrix of users
by items. A sample of its columns, each divided by its inclusion probability (Horvitz & Thompson 1952), estimates both
products without bias at a fraction of their cost. The variance is least when columns are drawn in proportion to their
norm, which for counts is close to the square root of what is expected of them and of what is observed. The
log-likelihood itself and its normaliser stay exact; that is what sets this apart from a sampled softmax, whose
gradient is biased.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from recsys_vae.models.multinomial import log_likelihood_and_gradient
from recsys_vae.models.sparse_rows import SparseRows


def inclusion_probabilities(mass: Float[Tensor, " items"], n_sampled: int) -> Float[Tensor, " items"]:
    """Probabilities in proportion to ``mass``, capped at 1, that sum to ``n_sampled`` (or to all items with mass).

    The largest items are certain to be included; the others share what is left of ``n_sampled``.
    """
    mass = mass.clamp_min(torch.finfo(mass.dtype).tiny)
    ordered = mass.sort(descending=True).values
    rest = ordered.flip(0).cumsum(0).flip(0)
    places = torch.arange(len(mass), device=mass.device, dtype=mass.dtype)
    # With the first j items certain, the others get n_sampled - j in all; the right j is the first that works.
    factors = (n_sampled - places).clamp_min(0.0) / rest
    certain = (factors * ordered > 1.0).cumprod(0).sum().clamp_max(len(mass) - 1)
    return (mass * factors[certain]).clamp_max(1.0)


def systematic_sample(
    probabilities: Float[Tensor, " items"], generator: torch.Generator | None
) -> Int64[Tensor, " sampled"]:
    """Indices, ascending, each included with its probability; their number is fixed up to rounding.

    One uniform number shifts a comb of unit spacing over the cumulative probabilities (Madow 1949).
    """
    dtype = torch.float32 if probabilities.device.type == "mps" else torch.float64
    shift = torch.rand((), generator=generator, device=probabilities.device, dtype=dtype)
    teeth = torch.floor(probabilities.to(dtype).cumsum(0) + shift)
    return torch.nonzero(torch.diff(teeth, prepend=teeth.new_zeros(1)) > 0).squeeze(1)


class _SampledGradient(torch.autograd.Function):
    """Exact forward; the products of the backward pass over a sample of the items."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: SparseRows,
        n_sampled: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        log_likelihood, gradient, expected = log_likelihood_and_gradient(hidden, weight, bias, rows)
        assert expected is not None
        # An observed item that the model hardly expects has a large gradient too.
        observed = expected.new_zeros(rows.n_items).index_add_(0, rows.items, rows.values)
        inclusion = inclusion_probabilities((expected + observed).sqrt(), n_sampled)
        items = systematic_sample(inclusion, generator)
        sampled = gradient.index_select(1, items).div_(inclusion[items])
        ctx.save_for_backward(hidden, weight, sampled, items)
        return log_likelihood

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, sampled, items = ctx.saved_tensors
        per_user = grad_outputs[0]
        grad_hidden = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_hidden = (sampled @ weight.index_select(0, items)).mul_(per_user.unsqueeze(-1))
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            grad_weight[items] = sampled.t() @ (hidden * per_user.unsqueeze(-1))
        if ctx.needs_input_grad[2]:
            grad_bias = weight.new_zeros(len(weight))
            grad_bias[items] = per_user @ sampled
        return grad_hidden, grad_weight, grad_bias, None, None, None


def sampled_gradient_log_likelihood(
    hidden: Float[Tensor, "users features"],
    weight: Float[Tensor, "items features"],
    bias: Float[Tensor, " items"],
    histories: SparseRows,
    share: float,
    generator: torch.Generator | None,
) -> Float[Tensor, " users"]:
    """``multinomial_log_likelihood(hidden @ weight.T + bias, histories)``, exact, with an unbiased gradient estimate.

    In nats, per user. The gradient's products touch ``share`` of the items. One sample serves the whole batch.
    """
    n_sampled = max(1, round(share * len(weight)))
    with torch.autocast(hidden.device.type, enabled=False):
        result: Tensor = _SampledGradient.apply(  # type: ignore[no-untyped-call]
            hidden.float(), weight, bias, histories, n_sampled, generator
        )
    return result
