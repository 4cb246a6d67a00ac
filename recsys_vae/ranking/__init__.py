"""From scores to ranked lists: hide what was seen, then the k best items under a stated tie rule."""

from recsys_vae.ranking.seen import mask_seen
from recsys_vae.ranking.top_k import TopK, top_k

__all__ = ["TopK", "mask_seen", "top_k"]
