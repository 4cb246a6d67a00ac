"""The multinomial log-likelihood under a softmax, estimated from a sample of the items.

A softmax output layer costs three products with a matrix of users by items, and as many passes over that matrix. Here
one sample of the items serves a batch, each item j with its inclusion probability pi_j (Horvitz & Thompson 1952):

    log p(x | z)  ~  sum_j x_j l_j / pi_j  -  N log(sum_j exp(l_j) / pi_j),        j in the sample, l the logits.

Both sums are unbiased; the logarithm of the second is not, and lies below by half of its relative variance to the
first order. The gradient is that of the estimate: a softmax over the sample whose logits are corrected by -log pi_j,
as in Bengio & Senecal 2008 and Jean et al. 2015. The columns of popular items are the larger ones, so an item is
included with a probability in proportion to the square root of how often the batch has it, plus one.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

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


def item_inclusion(histories: SparseRows, share: float) -> Float[Tensor, " items"]:
    """Probabilities that sum to ``share`` of the items, in proportion to the root of what is observed and one more."""
    observed = histories.values.new_zeros(histories.n_items).index_add_(0, histories.items, histories.values)
    return inclusion_probabilities((observed + 1.0).sqrt(), max(1, round(share * histories.n_items)))


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


class _SampledSoftmax(torch.autograd.Function):
    """The estimate, and its gradient, which the forward pass makes in place of the softmax."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: SparseRows,
        items: Tensor,
        included: Tensor,
    ) -> Tensor:
        sampled_weight = weight.index_select(0, items)
        log_included = included.log()
        # logits - log pi, whose softmax over the sample is that of the estimate.
        corrected = torch.addmm(bias[items] - log_included, hidden, sampled_weight.t())
        places = torch.full_like(bias, -1, dtype=torch.int64).index_copy_(
            0, items, torch.arange(len(items), device=items.device)
        )[rows.items]
        seen = torch.nonzero(places >= 0).squeeze(1)
        places, users = places[seen], rows.users[seen]
        flat = users * len(items) + places
        counts = rows.values[seen] / included[places]
        observed = corrected.view(-1)[flat] + log_included[places]
        log_likelihood = observed.new_zeros(rows.n_users).index_add_(0, users, counts * observed)
        lengths = rows.row_sums(rows.values)
        largest = corrected.amax(dim=-1)
        probabilities = torch.softmax(corrected, dim=-1)
        del corrected
        # The largest probability is at least 1 / items, so this form of the log normaliser never underflows.
        log_normaliser = largest - probabilities.amax(dim=-1).log()
        gradient = probabilities.mul_(-lengths.unsqueeze(-1))
        gradient.view(-1).index_add_(0, flat, counts)
        ctx.save_for_backward(hidden, sampled_weight, gradient, items)
        ctx.n_items = rows.n_items
        return log_likelihood - lengths * log_normaliser

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, sampled_weight, gradient, items = ctx.saved_tensors
        per_user = grad_outputs[0]
        grad_hidden = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_hidden = (gradient @ sampled_weight).mul_(per_user.unsqueeze(-1))
        if ctx.needs_input_grad[1]:
            grad_weight = hidden.new_zeros(ctx.n_items, hidden.shape[1])
            grad_weight[items] = gradient.t() @ (hidden * per_user.unsqueeze(-1))
        if ctx.needs_input_grad[2]:
            grad_bias = hidden.new_zeros(ctx.n_items)
            grad_bias[items] = per_user @ gradient
        return grad_hidden, grad_weight, grad_bias, None, None, None


def sampled_log_likelihood(
    hidden: Float[Tensor, "users features"],
    weight: Float[Tensor, "items features"],
    bias: Float[Tensor, " items"],
    histories: SparseRows,
    share: float,
    generator: torch.Generator | None,
) -> Float[Tensor, " users"]:
    """``multinomial_log_likelihood(hidden @ weight.T + bias, histories)`` estimated from ``share`` of the items.

    In nats, per user, float32. One sample, drawn by ``generator``, serves the whole batch.
    """
    inclusion = item_inclusion(histories, share)
    items = systematic_sample(inclusion, generator)
    with torch.autocast(hidden.device.type, enabled=False):
        result: Tensor = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
            hidden.float(), weight, bias, histories, items, inclusion[items]
        )
    return result
