"""``evaluate likelihood=...``: how probable the generative model finds the users' histories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.table import Table
from scipy.sparse import csr_array

from recsys_vae.cli.runtime import console
from recsys_vae.errors import UserError
from recsys_vae.inference import simulate_histories
from recsys_vae.models import PPCA, MultinomialVAE, SparseRows
from recsys_vae.models.base import check_positive
from recsys_vae.posterior.density import latent_model
from recsys_vae.posterior.log_likelihood import (
    BOUND_SIZES,
    annealed_log_likelihood,
    importance_bounds,
    reversed_log_likelihood,
)
from recsys_vae.recommender import Recommender, batches

_BATCH = 100


def check_likelihood(config: DictConfig) -> None:
    """Raise :class:`UserError` for a mistake in the likelihood's options."""
    if config.likelihood not in (None, "importance", "annealed", "bidirectional"):
        raise UserError(
            f"likelihood: expected importance, annealed or bidirectional, came {config.likelihood!r}"
        )
    for key in ("likelihood_draws", "temperatures", "annealing_chains"):
        check_positive(key, config[key])
    if config.n_users is not None:
        check_positive("n_users", config.n_users)


def report_likelihood(recommender: Recommender, histories: csr_array, config: DictConfig) -> dict[str, Any]:
    """Print mean and standard error over the users, in nats, and return them."""
    model = latent_model(recommender.model)
    if config.likelihood == "bidirectional":
        if not isinstance(model, MultinomialVAE):
            raise UserError(f"likelihood: bidirectional simulates a VAE's users, came {type(model).__name__}")
        lengths = np.diff(histories.indptr)[: config.n_users or 100]
        tastes, histories = simulate_histories(model, lengths, config.seed)
    else:
        tastes, histories = None, histories[: config.n_users]
    rows: dict[str, list[torch.Tensor]] = {}
    for number, batch in enumerate(batches(histories, _BATCH)):
        seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
        part = None if tastes is None else tastes[number * _BATCH : number * _BATCH + batch.shape[0]]
        for name, values in _of_batch(recommender, batch, part, config, seed).items():
            rows.setdefault(name, []).append(values)
    found = {name: torch.cat(parts).double().cpu().numpy() for name, parts in rows.items()}
    if tastes is not None:
        found["width of the sandwich"] = found["annealed, backward"] - found["annealed, forward"]
    subject = "simulated" if tastes is not None else config.part
    return _show(found, f"log p(x) of {histories.shape[0]} {subject} users, nats (likelihood_power 1)")


def _of_batch(
    recommender: Recommender,
    histories: csr_array,
    tastes: torch.Tensor | None,
    config: DictConfig,
    seed: int,
) -> dict[str, torch.Tensor]:
    model = latent_model(recommender.model)
    sizes = sorted(
        {*(size for size in BOUND_SIZES if size < config.likelihood_draws), config.likelihood_draws}
    )
    found = {}
    for proposal in ("encoder", "laplace"):
        for size, bound in importance_bounds(
            model, histories, sizes=sizes, proposal=proposal, seed=seed
        ).items():
            name = "ELBO" if size == 1 else f"importance weighted, K = {size}"
            found[f"{name}, {proposal}"] = bound
    if config.likelihood != "importance":
        settings = {"n_temperatures": config.temperatures, "seed": seed}
        forward = annealed_log_likelihood(model, histories, n_chains=config.annealing_chains, **settings)
        found["annealed, forward"] = forward
        if tastes is not None:
            found["annealed, backward"] = reversed_log_likelihood(
                model, histories, tastes.unsqueeze(0), **settings
            )
    if isinstance(model, PPCA):
        found["exact"] = model.log_evidence(SparseRows.from_csr(histories, model.device))
    return found


def _show(found: Mapping[str, np.ndarray], title: str) -> dict[str, Any]:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("estimate")
    table.add_column("mean", justify="right")
    record: dict[str, Any] = {}
    for name, values in found.items():
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
        record[name] = {"mean": float(values.mean()), "stderr": error}
        table.add_row(name, f"{values.mean():.3f}" + ("" if error is None else f" ± {error:.3f}"))
    console.print(table)
    return record
