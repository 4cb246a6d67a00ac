"""Run one of NumPyro's or BlackJAX's samplers on a sampling problem. Runs in an environment with JAX.

    JAX/bin/python scripts/jax_peer.py PROBLEM.npz --package numpyro|blackjax --algorithm NUTS|HMC|ChEES \\
        --output RESULT.json --draws DRAWS.npy

Times compilation, warm-up and sampling apart, in float32. DRAWS.npy is ``(draws, chains, users, latent)``.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sampling_problem import SamplingProblem


def measure(problem: SamplingProblem, options: argparse.Namespace) -> tuple[np.ndarray, dict[str, Any]]:
    """Compile, warm up and draw; return the draws and what they cost."""
    import jax
    import jax.numpy as jnp
    import jax_chains

    target = jax_chains.make_target(problem, options.coordinates)
    sampler = _sampler(jax_chains, target, options)
    n_chains, n_users = target.initial.shape[:2]
    together = sampler.chains_per_lane > 1
    key = jax.random.key(options.seed)

    def lanes(function: Any) -> Any:
        """Over users, and, unless a lane holds all chains of its user, over chains."""
        over_users = jax.vmap(function, in_axes=(0, int(together), 0, 0))
        return over_users if together else jax.vmap(over_users, in_axes=(0, 0, None, None))

    shape = (n_users,) if together else (n_chains, n_users)
    keys = jax.random.split(key, shape)
    began = time.perf_counter()
    if sampler.prepare is not None:
        keys = jax.block_until_ready(lanes(sampler.prepare)(keys, target.initial, target.data, target.scale))
    arguments = (keys, target.initial, target.data, target.scale)
    warm_up = jax.jit(lanes(sampler.warm_up)).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    carry, warmup_seconds, warmup_cpu = _timed(jax, warm_up, *arguments)

    def draw(carry: Any, keys: Any, data: Any) -> Any:
        step = jax.vmap(sampler.draw)
        return (
            step(carry, keys, data) if together else jax.vmap(step, in_axes=(0, 0, None))(carry, keys, data)
        )

    def sample(carry: Any, key: Any, data: Any) -> Any:
        def advance(state: Any, step_key: Any) -> Any:
            return draw(state, jax.random.split(step_key, shape), data)

        return jax.lax.scan(advance, carry, jax.random.split(key, options.n_draws))[1]

    began = time.perf_counter()
    compiled = jax.jit(sample).lower(carry, key, target.data).compile()
    compile_seconds += time.perf_counter() - began
    draws, sampling_seconds, sampling_cpu = _timed(
        jax, compiled, carry, jax.random.key(options.seed + 1), target.data
    )
    axes = (0, 2, 1) if together else (0, 1, 2)
    position = jnp.transpose(draws.position, (*axes, 3))
    to_latent = jax.vmap(jax.vmap(jax.vmap(target.to_latent), (0, None)), (0, None))
    steps = np.transpose(np.asarray(draws.steps).reshape(options.n_draws, *draws.position.shape[1:3]), axes)
    return np.asarray(to_latent(position, target.data)), {
        "compile_seconds": compile_seconds,
        "warmup_seconds": warmup_seconds,
        "sampling_seconds": sampling_seconds,
        "warmup_cpu_seconds": warmup_cpu,
        "sampling_cpu_seconds": sampling_cpu,
        "acceptance": float(np.mean(draws.acceptance)),
        # What a lane asks for on average, and what all lanes wait for.
        "gradients_per_draw": float(steps.mean()),
        "gradients_per_draw_in_lockstep": float(steps.max(axis=(1, 2)).mean()),
    }


def _sampler(jax_chains: Any, target: Any, options: argparse.Namespace) -> Any:
    if options.algorithm == "ChEES":
        return jax_chains.chees_sampler(target, options.n_warmup, options.n_draws)
    if options.package == "numpyro":
        return jax_chains.numpyro_sampler(
            target, options.n_warmup, options.algorithm, options.steps, options.metric
        )
    return jax_chains.blackjax_sampler(
        target, options.n_warmup, options.algorithm, options.steps, options.metric
    )


def _timed(jax: Any, function: Any, *arguments: Any) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - wall, time.process_time() - cpu


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("problem", type=Path)
    parser.add_argument("--package", choices=("numpyro", "blackjax"), required=True)
    parser.add_argument("--algorithm", choices=("NUTS", "HMC", "ChEES"), required=True)
    parser.add_argument("--steps", type=int, default=16, help="leapfrog steps of HMC")
    parser.add_argument("--metric", choices=("diagonal", "dense", "low-rank", "fixed"), default="diagonal")
    parser.add_argument("--coordinates", choices=("latent", "encoder", "laplace"), default="latent")
    parser.add_argument("--n-draws", type=int, default=200)
    parser.add_argument("--n-warmup", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--draws", type=Path, required=True, help=".npy")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, write the draws and the result."""
    options = parse()
    # XLA sizes its pool by the processors it may run on, so this comes before it starts.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    draws, result = measure(SamplingProblem.read(options.problem), options)
    np.save(options.draws, draws)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    options.output.write_text(json.dumps({"settings": settings, "peak_mib": peak, **result}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
