"""Bayesian collaborative filtering in PyTorch.

>>> from recsys_vae import load
>>> recommender = load("runs/NAME")                        # doctest: +SKIP
>>> recommender.recommend(["Heat (1995)"], k=10)           # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys_vae.recommender import Recommender, load

__all__ = ["Recommender", "load"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line answers ``--help`` without loading PyTorch."""
    if name in __all__:
        from recsys_vae import recommender

        return getattr(recommender, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
