"""The posteriors of a sampling problem in JAX, and NumPyro's and BlackJAX's samplers on them.

A lane is one chain of one user with the user's data; every sampler is written for one lane, as its authors document
it, and :func:`jax.vmap` runs all lanes at once. A loop whose length differs from lane to lane, as a NUTS tree's does,
then lasts as long as its longest.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import optax
from blackjax.adaptation.base import get_filter_adapt_info_fn
from blackjax.mcmc.dynamic_hmc import halton_sequence
from numpyro.infer import hmc as numpyro_hmc
from sampling_problem import SamplingProblem

# Everything of BlackJAX's warm-up but the tuning is forgotten.
_FORGET = get_filter_adapt_info_fn()
# Where warm-up begins, in units of the initial mass matrix. With the packages' own 1, which is a tenth too long for
# these posteriors' shortest direction, the first steps are all rejected, and NUTS's next trees are a thousand steps.
_STEP_SIZE = 0.1
# Depth of a NUTS tree: 63 leapfrog steps. With the packages' own 10, all lanes wait for the deepest of hundreds.
_DEPTH = 6


class Draw(NamedTuple):
    """Of one lane and step. ``steps`` are the leapfrog steps: gradients that the lane asked for."""

    position: Any
    steps: Any
    acceptance: Any


class Target(NamedTuple):
    """Users' densities as a function of one position and one user's data.

    ``data`` has an axis of users in front. ``initial`` ``(chains, users, latent)`` and ``scale`` are in the
    coordinates of the density; ``to_latent`` leads from them to z.
    """

    log_density: Callable[[Any, Any], Any]
    data: Any
    initial: Any
    scale: Any
    to_latent: Callable[[Any, Any], Any]


def make_target(problem: SamplingProblem, coordinates: str) -> Target:
    """The problem in ``latent`` coordinates, or in those in which ``encoder`` or ``laplace`` is standard normal."""
    layers = [
        (jnp.asarray(weight.T), jnp.asarray(bias))
        for weight, bias in zip(problem.layer_weights, problem.layer_biases, strict=True)
    ]
    # Rows of inputs: on a CPU a quarter quicker than the transposed product.
    weight, bias = jnp.asarray(problem.weight.T), jnp.asarray(problem.bias)
    power = problem.likelihood_power
    data = [jnp.asarray(part) for part in problem.summed_features()]
    initial, scale = jnp.asarray(problem.initial), jnp.asarray(problem.scale)
    if coordinates == "encoder":
        data.append(scale)
        initial, scale = initial / scale, jnp.ones_like(scale)
    elif coordinates == "laplace":
        data += [jnp.asarray(problem.centre), jnp.asarray(problem.scale_tril)]
        initial, scale = jnp.asarray(problem.whitened), jnp.ones_like(scale)

    def to_latent(position: Any, user: Any) -> Any:
        if coordinates == "encoder":
            return user[3] * position
        return user[3] + user[4] @ position if coordinates == "laplace" else position

    def log_density(position: Any, user: Any) -> Any:
        latent = to_latent(position, user)
        hidden = latent
        for layer_weight, layer_bias in layers:
            hidden = jnp.tanh(hidden @ layer_weight + layer_bias)
        features, observed_bias, length = user[:3]
        log_normaliser = jax.nn.logsumexp(hidden @ weight + bias)
        log_likelihood = hidden @ features + observed_bias - length * log_normaliser
        return power * log_likelihood - 0.5 * latent @ latent

    return Target(log_density, tuple(data), initial, scale, to_latent)


def density_of(target: Target, data: Any) -> Callable[[Any], Any]:
    """The log-density of one user."""
    return lambda position: target.log_density(position, data)


@dataclass(frozen=True)
class Sampler:
    """What a lane does. ``warm_up(key, position, data, scale)`` gives a carry, ``draw(carry, key, data)`` a new one.

    ``chains_per_lane`` are more than one where warm-up is by several chains of one user; positions then have an axis
    of chains in front. ``prepare`` is what must run outside compilation.
    """

    warm_up: Callable[[Any, Any, Any, Any], Any]
    draw: Callable[[Any, Any, Any], tuple[Any, Draw]]
    prepare: Callable[[Any, Any, Any, Any], Any] | None = None
    chains_per_lane: int = 1


def numpyro_sampler(target: Target, n_warmup: int, algorithm: str, n_steps: int, metric: str) -> Sampler:
    """NumPyro's HMC or NUTS with its own warm-up: dual averaging, and Welford's estimate of the mass matrix."""
    dense = metric == "dense"
    init_kernel, sample_kernel = numpyro_hmc.hmc(
        potential_fn_gen=lambda data: lambda position: -target.log_density(position, data), algo=algorithm
    )

    def prepare(key: Any, position: Any, data: Any, scale: Any) -> Any:
        mass = jnp.diag(scale**2) if dense else scale**2
        fixed = {"num_steps": n_steps, "trajectory_length": None}
        return init_kernel(
            position,
            n_warmup,
            step_size=_STEP_SIZE,
            inverse_mass_matrix=mass,
            adapt_mass_matrix=metric != "fixed",
            dense_mass=dense,
            model_args=(data,),
            rng_key=key,
            **({"max_tree_depth": _DEPTH} if algorithm == "NUTS" else fixed),
        )

    def warm_up(state: Any, _position: Any, data: Any, _scale: Any) -> Any:
        return jax.lax.fori_loop(0, n_warmup, lambda _, s: sample_kernel(s, model_args=(data,)), state)

    def draw(state: Any, _key: Any, data: Any) -> tuple[Any, Draw]:
        state = sample_kernel(state, model_args=(data,))
        return state, Draw(state.z, state.num_steps, state.accept_prob)

    return Sampler(warm_up, draw, prepare)


def blackjax_sampler(target: Target, n_warmup: int, algorithm: str, n_steps: int, metric: str) -> Sampler:
    """BlackJAX's HMC or NUTS after its window adaptation, with a diagonal, dense or low-rank mass matrix.

    It always learns one; a weight of the first guess that no number of draws outweighs keeps it ``fixed``.
    """
    family = blackjax.nuts if algorithm == "NUTS" else blackjax.hmc
    fixed = {"max_num_doublings": _DEPTH} if algorithm == "NUTS" else {"num_integration_steps": n_steps}
    kernel = family.build_kernel()

    def warm_up(key: Any, position: Any, data: Any, scale: Any) -> Any:
        density = density_of(target, data)
        if metric == "low-rank":
            adaptation = blackjax.window_adaptation_low_rank(
                family, density, initial_step_size=_STEP_SIZE, **fixed
            )
        else:
            mass = jnp.diag(scale**2) if metric == "dense" else scale**2
            adaptation = blackjax.window_adaptation(
                family,
                density,
                is_mass_matrix_diagonal=metric != "dense",
                initial_inverse_mass_matrix=mass,
                imm_shrinkage_to_previous=1e9 if metric == "fixed" else 0.0,
                initial_step_size=_STEP_SIZE,
                adaptation_info_fn=_FORGET,
                **fixed,
            )
        (state, parameters), _ = adaptation.run(key, position, n_warmup)
        return state, parameters["step_size"], parameters["inverse_mass_matrix"]

    def draw(carry: Any, key: Any, data: Any) -> tuple[Any, Draw]:
        state, step_size, mass = carry
        density = density_of(target, data)
        state, info = kernel(key, state, density, step_size, mass, *fixed.values())
        return (state, step_size, mass), Draw(
            state.position, info.num_integration_steps, info.acceptance_rate
        )

    return Sampler(warm_up, draw)


def chees_sampler(target: Target, n_warmup: int, n_draws: int) -> Sampler:
    """BlackJAX's ChEES: the chains of a user learn a step size and a length of trajectories together."""
    n_chains = target.initial.shape[0]

    def warm_up(key: Any, positions: Any, data: Any, _scale: Any) -> Any:
        adaptation = blackjax.chees_adaptation(
            density_of(target, data),
            n_chains,
            adaptation_info_fn=_FORGET,
            mass_matrix_estimation="diagonal",
            max_leapfrog_steps=2**_DEPTH,
        )
        (states, parameters), _ = adaptation.run(
            key, positions, _STEP_SIZE, optax.adam(0.025), n_warmup, max_sampling_steps=n_draws
        )
        (length,) = parameters["integration_steps_params"]
        return states, parameters["step_size"], parameters["inverse_mass_matrix"], length

    bits = (n_warmup + n_draws - 1).bit_length()

    def trajectory(index: Any, length: Any) -> Any:
        return jnp.ceil(halton_sequence(index, bits) * length).astype(int)

    kernel = blackjax.dynamic_hmc.build_kernel(
        next_random_arg_fn=lambda index: index + 1, integration_steps_fn=trajectory
    )

    def draw(carry: Any, key: Any, data: Any) -> tuple[Any, Draw]:
        states, step_size, mass, length = carry
        density = density_of(target, data)

        def step(chain_key: Any, state: Any) -> Any:
            return kernel(chain_key, state, density, step_size, mass, integration_steps_params=(length,))

        states, info = jax.vmap(step)(jax.random.split(key, n_chains), states)
        return (states, step_size, mass, length), Draw(
            states.position, info.num_integration_steps, info.acceptance_rate
        )

    return Sampler(warm_up, draw, chains_per_lane=n_chains)
