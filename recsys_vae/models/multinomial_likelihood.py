"""``log p(x | z)`` of fixed histories as a function of z: what inference evaluates thousands of times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys_vae.models.multinomial import padded_logits
from recsys_vae.models.sparse_rows import SparseRows, sparse_product

# Rows of logits that are held at a time. Matrix products run at full speed from a few hundred rows on, and what
# follows them finds the logits still in the cache.
_ROWS = 512


class MultinomialLikelihood:
    """The multinomial likelihood of a batch of histories under a decoder of tanh layers and a softmax output.

    With ``h(z)`` the last hidden layer, W and b the output layer,
    ``log p(x|z) = h(z)'(W'x) + b'x - N logsumexp(W h(z) + b)``. The sparse products with x do
    not depend on z and are made once, so that an evaluation is two dense matrix products, and its gradient,
    ``W'x - N W' softmax``, touches no matrix of users by items but the softmax.

    Args:
        layers: the decoder's hidden layers; tanh follows each.
        weight, bias: of the output layer.
        histories: of the users, whose axis is the last but one of the latents.
    """

    def __init__(
        self,
        layers: Sequence[nn.Linear],
        weight: Float[Tensor, "items features"],
        bias: Float[Tensor, " items"],
        histories: SparseRows,
    ) -> None:
        self._layers = [(layer.weight.detach(), layer.bias.detach()) for layer in layers]
        self._weight, self._bias = weight.detach(), bias.detach()
        rows = histories.with_values(histories.values.to(self._weight.dtype))
        with torch.no_grad():
            self._observed_features = sparse_product(rows, self._weight)
            self._observed_bias = rows.row_sums(rows.values * self._bias[rows.items])
            self._lengths = rows.row_sums(rows.values)
        self.n_users = histories.n_users

    @torch.no_grad()
    def __call__(self, latent: Float[Tensor, "*draws users latent"]) -> Float[Tensor, "*draws users"]:
        """In nats, per user, without the multinomial coefficient. Outside automatic differentiation."""
        return self._evaluate(latent, with_gradient=False)[0]

    @torch.no_grad()
    def value_and_gradient(
        self, latent: Float[Tensor, "*draws users latent"]
    ) -> tuple[Float[Tensor, "*draws users"], Float[Tensor, "*draws users latent"]]:
        """The log-likelihood, and its gradient with respect to ``latent``."""
        value, gradient = self._evaluate(latent, with_gradient=True)
        assert gradient is not None
        return value, gradient

    @torch.no_grad()
    def fisher_information(
        self, latent: Float[Tensor, "users latent"]
    ) -> Float[Tensor, "users latent latent"]:
        """``N J'(diag(p) - p p')J`` with p the softmax and J the logits' Jacobian: minus the expected Hessian.

        Costs ``2 * items * features * latent`` multiplications a user, as much as a hundred gradients.
        """
        hidden = [latent]
        for weight, bias in self._layers:
            hidden.append(torch.addmm(bias, hidden[-1], weight.t()).tanh_())
        probabilities = torch.softmax(torch.addmm(self._bias, hidden[-1], self._weight.t()), dim=-1)
        information = latent.new_empty(*latent.shape, latent.shape[-1])
        for user in range(len(latent)):
            jacobian = torch.eye(latent.shape[-1], dtype=latent.dtype, device=latent.device)
            for (weight, _), activation in zip(self._layers, hidden[1:], strict=True):
                jacobian = (1.0 - activation[user].square()).unsqueeze(-1) * (weight @ jacobian)
            jacobian = self._weight @ jacobian
            centred = jacobian - probabilities[user] @ jacobian
            weighted = centred * (self._lengths[user] * probabilities[user]).unsqueeze(-1)
            torch.mm(centred.t(), weighted, out=information[user])
        return information

    def _evaluate(self, latent: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        flat = latent.reshape(-1, latent.shape[-1])
        values = flat.new_empty(len(flat))
        gradient = torch.empty_like(flat) if with_gradient else None
        users = torch.arange(self.n_users, device=flat.device).repeat(len(flat) // self.n_users)
        for start in range(0, len(flat), _ROWS):
            block = slice(start, start + _ROWS)
            value, slope = self._evaluate_block(flat[block], users[block], with_gradient)
            values[block] = value
            if gradient is not None and slope is not None:
                gradient[block] = slope
        return (
            values.reshape(latent.shape[:-1]),
            None if gradient is None else gradient.reshape(latent.shape),
        )

    def _evaluate_block(
        self, latent: Tensor, users: Tensor, with_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        hidden = [latent]
        for weight, bias in self._layers:
            hidden.append(torch.addmm(bias, hidden[-1], weight.t()).tanh_())
        features, lengths = self._observed_features[users], self._lengths[users]
        logits = padded_logits(hidden[-1], self._weight, self._bias)
        largest = logits.amax(dim=-1)
        if with_gradient:
            probabilities = torch.softmax(logits, dim=-1)
            # The largest probability is at least 1 / items, so this form of the log normaliser never underflows.
            log_normaliser = largest - probabilities.amax(dim=-1).log()
        else:
            log_normaliser = largest + logits.sub_(largest.unsqueeze(-1)).exp_().sum(dim=-1).log()
        observed = (hidden[-1] * features).sum(dim=-1) + self._observed_bias[users]
        value = observed - lengths * log_normaliser
        if not with_gradient:
            return value, None
        expected = probabilities[:, : len(self._weight)] @ self._weight
        gradient = torch.addcmul(features, lengths.unsqueeze(-1), expected, value=-1.0)
        for (weight, _), activation in zip(reversed(self._layers), reversed(hidden), strict=False):
            gradient = (gradient * (1.0 - activation.square())) @ weight
        return value, gradient
