from __future__ import annotations

import csv
import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.exports.recommendations import RankedItems, write_recommendations

ITEMS = np.array(["i0", 'quoted "1"', "comma, 2", "line\n3"], dtype=object)
TITLES = np.array(["Heat", None, "Amélie", "<b>"], dtype=object)


def batches() -> list[RankedItems]:
    return [
        RankedItems(
            np.array([7, -1]),
            np.array([[2, 0, 1], [3, -1, 0]]),
            np.array([[3.0, 2.0, 1.0], [0.5, 9.0, 0.25]]),
        ),
        RankedItems(np.array([2**60]), np.array([[1, 2, 3]]), np.array([[1.0, -np.inf, -np.inf]])),
    ]


EXPECTED = [
    (7, 1, "comma, 2", 3.0, "Amélie"),
    (7, 2, "i0", 2.0, "Heat"),
    (7, 3, 'quoted "1"', 1.0, None),
    (-1, 1, "line\n3", 0.5, "<b>"),
    (-1, 2, "i0", 0.25, "Heat"),
    (2**60, 1, 'quoted "1"', 1.0, None),
]


def test_parquet_has_one_row_a_recommendation(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    write_recommendations(path, batches(), item_ids=ITEMS, titles=TITLES)
    table = pq.read_table(path)
    assert table.column_names == ["user_id", "rank", "item_id", "score", "title"]
    assert [tuple(row.values()) for row in table.to_pylist()] == EXPECTED
    assert table.schema.field("score").type == pa.float32()


def test_csv_says_the_same_to_another_parser(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_recommendations(path, iter(batches()), item_ids=ITEMS, titles=TITLES)
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["user_id", "rank", "item_id", "score", "title"]
    came = [(int(u), int(r), item, float(s), title or None) for u, r, item, s, title in rows]
    assert came == EXPECTED


def test_without_titles_there_is_no_such_column(tmp_path: Path) -> None:
    users = np.array(["a", "ü"], dtype=object)
    batch = RankedItems(users, np.array([[1], [0]]), np.array([[1.0], [2.0]], dtype=np.float32))
    write_recommendations(tmp_path / "out.parquet", [batch], item_ids=np.array([10, 20]))
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {
        "user_id": ["a", "ü"],
        "rank": [1, 1],
        "item_id": [20, 10],
        "score": [1.0, 2.0],
    }


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_nobody_to_recommend_to_gives_the_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_recommendations(path, [], item_ids=ITEMS)
    if suffix == ".csv":
        assert path.read_text() == '"user_id","rank","item_id","score"\n'
    else:
        assert pq.read_table(path).num_rows == 0


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(users=st.lists(st.text(max_size=8), min_size=1, max_size=9), size=st.integers(1, 4))
def test_any_text_ids_in_any_batches(tmp_path: Path, users: list[str], size: int) -> None:
    ids = np.array(users, dtype=object)
    rng = np.random.default_rng(len(users))
    items = rng.integers(0, 9, size=(len(users), 3))
    batches = [slice(start, start + size) for start in range(0, len(ids), size)]
    stream = (RankedItems(ids[rows], items[rows], items[rows] / 2) for rows in batches)
    write_recommendations(tmp_path / "out.parquet", stream, item_ids=ids[rng.integers(0, len(ids), 9)])
    assert pq.read_table(tmp_path / "out.parquet")["user_id"].to_pylist() == [
        u for u in users for _ in range(3)
    ]


def test_trouble_leaves_nothing_behind(tmp_path: Path) -> None:
    def stream() -> Iterator[RankedItems]:
        yield batches()[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    for suffix in (".parquet", ".csv"):
        with pytest.raises(UserError, match=r"^output: no space left on the device"):
            write_recommendations(tmp_path / f"out{suffix}", stream(), item_ids=ITEMS)
    with pytest.raises(UserError, match=r"^output: expected a name ending in \.parquet or \.csv"):
        write_recommendations(tmp_path / "out.npz", stream(), item_ids=ITEMS)
    with pytest.raises(UserError, match=r"^output: expected an existing folder, .* does not exist"):
        write_recommendations(tmp_path / "none" / "out.csv", stream(), item_ids=ITEMS)
    assert list(tmp_path.iterdir()) == []
