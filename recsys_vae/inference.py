"""A way of inferring tastes, bound to a model: what turns histories into scores and vectors under ``posterior=...``."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array, vstack
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.exports import Run
from recsys_vae.models import Hybrid, RecommenderModel
from recsys_vae.posterior import InferredPosterior, PosteriorMethod, Predictive, predict
from recsys_vae.posterior.base import Progress
from recsys_vae.posterior.checks import check_at_least
from recsys_vae.posterior.density import latent_model
from recsys_vae.posterior.likelihood_power import LikelihoodPower, PowerPerItem, check_power


class Inference:
    """Infers the tastes behind histories, batch by batch, and keeps each user's diagnostics.

    Args:
        model: one with a posterior over tastes.
        method: how to infer.
        likelihood_power: which posterior; see :class:`~recsys_vae.posterior.PosteriorDensity`.
        predictive: ``average`` of the item probabilities over the draws, where there are any, or ``plug_in`` the mean.
        max_draws: no more draws of a user than this are averaged, evenly spaced.
        seed: each batch gets one of its own, by this and by its histories; so what was asked before changes nothing.
        remember: whether :meth:`diagnostics` are those of all users since the beginning, or of the latest call.
        progress: called as work on a batch proceeds.

    Raises :class:`UserError` naming the argument.
    """

    def __init__(
        self,
        model: RecommenderModel,
        method: PosteriorMethod,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        predictive: str = "average",
        max_draws: int = 200,
        seed: int = 0,
        remember: bool = False,
        progress: Progress | None = None,
    ) -> None:
        latent_model(model)
        check_power(likelihood_power)
        check_at_least("max_draws", max_draws, 1)
        check_at_least("seed", seed, 0)
        if predictive not in ("average", "plug_in"):
            raise UserError(f"predictive: expected average or plug_in, came {predictive!r}")
        self.model = model
        self.method = method
        self.likelihood_power = likelihood_power
        self.predictive = predictive
        self.max_draws = max_draws
        self._seed = seed
        self._remember = remember
        self._progress = progress
        self._diagnostics: dict[str, list[np.ndarray]] = defaultdict(list)

    def infer(self, histories: csr_array) -> InferredPosterior:
        """The posterior of each user, of one batch."""
        self._begin()
        return self._infer(histories)

    def _begin(self) -> None:
        if not self._remember:
            self._diagnostics.clear()

    def _infer(self, histories: csr_array) -> InferredPosterior:
        seed = _seed_of(self._seed, histories)
        inferred = self.method.infer(
            self.model, histories, self.likelihood_power, seed=seed, progress=self._progress
        )
        for name, values in inferred.diagnostics.items():
            self._diagnostics[name].append(values.cpu().numpy())
        return inferred

    def predict(self, histories: csr_array, *, with_deviation: bool = False) -> Predictive:
        """Scores of every item, and on demand their standard deviations over the draws, ``(users, items)``."""
        self._begin()
        if not histories.shape[0]:
            nothing = torch.empty(histories.shape, device=self.model.device)
            return Predictive(nothing, None)
        parts = []
        for batch in self.batches(histories):
            inferred = self._infer(batch)
            if self.predictive == "plug_in":
                inferred = InferredPosterior(inferred.mean, inferred.standard_deviation)
            predicted = predict(self.model, inferred, max_draws=self.max_draws, with_deviation=with_deviation)
            parts.append(
                _fused(self.model, predicted, batch) if isinstance(self.model, Hybrid) else predicted
            )
        deviations = [part.standard_deviation for part in parts if part.standard_deviation is not None]
        return Predictive(
            torch.cat([part.scores for part in parts]), torch.cat(deviations) if deviations else None
        )

    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Scores of every item; the logarithm of the predictive probability for a softmax model, fused for a hybrid."""
        return self.predict(histories).scores

    def vectors(self, histories: csr_array) -> dict[str, Float[np.ndarray, "users latent"]]:
        """Posterior ``mean`` and ``std`` of each user's z, float32."""
        self._begin()
        if not histories.shape[0]:
            latent_dim = latent_model(self.model).latent_dim
            return {name: np.empty((0, latent_dim), dtype=np.float32) for name in ("mean", "std")}
        parts = [self._infer(batch) for batch in self.batches(histories)]
        return {
            "mean": torch.cat([part.mean for part in parts]).float().cpu().numpy(),
            "std": torch.cat([part.standard_deviation for part in parts]).float().cpu().numpy(),
        }

    def batches(self, histories: csr_array) -> list[csr_array]:
        """Rows, ``method.batch_size`` at a time."""
        size = self.method.batch_size
        return [histories[start : start + size] for start in range(0, histories.shape[0], size)]

    def diagnostics(self) -> dict[str, Float[np.ndarray, " users"]]:
        """What the method said of each user; see ``remember``."""
        return {name: np.concatenate(parts) for name, parts in self._diagnostics.items()}


def _fused(model: Hybrid, predicted: Predictive, histories: csr_array) -> Predictive:
    """What the variational path predicts, added to the linear path, of which there is one opinion only."""
    deviation = predicted.standard_deviation
    return Predictive(
        model.fuse(predicted.scores, histories),
        None if deviation is None else model.variational_weight * deviation,
    )


def _seed_of(seed: int, histories: csr_array) -> int:
    digest = hashlib.blake2b(str(seed).encode(), digest_size=4)
    for array, kind in (
        (histories.indptr, np.int64),
        (histories.indices, np.int64),
        (histories.data, np.float32),
    ):
        digest.update(array.astype(kind).tobytes())
    return int.from_bytes(digest.digest(), "little")


def trained_likelihood_power(run: Run) -> LikelihoodPower:
    """``1 / kl_weight`` in the epoch whose weights the run kept: the posterior that its model was trained for.

    The schedule may not have reached its cap by then. A power per item where the weight was for each item of a
    history. 1 for a model without a KL schedule, such as PPCA. Raises :class:`UserError` when the weight was 0.
    """
    trainer = run.config.get("trainer")
    if not isinstance(trainer, dict) or not isinstance(trainer.get("kl_schedule"), dict):
        return 1.0
    kl_weight = float(trainer["kl_schedule"].get("cap", 1.0))
    epochs, kept = run.history, run.metrics.get("best_epoch")
    if {"epoch", "kl_weight"} <= set(epochs.columns) and kept is not None:
        of_kept = epochs.loc[epochs["epoch"] == kept, "kl_weight"]
        if len(of_kept):
            kl_weight = float(of_kept.iloc[0])
    if not kl_weight > 0.0:
        raise UserError("likelihood_power: expected a number, for the run was trained with a KL weight of 0")
    power = 1.0 / kl_weight
    return PowerPerItem(power) if trainer["kl_schedule"].get("per_item", False) else power


def simulate_histories(
    model: RecommenderModel, lengths: np.ndarray, seed: int = 0
) -> tuple[Float[Tensor, "users latent"], csr_array]:
    """Tastes from the prior and histories given them, ``x ~ Multinomial(length, softmax(f(z)))``.

    Such a history may hold an item more than once. The taste is an exact draw from its posterior (power 1).

    Args:
        model: one with a softmax over items.
        lengths: of the histories, ``(users,)``.
        seed: of all randomness here.
    """
    latent = latent_model(model)
    generator = torch.Generator(device=model.device).manual_seed(seed)
    dtype = next(parameter.dtype for parameter in model.parameters())
    draws = torch.randn(
        len(lengths), latent.latent_dim, generator=generator, device=model.device, dtype=dtype
    )
    rows = []
    with torch.no_grad():
        for taste, length in zip(draws, lengths, strict=True):
            probabilities = torch.softmax(latent.decode(taste[None])[0], dim=-1)
            counts = np.zeros(len(probabilities), dtype=np.float32)
            if length:  # PyTorch refuses to draw nothing
                items = torch.multinomial(probabilities, int(length), replacement=True, generator=generator)
                counts += np.bincount(items.cpu().numpy(), minlength=len(counts))
            rows.append(csr_array(counts[None, :]))
    return draws, csr_array(vstack(rows, format="csr"))
