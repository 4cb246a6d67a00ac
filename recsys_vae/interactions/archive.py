"""Unpack the few files that are needed from a zip file that nobody has to trust."""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from recsys_vae.atomic import fsync_directory
from recsys_vae.errors import UserError
from recsys_vae.interactions.disk import disk_errors, require_space

_CHUNK = 1 << 20
# The largest published ratings file, of ml-32m, has 0.9 GB.
_MOST_BYTES = 4 << 30


def extract(
    archive: Path,
    target: Path,
    *,
    folder: str,
    required: Sequence[str],
    optional: Sequence[str] = (),
    most_bytes: int = _MOST_BYTES,
) -> Path:
    """Unpack the files ``folder/NAME`` of ``archive`` to ``target/NAME`` and return the folder ``target``.

    Every name of ``required`` must be there; those of ``optional`` are taken if they are. The files are
    written to a hidden folder beside ``target``, which is then renamed: ``target`` is whole or absent, and
    one that exists is replaced. Two processes must not unpack to one ``target`` at once: callers hold a
    ``file_lock``.

    Raises ``UserError`` for a file that is missing, not a zip, truncated or damaged; for an archive in which
    *any* entry is a link or has a path that leads out of it (such an archive is hostile: none of it is used);
    for more than ``most_bytes`` bytes once unpacked; and for a full disk.
    """
    unpacked = target.with_name(f".{target.name}.unpacking")
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
        unpacked.mkdir()
    try:
        with _opened(archive) as file:
            for entry in file.infolist():
                _refuse_unsafe(archive, entry)
            entries = _choose(archive, file, folder, required, optional)
            total = sum(entry.file_size for entry in entries.values())
            if total > most_bytes:
                raise UserError(f"{archive}: expected at most {most_bytes:,} bytes unpacked, came {total:,}")
            require_space(target.parent, total, f"the files of {archive.name}")
            for name, entry in entries.items():
                _unpack(archive, file, entry, unpacked / name)
        with disk_errors(target.parent):
            if target.exists():
                shutil.rmtree(target)
            unpacked.rename(target)
            fsync_directory(target.parent)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return target


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except FileNotFoundError as error:
        raise UserError(f"{archive}: expected a zip file, came no such file") from error
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{archive}: expected a whole zip file, came: {error}") from error


def _refuse_unsafe(archive: Path, entry: zipfile.ZipInfo) -> None:
    """Raise for a link, or a name that is absolute or climbs up; orig_filename is what stands in the file."""
    for name in (entry.filename, entry.orig_filename):
        parts = re.split(r"[/\\]", name)
        if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
            raise UserError(f"{archive}: expected paths that stay inside, came {name!r}; nothing unpacked")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive}: expected plain files, came a link, {entry.filename!r}; nothing unpacked")


def _choose(
    archive: Path, file: zipfile.ZipFile, folder: str, required: Sequence[str], optional: Sequence[str]
) -> dict[str, zipfile.ZipInfo]:
    """Return the entry of each file to unpack."""
    prefix = f"{folder}/" if folder else ""
    present = {entry.filename: entry for entry in file.infolist()}
    for name in required:
        if prefix + name not in present:
            some = ", ".join(sorted(present)[:5]) or "nothing"
            raise UserError(f"{archive}: expected a file {prefix + name} in the archive, came {some}")
    return {name: present[prefix + name] for name in (*required, *optional) if prefix + name in present}


def _unpack(archive: Path, file: zipfile.ZipFile, entry: zipfile.ZipInfo, to: Path) -> None:
    """Copy one entry; zipfile stops at its declared size and checks its CRC at the end."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{archive}: expected {entry.filename} stored or deflated, came another compression")
    try:
        source = file.open(entry)
    except (zipfile.BadZipFile, RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{archive}: cannot read {entry.filename}: {error}") from error
    with source:
        with disk_errors(to.parent):
            written = to.open("xb")
        with written:
            while True:
                try:
                    chunk = source.read(_CHUNK)
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
                    reason = str(error) or "it ends early"
                    raise UserError(f"{archive}: {entry.filename} is damaged: {reason}") from error
                if not chunk:
                    break
                with disk_errors(to.parent):
                    written.write(chunk)
            with disk_errors(to.parent):
                written.flush()
                os.fsync(written.fileno())
