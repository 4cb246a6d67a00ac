from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from recsys_vae.errors import UserError
from recsys_vae.exports import embeddings
from recsys_vae.exports.embeddings import read_vectors, write_vectors

SUFFIXES = [".parquet", ".npz", ".safetensors"]
INTEGERS = st.integers(-(2**63), 2**63 - 1)
# A .npz file pads text with NUL, so that alone may not end an id there.
TEXT = st.text(max_size=12).filter(lambda text: not text.endswith("\0"))


def split_up(mean: np.ndarray, std: np.ndarray, size: int) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(mean), size):
        yield {"mean": mean[start : start + size], "std": std[start : start + size]}


def made_up(rows: int, latent: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=(2, rows, latent)).astype(np.float32)
    return mean, std


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.one_of(st.lists(INTEGERS, min_size=1), st.lists(TEXT, min_size=1)),
    latent=st.integers(1, 5),
    size=st.integers(1, 7),
)
def test_any_ids_and_any_batching_come_back_exactly(
    tmp_path: Path, suffix: str, ids: list[int] | list[str], latent: int, size: int
) -> None:
    array = np.array(ids, dtype=np.int64 if isinstance(ids[0], int) else object)
    mean, std = made_up(len(ids), latent)
    path = tmp_path / f"users{suffix}"
    write_vectors(path, array, split_up(mean, std, size))
    came_ids, came = read_vectors(path)
    assert came_ids.tolist() == ids
    assert came_ids.dtype == array.dtype
    assert list(came) == ["mean", "std"]
    assert np.array_equal(came["mean"], mean)
    assert np.array_equal(came["std"], std)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", [np.int64, object])
def test_no_rows_at_all(tmp_path: Path, suffix: str, kind: type) -> None:
    path = tmp_path / f"none{suffix}"
    nobody = np.array([], dtype=kind)
    write_vectors(path, nobody, [{"mean": np.empty((0, 4))}])
    ids, vectors = read_vectors(path)
    assert (len(ids), vectors["mean"].shape) == (0, (0, 4))
    write_vectors(path, nobody, [])
    ids, vectors = read_vectors(path)
    assert (len(ids), vectors) == (0, {})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_float64_and_strided_rows_are_converted(tmp_path: Path, suffix: str) -> None:
    rows = np.arange(24.0).reshape(4, 6)[:, ::2]
    write_vectors(tmp_path / f"v{suffix}", np.arange(4), [{"mean": rows[:3]}, {"mean": rows[3:]}])
    came = read_vectors(tmp_path / f"v{suffix}")[1]["mean"]
    assert came.dtype == np.float32
    assert np.array_equal(came, rows)


def test_parquet_holds_fixed_size_lists_in_bounded_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "_ROW_GROUP_BYTES", 2000)
    mean, std = made_up(100, 8)
    path = tmp_path / "items.parquet"
    write_vectors(path, np.arange(100), split_up(mean, std, 10), id_name="item_id")
    schema = pq.read_schema(path)
    assert schema.names == ["item_id", "mean", "std"]
    assert schema.field("mean").type == pa.list_(pa.float32(), 8)
    sizes = [
        pq.read_metadata(path).row_group(i).num_rows for i in range(pq.read_metadata(path).num_row_groups)
    ]
    assert max(sizes) <= 40
    assert sum(sizes) == 100
    assert np.array_equal(read_vectors(path)[1]["mean"], mean)


def test_the_usual_libraries_read_the_files(tmp_path: Path) -> None:
    mean, std = made_up(3, 2)
    names = np.array(["a", "bé", ""], dtype=object)
    write_vectors(tmp_path / "v.npz", names, split_up(mean, std, 2))
    with np.load(tmp_path / "v.npz", allow_pickle=False) as archive:
        assert archive["user_id"].tolist() == ["a", "bé", ""]
        assert archive["user_id"].dtype.kind == "U"
        assert np.array_equal(archive["std"], std)
    write_vectors(tmp_path / "v.safetensors", names, split_up(mean, std, 2))
    with safe_open(tmp_path / "v.safetensors", "np") as file:
        assert np.array_equal(file.get_tensor("mean"), mean)
        text, bounds = file.get_tensor("user_id.utf8").tobytes(), file.get_tensor("user_id.offsets")
        assert [text[a:b].decode() for a, b in itertools.pairwise(bounds)] == names.tolist()
        assert file.metadata() == {"ids": "user_id"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    """A batch is gone before the next one is asked for, but for one row group of Parquet."""
    import tracemalloc

    def stream(batches: int) -> Iterator[dict[str, np.ndarray]]:
        for _ in range(batches):
            yield {"mean": np.ones((1000, 256), dtype=np.float32)}

    tracemalloc.start()
    write_vectors(tmp_path / f"v{suffix}", np.arange(60_000), stream(60))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25 * 2**20  # of 59 MiB


def test_npz_says_which_id_it_cannot_hold(tmp_path: Path) -> None:
    ids = np.array(["a", "b\0"], dtype=object)
    with pytest.raises(UserError, match=r"^output: \.npz cannot hold an id that ends in a NUL"):
        write_vectors(tmp_path / "v.npz", ids, [{"mean": np.ones((2, 1))}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v.csv", "expected a name ending in .parquet or .npz or .safetensors, came"),
        ("v", "expected a name ending in"),
        ("none/v.npz", "expected an existing folder, .*none does not exist"),
        ("folder.npz", "is a directory"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "folder.npz").mkdir()

    def never() -> Iterator[dict[str, np.ndarray]]:
        pytest.fail("asked for a batch")
        yield {}

    with pytest.raises(UserError, match=f"^output: .*{told}"):
        write_vectors(tmp_path / name, np.arange(1), never())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "batches",
    [
        [],
        [{"mean": np.ones((2, 2))}],
        [{"mean": np.ones((4, 2))}],
        [{"mean": np.ones((2, 2))}, {"mean": np.ones((1, 3))}],
        [{"mean": np.ones((2, 2))}, {"std": np.ones((1, 2))}],
        [{"mean": np.ones((3, 2)), "std": np.ones((2, 2))}],
        [{"user_id": np.ones((3, 2))}],
    ],
)
def test_batches_that_do_not_fit_leave_the_old_file(
    tmp_path: Path, suffix: str, batches: list[dict[str, np.ndarray]]
) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="expected"):
        write_vectors(path, np.arange(3), batches)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_in_the_middle_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"old")

    def stream() -> Iterator[dict[str, np.ndarray]]:
        yield {"mean": np.ones((1, 2))}
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=rf"^output: no space left on the device while writing .*v\{suffix}$"):
        write_vectors(path, np.arange(2), stream())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".txt"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"PK\x03\x04", b"PAR1", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_holds_no_vectors_is_an_error(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = tmp_path / f"v{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"^input: "):
        read_vectors(path)


def test_another_kind_of_parquet_is_an_error(tmp_path: Path) -> None:
    for columns in ({"x": [1]}, {"user_id": [1], "mean": [0.5]}, {"user_id": [1.5]}):
        pq.write_table(pa.table(columns), tmp_path / "v.parquet")
        with pytest.raises(UserError, match=r"^input: "):
            read_vectors(tmp_path / "v.parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str) -> None:
    mean, std = made_up(50, 4)
    path = tmp_path / f"v{suffix}"
    write_vectors(path, np.array([f"user {n}" for n in range(50)], dtype=object), split_up(mean, std, 9))
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"^input: "):
            read_vectors(path)
