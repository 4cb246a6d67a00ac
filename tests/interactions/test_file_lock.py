from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recsys_vae.interactions import file_lock as module
from recsys_vae.interactions.file_lock import acquire_lock, file_lock, release_lock

HOLD = """
import pathlib, sys, time
from recsys_vae.interactions.file_lock import file_lock
with file_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            with file_lock(tmp_path / "lock", poll_seconds=0.0005):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        killer = threading.Timer(0.2, process.kill)
        killer.start()
        with file_lock(lock, poll_seconds=0.01):  # waits until the process is gone
            pass
        killer.join()
    finally:
        process.kill()
        process.communicate()
    assert capsys.readouterr().err == f"waiting for another process that holds {lock}\n"


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), file_lock(tmp_path / "lock"):
        raise KeyError
    with file_lock(tmp_path / "lock"):
        pass


def test_whoever_does_not_wait_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    descriptor = acquire_lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError, match=rf"held by another process \(pid {os.getpid()}\)"):
        acquire_lock(tmp_path / "lock")
    release_lock(descriptor)
    release_lock(descriptor)
    release_lock(acquire_lock(tmp_path / "lock"))


def test_a_lock_file_removed_between_opening_and_locking_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, try_lock = tmp_path / "lock", module._try_lock
    monkeypatch.setattr(module, "_try_lock", lambda descriptor: path.unlink() or try_lock(descriptor))
    with pytest.raises(BlockingIOError, match="just released and removed"):
        acquire_lock(path)
