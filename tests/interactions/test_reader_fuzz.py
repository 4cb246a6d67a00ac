"""Whatever a file holds, reading it gives a table or a UserError of one line, and never another exception."""

import gzip
import io
import itertools
import zipfile
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.interactions import read_table, text_blocks

FAST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))


def delimited(delimiter, header):
    rows = [header, ("1", "31", "2.5", "1260759144"), ("2", '"a b"', "4", "5"), ("\u00e9", "x", "3", "0")]
    return "\n".join(delimiter.join(row) for row in rows).encode()


def zipped(content, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("ratings.csv", content)
    return buffer.getvalue()


def parquet(**options):
    columns = {
        "user": [1, 2, 2],
        "item": pa.array(["a", "b", "a"]).dictionary_encode(),
        "rating": pa.array([1.0, 4.5, 5.0], pa.float32()),
        "timestamp": pa.array([1, 2, 3], pa.timestamp("ms")),
        "title": ["A", None, "A"],
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


CSV = delimited(",", ("userId", "movieId", "rating", "timestamp"))
VALID = {
    "csv": [CSV, CSV.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + CSV],
    "tsv": [delimited("\t", ("user", "item", "rating", "date"))],
    "dat": [
        delimited("::", ("user", "item", "rating", "ts")),
        delimited("|", ("uid", "iid", "score", "title")),
    ],
    "inter": [delimited("\t", ("user_id:token", "item_id:token", "rating:float", "timestamp:float"))],
    "csv.gz": [
        gzip.compress(CSV, mtime=0),
        gzip.compress(CSV, 0, mtime=0) + gzip.compress(b"\n5,5,5,5", mtime=0),
    ],
    "zip": [zipped(CSV), zipped(CSV, zipfile.ZIP_STORED), zipped(CSV, zipfile.ZIP_LZMA)],
    "parquet": [
        parquet(),
        parquet(compression="gzip", data_page_version="2.0"),
        parquet(compression="none", use_dictionary=False, write_page_checksum=True),
    ],
    "parquet.gz": [gzip.compress(parquet(), mtime=0)],
}
# What parsers stumble over.
PIECES = st.sampled_from(
    [
        *(
            b",",
            b"\t",
            b"::",
            b";",
            b"|",
            b'"',
            b'""',
            b"\n",
            b"\n\n",
            b"\r",
            b"\r\n",
            b"\0",
            b"\x1f",
            b"\\",
            b" ",
        ),
        *(
            b"nan",
            b"inf",
            b"-",
            b"1e400",
            b"2020-01-01",
            b"2020-13-40T99:00Z",
            b"9" * 25,
            b"\xff\xfe",
            b"\xc3",
        ),
        *(b"user", b"item", b"rating", b"timestamp", b"title", b"PAR1", b"PK\x03\x04", b"\x1f\x8b"),
    ]
)


@st.composite
def mutated(draw, valid):
    """A valid file with a few pieces of it cut out, repeated, overwritten or replaced."""
    content = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 12)))
        patch = draw(st.one_of(st.just(b""), PIECES, st.binary(max_size=8)))
        content[start:stop] = (
            patch if draw(st.booleans()) else patch[: stop - start].ljust(stop - start, b"\xff")
        )
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 7)) == 0 else content)


def contents(form):
    return st.one_of(
        mutated(VALID[form]),
        st.lists(st.one_of(PIECES, st.binary(max_size=3), st.just(b"1")), max_size=60).map(b"".join),
        st.binary(max_size=200),
        # Past the magic, so that the parser itself is reached.
        st.binary(max_size=200).map(lambda tail: VALID[form][0][:8] + tail),
    )


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "encoding": st.sampled_from(["utf-8", "latin-1", "utf-16", "cp1252", "utf-7", "shift_jis"]),
        "delimiter": st.sampled_from([",", "::", "\u00a6", " ", "|"]),
        "names": st.sampled_from([["user", "item"], ["user", "item", "rating", "timestamp"]]),
        "timestamp": st.just(False),
    },
)


def read_or_refuse(path, content, block_bytes, options):
    path.write_bytes(content)
    with mock.patch.object(text_blocks, "BLOCK_BYTES", block_bytes):
        try:
            table = read_table(path, items=None, **options)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
    assert table.n_rows > 0
    for codes, ids in ((table.user_codes, table.user_ids), (table.item_codes, table.item_ids)):
        assert len(codes) == table.n_rows
        assert set(codes.tolist()) == set(range(len(ids)))
        assert all(first < second for first, second in itertools.pairwise(ids))
        assert ids.dtype == np.int64 or all(isinstance(value, str) and value for value in ids)
    for numbers in (table.ratings, table.timestamps):
        assert numbers is None or (len(numbers) == table.n_rows and np.isfinite(numbers).all())


def fuzz(form, folder):
    path = folder / f"ratings.{form}"

    def check(content, block_bytes, options):
        read_or_refuse(path, content, block_bytes, options)

    return given(contents(form), st.sampled_from([5, 17, 1 << 20]), OPTIONS)(check)


@pytest.mark.parametrize("form", VALID)
def test_readers_return_a_table_or_a_user_error(form, tmp_path):
    FAST(fuzz(form, tmp_path))()


@pytest.mark.slow
@pytest.mark.parametrize("form", VALID)
def test_readers_return_a_table_or_a_user_error_thousands_of_times(form, tmp_path):
    SLOW(fuzz(form, tmp_path))()


@pytest.mark.parametrize("form", VALID)
def test_the_valid_files_are_read(form, tmp_path):
    """Else the fuzzing would only ever test refusals."""
    for content in VALID[form]:
        path = tmp_path / f"ratings.{form}"
        path.write_bytes(content)
        assert read_table(path, timestamp=False if b"::" in content else None).n_rows >= 3
