"""Write a made-up table of who-liked-what with the shape of MovieLens-20M, for measuring speed and memory.

    python scripts/synthetic_movielens20m.py OUT.parquet [--users 136677] [--items 20108] [--seed 1] ...

The counts are exact: that many users, items and interactions, no pair twice, every user with at least five
items, every item with at least one user. Activity is log-normal over users; popularity is a shifted power law
over items (Zipf-Mandelbrot: weight ``(rank + shift) ** -exponent``). There is nothing to learn in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEWEST_ITEMS = 5
USERS_AT_ONCE = 8192


@dataclass(frozen=True)
class Shape:
    """What to generate; the default counts are MovieLens-20M's (ratings >= 4, users with >= 5 items)."""

    users: int = 136_677
    items: int = 20_108
    interactions: int = 10_000_000
    seed: int = 1
    log_normal_sigma: float = 1.1
    popularity_exponent: float = 1.5
    popularity_shift: float = 100.0

    @property
    def most_items(self) -> int:
        """The most items of one user: drawing without repeats slows down as a user nears them all."""
        return max(FEWEST_ITEMS, self.items // 4)

    def __post_init__(self) -> None:
        """Refuse a shape that no table can have."""
        if self.items < FEWEST_ITEMS:
            raise ValueError(f"items: expected at least {FEWEST_ITEMS}, got {self.items}")
        least = max(self.items, FEWEST_ITEMS * self.users)
        most = self.most_items * self.users
        if self.users < 1 or not least <= self.interactions <= most:
            raise ValueError(
                f"interactions: expected {least} to {most} for {self.users} users and {self.items} items, "
                f"got {self.interactions}"
            )


def activity(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Draw how many items each user has: int64 ``(users,)``, bounded, summing to ``shape.interactions``."""
    weight = rng.lognormal(sigma=shape.log_normal_sigma, size=shape.users)

    def scaled(factor: float) -> np.ndarray:
        return np.clip(np.floor(factor * weight), FEWEST_ITEMS, shape.most_items).astype(np.int64)

    low, high = 0.0, float(shape.most_items / weight.min())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).sum() <= shape.interactions else (low, middle)
    counts = scaled(low)
    # The sum falls short by fewer than the users whose counts step up together; random users make up for it.
    while (missing := shape.interactions - int(counts.sum())) > 0:
        room = np.flatnonzero(counts < shape.most_items)
        counts[rng.choice(room, size=min(missing, room.size), replace=False)] += 1
    return counts


def distinct_items(
    counts: np.ndarray, seeded: np.ndarray, cumulative: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Fill up every user of a block to ``counts`` distinct items, drawn by popularity without replacement.

    ``seeded`` holds the pairs already given, as keys ``user_in_block * items + item``. Drawing as many items
    as a user still lacks, and dropping repeats, until nobody lacks any, is successive sampling exactly.
    Returns the keys sorted, hence grouped by user: int64 ``(counts.sum(),)``.
    """
    items = cumulative.size
    finished: list[np.ndarray] = []
    keys = np.sort(seeded)
    lacking = counts - np.bincount(keys // items, minlength=counts.size)
    while (users := np.flatnonzero(lacking)).size:
        drawn = np.searchsorted(cumulative, rng.random(int(lacking.sum())), side="right")
        drawn += np.repeat(users, lacking[users]) * items
        keys = np.unique(np.concatenate([keys, drawn]))
        owner = keys // items
        lacking = counts - np.bincount(owner, minlength=counts.size)
        # Only those who still lack something go round again, so that late rounds are cheap.
        unfinished = lacking[owner] > 0
        finished.append(keys[~unfinished])
        keys = keys[unfinished]
        counts = np.where(lacking > 0, counts, 0)
    finished.append(keys)
    return np.sort(np.concatenate(finished))


def blocks(shape: Shape) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ``(user_id, item_id)`` of a few thousand users at a time: int32, from 1, sorted."""
    rng = np.random.default_rng(shape.seed)
    counts = activity(shape, rng)
    first_slot = np.concatenate([[0], np.cumsum(counts)])

    weight = (np.arange(1, shape.items + 1) + shape.popularity_shift) ** -shape.popularity_exponent
    # Shuffled, so that an item's number says nothing of its popularity (and caches get no unearned help).
    cumulative = np.cumsum(rng.permutation(weight))
    cumulative /= cumulative[-1]

    # One slot of one random user for every item: nobody gets an item twice, and no item goes without.
    slots = rng.choice(shape.interactions, size=shape.items, replace=False)
    owner_of_item = np.searchsorted(first_slot, slots, side="right") - 1
    by_owner = np.argsort(owner_of_item, kind="stable")
    sorted_owner = owner_of_item[by_owner]

    for start in range(0, shape.users, USERS_AT_ONCE):
        stop = min(start + USERS_AT_ONCE, shape.users)
        mine = slice(*np.searchsorted(sorted_owner, [start, stop]))
        seeded = (sorted_owner[mine] - start) * shape.items + by_owner[mine]
        keys = distinct_items(counts[start:stop], seeded, cumulative, rng)
        yield (keys // shape.items + start + 1).astype(np.int32), (keys % shape.items + 1).astype(np.int32)


def write(shape: Shape, target: Path) -> dict[str, float]:
    """Write the table to ``target`` (whole or not at all) and return the counts of what was written."""
    schema = pa.schema([("user_id", pa.int32()), ("item_id", pa.int32())])
    per_item = np.zeros(shape.items + 1, dtype=np.int64)
    per_user = np.zeros(shape.users + 1, dtype=np.int64)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for user_id, item_id in blocks(shape):
                writer.write_table(pa.table([user_id, item_id], schema=schema))
                per_item += np.bincount(item_id, minlength=per_item.size)
                per_user += np.bincount(user_id, minlength=per_user.size)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    popular = np.sort(per_item)[::-1]
    return {
        "users": int((per_user > 0).sum()),
        "items": int((per_item > 0).sum()),
        "interactions": int(per_user.sum()),
        "fewest_items_of_a_user": int(per_user[1:].min()),
        "median_items_of_a_user": float(np.median(per_user[1:])),
        "most_items_of_a_user": int(per_user.max()),
        "fewest_users_of_an_item": int(per_item[1:].min()),
        "most_users_of_an_item": int(popular[0]),
        "share_of_the_top_tenth": float(popular[: shape.items // 10].sum() / popular.sum()),
    }


def main() -> int:
    """Parse the command line, write the table, print its counts."""
    default = Shape()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path, help="the Parquet file to write: user_id, item_id (int32)")
    for name, value in asdict(default).items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(value), default=value, help=f"default {value}")
    arguments = vars(parser.parse_args())
    output = arguments.pop("output")
    if not output.parent.is_dir():
        parser.error(f"output: expected a folder that exists, got {output.parent}")
    try:
        shape = Shape(**arguments)
    except ValueError as error:
        parser.error(str(error))
    began = time.perf_counter()
    counts = write(shape, output)
    print(json.dumps({**counts, "seconds": round(time.perf_counter() - began, 1)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
