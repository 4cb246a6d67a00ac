"""Open a table that may lie inside gzip or zip, and say in one line why it cannot be opened."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from recsys_vae.errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".dat", ".inter", ".item", ".parquet", ".data", ".txt")
_MAGIC = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"PAR1": "Parquet"}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile, struct.error)
# What zipfile raises for encrypted members, unknown methods and headers that make no sense.
_UNSUPPORTED = (RuntimeError, NotImplementedError, ValueError, OverflowError, LookupError)


@dataclass(frozen=True)
class OpenTable:
    """A readable stream of the table's own bytes, its suffix (``.csv``) and what to call it in messages."""

    stream: io.BufferedIOBase
    suffix: str
    name: str
    seekable: bool


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[OpenTable]:
    """Yield the table at ``path``, decompressed on the fly when its name ends in ``.gz`` or ``.zip``.

    Reading the stream inside the ``with`` block turns damage (a truncated gzip, a wrong checksum) into the
    same error as opening it.

    Raises:
        UserError: the file is missing, a directory, unreadable, empty, not what its suffix claims, damaged,
            or a zip that does not hold exactly one table.
    """
    name = str(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{name} is a directory: expected a file with a table of ratings")
        if not stat.S_ISREG(mode):
            raise UserError(f"{name} is not a regular file")
        with path.open("rb") as file:
            yield from _open_layers(file, path, name)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except PermissionError:
        raise UserError(f"{name}: permission denied") from None
    except _DAMAGED as error:
        raise UserError(f"{name} is damaged or cut short: {error}") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from None


def _open_layers(file: io.BufferedIOBase, path: Path, name: str) -> Iterator[OpenTable]:
    start = file.read(4)
    file.seek(0)
    if not start:
        raise UserError(f"{name} is empty")
    suffix = path.suffix.lower()
    found = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    claimed = {".gz": "gzip", ".zip": "zip", ".parquet": "Parquet"}.get(suffix)
    if claimed is not None and found != claimed and not (claimed == "zip" and start.startswith(b"PK")):
        raise UserError(f"{name} is not a {claimed} file, although its name ends in {suffix}")
    if claimed is None and found is not None:
        right = {"gzip": ".gz", "zip": ".zip", "Parquet": ".parquet"}[found]
        raise UserError(f"{name} holds {found} data, not text: give it a name that ends in {right}")
    if suffix == ".gz":
        with gzip.open(file, "rb") as stream:
            yield OpenTable(stream, Path(path.stem).suffix.lower(), name, seekable=False)
    elif suffix == ".zip":
        yield from _open_zip(file, name)
    else:
        yield OpenTable(file, suffix, name, seekable=True)


def _open_zip(file: io.BufferedIOBase, name: str) -> Iterator[OpenTable]:
    try:
        archive = zipfile.ZipFile(file)
    except _UNSUPPORTED as error:
        raise UserError(f"{name} is not a readable zip file: {error}") from None
    with archive:
        member = _only_table(archive, name)
        try:
            stream = cast(zipfile.ZipExtFile, archive.open(member))
        except _UNSUPPORTED as error:
            raise UserError(f"{name}: {member} cannot be read: {error}") from None
        with stream:
            yield OpenTable(stream, PurePosixPath(member).suffix.lower(), f"{name}/{member}", seekable=False)


def _only_table(archive: zipfile.ZipFile, name: str) -> str:
    files = [
        info.filename
        for info in archive.infolist()
        if not info.is_dir()
        and not info.filename.startswith("__MACOSX/")
        and not PurePosixPath(info.filename).name.startswith(".")
    ]
    tables = [file for file in files if PurePosixPath(file).suffix.lower() in TABLE_SUFFIXES]
    # A README.txt beside ratings.csv is no second table.
    tables = [file for file in tables if not file.lower().endswith(".txt")] or tables
    if len(tables) == 1:
        return tables[0]
    if len(files) == 1:
        return files[0]
    if not tables:
        listed = ", ".join(files[:8]) or "no file at all"
        raise UserError(f"{name}: expected one table inside ({', '.join(TABLE_SUFFIXES)}), found {listed}")
    listed = ", ".join(tables[:8]) + (", ..." if len(tables) > 8 else "")
    raise UserError(f"{name} holds {len(tables)} tables ({listed}): extract the one with the ratings")


def file_path(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a ``Path`` with ``~`` expanded.

    Raises:
        UserError: it is not a path at all.
    """
    try:
        expanded = Path(path).expanduser()
        os.fsencode(expanded)
    except (TypeError, RuntimeError, UnicodeError):
        raise UserError(f"expected the path of a table, got {path!r}") from None
    if "\0" in str(expanded):
        raise UserError(f"expected the path of a table, got {path!r}")
    return expanded
