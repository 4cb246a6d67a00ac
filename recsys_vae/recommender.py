"""A trained model with its catalogue: what ``recsys_vae.load`` returns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from jaxtyping import Float, Shaped
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.catalogue import Catalogue, list_some
from recsys_vae.errors import UserError
from recsys_vae.exports import Histories, Run, check_targets, read_run
from recsys_vae.inference import Inference, trained_likelihood_power
from recsys_vae.models import Popularity, RecommenderModel
from recsys_vae.models.base import Marginals, TasteModel
from recsys_vae.posterior import LikelihoodPower, PosteriorMethod, Predictive
from recsys_vae.posterior.density import latent_model
from recsys_vae.ranking import TopK, mask_seen, top_k

log = logging.getLogger(__name__)


class Recommender:
    """Recommends to anyone: users of the run, or people that it never saw, without retraining.

    Args:
        model: a fitted model.
        catalogue: the items behind the model's columns.
        run: the run directory that it came from, for its users and records; none for a model in memory.

    ``inference``, when set, infers tastes in place of the model's own way; see :meth:`infer_by`.
    """

    def __init__(self, model: RecommenderModel, catalogue: Catalogue, run: Run | None = None) -> None:
        self.model = model.eval()
        self.catalogue = catalogue
        self.run = run
        self.inference: Inference | None = None

    def infer_by(
        self, method: PosteriorMethod, likelihood_power: LikelihoodPower | None = None, *, seed: int = 0
    ) -> Recommender:
        """Infer tastes by ``method`` from now on, and return the recommender itself.

        >>> load("runs/NAME").infer_by(MarkovChains()).recommend(["Heat (1995)"])  # doctest: +SKIP

        ``likelihood_power`` chooses the posterior; none is the one that the run's model was trained for. Raises
        :class:`UserError` for a model without a posterior.
        """
        latent_model(self.model)
        if likelihood_power is None:
            likelihood_power = 1.0 if self.run is None else trained_likelihood_power(self.run)
        self.inference = Inference(self.model, method, likelihood_power, seed=seed)
        return self

    def recommend(self, items: Sequence[int | str], k: int = 10) -> pd.DataFrame:
        """Recommend to somebody who likes ``items`` (ids or titles).

        Returns ``k`` rows, best first: ``rank`` (from 1), ``item_id``, ``title`` if known, ``score``. Items of the
        list are not recommended. With an ``inference`` that draws, ``score_std`` is the standard deviation of the
        score over the draws. An unknown item is named in a warning, with titles like it, and ignored; when
        no item is known, the ranking is by popularity, and a warning says so.
        """
        return self.table(*self.rank_with_deviation(self.history_of(items), k))

    def recommend_user(self, user_id: int | str, k: int = 10) -> pd.DataFrame:
        """Recommend to a user of the run, from the history that it holds. Same columns as :meth:`recommend`."""
        return self.table(*self.rank_with_deviation(self.history_of_user(user_id), k))

    def top_rated(self, k: int = 10) -> pd.DataFrame:
        """The top of the catalogue by a :class:`Popularity` that estimates ratings, for nobody in particular.

        Returns ``k`` rows, best first: ``rank``, ``item_id``, ``title`` if known, ``mean``, ``low`` and ``high`` (the
        ends of its interval), ``ratings`` (how many there are). Raises :class:`UserError` for any other model.
        """
        self.check_k(k)
        if not isinstance(self.model, Popularity):
            raise UserError(
                f"top_rated: expected a run of model=popularity, came {type(self.model).__name__}"
            )
        found = self.model.estimates()
        best = top_k(self.model.item_scores.unsqueeze(0), k)
        table = self.table(best).drop(columns="score")
        items = best.items[0].cpu()
        for name, values in found._asdict().items():
            table[name] = values.cpu()[items].numpy()
        table["ratings"] = self.catalogue.item_counts[items.numpy()]
        return table

    def history_of(self, items: Sequence[int | str]) -> csr_array:
        """One row with the items that are known; see :meth:`recommend`."""
        if isinstance(items, str):
            raise UserError(f"items: expected a list of ids or titles, came the text {items!r}")
        indices = []
        for item in items:
            index = self.catalogue.find(item)
            if index >= 0:
                indices.append(index)
                continue
            close = self.catalogue.suggest(item)
            hint = f"; did you mean {list_some(close)}?" if close else ""
            log.warning("items: %r is not in the training data and is ignored%s", item, hint)
        row = np.unique(np.asarray(indices, dtype=np.int32))
        return csr_array(
            (np.ones(len(row), dtype=np.float32), row, np.asarray([0, len(row)], dtype=np.int32)),
            shape=(1, len(self.catalogue)),
        )

    def history_of_user(self, user_id: int | str) -> csr_array:
        """All that the run knows of a user: one row; history and target, of every part, together."""
        ids, liked = self.known_users
        wanted: int | str = user_id
        if ids.dtype.kind == "i" and isinstance(user_id, str):
            try:
                wanted = int(user_id)
            except ValueError:
                wanted = user_id
            if str(wanted) != user_id:
                wanted = user_id
        elif ids.dtype.kind == "O":
            wanted = str(user_id)
        same_kind = isinstance(wanted, str) == (ids.dtype.kind == "O")
        rows = np.flatnonzero(ids == wanted) if same_kind else np.empty(0, dtype=np.int64)
        if not len(rows):
            raise UserError(
                f"user: {user_id!r} is not in {self._place()}; to recommend to somebody new, give items=[...]"
            )
        return liked[rows]

    @cached_property
    def known_users(self) -> tuple[Shaped[np.ndarray, " users"], csr_array]:
        """Every user of the run, once, sorted by id, with the union of all histories and targets.

        Raises :class:`UserError` when the run keeps no histories.
        """
        held_out = None if self.run is None else self.run.held_out()
        if held_out is None:
            raise UserError(
                f"user: {self._place()} keeps no histories (save_histories=false); give items=[...] instead"
            )
        # A split in time has the same user in several parts, with items in common: the union, not the sum.
        ids, codes = np.unique(held_out.user_ids, return_inverse=True)
        parts = [matrix.tocoo() for matrix in (held_out.history, held_out.target)]
        users = np.concatenate([codes[part.coords[0]] for part in parts])
        items = np.concatenate([part.coords[1] for part in parts])
        weights = np.concatenate([part.data for part in parts])
        order = np.lexsort((-weights, items, users))
        users, items, weights = users[order], items[order], weights[order]
        first = np.ones(len(users), dtype=bool)
        first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        shape = (len(ids), len(self.catalogue))
        return ids, csr_array((weights[first], (users[first], items[first])), shape=shape)

    def _place(self) -> str:
        return str(self.run.path) if self.run else "this model"

    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Scores of every item, seen ones included; a user without any known item gets the popularity."""
        return self._predict(histories, with_deviation=False).scores

    def _predict(self, histories: csr_array, *, with_deviation: bool) -> Predictive:
        if self.inference is None:
            scores, deviations = self.model.score(histories), None
        else:
            scores, deviations = self.inference.predict(histories, with_deviation=with_deviation)
        empty = np.flatnonzero(np.diff(histories.indptr) == 0)
        if len(empty) and not isinstance(self.model, Popularity):  # which has its own answer for everyone
            popularity = torch.tensor(self.catalogue.item_counts).to(scores)
            scores[torch.from_numpy(empty).to(scores.device)] = popularity
            if histories.shape[0] == 1:
                log.warning("no known item to go by: this is the popularity ranking")
            else:
                log.warning(
                    "%d of %d histories hold no known item: they get the popularity ranking",
                    len(empty),
                    histories.shape[0],
                )
            if deviations is not None:
                deviations[torch.from_numpy(empty).to(deviations.device)] = torch.nan
        return Predictive(scores, deviations)

    def rank(self, histories: csr_array, k: int) -> TopK:
        """The ``k`` best items that each history does not hold; see :func:`recsys_vae.ranking.top_k`."""
        self.check_k(k)
        return top_k(mask_seen(self.score(histories), histories), k)

    def rank_with_deviation(
        self, histories: csr_array, k: int
    ) -> tuple[TopK, Float[Tensor, "users k"] | None]:
        """:meth:`rank`, and the standard deviation of each ranked score over the draws, if there are draws."""
        self.check_k(k)
        scores, deviations = self._predict(histories, with_deviation=True)
        ranked = top_k(mask_seen(scores, histories), k)
        if deviations is None:
            return ranked, None
        return ranked, deviations.gather(-1, ranked.items.clamp(min=0))

    def check_k(self, k: int) -> None:
        """Raise :class:`UserError` unless ``k`` is between 1 and the size of the catalogue."""
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.catalogue):
            raise UserError(
                f"k: expected a whole number from 1 to {len(self.catalogue)} (the catalogue), came {k!r}"
            )

    def table(self, ranked: TopK, deviations: Float[Tensor, "users k"] | None = None) -> pd.DataFrame:
        """The first user's ranked list as a table."""
        items = ranked.items[0].cpu().numpy()
        kept = items >= 0
        columns: dict[str, Any] = {
            "rank": np.arange(1, kept.sum() + 1),
            "item_id": self.catalogue.item_ids[items[kept]],
        }
        if self.catalogue.titles is not None:
            columns["title"] = self.catalogue.titles[items[kept]]
        columns["score"] = ranked.scores[0].float().cpu().numpy()[kept]
        if deviations is not None:
            columns["score_std"] = deviations[0].float().cpu().numpy()[kept]
        return pd.DataFrame(columns)

    def matrix_of(self, histories: Histories) -> csr_array:
        """Histories of a file as rows over the catalogue; unknown items are named in a warning and left out."""
        indices = self.catalogue.indices_of_ids(histories.item_ids)
        known = indices >= 0
        if not known.all():
            unknown = pd.unique(pd.Series(histories.item_ids[~known]))
            log.warning(
                "input: %d items are not in the training data and are ignored: %s",
                len(unknown),
                list_some(unknown.tolist()),
            )
        users = np.repeat(np.arange(len(histories.user_ids)), np.diff(histories.offsets))
        weights = np.ones(len(indices)) if histories.weights is None else histories.weights
        shape = (len(histories.user_ids), len(self.catalogue))
        matrix = csr_array((weights[known].astype(np.float32), (users[known], indices[known])), shape=shape)
        matrix.sum_duplicates()
        if histories.weights is None:
            matrix.data[:] = 1.0
        return matrix

    def posterior(self, histories: csr_array) -> Marginals:
        """Mean and standard deviation of each user's taste. Raises :class:`UserError` for a model that has none."""
        if not isinstance(self.model, TasteModel):
            raise UserError(
                f"space=latent: {type(self.model).__name__} has no latent space; "
                "expected a VAE, a DAE or a factor model"
            )
        return self.model.posterior(histories)

    def taste_vectors(self, histories: csr_array) -> dict[str, Float[np.ndarray, "users latent"]]:
        """Posterior ``mean`` and ``std`` of each user's z, float32; by ``inference`` where one is set."""
        if self.inference is not None:
            return self.inference.vectors(histories)
        posterior = self.posterior(histories)
        return {
            "mean": posterior.mean.float().cpu().numpy(),
            "std": posterior.standard_deviation.float().cpu().numpy(),
        }


def load(path: str | Path, device: str | torch.device = "cpu") -> Recommender:
    """Open a run directory and return its recommender.

    Nothing but the run directory is needed; every file's checksum is verified, nothing is unpickled, and only
    classes of ``recsys_vae.models`` are built. Raises :class:`UserError` naming what is wrong.
    """
    run = read_run(path)
    settings = run.config.get("model")
    if not isinstance(settings, dict):
        raise UserError(f"run: {run.path / 'config.yaml'}: expected a section 'model'")
    check_targets(settings)
    items = run.items
    try:
        model = instantiate(settings, n_items=len(items))
        model.load_state_dict(run.tensors)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged configuration provokes
        raise UserError(f"run: {run.path}: the weights do not fit the configuration ({error})") from error
    if "train_users" not in items:
        raise UserError(f"run: {run.path / 'items.parquet'}: expected a column train_users")
    catalogue = Catalogue(run.item_ids, run.titles, items["train_users"].to_numpy(np.int64))
    return Recommender(model.to(device), catalogue, run)


def batches(histories: csr_array, batch_size: int) -> Iterator[csr_array]:
    """Consecutive rows, ``batch_size`` at a time."""
    for start in range(0, histories.shape[0], batch_size):
        yield histories[start : start + batch_size]
