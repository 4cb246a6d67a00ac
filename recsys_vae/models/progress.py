"""Lines in the log that say how far a long fit is."""

from __future__ import annotations

import logging
import time

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Logs ``NAME: iteration I of N``, no more often than every few seconds; ``unit`` is what is counted."""

    def __init__(self, log: logging.Logger, name: str, total: int, unit: str = "iteration") -> None:
        self._log = log
        self._name = name
        self._total = total
        self._unit = unit
        self._told = time.monotonic()

    def __call__(self, done: int, more: str = "") -> None:
        """After ``done`` of them."""
        if self.is_due():
            self._told = time.monotonic()
            self._log.info("%s: %s %d of %d%s", self._name, self._unit, done, self._total, more)

    def is_due(self) -> bool:
        """Whether the next call writes a line."""
        return time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES
