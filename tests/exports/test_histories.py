from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.exports.histories import read_histories

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, batch_size: int = 4096) -> list[tuple[Any, list[Any]]]:
    rows = []
    for batch in read_histories(path, batch_size=batch_size):
        assert len(batch.user_ids) <= batch_size
        assert batch.offsets[0] == 0
        assert batch.offsets[-1] == len(batch.item_ids)
        pieces = np.split(batch.item_ids, batch.offsets[1:-1])
        rows += [(user, piece.tolist()) for user, piece in zip(batch.user_ids.tolist(), pieces, strict=True)]
    return rows


def by_hand(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, list[Any]]]:
    groups: dict[Any, list[Any]] = {}
    for user, item in pairs:
        groups.setdefault(user, []).append(item)
    return list(groups.items())


@FUZZ
@given(
    pairs=st.one_of(
        st.lists(st.tuples(st.integers(-3, 3), st.text(max_size=3)), min_size=1, max_size=20),
        st.lists(st.tuples(st.sampled_from("abü"), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=20),
    ),
    batch_size=st.integers(1, 4),
)  # fmt: skip
def test_rows_in_any_order_are_grouped_in_file_order(
    tmp_path: Path, pairs: list[tuple[Any, Any]], batch_size: int
) -> None:
    users, items = zip(*pairs, strict=True)
    pq.write_table(
        pa.table({"user_id": users, "rating": [1] * len(users), "item_id": items}), tmp_path / "h.parquet"
    )
    assert read(tmp_path / "h.parquet", batch_size) == by_hand(pairs)


@FUZZ
@given(
    histories=st.lists(
        st.one_of(st.none(), st.lists(st.integers(0, 99), max_size=4)), min_size=1, max_size=12
    ),
    batch_size=st.integers(1, 5),
    row_group=st.integers(1, 5),
    large=st.booleans(),
)
def test_one_row_a_user_is_streamed(
    tmp_path: Path, histories: list[list[int] | None], batch_size: int, row_group: int, large: bool
) -> None:
    kind = (pa.large_list if large else pa.list_)(pa.int32())
    users = [f"u{n}" for n in range(len(histories))]
    table = pa.table({"items": pa.array(histories, kind), "user_id": users})
    pq.write_table(table, tmp_path / "h.parquet", row_group_size=row_group)
    assert read(tmp_path / "h.parquet", batch_size) == [
        (user, history or []) for user, history in zip(users, histories, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_id,item_id\n1,2\n1,3\n2,2\n", [(1, [2, 3]), (2, [2])]),
        ("userId,movieId,rating\n1,2,x\n", [(1, [2])]),
        ("item,User\n7,a\n8,a\n", [("a", [7, 8])]),
        ("user_id,item_id\n007,1\n8,2\n", [("007", [1]), ("8", [2])]),
        ("user_id,item_id\n1,+5\n", [(1, ["+5"])]),
        ("user_id,item_id\n1,9223372036854775808\n", [(1, ["9223372036854775808"])]),
        ('user_id,item_id\n"a, b","NA"\n', [("a, b", ["NA"])]),
        ("user_id,item_id,weight\n1,2,0.5\n", [(1, [2])]),
    ],
)
def test_csv_ids_are_exact(tmp_path: Path, text: str, expected: list[Any]) -> None:
    (tmp_path / "h.csv").write_text(text)
    assert read(tmp_path / "h.csv") == expected


def test_csv_written_by_arrow_round_trips(tmp_path: Path) -> None:
    table = pa.table({"user_id": ["x", "y", "x"], "item_id": ["1", "02", "a\nb"]})
    pacsv.write_csv(table, tmp_path / "h.csv")
    assert read(tmp_path / "h.csv") == [("x", ["1", "a\nb"]), ("y", ["02"])]


def test_weights_follow_their_items(tmp_path: Path) -> None:
    table = pa.table({"user_id": [2, 1, 2], "item_id": [5, 6, 7], "weight": [0.5, 1.0, 2.0]})
    pq.write_table(table, tmp_path / "h.parquet")
    (batch,) = read_histories(tmp_path / "h.parquet")
    assert batch.item_ids.tolist() == [5, 7, 6]
    assert batch.weights is not None
    assert batch.weights.tolist() == [0.5, 2.0, 1.0]
    lists = pa.table({"user_id": [1, 2], "items": [[5], [6, 7]], "weights": [[1.0], [2.0, 3.0]]})
    pq.write_table(lists, tmp_path / "h.parquet")
    (batch,) = read_histories(tmp_path / "h.parquet")
    assert batch.weights is not None
    assert batch.weights.tolist() == [1.0, 2.0, 3.0]


def test_dictionary_columns_and_empty_lists(tmp_path: Path) -> None:
    table = pa.table({"user_id": pa.array(["b", "a", "b"]).dictionary_encode(), "item_id": [1, 2, 3]})
    pq.write_table(table, tmp_path / "h.parquet")
    assert read(tmp_path / "h.parquet") == [("b", [1, 3]), ("a", [2])]
    pq.write_table(pa.table({"user_id": ["a"], "items": [[]]}), tmp_path / "h.parquet")
    assert read(tmp_path / "h.parquet") == [("a", [])]


def test_unsigned_ids_are_what_training_makes_of_them(tmp_path: Path) -> None:
    users, path = [1, 2**64 - 1, 1], tmp_path / "h.parquet"
    items = pa.array([2**63, 5, 7], pa.uint64())
    pq.write_table(pa.table({"user_id": pa.array(users, pa.uint64()), "item_id": items}), path)
    assert read(path, 1) == [("1", [str(2**63), "7"]), (str(2**64 - 1), ["5"])]
    lists = pa.array([[1], [2**63], [3]], pa.list_(pa.uint64()))
    pq.write_table(pa.table({"user_id": pa.array(users, pa.uint64()), "items": lists}), path)
    assert read(path, 1) == [("1", [1]), (str(2**64 - 1), [str(2**63)]), ("1", [3])]
    pq.write_table(pa.table({"user_id": pa.array([1], pa.uint64()), "item_id": [2]}), path)
    assert read(path) == [(1, [2])]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            {"user_id": [1], "title": ["x"]},
            "expected the columns user_id and item_id, .* came user_id, title",
        ),
        ({"item_id": [1]}, "expected the columns"),
        ({"user_id": [1.5], "item_id": [1]}, "expected whole numbers or text as a user_id, came double"),
        ({"user_id": [1, None], "item_id": [1, 2]}, "row 2: expected a user_id, came nothing"),
        ({"user_id": [1, 2], "item_id": [None, 2]}, "row 1: expected an item_id, came nothing"),
        ({"user_id": [1], "item_id": [True]}, "as an item_id, came bool"),
        ({"user_id": [1], "items": [3]}, "expected lists in the column items, came int64"),
        ({"user_id": [1], "items": [[3, None]]}, "expected an id in every list of items"),
        ({"user_id": [1], "items": [[3]], "weights": [[1.0, 2.0]]}, "as many weights as items"),
        ({"user_id": [1], "item_id": [1], "weight": [0.0]}, "weight 1: expected a positive number, came 0.0"),
        ({"user_id": [1, 1], "item_id": [1, 2], "weight": [1.0, float("nan")]}, "weight 2: .* came nan"),
        ({"user_id": [1], "item_id": [1], "weight": ["x"]}, "cannot be read"),
        ({"user_id": pa.array([], pa.int64()), "item_id": pa.array([], pa.int64())}, "holds no histories"),
    ],
)
def test_a_table_of_another_kind_is_one_line(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "h.parquet")
    with pytest.raises(UserError, match=rf"^input: .*{told}"):
        read(tmp_path / "h.parquet")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("h.csv", b"", "h.csv is empty"),
        ("h.csv", b"user_id,item_id\n", "holds no histories"),
        ("h.csv", b"user_id,item_id\n1,2\n3\n", r"line 3: expected 2 fields \(user_id, item_id\), found 1"),
        ("h.csv", b"user_id,item_id\n1,\xff\xfe\n", "line 2: byte 0xff is not utf-8$"),
        ("h.csv", b"user_id,item_id\n1,\n", "line 2: the item id is empty"),
        ("h.csv", b'user_id,item_id\n"",x\n', "line 2: the user id is empty"),
        ("h.csv", b"user_id,item_id,weight\n1,2,heavy\n", "line 2: weight 'heavy' is not a number"),
        ("h.csv", b"user_id,item_id,weight\n1,2,-1\n", "line 2: expected a positive weight, came -1"),
        ("h.csv", b"a;b\n1;2\n", "expected the columns"),
        ("h.csv", b"user_id,items\n1,2\n", "lists"),
        ("h.parquet", b"", "cannot be read"),
        ("h.parquet", b"user_id,item_id\n1,2\n", "cannot be read"),
        ("h.doc", b"", r"expected a name ending in \.parquet or \.csv"),
        ("h.parquet.gz", b"", r"expected a name ending in \.parquet or \.csv"),
        ("h.csv", b'user_id,item_id\n1,"2\n3,4\n', "line 2: a quoted field opens here and never closes"),
        ("h.csv", None, "does not exist"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^input: .*{told}") as caught:
        read_histories(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["items", "item_id"])
def test_a_parquet_file_cut_or_changed_anywhere_is_an_error_or_a_table(tmp_path: Path, layout: str) -> None:
    items: Any = [[1, 2], [3]] * 20 if layout == "items" else list(range(40))
    pq.write_table(pa.table({"user_id": [f"u{n}" for n in range(40)], layout: items}), tmp_path / "h.parquet")
    whole = (tmp_path / "h.parquet").read_bytes()
    for position in range(0, len(whole), 23):
        cut, changed = whole[:position], bytearray(whole)
        changed[position] ^= 0x55
        for content in (cut, changed):
            (tmp_path / "h.parquet").write_bytes(content)
            with contextlib.suppress(UserError):
                read(tmp_path / "h.parquet")


ANY_BYTES = st.one_of(
    st.binary(max_size=60), st.text(alphabet='user_id,item"\n1x', max_size=80).map(str.encode)
)


@FUZZ
@given(content=ANY_BYTES)
def test_any_bytes_are_a_table_or_this_error(tmp_path: Path, content: bytes) -> None:
    for prefix in (b"", b"user_id,item_id\n"):
        (tmp_path / "h.csv").write_bytes(prefix + content)
        with contextlib.suppress(UserError):
            read(tmp_path / "h.csv")


@pytest.mark.slow
@settings(FUZZ, max_examples=2000)
@given(content=ANY_BYTES)
def test_any_two_thousand_files_are_a_table_or_this_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "h.csv").write_bytes(b"user_id,item_id,weight\n" + content)
    with contextlib.suppress(UserError):
        read(tmp_path / "h.csv")


@pytest.mark.slow
@settings(FUZZ, max_examples=2000)
@given(data=st.data())
def test_any_two_thousand_damaged_parquet_files_are_a_table_or_this_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    layout = data.draw(st.sampled_from(["items", "item_id"]))
    items: Any = [[1, 2], [3]] * 3 if layout == "items" else list("abcdef")
    path = tmp_path / "h.parquet"
    pq.write_table(pa.table({"user_id": range(6), layout: items}), path)
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        read(path)
