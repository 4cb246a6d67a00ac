"""A full disk, told in one line whichever library met it."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from recsys_vae.errors import UserError

_REASONS = {
    errno.ENOSPC: "no space left on the device",
    getattr(errno, "EDQUOT", -1): "the disk quota is used up",
    errno.EFBIG: "the file is larger than the system allows",
}


@contextlib.contextmanager
def explain_full_disk(argument: str, path: str | Path) -> Iterator[None]:
    """Turn "no space left" from the body into a :class:`UserError` that names ``argument`` and ``path``.

    Other errors pass through as they are.
    """
    try:
        yield
    except Exception as error:
        code = getattr(error, "errno", None)
        # safetensors reports the errno in its message only.
        if code is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
            code = int(told[1])
        if code not in _REASONS:
            raise
        raise UserError(f"{argument}: {_REASONS[code]} while writing {path}") from error
