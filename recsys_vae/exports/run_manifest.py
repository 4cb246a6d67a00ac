"""``manifest.json``: what a run directory holds, with the size and SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from recsys_vae.atomic import atomic_path, fsync_file
from recsys_vae.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1


def write_manifest(directory: Path, *, leave_out: Collection[str]) -> None:
    """Flush every file below ``directory`` to the disk and record it.

    ``leave_out`` names entries at the top of the directory that are not part of the run. The manifest ends
    with the SHA-256 of its own text without that line, so a change to the manifest shows as well.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_file() and name.parts[0] not in {MANIFEST, *leave_out}:
            fsync_file(path)
            files[name.as_posix()] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    record: dict[str, Any] = {"format": FORMAT, "package": version("recsys-vae"), "files": files}
    record["sha256"] = _digest(record)
    with atomic_path(directory / MANIFEST) as temporary:
        temporary.write_text(_render(record), encoding="utf-8", newline="\n")


def verify_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest after checking it and every file that it names.

    Raises :class:`UserError` naming the first file that is missing, shorter, longer or different.
    """
    path = directory / MANIFEST
    try:
        text = path.read_bytes().decode("utf-8")
        record = json.loads(text)
        found = record["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"run: {path} is not a readable manifest: {error}") from error
    if found != FORMAT:
        raise UserError(f"run: {path}: this version reads run format {FORMAT}, came format {found!r}")
    claimed = record.pop("sha256", None)
    try:
        is_own = claimed == _digest(record) and text == _render({**record, "sha256": claimed})
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and no file of ours holds
        is_own = False
    if not is_own:
        raise UserError(f"run: {path} was changed: expected the text that its own SHA-256 stands for")
    files = record.get("files")
    if not isinstance(files, dict):
        raise UserError(f"run: {path}: expected files by name, came {type(files).__name__}")
    for name, facts in files.items():
        size, digest = (facts.get(key) if isinstance(facts, dict) else None for key in ("bytes", "sha256"))
        if isinstance(size, bool) or not isinstance(size, int) or not isinstance(digest, str) or "\0" in name:
            raise UserError(f"run: {path}: expected bytes and sha256 of {name!r}, came {facts!r}")
        _verify_file(directory, name, size, digest)
    return dict(record)


def is_file_of_a_run(path: Path) -> bool:
    """Whether ``path`` is one of the files that the manifest of a run directory above it lists, or that manifest.

    Only a look: nothing is verified, and what is no manifest of a run counts as none.
    """
    for folder in path.resolve().parents:
        try:
            record = json.loads((folder / MANIFEST).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if (
            not isinstance(record, dict)
            or "format" not in record
            or not isinstance(record.get("files"), dict)
        ):
            continue
        names = [MANIFEST, *(name for name in record["files"] if "\0" not in name)]
        # Where upper and lower case are one, Items.parquet is items.parquet.
        if any(path.resolve() == folder / name or _is_same(path, folder / name) for name in names):
            return True
    return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify_file(directory: Path, name: str, size: int, digest: str) -> None:
    relative = PurePosixPath(name)
    if Path(name).is_absolute() or relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"run: {directory / MANIFEST}: expected names inside the run, came {name!r}")
    path = directory.joinpath(*relative.parts)
    if not path.is_file():
        raise UserError(f"run: {path} is missing")
    try:
        came = path.stat().st_size
        if came != size:
            what = "truncated" if came < size else "longer than it was"
            raise UserError(f"run: {path} is {what}: expected {size} bytes, came {came}")
        came_digest = sha256_of(path)
    except OSError as error:
        raise UserError(f"run: {path} cannot be read: {error.strerror}") from error
    if came_digest != digest:
        raise UserError(f"run: {path} was changed: expected SHA-256 {digest}, came {came_digest}")


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(_render(record).encode("utf-8")).hexdigest()


def _render(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"
