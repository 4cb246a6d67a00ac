import csv
import gzip
import io
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recsys_vae.errors import UserError
from recsys_vae.interactions import Table, read_table, text_blocks

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
HEADER = b"user,item,rating\n"


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_csv", ".csv").replace("_txt", ".txt"), content)
    return buffer.getvalue()


def rows_of(table):
    """The table as plain rows, through the codes."""
    columns = [table.user_ids[table.user_codes].tolist(), table.item_ids[table.item_codes].tolist()]
    columns += [None if part is None else part.tolist() for part in (table.ratings, table.timestamps)]
    return list(zip(*(column for column in columns if column is not None), strict=True))


EXPECTED = [(7, "a", 4.0, 100.0), (-3, "é", 2.5, 50.0), (7, "b", 1.0, 101.5)]


def delimited(delimiter, header):
    lines = [delimiter.join(map(str, row)) for row in EXPECTED]
    return ("\n".join(([delimiter.join(header)] if header else []) + lines) + "\n").encode()


def parquet_bytes(columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


ATOMIC = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
FORMATS = {
    ".csv": delimited(",", ["userId", "movieId", "rating", "timestamp"]),
    ".tsv": delimited("\t", ["USER", "Item", "Rating", "time"]),
    ".dat": delimited("::", ["uid", "iid", "stars", "ts"]),
    ".inter": delimited("\t", ATOMIC),
    ".txt": delimited(";", ["User-ID", "ISBN", "Book-Rating", "date"]),
    ".parquet": parquet_bytes(
        dict(zip(["user", "item", "rating", "timestamp"], zip(*EXPECTED, strict=True), strict=True))
    ),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("wrapping", ["", ".gz", ".zip"])
def test_every_format_gives_the_same_table(tmp_path, suffix, wrapping):
    content = FORMATS[suffix]
    if wrapping == ".gz":
        content = gzip.compress(content)
    if wrapping == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(f"folder/ratings{suffix}", content)
            archive.writestr("__MACOSX/._ratings.csv", "x")
        content = buffer.getvalue()
    table = read_table(written(tmp_path, f"ratings{suffix}{wrapping}", content))
    assert rows_of(table) == EXPECTED
    assert table.user_ids.dtype == np.int64
    assert table.user_ids.tolist() == [-3, 7]
    assert table.item_ids.tolist() == ["a", "b", "é"]
    assert table.source == f"ratings{suffix}{wrapping}"


def test_files_without_header_as_movielens_has_them(tmp_path):
    names = ["user", "item", "rating", "timestamp"]
    tabs = written(tmp_path, "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    colons = written(tmp_path, "ratings.dat", "1::122::5::838985046\n1::185::4.5::838983525")
    assert rows_of(read_table(tabs, names=names)) == [(196, 242, 3, 881250949), (186, 302, 3, 891717742)]
    assert rows_of(read_table(colons, names=names, delimiter="::")) == [
        (1, 122, 5, 838985046),
        (1, 185, 4.5, 838983525),
    ]


def test_ratings_and_times_may_be_absent_or_unwanted(tmp_path):
    assert rows_of(read_table(written(tmp_path, "a.csv", "user,item\nx,1\n"))) == [("x", 1)]
    path = written(tmp_path, "b.csv", "user,item,score,date\nx,1,great,yesterday\n")
    assert rows_of(read_table(path, rating=False, timestamp=False)) == [("x", 1)]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (["10", "9"], [9, 10]),
        (["007", "7"], ["007", "7"]),
        (["-0"], ["-0"]),
        (["+1"], ["+1"]),
        (["0x1F", "1"], ["0x1F", "1"]),
        ([str(2**63 - 1), str(-(2**63))], [-(2**63), 2**63 - 1]),
        ([str(2**63), "5"], ["5", str(2**63)]),
        ([str(2**70)], [str(2**70)]),
        (["NA", "null", "nan"], ["NA", "nan", "null"]),
        ([" 1", "1"], [" 1", "1"]),
    ],
)
def test_ids_are_integers_only_if_every_one_is_canonical(tmp_path, ids, kept):
    table = read_table(written(tmp_path, "a.csv", "user,item\n" + "".join(f"{value},1\n" for value in ids)))
    assert table.user_ids.tolist() == kept
    assert table.user_ids.dtype == (np.int64 if isinstance(kept[0], int) else object)


ID_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=6
)
ANY_ID = st.one_of(
    ID_TEXT, st.integers(-(2**65), 2**65).map(str), st.sampled_from(["1", "01", '"', ",", "a,b"])
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(ANY_ID, ANY_ID), min_size=1, max_size=30), st.integers(4, 200))
def test_any_ids_survive_csv_exactly(tmp_path_factory, pairs, block_bytes):
    path = tmp_path_factory.mktemp("ids") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([("user", "item"), *pairs])
    with mock.patch.object(text_blocks, "BLOCK_BYTES", block_bytes):
        table = read_table(path)
    assert [(str(user), str(item)) for user, item in rows_of(table)] == pairs
    for ids, column in ((table.user_ids, 0), (table.item_ids, 1)):
        texts = {pair[column] for pair in pairs}
        canonical = all(text.isascii() and _is_canonical(text) for text in texts)
        assert ids.tolist() == sorted(map(int, texts) if canonical else texts)


def _is_canonical(text):
    try:
        return str(int(text)) == text and -(2**63) <= int(text) < 2**63
    except ValueError:
        return False


FIELD = st.text(st.sampled_from('ab,"\n'), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(FIELD, FIELD, st.integers(0, 2)), min_size=1, max_size=12),
    st.data(),
    st.integers(4, 60),
)
@example([("a\nb", '"', 2), ("b", "\n\n", 0)], None, 4)
def test_the_line_of_a_bad_row_is_named_whatever_the_blocks(tmp_path_factory, rows, data, block_bytes):
    bad = data.draw(st.integers(0, len(rows) - 1)) if data else 1
    text, line = "user,item,rating\n", None
    for number, (user, item, blank_lines) in enumerate(rows):
        if number == bad:
            line = text.count("\n") + 1
        buffer = io.StringIO()
        rating = "oops" if number == bad else "3"
        csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow([user, item, rating])
        text += buffer.getvalue() + "\n" * blank_lines
    path = written(tmp_path_factory.mktemp("lines"), "a.csv", text)
    with (
        mock.patch.object(text_blocks, "BLOCK_BYTES", block_bytes),
        pytest.raises(UserError, match=rf"a\.csv, line {line}: rating 'oops' is not a number"),
    ):
        read_table(path)


def test_parquet_ids_of_any_integer_string_or_dictionary_type(tmp_path):
    big = 2**64 - 1
    path = tmp_path / "a.parquet"
    users = pa.array([big, 1, big], pa.uint64())
    items = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(
        pa.table({"user_id": users, "item_id": items, "rating": pa.array([1, 2, 3], pa.int8())}), path
    )
    table = read_table(path)
    assert rows_of(table) == [(str(big), "x", 1.0), ("1", "y", 2.0), (str(big), "x", 3.0)]
    pq.write_table(
        pa.table(
            {"user_id": pa.array([5, -1], pa.int16()), "item_id": pa.array(["1", "2"], pa.large_string())}
        ),
        path,
    )
    assert rows_of(read_table(path)) == [(5, 1), (-1, 2)]


def test_parquet_times_in_every_unit(tmp_path):
    moments = pd.to_datetime(["2020-01-01T00:00:00.0", "2020-01-01T00:00:01.5"])
    expected = [1577836800.0, 1577836801.5]
    for kind in (pa.timestamp("ms"), pa.timestamp("us", "Europe/Rome"), pa.timestamp("ns"), pa.string()):
        texts = ["2020-01-01", "2020-01-01 00:00:01.5"]
        times = pa.array(texts) if kind == pa.string() else pa.array(moments, kind)
        pq.write_table(pa.table({"user": [1, 1], "item": [1, 2], "ts": times}), tmp_path / "a.parquet")
        assert read_table(tmp_path / "a.parquet").timestamps.tolist() == expected
    dates = pa.array([18262, 18263], pa.date32())
    pq.write_table(pa.table({"user": [1, 1], "item": [1, 2], "date": dates}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").timestamps.tolist() == [1577836800.0, 1577923200.0]


def test_iso_times_are_unix_seconds(tmp_path):
    times = {
        "2020-01-01": 1577836800.0,
        "2020-01-01T00:00:00": 1577836800.0,
        "2020-01-01 00:00:00.25": 1577836800.25,
        "2020-01-01T00:00:00.123456789Z": 1577836800.123456,
        "2020-01-01T02:00:00+02:00": 1577836800.0,
        "2019-12-31T19:00:00-0500": 1577836800.0,
        "1969-12-31T23:59:59": -1.0,
    }
    path = written(tmp_path, "a.csv", "user,item,timestamp\n" + "".join(f"1,2,{time}\n" for time in times))
    assert read_table(path).timestamps.tolist() == list(times.values())


def test_titles_and_genres_in_the_table_itself(tmp_path):
    path = written(
        tmp_path, "a.csv", 'user,item,title,genres\n1,9,,\n1,4,"A, B",x|y\n2,9,C,\n3,9,D,z\n1,5,,\n'
    )
    table = read_table(path)
    assert table.item_ids.tolist() == [4, 5, 9]
    assert table.titles.tolist() == ["A, B", None, "C"]
    assert table.genres.tolist() == ["x|y", None, "z"]


def test_titles_from_an_item_table(tmp_path):
    ratings = written(tmp_path, "a.csv", "user,item\n1,30\n1,7\n2,8\n")
    items = written(tmp_path, "movies.csv", "movieId,title,year\n7,Seven,1995\n99,Other,\n30,Thirty,2000\n")
    table = read_table(ratings, items=items)
    assert table.item_ids.tolist() == [7, 8, 30]
    assert table.titles.tolist() == ["Seven", None, "Thirty"]
    assert table.genres is None
    names = written(tmp_path, "b.item", 'item_id:token\tname:token_seq\tgenre:token_seq\n8\t"Eight\tA B\n')
    table = read_table(ratings, items=names)
    assert table.titles.tolist() == [None, '"Eight', None]
    assert table.genres.tolist() == [None, "A B", None]


def test_columns_that_the_user_names(tmp_path):
    path = written(tmp_path, "a.csv", "Who,what,user,how much\n1,2,3,4\n")
    table = read_table(path, user="who", item="what", rating="how much")
    assert rows_of(table) == [(1, 2, 4.0)]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block_bytes", [4, 7, 1000])
def test_line_ends_and_byte_order_marks(tmp_path, ends, block_bytes):
    text = "\ufeff" + ends + ends.join(["user,item,rating", "1,2,3", "", '4,"5",6'])
    with mock.patch.object(text_blocks, "BLOCK_BYTES", block_bytes):
        assert rows_of(read_table(written(tmp_path, "a.csv", text))) == [(1, 2, 3), (4, 5, 6)]
        utf16 = written(tmp_path, "b.csv", text.removeprefix("\ufeff").encode("utf-16"))
        assert rows_of(read_table(utf16, encoding="utf-16")) == [(1, 2, 3), (4, 5, 6)]


def test_other_encodings(tmp_path):
    path = written(tmp_path, "a.csv", "user,item\né,1\n".encode("latin-1"))
    assert rows_of(read_table(path, encoding="latin-1")) == [("é", 1)]


def test_stray_quotes_in_fields_do_not_swallow_rows(tmp_path):
    text = "user,item\n" + "".join(f'{row},5" disc\n' for row in range(50))
    path = written(tmp_path, "a.csv", text)
    with mock.patch.multiple(text_blocks, BLOCK_BYTES=16, LONGEST_LINE_BYTES=32):
        assert read_table(path).n_rows == 50


BAD_FILES = {
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n\r\n", "is empty"),
    "header.csv": (HEADER, "has a header but no rows"),
    "word.csv": (HEADER + b"1,2,3\n1,3,x\n", r"line 3: rating 'x' is not a number"),
    "nan.csv": (HEADER + b"1,2,NaN\n", r"line 2: rating 'NaN' is not a finite number"),
    "inf.csv": (HEADER + b"1,2,-inf\n", r"line 2: rating '-inf' is not a finite number"),
    "huge.csv": (HEADER + b"1,2,1e39\n", r"line 2: rating '1e39' is not a finite number"),
    "none.csv": (HEADER + b"1,2,\n", r"line 2: rating '' is not a number"),
    "few.csv": (HEADER + b"1,2,3\n\n1,2\n", r"line 4: expected 3 fields \(user, item, rating\), found 2"),
    "many.csv": (HEADER + b"1,2,3,4\n", r"line 2: expected 3 fields .*, found 4"),
    "no_user.csv": (HEADER + b",2,3\n", r"line 2: the user id is empty"),
    "no_item.csv": (HEADER + b"1,2,3\n1,,3\n", r"line 3: the item id is empty"),
    "latin.csv": (
        HEADER + b"1,2,3\n1,caf\xe9,3\n",
        r"line 3: byte 0xe9 is not utf-8; try .*encoding=latin-1",
    ),
    "utf16.csv": ("user,item\n1,2".encode("utf-16"), r"line 1: .*try dataset\.encoding=utf-16"),
    "nul.csv": (HEADER + b"1,2,3\n1,\x00,3\n", r"line 3: a NUL byte"),
    "twice.csv": (b"user,item,item\n1,2,3\n", "two columns named 'item'"),
    "missing.csv": (b"usr,item,when\n1,2,3\n", r"no column for the user \(its columns: usr, item, when\)"),
    "date.csv": (b"user,item,date\n1,2,3 May\n", r"line 2: timestamp '3 May' is not a number or an ISO 8601"),
    "mixed.csv": (b"user,item,date\n1,2,2020-01-01\n1,3,7\n", r"line 3: timestamp '7' is not"),
    "dat.dat": (b"1::2::3::4\n", "no column for the user"),
    "gz.csv": (gzip.compress(HEADER), r"holds gzip data, not text: give it a name that ends in \.gz"),
    "text.csv.gz": (HEADER + b"1,2,3\n", r"is not a gzip file, although its name ends in \.gz"),
    "cut.csv.gz": (gzip.compress(HEADER + b"1,2,3\n" * 9)[:-9], "is damaged or cut short"),
    "text.zip": (HEADER, "is not a zip file"),
    "cut.zip": (zipped(ratings_csv=HEADER)[:40], "is damaged or cut short"),
    "two.zip": (
        zipped(a__ratings_csv=HEADER, a__movies_csv=HEADER),
        r"holds 2 tables \(a/ratings.csv, a/movies",
    ),
    "void.zip": (zipped(), "expected one table inside"),
    "text.parquet": (HEADER, "is not a Parquet file"),
    "cut.parquet": (FORMATS[".parquet"][:-50], "is not a readable Parquet file"),
    "columns.parquet": (
        parquet_bytes({"a": [1], "item": [2]}),
        r"no column for the user \(its columns: a, item",
    ),
    "null.parquet": (parquet_bytes({"user": [1, None], "item": [2, 3]}), r"row 2: the user id is missing"),
    "float.parquet": (
        parquet_bytes({"user": [1.0], "item": [2]}),
        "user ids are double: expected strings or int",
    ),
    "nan.parquet": (
        parquet_bytes({"user": [1, 2], "item": [2, 2], "rating": [1.0, float("nan")]}),
        r"row 2: rating 'nan' is not a finite number",
    ),
    "lists.parquet": (
        parquet_bytes({"user": [1], "item": [2], "rating": [[1]]}),
        "row 1: rating .* is not a number",
    ),
    "no_rows.parquet": (
        parquet_bytes({"user": pa.array([], pa.int64()), "item": pa.array([], pa.int64())}),
        "has a header but no rows",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_line(tmp_path, name):
    content, message = BAD_FILES[name]
    with pytest.raises(UserError, match=message) as error:
        read_table(written(tmp_path, name, content))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_arguments_are_one_line(tmp_path):
    path = written(tmp_path, "a.csv", b"user,item,rating\n1,2,3\n")
    for arguments, message in [
        ({"user": "users"}, r"dataset\.user='users' is not a column of .*; did you mean 'user'\?"),
        (
            {"rating": "zzz"},
            r"dataset\.rating='zzz' is not a column of .*; expected one of item, rating, user",
        ),
        ({"user": "item"}, r"dataset\.user and dataset\.item are both column 'item'"),
        ({"encoding": "utf-9"}, r"dataset\.encoding='utf-9': expected a text encoding"),
        ({"encoding": "rot13"}, r"dataset\.encoding='rot13': expected a text encoding"),
        ({"delimiter": ""}, r"dataset\.delimiter=''"),
        ({"names": ["user", "item"]}, r"line 1: expected 2 fields"),
        ({"items": tmp_path / "gone.csv"}, r"gone\.csv: no such file"),
        ({"items": path}, r"no column for the title"),
    ]:
        with pytest.raises(UserError, match=message):
            read_table(path, **arguments)
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="is a directory"):
        read_table(tmp_path)
    with pytest.raises(UserError, match="expected the path of a table"):
        read_table("a\0b")
    with pytest.raises(UserError, match=r"dataset\.path is not given"):
        Table()


def test_a_file_that_may_not_be_read(tmp_path):
    path = written(tmp_path, "a.csv", HEADER)
    with (
        mock.patch.object(Path, "open", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(UserError, match=r"a\.csv: permission denied"),
    ):
        read_table(path)


def test_the_configuration_builds_the_table(tmp_path):
    config = OmegaConf.load(REPOSITORY / "configs" / "dataset" / "table.yaml")
    config.path = str(written(tmp_path, "a.dat", "1 2 3\n4 5 6\n"))
    config.names = ["item", "score", "user"]
    assert rows_of(instantiate(config).load()) == [(3, 1, 2), (6, 4, 5)]


def test_latest_small_equals_what_pandas_reads():
    folder = REPOSITORY / "data" / "ml-latest-small"
    table = read_table(folder / "ratings.csv", items=folder / "movies.csv")
    ratings, movies = (
        pd.read_csv(folder / "ratings.csv"),
        pd.read_csv(folder / "movies.csv", index_col="movieId"),
    )
    assert np.array_equal(table.user_ids[table.user_codes], ratings["userId"])
    assert np.array_equal(table.item_ids[table.item_codes], ratings["movieId"])
    assert np.array_equal(table.ratings, ratings["rating"].astype(np.float32))
    assert np.array_equal(table.timestamps, ratings["timestamp"].astype(np.float64))
    assert table.titles.tolist() == movies["title"].loc[table.item_ids].tolist()
    assert table.genres.tolist() == movies["genres"].loc[table.item_ids].tolist()


def test_ranks_are_read_as_times_with_a_warning(tmp_path, caplog):
    path = written(tmp_path, "a.csv", "user,item,time_rank\n1,2,1\n1,3,0\n")
    assert read_table(path).timestamps.tolist() == [1, 0]
    assert "time_rank orders the rows of a user" in caplog.text


def rows_with_titles(count, title):
    return "".join(f"{row % 7},{row},{row % 5 + 1},{title(row)}\n" for row in range(count))


QUOTED_NOW_AND_THEN = {
    "always": lambda row: f'"Film, The {row}"',
    "now and then": lambda row: f'"Film, The {row}"' if row % 3 == 0 else f"Film {row}",
    "never": lambda row: f"Film {row}",
    "with quotes inside": lambda row: f'"""Film"", The {row}"',
}


@pytest.mark.parametrize("titles", QUOTED_NOW_AND_THEN)
@pytest.mark.parametrize("block_bytes", [16, 300, 1 << 20])
@pytest.mark.parametrize("lost", [0, 9, 199])
@pytest.mark.parametrize("middle", [False, True])
def test_a_lost_closing_quote_swallows_no_row(tmp_path, titles, block_bytes, lost, middle):
    lines = rows_with_titles(200, QUOTED_NOW_AND_THEN[titles]).splitlines()
    lines[lost] = f'0,{lost},4,"Burbs'
    header = "user,item,rating,title"
    if middle:
        header = "user,item,title,rating"
        lines = [f"{user},{item},{title},{rating}" for user, item, rating, title in
                 (line.split(",", 3) for line in lines)]  # fmt: skip
    path = written(tmp_path, "a.csv", "\n".join([header, *lines]) + "\n")
    with (
        mock.patch.object(text_blocks, "BLOCK_BYTES", block_bytes),
        pytest.raises(UserError, match=rf"a\.csv, line {lost + 2}: (a|the) quoted field .*opens here"),
    ):
        read_table(path)


@pytest.mark.parametrize("tail", ["", "\n", "\n\n\n"])
def test_a_quoted_field_that_the_end_of_the_file_cuts(tmp_path, tail):
    path = written(tmp_path, "a.csv", f'user,item,title\n1,2,"Seven"\n3,4,"Bur{tail}')
    with pytest.raises(UserError, match=r"a\.csv, line 3: a quoted field opens here and never closes"):
        read_table(path)


@pytest.mark.parametrize("block_bytes", [4, 16, 50, 1 << 20])
def test_quotes_beyond_doubt_may_span_lines(tmp_path, block_bytes):
    text = 'user,item,title,genres\n1,5" disc,"A\n\n""B"",\nC",x\n2,5" disc,D,"y\nz"\n3,6,"E"F,\n'
    with mock.patch.object(text_blocks, "BLOCK_BYTES", block_bytes):
        table = read_table(written(tmp_path, "a.csv", text))
    assert rows_of(table) == [(1, '5" disc'), (2, '5" disc'), (3, "6")]
    assert table.titles.tolist() == ['A\n\n"B",\nC', "EF"]
    assert table.genres.tolist() == ["x", None]
