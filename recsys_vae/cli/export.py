"""``recsys-vae export``: vectors of users and items, for use elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from omegaconf import DictConfig
from scipy.sparse import csr_array, vstack

from recsys_vae.cli.runtime import console, pick_device, set_threads
from recsys_vae.errors import UserError
from recsys_vae.exports import check_output, read_histories, write_vectors
from recsys_vae.models import MultVAE
from recsys_vae.models.base import check_positive
from recsys_vae.recommender import Recommender, batches, load


def run(config: DictConfig) -> None:
    """Write the vectors to ``output``."""
    set_threads(config.threads)
    output = check_output(config.output, (".parquet", ".npz", ".safetensors"))
    for key, choices in (("what", ("users", "items")), ("space", ("latent", "retrieval"))):
        if config[key] not in choices:
            raise UserError(f"{key}: expected {' or '.join(choices)}, came {config[key]!r}")
    check_positive("batch_size", config.batch_size)
    recommender = load(config.run, pick_device(config.accelerator))
    model = recommender.model
    if not isinstance(model, MultVAE):
        raise UserError(f"run: {type(model).__name__} has no vectors to export; expected a VAE or a DAE")
    if config.what == "items":
        # Items have vectors in one space only: the output weights, whose products with users' vectors are scores.
        vectors = model.item_vectors().float().cpu().numpy()
        ids = recommender.catalogue.item_ids
        write_vectors(output, ids, [{"vector": vectors}], id_name="item_id")
    else:
        ids, histories = _histories(recommender, config)
        write_vectors(output, ids, _user_vectors(recommender, model, histories, config))
    console.print(f"{len(ids)} {config.what}: {output}", markup=False)


def _histories(recommender: Recommender, config: DictConfig) -> tuple[np.ndarray, csr_array]:
    """The users to export, once each, with all that is known of them."""
    if config.input is not None:
        parts = list(read_histories(config.input))
        ids = np.concatenate([part.user_ids for part in parts])
        return ids, csr_array(vstack([recommender.matrix_of(part) for part in parts], format="csr"))
    return recommender.known_users


def _user_vectors(
    recommender: Recommender, model: MultVAE, histories: csr_array, config: DictConfig
) -> Iterator[Mapping[str, np.ndarray]]:
    for rows in batches(histories, config.batch_size):
        if config.space == "retrieval":
            yield {"vector": model.user_vectors(rows).float().cpu().numpy()}
        else:
            yield recommender.taste_vectors(rows)
