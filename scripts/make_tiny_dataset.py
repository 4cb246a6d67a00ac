"""Write the made-up dataset ``tiny``: three tastes, each liking a block of items of its own.

    python scripts/make_tiny_dataset.py [FOLDER]

The same bytes come out on every machine: only ``random.Random(seed).random()`` is drawn from, which Python
promises to keep.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

SEED = 20180423
ITEMS_A_BLOCK = 10
# Users of unequal number, so that the items have a popularity order: heist before western before musical.
USERS_A_BLOCK = {"heist": 60, "western": 36, "musical": 24}
DISLIKED_A_USER = 4
FIRST_TIMESTAMP = 1_500_000_000


def movies() -> list[tuple[str, str, str]]:
    """Return movieId, title, genres, block by block."""
    return [
        (f"{block}-{number:02}", f"{block.title()} {number}, The ({1990 + number})", block.title())
        for block in USERS_A_BLOCK
        for number in range(1, ITEMS_A_BLOCK + 1)
    ]


def ratings() -> list[tuple[str, str, int, int]]:
    """Return userId, movieId, rating, timestamp, user by user, in the order in which the user rated."""
    draw = random.Random(SEED).random  # noqa: S311 (no secret)
    blocks = {block: [row[0] for row in movies() if row[0].startswith(block)] for block in USERS_A_BLOCK}
    rows = []
    users = [block for block, count in USERS_A_BLOCK.items() for _ in range(count)]
    for number, taste in enumerate(users, start=1):
        others = sorted((draw(), item) for block, items in blocks.items() if block != taste for item in items)
        rated = [(draw(), item, 4 + int(2 * draw())) for item in blocks[taste]]
        rated += [(draw(), item, 1 + int(3 * draw())) for _, item in others[:DISLIKED_A_USER]]
        for place, (_, item, stars) in enumerate(sorted(rated)):
            rows.append((f"user-{number:03}", item, stars, FIRST_TIMESTAMP + 86_400 * place + number))
    return rows


def write(folder: Path) -> None:
    """Write ``ratings.csv`` and ``movies.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, header, rows in (
        ("movies.csv", ("movieId", "title", "genres"), movies()),
        ("ratings.csv", ("userId", "movieId", "rating", "timestamp"), ratings()),
    ):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "data" / "tiny")
