"""How much of each path a hybrid takes: chosen on users that neither path was fitted on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from recsys_vae.evaluation import Evaluation
from recsys_vae.interactions import HeldOut
from recsys_vae.models.hybrid import Hybrid
from recsys_vae.ranking import mask_seen, top_k

log = logging.getLogger(__name__)

_EXPONENTS = (0.0, 0.25, 0.5)
# Weights of the log-probabilities against a linear score of a history of typical length.
_RELATIVE_WEIGHTS = (0.0, *(0.01 * 2.0 ** (step / 2) for step in range(15)))


def choose_fusion(
    model: Hybrid, held_out: HeldOut, metric: str, item_counts: np.ndarray, batch_size: int = 500
) -> float:
    """Set the weight and the exponent of ``model`` to those of the surest gain; return their mean of ``metric``.

    A grid of weights and exponents, evaluated in one pass over the users: what either path says of a batch is
    computed once, so memory does not grow with the users. The best mean of some dozens would be good luck where the
    users are few. So each is judged by what it gains on the linear path alone, user by user, less one standard error of
    that gain: of two that gain alike, the one whose gain varies less, which is that with less of the variational path.

    Args:
        model: with both of its paths fitted.
        held_out: validation users.
        metric: a name such as ``ndcg@100``.
        item_counts: training users of each item, ``(items,)``.
        batch_size: users scored at a time.
    """
    candidates = list(_candidates(np.diff(held_out.history.indptr)))
    evaluations = [Evaluation([metric], item_counts=item_counts) for _ in candidates]
    depth = evaluations[0].depth
    for start in range(0, held_out.n_users, batch_size):
        rows = slice(start, start + batch_size)
        history, target = held_out.history[rows], held_out.target[rows]
        log_probabilities, linear = model.log_probabilities(history), model.linear.score(history)
        # All rankings before any bookkeeping: small blocks that stay, allocated between matrices of users by items that
        # go, would leave the allocator holes in which the next matrix does not fit.
        ranked = np.empty((len(candidates), history.shape[0], depth), dtype=np.int64)
        for candidate, items in zip(candidates, ranked, strict=True):
            model.set_fusion(*candidate)
            scores = model.fuse(log_probabilities, history, linear)
            items[:] = top_k(mask_seen(scores, history), depth).items.cpu().numpy()
        for items, evaluation in zip(ranked, evaluations, strict=True):
            evaluation.update(
                items,
                target,
                history_lengths=np.diff(history.indptr),
                user_ids=held_out.user_ids[rows],
            )
    values = np.stack([evaluation.result().per_user[metric].to_numpy() for evaluation in evaluations])
    values = values[:, ~np.isnan(values).any(axis=0)]  # users without a target
    best = _surest(values)
    means = values.mean(axis=1)
    model.set_fusion(*candidates[best])
    log.info(
        "fusion: weight %.4g, length exponent %.2f: validation %s %.4f (linear alone %.4f)",
        *candidates[best],
        metric,
        means[best],
        means[0],
    )
    return float(means[best])


def _surest(values: Float64[np.ndarray, "candidates users"]) -> int:
    """Whose mean gain on the first, less its standard error, is largest; the first where one user tells no error."""
    n_users = values.shape[1]
    if n_users < 2:
        return 0
    gains = values - values[0]
    return int(np.argmax(gains.mean(axis=1) - gains.std(axis=1, ddof=1) / math.sqrt(n_users)))


def _candidates(lengths: np.ndarray) -> Iterator[tuple[float, float]]:
    """Weight and exponent; the first is the linear path alone."""
    typical = float(np.exp(np.log(np.maximum(lengths, 1)).mean())) if len(lengths) else 1.0
    for exponent in _EXPONENTS:
        for weight in _RELATIVE_WEIGHTS:
            if weight or not exponent:
                yield weight * typical**-exponent, exponent
