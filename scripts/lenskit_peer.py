"""LensKit's scorers in the protocol of ``peer_protocol.py``. Runs in LensKit's environment.

Settings: ``scorer``, the name of a class, and its configuration. A held-out user is a query with the history and no
user, LensKit's own way to ask for someone it has not trained on.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from lenskit.als import ImplicitMFScorer
from lenskit.data import DatasetBuilder, ItemList, RecQuery
from lenskit.knn import ItemKNNScorer
from lenskit.training import TrainingOptions
from peer_protocol import Fitted, Task, run

SCORERS = {scorer.__name__: scorer for scorer in (ImplicitMFScorer, ItemKNNScorer)}


def fit(task: Task) -> Fitted:
    """Train the component on a dataset whose item identifiers are our columns."""
    torch.set_num_threads(task.threads)
    settings = dict(task.settings)
    scorer = SCORERS[settings.pop("scorer")](**settings)
    rows, columns = task.train.nonzero()
    builder = DatasetBuilder("ours")
    builder.add_entities("item", np.arange(task.train.shape[1]))
    builder.add_interactions(
        "like",
        pd.DataFrame({"user_id": rows, "item_id": columns}),
        entities=["user", "item"],
        missing="insert",
        default=True,
    )
    data = builder.build()
    began = time.perf_counter()
    scorer.train(data, TrainingOptions(rng=task.seed))
    seconds = time.perf_counter() - began
    everything = ItemList(item_ids=np.arange(task.train.shape[1]))

    def score(history: sp.csr_array) -> np.ndarray:
        scores = [
            scorer(RecQuery(history_items=ItemList(item_ids=items)), everything).scores()
            for items in np.split(history.indices, history.indptr[1:-1])
        ]
        # What LensKit does not score, it does not recommend.
        return np.nan_to_num(np.stack(scores).astype(np.float32), nan=-np.inf)

    return Fitted(score, seconds)


if __name__ == "__main__":
    sys.exit(run(fit, ("lenskit", "torch", "numpy", "scipy")))
