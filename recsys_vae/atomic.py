"""Files that are either whole or absent: written under a temporary name, fsynced, then renamed.

And the one thing that may always come in between, a full disk, told in one line whichever library met it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recsys_vae.errors import UserError

_FULL = {
    errno.ENOSPC: "no space left on the device",
    getattr(errno, "EDQUOT", -1): "the disk quota is used up",
    errno.EFBIG: "the file is larger than the system allows",
}


def fsync_directory(path: Path) -> None:
    """Make a rename inside ``path`` durable; where directories cannot be opened (Windows), do nothing."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Flush a file that another library wrote."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it is fsynced and renamed onto ``target``.

    When the body raises, the temporary file is removed and ``target`` is left as it was. The temporary name
    keeps the suffix of ``target``, because writers choose the format by it.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        fsync_file(temporary)
        # mkstemp makes the file private; a finished file gets the permissions that open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
        fsync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def full_disk_reason(error: BaseException) -> str | None:
    """What to call the full disk that ``error`` reports, ``None`` when it reports something else."""
    code = getattr(error, "errno", None)
    # safetensors gives the errno in its message only.
    if code is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
        code = int(told[1])
    return _FULL.get(code)


@contextlib.contextmanager
def explain_full_disk(argument: str, path: str | Path) -> Iterator[None]:
    """Turn "no space left" from the body into a :class:`UserError` that names ``argument`` and ``path``.

    Other errors pass through as they are.
    """
    try:
        yield
    except Exception as error:
        reason = full_disk_reason(error)
        if reason is None:
            raise
        raise UserError(f"{argument}: {reason} while writing {path}") from error
