"""Every metric against ranx, another author's program; where definitions differ, the difference is written out.

ranx sorts, cuts and judges the scores itself, so this also checks our masking, ranking and hits.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys_vae.evaluation import METRICS
from recsys_vae.evaluation.hits import find_hits
from recsys_vae.ranking import mask_seen, top_k

pytestmark = pytest.mark.filterwarnings("ignore")  # of ranx and of what it imports

RANX_NAME = {
    "average_precision": "map",
    "hit_rate": "hit_rate",
    "ndcg": "ndcg",
    "precision": "precision",
    "recall": "recall",
    "reciprocal_rank": "mrr",
}


@pytest.fixture(scope="module")
def ranx() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("ranx")


def ranx_values(ranx: Any, items: np.ndarray, targets: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    # An item of relevance 0 stands for "no target", which ranx cannot write. Its runs are scores, so ranks
    # become scores without ties. It sorts users by name, hence the zeros in front.
    qrels = {
        f"{user:03}": {str(item): 1 for item in np.flatnonzero(row)} or {"none": 0}
        for user, row in enumerate(targets)
    }
    run = {
        f"{user:03}": {str(item): float(-rank) for rank, item in enumerate(row[row >= 0])}
        for user, row in enumerate(items)
    }
    values = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names, return_mean=False)
    return {name: np.asarray(values[name]) for name in names}


@pytest.mark.parametrize("k", [1, 5, 20, 35])
@pytest.mark.parametrize("tied", [False, True])
def test_equals_ranx(ranx: Any, k: int, tied: bool) -> None:
    rng = np.random.default_rng(k)
    n_users, n_items = 40, 30  # k = 35 is beyond the catalogue
    scores = rng.integers(0, 4, (n_users, n_items)) if tied else rng.standard_normal((n_users, n_items))
    history = rng.random((n_users, n_items)) < 0.2
    targets = (rng.random((n_users, n_items)) < rng.uniform(0.2, 1.0, (n_users, 1))) & ~history
    targets[:3] = False
    masked = mask_seen(torch.from_numpy(scores.astype(np.float32)), csr_array(history))
    items = top_k(masked, min(k, n_items)).items.numpy()
    hits = find_hits(items, csr_array(targets))
    n_targets = targets.sum(axis=1)
    assert n_targets.max() > 5
    assert (n_targets[3:] > 0).all()

    theirs = ranx_values(ranx, items, targets, [f"{RANX_NAME[name]}@{k}" for name in RANX_NAME])
    for name in RANX_NAME:
        ours = METRICS[name](hits, n_targets, k)
        assert np.isnan(ours[:3]).all()
        expected = theirs[f"{RANX_NAME[name]}@{k}"]
        if name in ("recall", "average_precision"):  # ranx divides by all targets, we by those that fit in k
            ours = ours * np.minimum(k, n_targets) / np.maximum(n_targets, 1)
        np.testing.assert_allclose(ours[3:], expected[3:], rtol=0, atol=1e-12, err_msg=name)
        assert (expected[:3] == 0).all()
