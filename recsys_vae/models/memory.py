"""How much memory is to be had, so that what cannot fit is refused before any work."""

from __future__ import annotations

import os
from pathlib import Path

from recsys_vae.errors import UserError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
GIB = 2**30


def available_memory() -> int | None:
    """Bytes that a new array may take, or ``None`` where the system does not say.

    On Linux what the kernel holds to be available, within the limit of the control group (a container's); elsewhere
    the memory of the machine.
    """
    bounds = [bound for bound in (_free_in_system(), _free_in_cgroup()) if bound is not None]
    return min(bounds) if bounds else None


def check_memory(name: str, what: str, n_bytes: int, remedy: str) -> None:
    """Raise :class:`UserError` when ``n_bytes`` more do not fit, with their number in GiB and what to do instead."""
    available = available_memory()
    if available is not None and n_bytes > available:
        raise UserError(
            f"{name}: {what} need {n_bytes / GIB:.1f} GiB, and {available / GIB:.1f} GiB are available; {remedy}"
        )


def _free_in_system() -> int | None:
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_in_cgroup() -> int | None:
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    try:
        return int(limit.read_text("utf-8")) - int(used.read_text("utf-8"))
    except (OSError, ValueError):  # no control group, or "max": no limit
        return None
