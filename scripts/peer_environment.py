"""Make, or find complete, the virtual environment that another author's program needs for itself.

    python scripts/peer_environment.py recbole FOLDER      # prints the path of its python and the versions in it

The releases to compare with are pinned here. PyTorch, where a peer uses it, is the release of the environment that
runs this script, so that timings compare the models. pip's own settings (``PIP_INDEX_URL``, ``PIP_EXTRA_INDEX_URL``)
choose where packages come from.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RECORD = "peer_environment.json"
TORCH = "torch"


class PeerEnvironmentError(RuntimeError):
    """The environment cannot be made; the message says what is missing."""


@dataclass(frozen=True)
class Environment:
    """What pip is asked for, which versions are reported, what must import, and the Python that it needs."""

    requirements: tuple[str, ...]
    reported: tuple[str, ...]
    imports: str
    python: str | None = None  # None: the running one

    def wanted(self) -> list[str]:
        """The requirements, PyTorch at the release installed here, or in the project's range if there is none."""
        return [_torch_requirement() if name == TORCH else name for name in self.requirements]


ENVIRONMENTS = {
    # RecBole does not fit beside this project: it requires ray <= 2.6.3, which exists for Python 3.11 and older only,
    # starts only with setuptools < 81 (ray imports pkg_resources) and numpy < 2, and was written before pandas 3.
    "recbole": Environment(
        ("recbole==1.2.1", "numpy>=1.26,<2", "pandas>=2.2,<3", "scipy>=1.12,<2", "setuptools<81", TORCH),
        ("recbole", "torch", "numpy", "scipy", "pandas", "setuptools", "ray"),
        "recbole.quick_start",
        python="3.11",
    ),
    "cornac": Environment(
        ("cornac==3.0.1", TORCH), ("cornac", "torch", "numpy", "scipy"), "cornac.models.vaecf.vaecf"
    ),
    "implicit": Environment(
        ("implicit==0.7.3", "numpy<3", "scipy<2"), ("implicit", "numpy", "scipy"), "implicit.cpu.als"
    ),
    # The newest release for Python 3.11; 2026 needs 3.12.5.
    "lenskit": Environment(
        ("lenskit==2025.8.1", "numpy<3", TORCH), ("lenskit", "torch", "numpy", "scipy"), "lenskit.als"
    ),
    "jax": Environment(
        ("jax==0.10.2", "jaxlib==0.10.2", "numpyro==0.22.0", "blackjax==1.7.1"),
        ("jax", "jaxlib", "numpyro", "blackjax", "numpy"),
        "numpyro, blackjax",
    ),
}


def peer_python(name: str, folder: Path) -> Path:
    """Return the python of the complete environment ``name`` in ``folder``, after installing it if need be.

    An environment counts as complete when its last step, the record of what was asked for, is there and asks
    for the same. It takes minutes and up to 1.6 GB. Raises ``PeerEnvironmentError`` when it cannot be made.
    """
    environment = ENVIRONMENTS[name]
    folder = folder.expanduser().absolute()
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = environment.wanted()
    record = folder / RECORD
    if record.is_file() and python.exists() and json.loads(record.read_text())["requirements"] == wanted:
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise PeerEnvironmentError(
            f"{folder}: expected a new folder or a virtual environment, found other files"
        )
    record.unlink(missing_ok=True)
    _run([_base_python(name, environment.python), "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
    # The import is the test: several of the pins above are there because it failed without.
    _run([str(python), "-W", "ignore", "-c", f"import {environment.imports}"])
    record.write_text(
        json.dumps({"requirements": wanted, "versions": peer_versions(name, python)}, indent=2) + "\n"
    )
    return python


def peer_versions(name: str, python: Path) -> dict[str, str]:
    """Ask ``python`` for the versions that matter in the environment ``name``, its own included."""
    program = (
        "import importlib.metadata as m, json, platform, sys;"
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    command = [str(python), "-c", program, *ENVIRONMENTS[name].reported]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(answer.stdout))


def _torch_requirement() -> str:
    try:
        return f"{TORCH}==" + importlib.metadata.version(TORCH).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return f"{TORCH}>=2.6,<2.14"


def _base_python(name: str, version: str | None) -> str:
    """Find the Python to build on: the running one, or ``pythonX.Y`` on the path."""
    if version is None or sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        raise PeerEnvironmentError(
            f"{name} needs Python {version}: expected python{version} on the path, found none"
        )
    return found


def _run(command: list[str]) -> None:
    """Run a step; its output is shown on stderr, where a caller's own output is not."""
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise PeerEnvironmentError(f"this step failed: {' '.join(command)}")


def main() -> int:
    """Make or find the environment and print what is in it."""
    parser = argparse.ArgumentParser(description="Make, or find complete, a peer's own virtual environment.")
    parser.add_argument("name", choices=ENVIRONMENTS)
    parser.add_argument("folder", type=Path, help="where it lies, or shall lie")
    options = parser.parse_args()
    try:
        python = peer_python(options.name, options.folder)
    except PeerEnvironmentError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"executable": str(python), "versions": peer_versions(options.name, python)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
