"""Trouble with the place that files are written to, said in one line."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from recsys_vae.atomic import full_disk_reason
from recsys_vae.errors import UserError


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise ``UserError`` unless ``needed`` bytes are free where the existing ``folder`` lies."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder}: expected {needed:,} bytes of free disk for {what}, came {free:,}")


@contextlib.contextmanager
def disk_errors(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an ``OSError`` of the body, which only writes below ``folder``, into a ``UserError`` naming it.

    ``needed`` is how many bytes the body had still to write, where that is known.
    """
    try:
        yield
    except OSError as error:
        if full := full_disk_reason(error):
            wanted = "more space" if needed is None else f"{needed:,} more bytes"
            raise UserError(f"{folder}: {full}, expected {wanted}") from error
        reason = error.strerror or str(error)
        raise UserError(f"{folder}: expected a folder that can be written to, came: {reason}") from error
