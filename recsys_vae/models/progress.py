"""Lines in the log that say how far a long fit is."""

from __future__ import annotations

import logging
import time

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Logs ``NAME: iteration I of N``, no more often than every few seconds."""

    def __init__(self, log: logging.Logger, name: str, total: int) -> None:
        self._log = log
        self._name = name
        self._total = total
        self._told = time.monotonic()

    def __call__(self, done: int, more: str = "") -> None:
        """After iteration ``done``, counted from 1."""
        if self.is_due():
            self._told = time.monotonic()
            self._log.info("%s: iteration %d of %d%s", self._name, done, self._total, more)

    def is_due(self) -> bool:
        """Whether the next call writes a line."""
        return time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES
