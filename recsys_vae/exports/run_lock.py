"""One writer at a time: a lock that dies with the process that holds it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from recsys_vae.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: the lock file is written but not enforced
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()


def acquire_lock(path: Path) -> int:
    """Lock the file ``path``, made when absent, and return its descriptor for :func:`release_lock`.

    The kernel drops the lock when the process ends, killed or not, so a leftover lock file blocks nobody.
    Raises :class:`UserError` naming the other process when one holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            _lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    _held.add(descriptor)
    return descriptor


def release_lock(descriptor: int) -> None:
    """Give the lock back; a second call does nothing."""
    if descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise UserError(f"run: {path.parent} is being written by another process (pid {owner})") from None
    except OSError:  # some network file systems know no locks
        return
    # Between open and lock the other process may have finished: then this is a file without a name.
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return
    raise UserError(f"run: {path.parent} was just finished or removed by another process")


def _forget_in_child() -> None:
    """A forked data-loading worker must not keep the lock alive after its parent was killed."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
