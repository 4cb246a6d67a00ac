"""The output file of a verb: checked before any work is done, whole or absent afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from recsys_vae.atomic import atomic_path, explain_full_disk
from recsys_vae.errors import UserError
from recsys_vae.exports.run_manifest import is_file_of_a_run


def check_output(output: str | Path | None, suffixes: Iterable[str]) -> Path:
    """Return the path, when a file can be there.

    Raises :class:`UserError` naming ``output`` for none at all, a suffix (case ignored) that is not among
    ``suffixes``, a folder that does not exist, a directory in the way, or a file that a run directory holds:
    with that replaced, the run could not be opened any more.
    """
    known = list(suffixes)
    if output is None:
        raise UserError(f"output: expected a name ending in {' or '.join(known)}, came null")
    path = Path(output)
    if path.suffix.lower() not in known:
        raise UserError(f"output: expected a name ending in {' or '.join(known)}, came {str(output)!r}")
    if not path.parent.is_dir():
        raise UserError(f"output: expected an existing folder, {path.parent} does not exist")
    if path.is_dir():
        raise UserError(f"output: expected a file, {path} is a directory")
    if is_file_of_a_run(path):
        raise UserError(f"output: expected a file of its own, {path} belongs to a run; choose another name")
    return path


@contextlib.contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the body succeeds, and vanishes when it does not.

    Raises :class:`UserError` naming ``output`` for a folder that cannot be written, or a full disk.
    """
    with explain_full_disk("output", path):
        try:
            with atomic_path(path) as temporary:
                yield temporary
        except PermissionError as error:
            raise UserError(f"output: {path} cannot be written: {error.strerror}") from error
