"""What leaves the process: run directories, vectors, recommendations, the report.

``report`` is imported by its own name: it loads Matplotlib, which only training needs.
"""

from recsys_vae.exports.embeddings import read_vectors, write_vectors
from recsys_vae.exports.histories import Histories, read_histories
from recsys_vae.exports.item_weights import write_item_weights
from recsys_vae.exports.output_path import check_output, output_file
from recsys_vae.exports.recommendations import RankedItems, write_recommendations
from recsys_vae.exports.run_directory import (
    Run,
    RunWriter,
    check_target,
    check_targets,
    default_run_path,
    read_run,
)

__all__ = [
    "Histories",
    "RankedItems",
    "Run",
    "RunWriter",
    "check_output",
    "check_target",
    "check_targets",
    "default_run_path",
    "output_file",
    "read_histories",
    "read_run",
    "read_vectors",
    "write_item_weights",
    "write_recommendations",
    "write_vectors",
]
