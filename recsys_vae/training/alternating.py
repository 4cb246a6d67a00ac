"""The objective of RecVAE, which trains the encoder and the decoder in turn (Shenbin et al. 2020, section 3.5)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from recsys_vae.models import GaussianPosterior, GradientModel, RecVAE, SparseRows
from recsys_vae.models.base import check_positive
from recsys_vae.training.objective import LatentModel, Objective, ObjectiveTerms, check_share

_USERS_AT_ONCE = 500


class AlternatingELBO(Objective):
    """``E_q[log p(x|z)]`` and ``KL(q || p)`` by one draw, p the composite prior; an epoch is several passes.

    First ``n_encoder_passes`` over the users train the encoder, with part of each history hidden from it. Then the
    prior takes the encoder over, and ``n_decoder_passes`` train the decoder on draws from the posteriors of whole
    histories. In either part the other's weights are constants.

    The prior's encoder is a constant too, but where the prior takes it over; so what it says of every training user
    is computed once an epoch and remembered, ``2 * latent_dim`` numbers a user. Those are also the posteriors that
    the decoder is trained on: no other pass of an encoder is needed there.

    Args:
        n_encoder_passes: over the users, in an epoch.
        n_decoder_passes: likewise.
        item_share: below 1, the likelihood is estimated from that share of the items.
    """

    trains = RecVAE
    trains_in_turn = True

    def __init__(self, n_encoder_passes: int = 3, n_decoder_passes: int = 1, item_share: float = 1.0) -> None:
        check_positive("objective.n_encoder_passes", n_encoder_passes)
        check_positive("objective.n_decoder_passes", n_decoder_passes)
        check_share(item_share)
        self.n_encoder_passes = n_encoder_passes
        self.n_passes = n_encoder_passes + n_decoder_passes
        self.item_share = item_share
        self._previous: GaussianPosterior | None = None
        self._trains_encoder = True

    def begin_training(self, model: GradientModel) -> None:
        """Forget the posteriors of another model."""
        super().begin_training(model)
        self._previous = None

    def begin_pass(self, model: GradientModel, number: int, histories: csr_array) -> None:
        """Choose the part to train; as the decoder's turn begins, let the prior take the encoder over."""
        assert isinstance(model, RecVAE)
        self._trains_encoder = number < self.n_encoder_passes
        takes_over = number == self.n_encoder_passes
        if takes_over:
            model.prior.remember(model.encoder)
        # A resumed run begins with an encoder that was taken over before, and finds the same numbers.
        if takes_over or self._previous is None:
            self._previous = _previous_posteriors(model, histories)

    def __call__(
        self,
        model: LatentModel,
        histories: SparseRows,
        generator: torch.Generator | None,
        users: Tensor | None = None,
    ) -> ObjectiveTerms:
        """Terms per user; ``users`` are their rows among the histories of :meth:`begin_pass`."""
        assert isinstance(model, RecVAE)
        if self._previous is None or users is None:
            raise RuntimeError("AlternatingELBO: begin_pass comes first, and the users' rows must be known")
        previous = GaussianPosterior(*(values[users] for values in self._previous))
        posterior = model.encode(histories, generator=generator) if self._trains_encoder else previous
        mean, log_variance = posterior
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        latent = torch.addcmul(mean, posterior.standard_deviation, noise)
        with _constant(model.output) if self._trains_encoder else contextlib.nullcontext():
            log_likelihood = model.log_likelihood(
                latent, histories, item_share=self.item_share, generator=generator
            )
        # log q at its own draw, whose distance from the mean is the noise.
        log_posterior = -0.5 * (noise.square() + log_variance + math.log(2.0 * math.pi)).sum(dim=-1)
        return ObjectiveTerms(log_likelihood, log_posterior - model.prior_log_density(latent, previous))


def _previous_posteriors(model: RecVAE, histories: csr_array) -> GaussianPosterior:
    parts = [
        model.previous_posterior(SparseRows.from_csr(histories[start : start + _USERS_AT_ONCE], model.device))
        for start in range(0, histories.shape[0], _USERS_AT_ONCE)
    ]
    return GaussianPosterior(*(torch.cat(values) for values in zip(*parts, strict=True)))


@contextlib.contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """Nothing that is computed here has a gradient with respect to the module's weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
