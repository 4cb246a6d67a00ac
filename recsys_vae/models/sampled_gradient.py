"""The multinomial log-likelihood with an unbiased gradient that looks at a sample of the items.

Two of the three products of a softmax output layer serve its gradient ``x - N * softmax(logits)``. Almost all of the
expected counts ``N * softmax`` lie on a small part of the catalogue, so a sample of columns in proportion to their
expected counts, each weighted by one over its inclusion probability (Horvitz & Thompson 1952), estimates the products
at a fraction of the cost. The log-likelihood itself, its normaliser and the observed items' terms stay exact; that is
what sets this apart from a sampled softmax, whose normaliser is an estimate and whose gradient is biased.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from recsys_vae.models.multinomial import log_normaliser_and_probabilities, padded_logits
from recsys_vae.models.sparse_rows import SparseRows, column_sums, transposed_product, weighted_rows


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
    """Exact forward; backward over a sample of the items, with the mean user's distribution as control variate."""

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
        logits = padded_logits(hidden, weight, bias)
        observed = rows.row_sums(rows.values * logits[rows.users, rows.items])
        lengths = rows.row_sums(rows.values)
        log_normaliser, probabilities = log_normaliser_and_probabilities(logits)
        del logits
        expected = (lengths @ probabilities)[: rows.n_items]
        inclusion = inclusion_probabilities(expected, n_sampled)
        items = systematic_sample(inclusion, generator)
        # Uncertain items: what all users have in common is subtracted here and added back exactly, a rank-one term.
        common = torch.where(inclusion < 1.0, expected / lengths.sum().clamp_min(1.0), 0.0)
        gradient = probabilities.index_select(1, items)
        gradient.sub_(common[items]).div_(inclusion[items]).mul_(-lengths.unsqueeze(-1))
        # Observed items whose column is there for certain are added to it; the others need a sparse product.
        column = torch.full((rows.n_items,), -1, device=items.device)
        certain = torch.nonzero(inclusion[items] >= 1.0).squeeze(1)
        column[items[certain]] = certain
        place = column[rows.items]
        inside = place >= 0
        flat = (rows.users * len(items) + place)[inside]
        gradient.view(-1).index_add_(0, flat, rows.values[inside])
        ctx.rest = rows.keep(~inside)
        ctx.save_for_backward(hidden, weight, gradient, items, common, lengths)
        return observed - lengths * log_normaliser

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, gradient, items, common, lengths = ctx.saved_tensors
        rest: SparseRows = ctx.rest
        per_user = grad_outputs[0]
        weighted = hidden * per_user.unsqueeze(-1)
        common_lengths = per_user * lengths

        grad_hidden = weighted_rows(rest, weight)
        grad_hidden.addmm_(gradient, weight.index_select(0, items))
        grad_hidden.addr_(lengths, common @ weight, alpha=-1.0)
        grad_hidden.mul_(per_user.unsqueeze(-1))

        grad_weight = transposed_product(rest, weighted)
        grad_weight.index_add_(0, items, gradient.t() @ weighted)
        grad_weight.addr_(common, common_lengths @ hidden, alpha=-1.0)

        grad_bias = column_sums(rest, per_user)
        grad_bias.index_add_(0, items, per_user @ gradient)
        grad_bias.sub_(common * common_lengths.sum())
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
