"""Chains: forward and backward messages, and the most probable path (Rabiner 1989; Bishop 2006, sections 8.4.1, 13.2).

A chain of N variables with K states each costs ``O(N K^2)`` time and ``O(N K)`` memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys_vae.errors import UserError


class ChainMarginals(NamedTuple):
    """``log_marginals`` of each step, normalised, and ``log_evidence`` of the whole sequence, nats."""

    log_marginals: Float[Tensor, "*cases steps states"]
    log_evidence: Float[Tensor, "*cases"]


class ChainMode(NamedTuple):
    """The most probable path, and the logarithm of its joint weight with the observations, nats."""

    path: Int[Tensor, "*cases steps"]
    log_score: Float[Tensor, "*cases"]


def forward_backward(
    log_initial: Float[Tensor, " states"],
    log_transition: Float[Tensor, "*steps_but_one states states"],
    log_likelihood: Float[Tensor, "*cases steps states"],
) -> ChainMarginals:
    """Marginals of every step given all observations.

    Args:
        log_initial: of the first step.
        log_transition: rows from, columns to: one for all steps, or one for each, ``(steps - 1, states, states)``.
        log_likelihood: of the observation at each step under each state; 0 where nothing is observed. Leading axes
            are sequences of their own.

    Computes in float64 whatever comes. Raises :class:`UserError` for shapes that do not fit, and where the observations
    are impossible.
    """
    log_initial, transitions, log_likelihood = _checked(log_initial, log_transition, log_likelihood)
    n_steps = log_likelihood.shape[-2]
    forward = torch.empty_like(log_likelihood)
    log_evidence = torch.zeros_like(log_likelihood[..., 0, 0])
    message = log_initial + log_likelihood[..., 0, :]
    for step in range(n_steps):
        if step:
            through = message.unsqueeze(-1) + transitions[min(step - 1, len(transitions) - 1)]
            message = through.logsumexp(dim=-2) + log_likelihood[..., step, :]
        # Each step's scale is kept apart: the messages stay near 0 however long the chain.
        scale = message.logsumexp(dim=-1)
        if bool((scale == -torch.inf).any()):
            raise UserError(f"log_likelihood: expected a possible observation, came none at step {step}")
        log_evidence = log_evidence + scale
        message = message - scale.unsqueeze(-1)
        forward[..., step, :] = message
    backward = torch.zeros_like(log_initial)
    for step in range(n_steps - 2, -1, -1):
        ahead = (backward + log_likelihood[..., step + 1, :]).unsqueeze(-2)
        backward = (ahead + transitions[min(step, len(transitions) - 1)]).logsumexp(dim=-1)
        backward = backward - backward.amax(dim=-1, keepdim=True)
        forward[..., step, :] += backward
    return ChainMarginals(forward - forward.logsumexp(dim=-1, keepdim=True), log_evidence)


def most_probable_path(
    log_initial: Float[Tensor, " states"],
    log_transition: Float[Tensor, "*steps_but_one states states"],
    log_likelihood: Float[Tensor, "*cases steps states"],
) -> ChainMode:
    """The joint mode of all steps (Viterbi 1967). Args and errors as :func:`forward_backward`."""
    log_initial, transitions, log_likelihood = _checked(log_initial, log_transition, log_likelihood)
    n_steps = log_likelihood.shape[-2]
    kind = torch.int16 if log_likelihood.shape[-1] < 2**15 else torch.int64
    pointers = torch.empty(log_likelihood.shape, dtype=kind)
    best = log_initial + log_likelihood[..., 0, :]
    for step in range(1, n_steps):
        through = best.unsqueeze(-1) + transitions[min(step - 1, len(transitions) - 1)]
        best, at = through.max(dim=-2)
        best = best + log_likelihood[..., step, :]
        pointers[..., step, :] = at.to(kind)
    log_score, place = best.max(dim=-1)
    if bool((log_score == -torch.inf).any()):
        raise UserError("log_likelihood: expected a possible observation, came none")
    path = torch.empty(log_likelihood.shape[:-1], dtype=torch.int64)
    path[..., -1] = place
    for step in range(n_steps - 1, 0, -1):
        place = pointers[..., step, :].long().gather(-1, place.unsqueeze(-1)).squeeze(-1)
        path[..., step - 1] = place
    return ChainMode(path, log_score)


def _checked(
    log_initial: Tensor, log_transition: Tensor, log_likelihood: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """All in float64, the transitions ``(1 or steps - 1, states, states)``."""
    if log_initial.ndim != 1 or not len(log_initial):
        raise UserError(f"log_initial: expected (states,), came {tuple(log_initial.shape)}")
    n_states = len(log_initial)
    if log_likelihood.ndim < 2 or log_likelihood.shape[-1] != n_states or not log_likelihood.shape[-2]:
        raise UserError(
            f"log_likelihood: expected (..., steps, {n_states}), came {tuple(log_likelihood.shape)}"
        )
    n_steps = log_likelihood.shape[-2]
    transitions = log_transition if log_transition.ndim == 3 else log_transition.unsqueeze(0)
    if transitions.shape[1:] != (n_states, n_states) or (
        log_transition.ndim == 3 and len(transitions) != n_steps - 1
    ):
        raise UserError(
            f"log_transition: expected ({n_states}, {n_states}), or one for each of {n_steps - 1} steps, "
            f"came {tuple(log_transition.shape)}"
        )
    for name, values in (
        ("log_initial", log_initial),
        ("log_transition", log_transition),
        ("log_likelihood", log_likelihood),
    ):
        if bool((values.isnan() | (values == torch.inf)).any()):
            raise UserError(f"{name}: expected numbers or -inf, came NaN or +inf")
    return log_initial.double(), transitions.double(), log_likelihood.double()
