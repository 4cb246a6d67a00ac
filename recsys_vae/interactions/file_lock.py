"""One process at a time: an advisory lock that the operating system drops when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        # Locked bytes cannot be read, so the one that stands for the file lies far behind its content.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some network file systems know no locks
            return True
        return True


_held: set[int] = set()


def acquire_lock(path: Path) -> int:
    """Lock the file ``path``, made when absent, and return its descriptor for :func:`release_lock`.

    A leftover lock file blocks nobody. Raises ``BlockingIOError``, whose ``strerror`` names the process, when
    another one holds the lock, and ``OSError`` where the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try_lock(descriptor):
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise BlockingIOError(errno.EAGAIN, f"held by another process (pid {owner})", str(path))
        if not _still_there(descriptor, path):
            raise BlockingIOError(errno.EAGAIN, "just released and removed by another process", str(path))
        with contextlib.suppress(OSError):  # a full disk must not stop a process that writes nothing more
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"{os.getpid()}\n".encode())
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


@contextlib.contextmanager
def file_lock(path: Path, *, poll_seconds: float = 0.2) -> Iterator[None]:
    """Hold the lock of the file ``path``, made if absent, while the body runs; wait for whoever holds it.

    The file stays behind: removing it would let two processes lock two different files of that name.
    Raises ``OSError`` where the folder is absent or cannot be written to.
    """
    told = False
    while True:
        try:
            descriptor = acquire_lock(path)
            break
        except BlockingIOError:
            if not told:
                print(f"waiting for another process that holds {path}", file=sys.stderr)
                told = True
            time.sleep(poll_seconds)
    try:
        yield
    finally:
        release_lock(descriptor)


def _still_there(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is the locked file: between open and lock its former holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _forget_in_child() -> None:
    """A forked data-loading worker must not keep the lock alive after its parent was killed."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
