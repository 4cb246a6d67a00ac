"""Checks an output file's name before any work is done for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recsys_vae.errors import UserError


def check_output(output: str | None, suffixes: Sequence[str]) -> Path | None:
    """Return the path; raise :class:`UserError` for another suffix, or a folder that does not exist."""
    if output is None:
        return None
    path = Path(output)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"output: expected a name ending in {' or '.join(suffixes)}, came {output!r}")
    if not path.parent.is_dir():
        raise UserError(f"output: expected an existing folder, {path.parent} does not exist")
    if path.is_dir():
        raise UserError(f"output: expected a file, {path} is a folder")
    return path
