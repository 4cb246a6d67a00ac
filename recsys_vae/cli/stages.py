"""The first stages of ``prepare`` and ``train``: from a configuration to a split."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError
from recsys_vae.interactions import FilteredRatings, Interactions, RatingsTable, Split

log = logging.getLogger(__name__)

# Null is a choice here although the default is another.
_NULL_SAYS_SOMETHING = {"filters.rating_threshold"}


def refuse_null(verb: str, config: DictConfig) -> None:
    """Raise :class:`UserError` for a null where no configuration file has one: null stands for nothing there."""
    allowed = _null_keys(verb)
    for key, value in _leaves(config):
        if value is None and key not in allowed:
            raise UserError(f"{key}: expected a value, came null")
        if isinstance(value, ListConfig) and any(entry is None for entry in value):
            raise UserError(f"{key}: expected values, came null among {list(value)}")


@functools.cache
def _null_keys(verb: str) -> frozenset[str]:
    """What is null by default in the verb's own file, or in any file that it can choose for a section."""
    folder = bundled_path("configs")
    found = set(_NULL_SAYS_SOMETHING)
    for path in (folder / f"{verb}.yaml", *folder.glob("*/*.yaml")):
        text = path.read_text(encoding="utf-8")
        is_global = path.parent == folder or text.startswith("# @package _global_")
        prefix = "" if is_global else f"{path.parent.name}."
        found |= {key for key, value in _leaves(OmegaConf.create(text), prefix) if value is None}
    return frozenset(found)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots, and their values; what is required or refers to another key has none yet."""
    for key in node:
        name = f"{prefix}{key}"
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def build(config: DictConfig, **arguments: Any) -> Any:
    """Build what a section's ``_target_`` names; a mistake in a value is reported as the section's own."""
    try:
        return instantiate(config, **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError | OSError | MemoryError):
            raise cause from error
        target = str(config.get("_target_", "configuration")).rpartition(".")[2]
        raise UserError(f"{target}: {cause if cause is not None else error}") from error


def load_ratings(config: DictConfig) -> RatingsTable:
    """Read the dataset."""
    table: RatingsTable = build(config.dataset).load()
    log.info(
        "%s: %d ratings, %d users, %d items",
        table.source,
        table.n_rows,
        len(table.user_ids),
        len(table.item_ids),
    )
    return table


def filter_ratings(config: DictConfig, table: RatingsTable) -> FilteredRatings:
    """Apply the filters, and say what each leaves."""
    filtered: FilteredRatings = build(config.filters)(table)
    for count in filtered.counts[1:]:
        log.info(
            "%s: %d interactions, %d users, %d items",
            count.stage,
            count.interactions,
            count.users,
            count.items,
        )
    return filtered


def split_interactions(config: DictConfig, interactions: Interactions) -> Split:
    """Hold users (or last items, or the latest time) out."""
    split: Split = build(config.split)(interactions)
    log.info(
        "split %s: %d training, %d validation and %d test users, %d items; sha256 %s",
        split.manifest["name"],
        split.train.n_users,
        split.validation.n_users,
        split.test.n_users,
        split.train.n_items,
        split.sha256[:12],
    )
    return split


def dataset_name(config: DictConfig) -> str:
    """What to call the dataset in the name of a run."""
    if "name" in config.dataset:
        return str(config.dataset.name)
    stem = str(config.dataset.get("path", "table")).rstrip("/").rpartition("/")[2]
    return stem.split(".")[0] or "table"
