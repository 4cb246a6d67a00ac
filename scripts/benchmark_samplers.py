"""Measure the posterior samplers against NumPyro's and BlackJAX's; print a table, write JSON.

    recsys-vae train dataset=ml-1m run=runs/ml-1m seed=1
    python scripts/benchmark_samplers.py runs/ml-1m --jax ~/.cache/jax-peers --output benchmark.json

ess      Chains for users of the test part, 4 each: the smallest bulk effective sample size over users and coordinates
         per second, ours and the peers', after compilation, with and without warm-up. One function judges the draws
         of all. The peers get the same density, written in JAX, the same starting points, and the encoder's standard
         deviations as the first guess of the mass matrix. Ours moves in the coordinates of the Gaussian at the mode,
         and what finding it costs is part of its warm-up. The rows "in our coordinates" hand these, free of charge,
         to the peers too: what is left there is the speed of an evaluation and trajectories of random lengths.
         Where R-hat is not below 1.05 (*), chains have not met, and an effective sample size says more than they
         are worth: four chains that never move count as some draws. Ratios to such a peer are lower bounds.
refine   Users refined by HMC from the encoder's answer until the R-hat of each coordinate of each is below 1.05.
mode     The posterior's mode of 600 users, against training epochs.

The environment of the peers (0.7 GB) is made in the folder given by --jax unless it is there. One program runs at a
time. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from peer_environment import PeerEnvironmentError, peer_python, peer_versions
from rich.console import Console
from rich.table import Table
from sampling_problem import SamplingProblem
from scipy.sparse import csr_array, vstack
from torch import Tensor

import recsys_vae
from recsys_vae import Recommender
from recsys_vae.cli.config import compose_config
from recsys_vae.cli.runtime import quiet_lightning
from recsys_vae.cli.stages import build
from recsys_vae.errors import UserError
from recsys_vae.inference import trained_likelihood_power
from recsys_vae.interactions.datamodule import HistoryDataModule
from recsys_vae.models import MultVAE, SparseRows
from recsys_vae.posterior import MarkovChains, Mode, PosteriorDensity, PowerPerItem
from recsys_vae.posterior.density import encoder_gaussian
from recsys_vae.posterior.laplace import laplace_gaussian
from recsys_vae.samplers import diagnostics

SCRIPTS = Path(__file__).parent
SECTIONS = ("ess", "refine", "mode")
R_HAT = 1.05
OURS = "ours"


@dataclass(frozen=True)
class Peer:
    """A sampler of a peer. ``share`` of the asked-for draws and warm-up is what it gets: some need minutes for each."""

    package: str
    algorithm: str
    steps: int = 0
    metric: str = "diagonal"
    coordinates: str = "latent"
    share: float = 1.0

    @property
    def is_own(self) -> bool:
        """Whether it found its coordinates itself."""
        return self.coordinates != "laplace"

    def options(self, draws: int, warmup: int) -> list[str]:
        """For ``jax_peer.py``."""
        values = {
            "package": self.package,
            "algorithm": self.algorithm,
            "steps": self.steps,
            "metric": self.metric,
            "coordinates": self.coordinates,
            "n-draws": max(4, round(self.share * draws)),
            "n-warmup": round(self.share * warmup),
        }
        return [part for name, value in values.items() for part in (f"--{name}", str(value))]


PEERS = {
    "numpyro NUTS": Peer("numpyro", "NUTS", share=0.4),
    "numpyro HMC": Peer("numpyro", "HMC", 16),
    "blackjax NUTS": Peer("blackjax", "NUTS", share=0.4),
    "blackjax NUTS, low-rank": Peer("blackjax", "NUTS", metric="low-rank", share=0.4),
    "blackjax HMC": Peer("blackjax", "HMC", 16),
    "blackjax ChEES": Peer("blackjax", "ChEES", coordinates="encoder", share=0.6),
    "numpyro HMC, in our coordinates": Peer("numpyro", "HMC", 5, metric="fixed", coordinates="laplace"),
    "blackjax HMC, in our coordinates": Peer("blackjax", "HMC", 5, metric="fixed", coordinates="laplace"),
}
Row = tuple[str, ...]


def make_problem(
    model: MultVAE, histories: csr_array, likelihood_power: float, chains: int, seed: int
) -> SamplingProblem:
    """What the peers are given."""
    rows = SparseRows.from_csr(histories)
    encoder = encoder_gaussian(model, rows)
    density = PosteriorDensity(model.likelihood(rows), likelihood_power)
    gaussian = laplace_gaussian(density, Mode().infer(model, histories, likelihood_power).mean)
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for layer in model.decoder_layers if isinstance(layer, torch.nn.Linear)]
    initial = encoder.draw(chains, generator)
    return SamplingProblem(
        layer_weights=tuple(_array(layer.weight) for layer in layers),
        layer_biases=tuple(_array(layer.bias) for layer in layers),
        weight=_array(model.output.weight),
        bias=_array(model.output.bias),
        offsets=histories.indptr.astype(np.int64),
        items=histories.indices.astype(np.int64),
        values=histories.data.astype(np.float32),
        initial=_array(initial),
        scale=_array(encoder.standard_deviation),
        centre=_array(gaussian.mean),
        scale_tril=_array(gaussian.scale_tril),
        whitened=_array(torch.randn(initial.shape, generator=generator)),
        likelihood_power=likelihood_power,
    )


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def quality(draws: Tensor, sampling_seconds: float, warmup_seconds: float) -> dict[str, float]:
    """Of draws ``(draws, chains, users, latent)``, and effective draws a second by the worst coordinate."""
    bulk = diagnostics.ess_bulk(draws)
    return {
        "draws": len(draws),
        "min_ess": float(bulk.min()),
        "median_ess": float(bulk.median()),
        "min_ess_tail": float(diagnostics.ess_tail(draws).min()),
        "max_r_hat": float(diagnostics.r_hat(draws).max()),
        "warmup_seconds": warmup_seconds,
        "sampling_seconds": sampling_seconds,
        "ess_per_second": float(bulk.min()) / sampling_seconds,
        "ess_per_second_with_warmup": float(bulk.min()) / (sampling_seconds + warmup_seconds),
    }


def measure_ours(
    model: MultVAE, histories: csr_array, likelihood_power: float, method: MarkovChains, seed: int
) -> dict[str, float]:
    """Our chains. Finding the mode and its curvature counts as warm-up."""
    marks: dict[str, float] = {}

    def watch(phase: str, done: int, total: int) -> None:
        if done == total:
            marks[phase] = time.perf_counter()

    counter = _CountGradients(model)
    began = time.perf_counter()
    with counter:
        result = method.run(model, histories, likelihood_power, seed=seed, progress=watch)
    assert result.draws is not None
    ready = marks["warm-up"]
    return quality(result.draws, marks["draws"] - ready, ready - began) | {
        "acceptance": float(result.diagnostics.acceptance.mean()),
        "gradients_in_all": counter.count,
    }


class _CountGradients:
    """Counts evaluations of the likelihood's gradient while it is entered."""

    def __init__(self, model: MultVAE) -> None:
        self._model = model
        self.count = 0

    def __enter__(self) -> None:
        original = type(self._model).likelihood

        def counting(model: MultVAE, rows: SparseRows) -> Any:
            likelihood = original(model, rows)
            evaluate = likelihood.value_and_gradient

            def counted(latent: Tensor) -> tuple[Tensor, Tensor]:
                self.count += 1
                return evaluate(latent)

            likelihood.value_and_gradient = counted  # type: ignore[method-assign]
            return likelihood

        self._model.likelihood = counting.__get__(self._model)  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        del self._model.likelihood  # type: ignore[method-assign]


def measure_peer(
    python: Path, problem: Path, peer: Peer, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """One sampler of a peer, in a process of its own."""
    output, draws = folder / "result.json", folder / "draws.npy"
    command = [str(python), "-W", "ignore", str(SCRIPTS / "jax_peer.py"), str(problem)]
    command += peer.options(options.peer_draws, options.peer_warmup)
    command += ["--output", str(output), "--draws", str(draws)]
    command += ["--threads", str(options.threads), "--seed", str(options.seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = dict(json.loads(output.read_text()))
    seconds = result["sampling_seconds"], result["warmup_seconds"]
    return result | quality(torch.from_numpy(np.load(draws)), *seconds)


def measure_ess(
    recommender: Recommender, power: float, options: argparse.Namespace, done: Callable[[str, Any], None]
) -> None:
    """Ours, then each peer; ``done`` is called after each."""
    model = _mult_vae(recommender)
    histories = _histories(recommender, "test")[: options.users]
    method = MarkovChains(
        draws=options.draws * options.chains, chains=options.chains, batch_size=options.users
    )
    done(OURS, measure_ours(model, histories, power, method, options.seed))
    if not options.peers:
        return
    python = peer_python("jax", options.jax)
    done("versions", peer_versions("jax", python))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = make_problem(model, histories, power, options.chains, options.seed)
        path = problem.write(folder / "problem.npz")
        for peer in options.peers:
            done(peer, measure_peer(python, path, PEERS[peer], options, folder))


def measure_refinement(recommender: Recommender, power: float, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds until each user's largest R-hat is below the bound: who is not there is drawn again, twice as long."""
    model = _mult_vae(recommender)
    parts = [_histories(recommender, part) for part in ("test", "validation", "train")]
    histories = csr_array(vstack(parts)[: options.refined_users])
    remaining = np.arange(histories.shape[0])
    draws = options.refined_draws
    rounds: list[dict[str, float]] = []
    began = time.perf_counter()
    while len(remaining):
        method = MarkovChains(draws=draws * options.chains, chains=options.chains)
        r_hat = np.concatenate(
            [
                method.infer(
                    model, histories[remaining[start : start + method.batch_size]], power, seed=options.seed
                ).diagnostics["r_hat"]
                for start in range(0, len(remaining), method.batch_size)
            ]
        )
        rounds.append(
            {
                "draws_of_a_chain": draws,
                "users": len(remaining),
                "below": int((r_hat < R_HAT).sum()),
                "seconds_so_far": time.perf_counter() - began,
            }
        )
        remaining, draws = remaining[~(r_hat < R_HAT)], 2 * draws
    return {"users": histories.shape[0], "seconds": time.perf_counter() - began, "rounds": rounds}


def measure_mode(recommender: Recommender, power: float, options: argparse.Namespace) -> dict[str, Any]:
    """The mode of 600 users, and epochs of the trainer with the settings of ``recsys-vae train``; medians."""
    model = _mult_vae(recommender)
    histories = csr_array(
        vstack([_histories(recommender, part) for part in ("test", "validation")])[: options.mode_users]
    )
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        found = Mode().infer(model, histories, power)
        seconds.append(time.perf_counter() - began)
    epochs = train_epochs(_histories(recommender, "train"), 4)
    return {
        "users": histories.shape[0],
        "seconds": statistics.median(seconds),
        "converged": float(found.diagnostics["converged"].mean()),
        "max_evaluations": int(found.diagnostics["evaluations"].max()),
        "seconds_per_epoch": statistics.median(epochs),
        "epochs": statistics.median(seconds) / statistics.median(epochs),
    }


def train_epochs(histories: csr_array, n_epochs: int) -> list[float]:
    """Seconds of each epoch but the first."""
    quiet = ("trainer.progress_bar=false", "trainer.tensorboard=false")
    length = (f"trainer.{name}={n_epochs}" for name in ("max_epochs", "patience"))
    config = compose_config("train", [*quiet, *length])
    trainer = build(config.trainer, progress_bar=False)
    seconds: list[float] = []
    trainer.fit(
        build(config.model, n_items=histories.shape[1]),
        HistoryDataModule(histories, trainer.batch_size, 1),
        lambda _: {trainer.monitor: 0.0},
        seed=1,
        on_epoch=lambda row: seconds.append(row["seconds"]),
    )
    return seconds[1:]


def _mult_vae(recommender: Recommender) -> MultVAE:
    if not isinstance(recommender.model, MultVAE):
        raise SystemExit(f"run: expected a mult_vae, came {type(recommender.model).__name__}")
    return recommender.model


def _histories(recommender: Recommender, part: str) -> csr_array:
    held_out = None if recommender.run is None else recommender.run.held_out(part)
    if held_out is None:
        raise SystemExit("run: expected one that kept its histories")
    return held_out.history


def ess_rows(ess: dict[str, Any]) -> list[Row]:
    """A row for each sampler."""
    return [
        (
            name,
            f"{found['draws']:.0f}",
            f"{found['min_ess']:.0f}",
            f"{found['median_ess']:.0f}",
            f"{found['min_ess_tail']:.0f}",
            f"{found['max_r_hat']:.3f}" + ("" if found["max_r_hat"] < R_HAT else " *"),
            f"{found['compile_seconds']:.0f}" if "compile_seconds" in found else "",
            f"{found['warmup_seconds']:.1f}",
            f"{found['sampling_seconds']:.1f}",
            f"{found['gradients_per_draw_in_lockstep']:.0f}"
            if "gradients_per_draw_in_lockstep" in found
            else "",
            f"{found['ess_per_second']:.2f}",
            f"{found['ess_per_second_with_warmup']:.2f}",
        )
        for name, found in ess.items()
        if name != "versions"
    ]


def summary_rows(report: dict[str, Any]) -> list[Row]:
    """What was measured, the figure, and the figure that the project sets itself."""
    rows: list[Row] = []
    ess = report.get("ess", {})
    for kind, own, aim in (
        ("the better of the peers", True, ">= 2"),
        ("the peers in our coordinates", False, ""),
    ):
        peers = {name: ess[name] for name, peer in PEERS.items() if name in ess and peer.is_own == own}
        for key, what in (("ess_per_second", "sampling"), ("ess_per_second_with_warmup", "with warm-up")):
            if peers:
                best = max(peers, key=lambda name: peers[name][key])
                ratio = ess[OURS][key] / peers[best][key]
                rows.append((f"effective draws a second, {what}, times {kind} ({best})", f"{ratio:.1f}", aim))
    if refine := report.get("refine"):
        rows.append((f"{refine['users']} users to R-hat below {R_HAT}", f"{refine['seconds']:.0f} s", ""))
        rows += [
            (
                f"  after {step['draws_of_a_chain']} draws of a chain: {step['below']} of {step['users']} users",
                f"{step['seconds_so_far']:.0f} s",
                "",
            )
            for step in refine["rounds"]
        ]
    if mode := report.get("mode"):
        rows.append((f"mode of {mode['users']} users", f"{mode['seconds']:.2f} s", ""))
        rows.append(("  in training epochs", f"{mode['epochs']:.2f}", "< 3"))
    return rows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="a finished run of Mult-VAE on MovieLens-1M")
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--jax", type=Path, help="folder of the peers' environment")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=[name for name in PEERS if PEERS[name].metric != "low-rank"],
        metavar="NAME",
        help=f"by default all but the low-rank one: {', '.join(PEERS)}",
    )
    parser.add_argument("--likelihood-power", type=float, help="default: what the run was trained for")
    parser.add_argument("--users", type=int, default=64, help="of the section ess")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--draws", type=int, default=250, help="of each of our chains")
    parser.add_argument("--peer-draws", type=int, default=100)
    parser.add_argument("--peer-warmup", type=int, default=150)
    parser.add_argument("--refined-users", type=int, default=1000)
    parser.add_argument("--refined-draws", type=int, default=200, help="of each chain, in the first round")
    parser.add_argument("--mode-users", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.jax is None and options.peers and "ess" in options.sections:
        parser.error("--jax: expected the folder of the peers' environment, or no --peers")
    return options


def main() -> int:
    """Measure section by section; the JSON is written after each figure."""
    options = parse()
    torch.set_num_threads(options.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    quiet_lightning()
    recommender = recsys_vae.load(options.run)
    assert recommender.run is not None
    power = options.likelihood_power or trained_likelihood_power(recommender.run)
    if isinstance(power, PowerPerItem):
        raise UserError(f"--likelihood-power: expected a number, for the run was trained for {power}")
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "threads": options.threads,
        "likelihood_power": power,
        "method": repr(MarkovChains()),
    }

    def save(section: str, result: Any) -> None:
        report[section] = result
        partial = options.output.with_name(f".{options.output.name}.partial")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        partial.replace(options.output)
        print(f"measured: {section}", file=sys.stderr, flush=True)

    def save_sampler(name: str, result: Any) -> None:
        save("ess", report.get("ess", {}) | {name: result})

    try:
        if "ess" in options.sections:
            measure_ess(recommender, power, options, save_sampler)
    except PeerEnvironmentError as error:
        print(error, file=sys.stderr)
        return 1
    if "refine" in options.sections:
        save("refine", measure_refinement(recommender, power, options))
    if "mode" in options.sections:
        save("mode", measure_mode(recommender, power, options))

    console = Console(width=180)
    title = f"{report['machine']}, {options.threads} threads, {report['date']}"
    if "ess" in report:
        table = Table(
            *("sampler", "draws", "min ESS", "median", "min tail", "max R-hat", "compile s", "warm-up s"),
            *("sampling s", "gradients a draw", "min ESS/s", "with warm-up"),
            title=f"{options.users} users, {options.chains} chains; {title}",
        )
        for row in ess_rows(report["ess"]):
            table.add_row(*row)
        console.print(table)
    table = Table("measured", "figure", "aim", title=title)
    for row in summary_rows(report):
        table.add_row(*row)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
