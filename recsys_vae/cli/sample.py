"""``recsys-vae sample``: draws from the posterior of users' tastes, and whether to believe them."""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from scipy.sparse import csr_array

from recsys_vae.cli.posteriors import build_method, likelihood_power, print_diagnostics, progress_bar
from recsys_vae.cli.runtime import console, pick_device, set_threads
from recsys_vae.cli.stages import refuse_null
from recsys_vae.errors import UserError
from recsys_vae.exports import check_output, read_histories
from recsys_vae.exports.draws import DrawsStore
from recsys_vae.inference import simulate_histories
from recsys_vae.models import MultinomialVAE
from recsys_vae.models.base import check_positive
from recsys_vae.posterior import MarkovChains
from recsys_vae.posterior.density import latent_model
from recsys_vae.posterior.likelihood_power import record_power, show_power
from recsys_vae.recommender import Recommender, load
from recsys_vae.samplers import SampleResult


def run(config: DictConfig) -> None:
    """Sample, batch by batch; print the diagnostics; write the draws where ``output`` says."""
    refuse_null("sample", config)
    set_threads(config.threads)
    if config.users not in ("test", "validation", "simulated"):
        raise UserError(f"users: expected test, validation or simulated, came {config.users!r}")
    if config.n_users is not None:
        check_positive("n_users", config.n_users)
    output = None if config.output is None else check_output(config.output, (".nc",))
    if config.resume and output is None:
        raise UserError("resume: expected output=FILE.nc, whose interrupted run it takes up, came none")
    method = build_method(config)
    if not isinstance(method, MarkovChains):
        raise UserError(
            f"sampler: expected one that runs Markov chains, such as hmc, came {type(method).__name__}"
        )
    recommender = load(config.run, pick_device(config.accelerator))
    latent_model(recommender.model)
    power = likelihood_power(recommender, config)
    user_ids, histories = _histories(recommender, config)
    settings = {
        "model": _digest(recommender),
        "histories": _digest_of(histories.indptr, histories.indices, histories.data),
        "likelihood_power": record_power(power),
        "seed": int(config.seed),
        "keep_draws": bool(config.keep_draws),
        **_flat(config.posterior),
    }
    n_users = histories.shape[0]
    starts = range(0, n_users, method.batch_size)
    began = time.perf_counter()
    found: list[dict[str, np.ndarray]] = []
    with contextlib.ExitStack() as stack:
        store = None
        if output is not None:
            store = stack.enter_context(DrawsStore(output, settings, resume=config.resume))
        with progress_bar(n_users, method.batch_size) as progress:
            for number, start in enumerate(starts):
                batch = histories[start : start + method.batch_size]
                seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])

                def make(batch: csr_array = batch, seed: int = seed) -> dict[str, np.ndarray]:
                    result = method.run(
                        recommender.model,
                        batch,
                        power,
                        seed=seed,
                        keep_draws=config.keep_draws,
                        progress=progress,
                    )
                    return _arrays(result)

                arrays = make() if store is None else store.batch(number, make)
                found.append(_of_users(arrays))
        seconds = time.perf_counter() - began
        if store is not None:
            attributes: dict[str, str | float] = {
                "inference_library": "recsys_vae",
                "kernel": type(method.kernel).__name__,
                "likelihood_power": record_power(power),
                "run": Path(config.run).name,
            }
            store.finalize(len(starts), user_ids, attributes)
    whose = config.users if config.input is None else "input"
    console.print(
        f"{n_users} {whose} users, {method.chains} chains, {-(-method.draws // method.chains)} draws each, "
        f"likelihood_power {show_power(power)}: {seconds:.1f} s"
    )
    diagnostics = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    print_diagnostics(diagnostics, f"{type(method.kernel).__name__}, worst coordinate of each user")
    if output is not None:
        console.print(f"draws: {output}", markup=False)


def _histories(recommender: Recommender, config: DictConfig) -> tuple[np.ndarray, csr_array]:
    """Ids and histories of whom to sample."""
    n_users = 100 if config.n_users is None else config.n_users
    assert recommender.run is not None
    if config.input is not None:
        parts = list(read_histories(config.input, batch_size=n_users))[:1]
        return parts[0].user_ids, recommender.matrix_of(parts[0])
    part = "test" if config.users == "simulated" else config.users
    held_out = recommender.run.held_out(part)
    if held_out is None:
        raise UserError(f"run: {config.run} keeps no histories (save_histories=false); give input=FILE")
    if config.users != "simulated":
        if n_users > held_out.n_users and config.n_users is not None:
            raise UserError(
                f"n_users: expected at most {held_out.n_users}, the {part} users of the run, came {config.n_users}; "
                "more can be had by users=simulated or input=FILE"
            )
        return held_out.user_ids[:n_users], held_out.history[:n_users]
    model = latent_model(recommender.model)
    if not isinstance(model, MultinomialVAE):
        raise UserError(f"users: simulated wants a VAE, came {type(model).__name__}")
    lengths = np.resize(np.diff(held_out.history.indptr), n_users)
    return np.arange(n_users), simulate_histories(model, lengths, config.seed)[1]


def _arrays(result: SampleResult) -> dict[str, np.ndarray]:
    """One batch in the layout of the file: the axis of the chains before that of the draws."""
    found = result.diagnostics
    arrays = {
        "energy": result.energy.transpose(0, 1).float(),
        "diverging": result.divergent.transpose(0, 1).to(torch.uint8),
        "acceptance_rate": found.acceptance.float(),
        "divergences": found.divergences,
        "invalid": found.invalid,
        "bfmi": found.bfmi.float(),
        "mean": result.mean.float(),
        "std": result.variance.sqrt().float(),
        "r_hat": found.r_hat.float(),
        "ess_bulk": found.ess_bulk.float(),
        "ess_tail": found.ess_tail.float(),
        "mcse_mean": found.mcse_mean.float(),
    }
    if result.draws is not None:
        arrays["z"] = result.draws.transpose(0, 1).float()
    return {name: values.cpu().numpy() for name, values in arrays.items()}


def _of_users(arrays: Any) -> dict[str, np.ndarray]:
    """A number a user of each diagnostic."""
    return {
        "r_hat": arrays["r_hat"].max(axis=-1),
        "ess": arrays["ess_bulk"].min(axis=-1),
        "acceptance": arrays["acceptance_rate"].mean(axis=0),
        "bfmi": arrays["bfmi"].min(axis=0),
        "divergences": arrays["divergences"].sum(axis=0),
        "invalid": arrays["invalid"].sum(axis=0),
    }


def _flat(config: DictConfig) -> dict[str, Any]:
    """The sampler's settings, each under a name of its own."""
    settings: Any = OmegaConf.to_container(config)
    return {f"sampler.{name}": value for name, value in settings.items()}


def _digest(recommender: Recommender) -> str:
    return _digest_of(*(values.cpu().numpy() for values in recommender.model.state_dict().values()))


def _digest_of(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
