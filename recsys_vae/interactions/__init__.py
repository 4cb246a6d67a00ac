"""From a table of ratings to a split: sources, reading, filtering, held-out users.

``datamodule`` is imported by its own name: it loads Lightning, which only training needs.
"""

from recsys_vae.interactions.leave_last_out import LeaveLastOut
from recsys_vae.interactions.liang2018 import Liang2018
from recsys_vae.interactions.matrix import HeldOut, Interactions, Split
from recsys_vae.interactions.ratings import FilterCounts, FilteredRatings, filter_ratings, to_interactions
from recsys_vae.interactions.ratings_table import RatingsTable
from recsys_vae.interactions.splitting import split_digest
from recsys_vae.interactions.strong_generalisation import StrongGeneralisation
from recsys_vae.interactions.table import Table, read_table
from recsys_vae.interactions.temporal import Temporal

__all__ = [
    "FilterCounts",
    "FilteredRatings",
    "HeldOut",
    "Interactions",
    "LeaveLastOut",
    "Liang2018",
    "RatingsTable",
    "Split",
    "StrongGeneralisation",
    "Table",
    "Temporal",
    "filter_ratings",
    "read_table",
    "split_digest",
    "to_interactions",
]
