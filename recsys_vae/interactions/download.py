"""Fetch one file by HTTP so that it is whole and verified, or absent.

The bytes go to ``NAME.part``; what a resumption needs to know lies beside it in ``NAME.part.json``. Only a
complete and verified file gets its final name. Two processes must not fetch to one name at once: callers hold
a ``file_lock``.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from recsys_vae.atomic import atomic_path, fsync_directory, fsync_file
from recsys_vae.errors import UserError
from recsys_vae.interactions.disk import disk_errors, require_space

_CHUNK = 1 << 16
_HINT = "check the network, or give a copy of the archive with dataset.source=PATH_OR_URL"

# Called with the bytes that are there and the bytes that there will be, None where the server did not say.
_Report = Callable[[int, int | None], None]


class _TransientError(Exception):
    """What may go better at the next attempt."""


def is_url(source: str) -> bool:
    """Whether ``source`` is an address that ``download`` fetches, and not a path."""
    return source.lower().startswith(("http://", "https://"))


def download(
    url: str,
    target: Path,
    *,
    checksum: str | None = None,
    timeout: float = 30.0,
    attempts: int = 4,
    backoff: float = 1.0,
) -> Path:
    """Fetch ``url`` to ``target`` and return ``target``.

    An earlier ``NAME.part`` is resumed (Range with If-Range) if the server still has the same file; a server
    that ignores Range starts again. Connecting and each read may take ``timeout`` seconds. After ``attempts``
    failures in a row that brought no byte further, with pauses of ``backoff * 2**i`` seconds, it gives up and
    leaves the partial file. The declared length and ``checksum`` (``md5:HEX`` or ``sha256:HEX``) must agree;
    a file with another digest is deleted.

    Raises ``UserError`` for a network failure, an HTTP error, a digest that differs, a full disk, or a folder
    that cannot be written to.
    """
    if not is_url(url):
        raise UserError(f"dataset.source={url}: expected an address that begins with http:// or https://")
    part = target.with_name(target.name + ".part")
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    furthest, failures = _size(part), 0
    with _progress_bar(target.name) as report:
        while True:
            try:
                _fetch_once(url, part, timeout, report)
                break
            except _TransientError as error:
                failures = 1 if _size(part) > furthest else failures + 1
                furthest = max(furthest, _size(part))
                if failures >= attempts:
                    raise UserError(
                        f"{url}: download failed after {attempts} attempts: {error}; {_HINT}"
                    ) from error
                time.sleep(backoff * 2 ** (failures - 1))
    if checksum is not None:
        try:
            verify_checksum(part, checksum, named=url)
        except UserError as error:
            _discard(part)
            raise UserError(f"{error}; the file was deleted") from error
    with disk_errors(target.parent):
        fsync_file(part)
        part.replace(target)
        _state_path(part).unlink(missing_ok=True)
        fsync_directory(target.parent)
    return target


def verify_checksum(path: Path, expected: str, *, named: str | None = None) -> None:
    """Raise ``UserError`` unless the digest of ``path`` is ``expected`` (``md5:HEX`` or ``sha256:HEX``).

    ``named`` is what to call the file in the message, its path by default.
    """
    algorithm, _, value = expected.partition(":")
    with path.open("rb") as file:
        came = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if came != value.lower():
        raise UserError(
            f"{named or path}: expected {algorithm} {value}, came {came} ({path.stat().st_size:,} bytes)"
        )


def _fetch_once(url: str, part: Path, timeout: float, report: _Report) -> None:
    """Send one request and append what comes to ``part``, until all of it is there."""
    headers = {"User-Agent": "recsys-vae", "Accept-Encoding": "identity"}
    offset = _size(part)
    validator = _read_validator(part, url)
    if offset and validator:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    else:
        offset = 0
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (download() let only http pass)
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            _receive(response, url, part, offset, report)
    except urllib.error.HTTPError as error:
        with error:
            _explain_status(error, url, part, offset)
    except UnicodeError as error:
        raise UserError(f"{url}: expected a valid address, came: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, (ssl.SSLCertVerificationError, http.client.InvalidURL)):
            raise UserError(f"{url}: {reason}; {_HINT}") from error
        raise _TransientError(str(reason) or type(reason).__name__) from error


def _receive(response: Any, url: str, part: Path, offset: int, report: _Report) -> None:
    """Write the body of an answer behind ``offset`` bytes of ``part``; a short one is transient."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        start, total = _content_range(response.headers)
        if start != offset:
            _discard(part)
            raise _TransientError(f"asked for the bytes from {offset:,}, came those from {start}")
    else:
        offset = 0
        declared = response.headers.get("Content-Length", "")
        total = int(declared) if declared.isdecimal() else None
        with disk_errors(part.parent):
            part.write_bytes(b"")  # before the new validator is noted: it must never stand beside older bytes
            _write_validator(part, url, response.headers)
    if total is not None:
        require_space(part.parent, total - offset, part.name.removesuffix(".part"))
    report(offset, total)
    with _writable(part, total) as write:
        while chunk := response.read1(_CHUNK):
            write(chunk)
            offset += len(chunk)
            report(offset, total)
    if total is not None and offset != total:
        raise _TransientError(f"the connection closed after {offset:,} of {total:,} bytes")


@contextlib.contextmanager
def _writable(part: Path, total: int | None) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that appends to ``part``, whose OSErrors are the disk's: others are the network's."""
    with disk_errors(part.parent):
        file = part.open("ab", buffering=0)

    def write(chunk: bytes) -> None:
        with disk_errors(part.parent, None if total is None else total - _size(part)):
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]

    try:
        yield write
    finally:
        file.close()


def _explain_status(error: urllib.error.HTTPError, url: str, part: Path, offset: int) -> None:
    """Return where ``part`` is whole already, else raise what an HTTP error means."""
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
        if _content_range(error.headers)[1] == offset:
            return
        _discard(part)
        raise _TransientError("the partial file does not fit the one on the server") from error
    came = f"HTTP {error.code} {error.reason}"
    if error.code >= 500 or error.code in (
        http.HTTPStatus.REQUEST_TIMEOUT,
        http.HTTPStatus.TOO_MANY_REQUESTS,
    ):
        raise _TransientError(came) from error
    raise UserError(f"{url}: expected a file, came {came}; {_HINT}") from error


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """Return the first byte and the total length in a Content-Range header, ``None`` for what it lacks."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", "").strip())
    if found is None:
        return None, None
    start, total = found.groups()
    return (None if start is None else int(start)), (None if total == "*" else int(total))


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_validator(part: Path, url: str) -> str | None:
    """Return what identifies the version of ``url`` that ``part`` is the beginning of, if that is known."""
    try:
        state = json.loads(_state_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(state, dict) or state.get("url") != url:
        return None
    validator = state.get("validator")
    return validator if isinstance(validator, str) and validator.isprintable() else None


def _write_validator(part: Path, url: str, headers: Message) -> None:
    etag = headers.get("ETag", "")
    # A weak ETag must not be used in If-Range (RFC 9110, section 13.1.5).
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")
    with atomic_path(_state_path(part)) as path:
        path.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _progress_bar(name: str) -> Iterator[_Report]:
    """Show a bar on stderr while the body runs, if a person is there to see it."""
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=None)

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield report
