"""``recsys-vae prepare``: fetch, read, filter and split a dataset, and show what each stage leaves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from rich.table import Table

from recsys_vae.cli.runtime import console
from recsys_vae.cli.stages import dataset_name, filter_ratings, load_ratings, refuse_null, split_interactions
from recsys_vae.exports import check_output, output_file


def run(config: DictConfig) -> None:
    """Print the counts of every stage and of every part of the split."""
    refuse_null("prepare", config)
    output = None if config.output is None else check_output(config.output, (".parquet",))
    filtered = filter_ratings(config, load_ratings(config))
    split = split_interactions(config, filtered.interactions)
    stages = Table(title=dataset_name(config), title_justify="left", title_style="bold")
    for name in ("stage", "users", "items", "interactions"):
        stages.add_column(name, justify="left" if name == "stage" else "right")
    for count in filtered.counts:
        stages.add_row(count.stage, f"{count.users:,}", f"{count.items:,}", f"{count.interactions:,}")
    train = split.train
    stages.add_section()
    stages.add_row("train", f"{train.n_users:,}", f"{train.n_items:,}", f"{train.matrix.nnz:,}")
    for name, part in (("validation", split.validation), ("test", split.test)):
        for side, matrix in (("history", part.history), ("target", part.target)):
            items = np.unique(matrix.indices).size
            stages.add_row(f"{name} {side}", f"{part.n_users:,}", f"{items:,}", f"{matrix.nnz:,}")
    console.print(stages, markup=False)
    console.print(f"split sha256: {split.sha256}")
    if output is not None:
        everything = filtered.interactions
        matrix = everything.matrix
        users = np.repeat(np.arange(everything.n_users), np.diff(matrix.indptr))
        columns = {
            "user_id": pa.array(everything.user_ids[users]),
            "item_id": pa.array(everything.item_ids[matrix.indices]),
            "weight": pa.array(matrix.data),
        }
        if everything.timestamps is not None:
            columns["timestamp"] = pa.array(everything.timestamps)
        with output_file(output) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
