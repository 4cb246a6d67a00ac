"""The multinomial likelihood of a history, and the softmax output layer that evaluates it cheaply."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys_vae.models.initialisation import initialise_bias, initialise_weight
from recsys_vae.models.sparse_rows import SparseRows


def multinomial_log_likelihood(
    logits: Float[Tensor, "users items"], histories: SparseRows
) -> Float[Tensor, " users"]:
    """Log-probability of each user's items under ``softmax(logits)``, in nats, summed over the items.

    ``sum_i x_i log softmax(logits)_i``: eq. 2 of Liang et al. 2018. As there, the multinomial coefficient, which
    does not depend on the logits, is left out. A user without items gets 0.
    """
    log_normaliser = torch.logsumexp(logits.float(), dim=-1)
    observed = logits[histories.users, histories.items].float()
    return histories.row_sums(histories.values * (observed - log_normaliser[histories.users]))


def padded_logits(
    hidden: Float[Tensor, "users features"],
    weight: Float[Tensor, "items features"],
    bias: Float[Tensor, " items"],
) -> Float[Tensor, "users padded_items"]:
    """``hidden @ weight.T + bias``, outside automatic differentiation, with columns of -inf up to a multiple of 16.

    Matrix products write rows that lie a multiple of 16 numbers apart at full speed; with 3,497 items side by side
    they take half as long again (AVX2), and on CUDA they miss the tensor cores. ``[:, :n_items]`` is a view.
    """
    n_users, n_items = len(hidden), len(weight)
    out = hidden.new_empty(n_users, -(-n_items // 16) * 16)
    out[:, n_items:] = -torch.inf
    torch.addmm(bias, hidden, weight.t(), out=out[:, :n_items])
    return out


def log_likelihood_and_gradient(
    hidden: Float[Tensor, "users features"],
    weight: Float[Tensor, "items features"],
    bias: Float[Tensor, " items"],
    rows: SparseRows,
) -> tuple[Float[Tensor, " users"], Float[Tensor, "users items"]]:
    """The log-likelihood (float32), and its gradient with respect to the logits, ``x - N * softmax(logits)``.

    Outside automatic differentiation. One matrix of users by items is kept, a second lives for a moment.
    """
    logits = padded_logits(hidden, weight, bias)
    observed = rows.row_sums(rows.values * logits[rows.users, rows.items].float())
    lengths = rows.row_sums(rows.values)
    largest = logits.amax(dim=-1).float()
    probabilities = torch.softmax(logits, dim=-1)
    del logits
    # The largest probability is at least 1 / items, so this form of the log normaliser never underflows.
    log_normaliser = largest - probabilities.amax(dim=-1).float().log()
    counts = lengths.to(probabilities.dtype)
    gradient = probabilities.mul_(-counts.unsqueeze(-1))
    flat = rows.users * gradient.shape[1] + rows.items
    gradient.view(-1).index_add_(0, flat, rows.values.to(gradient.dtype))
    return observed - lengths * log_normaliser, gradient[:, : rows.n_items]


class _MultinomialOutput(torch.autograd.Function):
    """Log-likelihood of histories under ``softmax(hidden @ weight.T + bias)`` with a hand-written gradient.

    Automatic differentiation would keep the logits, their log-softmax and the gradient of both: three matrices
    of users by items, and as many passes over memory. The gradient of the log-likelihood with respect to the
    logits is simply ``x - N * softmax(logits)``, so it is formed in place of the probabilities during the
    forward pass, and each user's incoming gradient is applied to ``hidden`` (narrow) rather than to it (wide).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, rows: SparseRows) -> Tensor:
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
        log_likelihood, gradient = log_likelihood_and_gradient(hidden, weight, bias, rows)
        ctx.save_for_backward(hidden, weight, gradient)
        return log_likelihood

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, gradient = ctx.saved_tensors
        per_user = grad_outputs[0].to(gradient.dtype)
        grad_hidden = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_hidden = (gradient @ weight).float() * grad_outputs[0].unsqueeze(-1)
        if ctx.needs_input_grad[1]:
            grad_weight = (gradient.t() @ (hidden * per_user.unsqueeze(-1))).float()
        if ctx.needs_input_grad[2]:
            grad_bias = (per_user @ gradient).float()
        return grad_hidden, grad_weight, grad_bias, None


class MultinomialOutput(nn.Module):
    """A linear layer whose output is read as the logits of a multinomial over the items."""

    def __init__(self, n_features: int, n_items: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, n_features))
        self.bias = nn.Parameter(torch.empty(n_items))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights as Liang et al. 2018's code does."""
        initialise_weight(self.weight, generator)
        initialise_bias(self.bias, generator)

    def forward(self, hidden: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch items"]:
        """Logits of every item."""
        if hidden.ndim == 2 and not torch.is_grad_enabled():
            return padded_logits(hidden, self.weight, self.bias)[:, : len(self.bias)]
        return nn.functional.linear(hidden, self.weight, self.bias)

    def log_likelihood(
        self, hidden: Float[Tensor, "users features"], histories: SparseRows
    ) -> Float[Tensor, " users"]:
        """``multinomial_log_likelihood(self(hidden), histories)``, holding one matrix of logits at a time.

        In nats, per user, float32. Under autocast the products and the logits are in the lower precision.
        """
        result: Tensor = _MultinomialOutput.apply(  # type: ignore[no-untyped-call]
            hidden, self.weight, self.bias, histories
        )
        return result
