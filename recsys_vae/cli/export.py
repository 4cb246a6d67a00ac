"""``recsys-vae export``: vectors of users and items, for use elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from scipy.sparse import csr_array

from recsys_vae.cli.posteriors import build_method, use_posterior
from recsys_vae.cli.runtime import console, pick_device, set_threads
from recsys_vae.cli.stages import refuse_null
from recsys_vae.errors import UserError
from recsys_vae.exports import check_output, read_histories, write_item_weights, write_vectors
from recsys_vae.exports.embeddings import write_vector_blocks
from recsys_vae.models import RecommenderModel
from recsys_vae.models.base import ItemToItemModel, RetrievalModel, TasteModel, check_positive
from recsys_vae.recommender import Recommender, batches, load

log = logging.getLogger(__name__)

# Ids and histories of some users, as rows over the catalogue.
Block = tuple[np.ndarray, csr_array]


def run(config: DictConfig) -> None:
    """Write the vectors to ``output``."""
    refuse_null("export", config)
    set_threads(config.threads)
    for key, choices in (("what", ("users", "items", "weights")), ("space", ("latent", "retrieval"))):
        if config[key] not in choices:
            expected = " or ".join([", ".join(choices[:-1]), choices[-1]])
            raise UserError(f"{key}: expected {expected}, came {config[key]!r}")
    suffixes = (".parquet",) if config.what == "weights" else (".parquet", ".npz", ".safetensors")
    output = check_output(config.output, suffixes)
    if config.what != "users" and config.input is not None:
        raise UserError(f"input: expected none with what={config.what}, which is the run's own")
    if config.k is not None:
        check_positive("k", config.k)
        if config.what != "weights":
            raise UserError(f"k: expected none with what={config.what}, came {config.k}")
    check_positive("batch_size", config.batch_size)
    method = build_method(config)
    recommender = load(config.run, pick_device(config.accelerator))
    _check_can_export(recommender.model, config)
    inference = use_posterior(recommender, method, config)
    if inference is not None and (config.what != "users" or config.space == "retrieval"):
        raise UserError(
            "posterior: expected encoder but for users' latent vectors, "
            f"came {type(method).__name__}, which says where users are in the latent space"
        )
    if config.what == "weights":
        assert isinstance(recommender.model, ItemToItemModel)
        weights = recommender.model.item_weights
        n_rows = write_item_weights(output, recommender.catalogue.item_ids, weights, config.k)
    elif config.what == "items":
        # Items have vectors in one space only: the output weights, whose products with users' vectors are scores.
        assert isinstance(recommender.model, RetrievalModel)
        vectors = recommender.model.item_vectors().float().cpu().numpy()
        ids = recommender.catalogue.item_ids
        write_vectors(output, ids, [{"vector": vectors}], id_name="item_id")
        n_rows = len(ids)
    else:
        n_rows = _export_users(output, recommender, config)
    console.print(f"{n_rows} {config.what}: {output}", markup=False)


def _check_can_export(model: RecommenderModel, config: DictConfig) -> None:
    """Raise ``UserError`` that says what the model does have."""
    has = {
        "what=users space=latent": isinstance(model, TasteModel),
        "what=users space=retrieval": isinstance(model, RetrievalModel),
        "what=items": isinstance(model, RetrievalModel),
        "what=weights": isinstance(model, ItemToItemModel),
    }
    asked = f"what=users space={config.space}" if config.what == "users" else f"what={config.what}"
    if not has[asked]:
        choices = " or ".join(name for name, is_there in has.items() if is_there)
        raise UserError(
            f"{asked}: expected {choices}, all that {type(model).__name__} can export"
            if choices
            else f"run: {type(model).__name__} has no vectors and no weights to export"
        )


def _export_users(output: Path, recommender: Recommender, config: DictConfig) -> int:
    """Write users' vectors; neither their histories nor the vectors are ever in memory all at once."""
    encoder = _Encoder(recommender, config.space)
    if config.input is None:
        ids, histories = recommender.known_users
        write_vectors(output, ids, map(encoder, batches(histories, config.batch_size)))
        n_rows = len(ids)
    elif output.suffix.lower() == ".parquet":
        blocks = _blocks(recommender, config)
        n_rows = write_vector_blocks(output, ((ids, encoder(histories)) for ids, histories in blocks))
    else:
        # These formats state the number of rows, and hold the ids, before the vectors: one reading for the ids.
        parts = [part.user_ids for part in read_histories(config.input, batch_size=config.batch_size)]
        ids = np.concatenate(parts)
        write_vectors(output, ids, (encoder(histories) for _, histories in _blocks(recommender, config)))
        n_rows = len(ids)
    encoder.warn()
    return n_rows


def _blocks(recommender: Recommender, config: DictConfig) -> Iterator[Block]:
    for part in read_histories(config.input, batch_size=config.batch_size):
        yield part.user_ids, recommender.matrix_of(part)


class _Encoder:
    """From histories to vectors; counts the users that have no known item."""

    def __init__(self, recommender: Recommender, space: str) -> None:
        self.recommender = recommender
        self.space = space
        self.n_users = 0
        self.n_without_items = 0

    def __call__(self, histories: csr_array) -> Mapping[str, np.ndarray]:
        self.n_users += histories.shape[0]
        self.n_without_items += int(np.count_nonzero(np.diff(histories.indptr) == 0))
        if self.space == "latent":
            return self.recommender.taste_vectors(histories)
        model = self.recommender.model
        assert isinstance(model, RetrievalModel)
        return {"vector": model.user_vectors(histories).float().cpu().numpy()}

    def warn(self) -> None:
        """Products with the items' vectors give the model's scores; ``recommend`` uses others for nobody's taste."""
        if self.n_without_items and self.space == "retrieval":
            log.warning(
                "%d of %d users have no known item: recommend gives them the popularity ranking, "
                "which their vectors do not",
                self.n_without_items,
                self.n_users,
            )
