"""The multinomial log-likelihood under a softmax, estimated from a sample of the items.

A softmax output layer costs three products with a matrix of users by items, and as many passes over that matrix. Here
one sample S of the items serves a batch, item j in it with probability pi_j. Both sums over the items that
``sum_j x_j (l_j - log Z)`` has, l the logits and ``Z = sum_j exp(l_j)``, are estimated without bias by what S has of
them, each term divided by pi_j (Horvitz & Thompson 1952):

    log p(x | z)  ~  sum_{j in S} x_j / pi_j (l_j - log Z'),        Z' = sum_{j in S} exp(l_j) / pi_j.

To the second order it is too large by ``N (Var(r) / 2 - Cov(m, r))``, where N is the sum of x, ``r = Z' / Z``, and
``m = sum_{j in S} x_j / pi_j / N``. The gradient is that of the estimate: a softmax over S whose logits are corrected
by -log pi_j, as in Bengio & Senecal 2008 and Jean et al. 2015. Like the exact one it sums to 0 over the items, and of
an item both what is observed and what is expected are taken or left, so that in a trained model they cancel.

The layer stays in float32 under autocast, which on a GPU may cost more than the sample saves.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from recsys_vae.models.sparse_rows import SparseRows


def inclusion_probabilities(mass: Float[Tensor, " items"], n_sampled: int) -> Float[Tensor, " items"]:
    """Probabilities in proportion to ``mass``, capped at 1, that sum to ``n_sampled``.

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
    """Probabilities that sum to ``share`` of the items, and at least to one.

    The variance is least where they are in proportion to the norms of the gradient's columns: of an item that n users
    of the batch have, close to the root of n, and not 0 where n is. They are in proportion to ``sqrt(n + 0.1)``.
    """
    occurrences = torch.bincount(histories.items, minlength=histories.n_items).to(histories.values.dtype)
    return inclusion_probabilities((occurrences + 0.1).sqrt(), max(1, round(share * histories.n_items)))


def systematic_sample(
    probabilities: Float[Tensor, " items"], generator: torch.Generator | None
) -> Int64[Tensor, " sampled"]:
    """Indices, ascending, each included with its probability; their number is fixed up to rounding, and never 0.

    One uniform number shifts a comb of unit spacing over the cumulative probabilities (Madow 1949).
    """
    dtype = torch.float32 if probabilities.device.type == "mps" else torch.float64
    shift = torch.rand((), generator=generator, device=probabilities.device, dtype=dtype)
    cumulative = probabilities.to(dtype).cumsum(0)
    # Where one item is drawn, rounding may leave the sum just below 1, and the comb could miss them all.
    cumulative[-1].clamp_min_(1.0)
    teeth = torch.floor(cumulative + shift)
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
        # logits - log pi, whose softmax over the sample is that of the estimate.
        corrected = torch.addmm(bias[items] - included.log(), hidden, sampled_weight.t())
        places = torch.full_like(bias, -1, dtype=torch.int64).index_copy_(
            0, items, torch.arange(len(items), device=items.device)
        )[rows.items]
        seen = torch.nonzero(places >= 0).squeeze(1)
        places, users = places[seen], rows.users[seen]
        flat = users * len(items) + places
        counts = rows.values[seen] / included[places]
        logits = corrected.view(-1)[flat] + included.log()[places]
        largest = corrected.amax(dim=-1)
        probabilities = torch.softmax(corrected, dim=-1)
        del corrected
        # The largest probability is at least 1 / items, so this form of the log normaliser never underflows.
        log_normaliser = largest - probabilities.amax(dim=-1).log()
        estimate, lengths = torch.zeros_like(log_normaliser), torch.zeros_like(log_normaliser)
        estimate.index_add_(0, users, counts * (logits - log_normaliser[users]))
        lengths.index_add_(0, users, counts)
        gradient = probabilities.mul_(-lengths.unsqueeze(-1))
        gradient.view(-1).index_add_(0, flat, counts)
        ctx.save_for_backward(hidden, sampled_weight, gradient, items)
        ctx.n_items = rows.n_items
        return estimate

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
