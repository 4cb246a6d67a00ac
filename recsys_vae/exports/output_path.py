"""The output file of a verb: checked before any work is done, whole or absent afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from recsys_vae.atomic import atomic_path
from recsys_vae.errors import UserError
from recsys_vae.exports.disk_space import explain_full_disk


@contextlib.contextmanager
def output_file(path: Path, suffixes: Iterable[str]) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the body succeeds, and vanishes when it does not.

    Raises :class:`UserError` naming ``output`` for a suffix (case ignored) that is not among ``suffixes``, a
    folder that does not exist or cannot be written, a directory in the way, or a full disk.
    """
    known = list(suffixes)
    if path.suffix.lower() not in known:
        raise UserError(f"output: expected a name ending in {', '.join(known)}, came {str(path)!r}")
    if not path.parent.is_dir():
        raise UserError(f"output: the folder {path.parent} does not exist")
    if path.is_dir():
        raise UserError(f"output: expected a file, {path} is a directory")
    with explain_full_disk("output", path):
        try:
            with atomic_path(path) as temporary:
                yield temporary
        except PermissionError as error:
            raise UserError(f"output: {path} cannot be written: {error.strerror}") from error
