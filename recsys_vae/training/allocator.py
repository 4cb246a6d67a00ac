"""Keeps memory that was freed, so that the next step need not ask the system for it again."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc not to return freed blocks to the system; returns whether there is a glibc that obeys.

    A training step allocates and frees its logits and gradients, megabytes each. By default glibc maps such blocks
    afresh every time, and the system must fill them with zeros page by page: a tenth of a step with 3,500 items, and
    more with 20,000, whose blocks exceed the largest size that glibc learns to keep. The peak stays what it was; the
    process holds on to it until it ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
