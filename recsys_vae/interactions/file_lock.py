"""One process at a time: an advisory lock that the operating system drops when its holder dies."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def file_lock(path: Path, *, poll_seconds: float = 0.2) -> Iterator[None]:
    """Hold the lock of the file ``path``, made if absent, while the body runs; wait for whoever holds it.

    The file stays behind, empty: removing it would let two processes lock two different files of that name.
    Raises ``OSError`` where the folder is absent or cannot be written to.
    """
    with path.open("ab") as file:
        told = False
        while not _try_lock(file):
            if not told:
                print(f"waiting for another process that holds {path}", file=sys.stderr)
                told = True
            time.sleep(poll_seconds)
        try:
            yield
        finally:
            _unlock(file)
