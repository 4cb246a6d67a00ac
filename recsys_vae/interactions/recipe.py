"""What is known of a published dataset: where it comes from, how to check it, how to read it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError, nearest


@dataclass(frozen=True)
class Counts:
    """How many users, items and ratings must come out; an item counts when somebody rated it."""

    users: int
    items: int
    ratings: int

    def __str__(self) -> str:
        """Return, for example, ``1,000,209 ratings by 6,040 users of 3,706 items``."""
        return f"{self.ratings:,} ratings by {self.users:,} users of {self.items:,} items"


@dataclass(frozen=True)
class Recipe:
    """One dataset, as ``data/NAME/recipe.yaml`` describes it.

    ``url`` is its archive, a zip file of ``size_bytes`` bytes with the digest ``checksum`` (``md5:HEX`` or
    ``sha256:HEX``), whose top folder is ``folder``. ``format`` is ``tab``, ``double_colon`` or ``csv``; the
    item file is written in ``encoding``. ``licence`` is its main condition, in a line. ``counts`` must come
    out of the ratings file, ``after_filters`` of rating >= 4 and then >= 5 items a user. A dataset that
    travels with the package has ``embedded``, the SHA-256 of each of its files, which lie beside the recipe.
    """

    name: str
    title: str
    format: str
    ratings_file: str
    items_file: str
    licence: str
    readme_file: str | None = None
    encoding: str = "utf-8"
    url: str | None = None
    checksum: str | None = None
    size_bytes: int | None = None
    folder: str = ""
    counts: Counts | None = None
    after_filters: Counts | None = None
    embedded: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a format that nobody reads."""
        if self.format not in ("tab", "double_colon", "csv"):
            raise ValueError(
                f"recipe {self.name}: expected format tab, double_colon or csv, came {self.format}"
            )


def load_recipe(name: str) -> Recipe:
    """Return the recipe of the dataset ``name``; ``UserError`` with the nearest name where there is none."""
    known = recipe_names()
    if name not in known:
        raise UserError(f"dataset.name={name}: no such dataset, {nearest(name, known)}")
    values: Any = OmegaConf.to_container(OmegaConf.load(bundled_path("data", name, "recipe.yaml")))
    for key in ("counts", "after_filters"):
        if key in values:
            values[key] = Counts(**values[key])
    return Recipe(**values)


def recipe_names() -> list[str]:
    """Return the names of every dataset that has a recipe, sorted."""
    return sorted(path.parent.name for path in bundled_path("data").glob("*/recipe.yaml"))


def default_cache_dir() -> Path:
    """Where downloads are kept.

    ``$RECSYS_VAE_DATA`` where it is set; else ``data/cache`` of the repository, in a checkout; else, for an
    installed package, ``recsys-vae`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``.
    """
    if chosen := os.environ.get("RECSYS_VAE_DATA"):
        return Path(chosen).expanduser().absolute()
    data = bundled_path("data")
    if data.parent.name != "_bundled":
        return data / "cache"
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "recsys-vae"
