"""From ``posterior=...`` and its companions to an :class:`~recsys_vae.inference.Inference`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from omegaconf import DictConfig
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from recsys_vae.cli.runtime import console, in_terminal
from recsys_vae.cli.stages import build
from recsys_vae.errors import UserError
from recsys_vae.inference import Inference, trained_likelihood_power
from recsys_vae.posterior import Encoder, PosteriorMethod
from recsys_vae.posterior.base import Progress as OnProgress
from recsys_vae.posterior.checks import check_at_least
from recsys_vae.posterior.density import latent_model
from recsys_vae.posterior.likelihood_power import LikelihoodPower, parse_power
from recsys_vae.recommender import Recommender


def build_method(config: DictConfig) -> PosteriorMethod:
    """The method that ``posterior=...`` names; before a run is opened, so that a mistake shows at once."""
    method: PosteriorMethod = build(config.posterior, _convert_="all")
    if config.likelihood_power is not None:
        parse_power(config.likelihood_power)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed: expected a whole number from 0 to {2**32 - 1}, came {config.seed!r}")
    if config.get("predictive", "average") not in ("average", "plug_in"):
        raise UserError(f"predictive: expected average or plug_in, came {config.predictive!r}")
    check_at_least("predictive_draws", config.get("predictive_draws", 1), 1)
    return method


def use_posterior(
    recommender: Recommender, method: PosteriorMethod, config: DictConfig, progress: OnProgress | None = None
) -> Inference | None:
    """Make the recommender infer by ``method``; none for the encoder's plain answer, which the model gives itself.

    Raises :class:`UserError` for a model that has no posterior.
    """
    if isinstance(method, Encoder) and method.draws == 0:
        return None
    latent_model(recommender.model)
    recommender.inference = Inference(
        recommender.model,
        method,
        likelihood_power(recommender, config),
        predictive=config.get("predictive", "average"),
        max_draws=config.get("predictive_draws", 200),
        seed=config.seed,
        remember=True,
        progress=progress,
    )
    return recommender.inference


def likelihood_power(recommender: Recommender, config: DictConfig) -> LikelihoodPower:
    """The one that was given, or else ``1 / kl_weight`` of the run's training."""
    if config.likelihood_power is not None:
        return parse_power(config.likelihood_power)
    assert recommender.run is not None
    return trained_likelihood_power(recommender.run)


@contextlib.contextmanager
def progress_bar(n_users: int, batch_size: int) -> Iterator[OnProgress | None]:
    """In a terminal, a bar over the phases of each batch; nothing elsewhere."""
    if not in_terminal():
        yield None
        return
    n_batches = -(-n_users // batch_size)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("inference", total=None)
        batch, previous = 0, (0, "")

        def show(phase: str, done: int, total: int) -> None:
            nonlocal batch, previous
            if previous[0] == 0 or (done < previous[0] and phase <= previous[1]):
                batch += 1
            previous = (done, phase)
            bar.update(
                task, description=f"batch {batch} of {n_batches}, {phase}", completed=done, total=total
            )

        yield show


def print_diagnostics(diagnostics: dict[str, np.ndarray], title: str) -> None:
    """Median and worst of each user's diagnostics, and how many users are beyond the usual bound."""
    if not diagnostics:
        return
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("diagnostic", "median", "worst", "beyond"):
        table.add_column(name, justify="left" if name == "diagnostic" else "right")
    for name, values in diagnostics.items():
        bad, worst = _judge(name, values)
        table.add_row(name, f"{np.nanmedian(values):.4g}", f"{worst:.4g}", bad)
    console.print(table)


# Which way is worse, and the bound that is usual: Vehtari et al. 2021 for R-hat and effective sample size, Vehtari
# et al. 2024 for k-hat.
_BOUNDS = {
    "r_hat": ("above", 1.05),
    "k_hat": ("above", 0.7),
    "ess": ("below", 100.0),
    "divergences": ("above", 0.0),
    "invalid": ("above", 0.0),
    "converged": ("below", 1.0),
    "at_bound": ("above", 0.0),
}


def _judge(name: str, values: np.ndarray) -> tuple[str, float]:
    side, bound = _BOUNDS.get(name, (None, 0.0))
    if side is None:
        falls = name in ("acceptance", "bfmi", "elbo", "elbo_gain")
        return "", float(np.nanmin(values) if falls else np.nanmax(values))
    # What is no number says nothing good of a user: it counts as beyond the bound, and as the worst.
    beyond = ~(values <= bound) if side == "above" else ~(values >= bound)
    worst = np.max(values) if side == "above" else np.min(values)
    return f"{int(beyond.sum())} of {len(values)} {side} {bound:g}", float(worst)
