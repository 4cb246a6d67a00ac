"""Commands in processes of their own, measured, of which several may run side by side and all can be stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from recsys_vae.errors import UserError

PEAK_MEMORY = Path(__file__).with_name("peak_memory.py")


class Processes:
    """What is running; threads may call every method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run_measured(self, command: Sequence[str], threads: int) -> float:
        """Run a command with ``threads`` threads; return its peak memory in MiB.

        Raises ``UserError`` if it fails, is stopped, or was not begun before :meth:`stop`.
        """
        limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
        measured = [sys.executable, str(PEAK_MEMORY), *command]
        with tempfile.TemporaryFile("w+") as log:
            with self._lock:
                if self._stopped:
                    raise UserError("stopped")
                # A session of its own, so that it is stopped with all that it starts.
                process = subprocess.Popen(
                    measured,
                    env=os.environ | limits,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                printed, _ = process.communicate()
            except BaseException:  # an interrupt reaches this process alone
                _end(process)
                raise
            finally:
                with self._lock:
                    self._running.discard(process)
            if process.returncode:
                log.seek(0)
                tail = "\n".join(log.read().splitlines()[-15:])
                raise UserError(f"this command failed: {' '.join(command)}\n{tail}")
        return float(json.loads(printed.splitlines()[-1])["peak_mib"])

    def stop(self) -> None:
        """End what runs, and begin nothing any more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)


def interrupt_on_signals() -> None:
    """Make SIGTERM what Ctrl-C is, and Ctrl-C what it is where a shell has switched it off for what it sends behind."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
