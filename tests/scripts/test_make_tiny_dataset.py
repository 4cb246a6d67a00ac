from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_script_writes_the_committed_bytes(tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "make_tiny_dataset.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "new")], check=True)
    for name in ("ratings.csv", "movies.csv"):
        committed = (REPOSITORY / "data" / "tiny" / name).read_bytes()
        assert (tmp_path / "new" / name).read_bytes() == committed
        assert b"\r" not in committed


def test_everybody_likes_exactly_one_block() -> None:
    with (REPOSITORY / "data" / "tiny" / "ratings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    liked: dict[str, set[str]] = {}
    for row in rows:
        if int(row["rating"]) >= 4:
            liked.setdefault(row["userId"], set()).add(row["movieId"])
    tastes = Counter(frozenset(items) for items in liked.values())
    assert {(len(items), next(iter(items)).split("-")[0]): count for items, count in tastes.items()} == {
        (10, "heist"): 60,
        (10, "western"): 36,
        (10, "musical"): 24,
    }
    assert all(len({item.split("-")[0] for item in items}) == 1 for items in tastes)
    assert Counter(row["userId"] for row in rows).most_common()[-1][1] == 14
    assert len({(row["userId"], row["movieId"]) for row in rows}) == len(rows) == 1680
