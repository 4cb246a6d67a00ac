"""Where the files that travel with the package lie: configs/ and the embedded dataset."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled_path(*parts: str) -> Path:
    """Path of a bundled file, e.g. ``bundled_path("configs")`` or ``bundled_path("data", "ml-latest-small")``.

    In an installed wheel the files lie inside the package (``recsys_vae/_bundled``); in a checkout, where the
    package is installed in editable mode, they lie at the top of the repository.
    """
    root = _PACKAGE / "_bundled"
    if not root.is_dir():
        root = _PACKAGE.parent
    return root.joinpath(*parts)
