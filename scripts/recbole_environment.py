"""Make, or find complete, the virtual environment that RecBole 1.2.1 needs for itself.

    python scripts/recbole_environment.py FOLDER      # prints the path of its python and the versions in it

RecBole does not fit beside this project: it requires ray <= 2.6.3, which exists for Python 3.11 and older
only, starts only with setuptools < 81 (ray imports pkg_resources) and numpy < 2, and was written before
pandas 3. PyTorch is the release of the environment that runs this script, so that timings compare the models.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = "3.11"
REQUIREMENTS = ("recbole==1.2.1", "numpy>=1.26,<2", "pandas>=2.2,<3", "scipy>=1.12,<2", "setuptools<81")
REPORTED = ("recbole", "torch", "numpy", "scipy", "pandas", "setuptools", "ray")
RECORD = "recbole_environment.json"


class RecBoleEnvironmentError(RuntimeError):
    """The environment cannot be made; the message says what is missing."""


def torch_requirement() -> str:
    """Return the PyTorch release installed here as a requirement, or the project's range if there is none."""
    try:
        return "torch==" + importlib.metadata.version("torch").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "torch>=2.6,<2.14"


def recbole_python(folder: Path) -> Path:
    """Return the python of a complete RecBole environment in ``folder``, after installing it if need be.

    An environment counts as complete when its last step, the record of what was asked for, is there and asks
    for the same. It takes 1.5 GB and minutes; pip's own settings (``PIP_INDEX_URL``, ``PIP_EXTRA_INDEX_URL``)
    choose where packages come from. Raises ``RecBoleEnvironmentError`` when it cannot be made.
    """
    folder = folder.absolute()
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = [*REQUIREMENTS, torch_requirement()]
    record = folder / RECORD
    if record.is_file() and python.exists() and json.loads(record.read_text())["requirements"] == wanted:
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise RecBoleEnvironmentError(
            f"{folder}: expected a new folder or a virtual environment, found other files"
        )
    record.unlink(missing_ok=True)
    _run([_base_python(), "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
    # The import is the test: each of the pins above is there because it failed without.
    _run([str(python), "-W", "ignore", "-c", "import recbole.quick_start"])
    record.write_text(json.dumps({"requirements": wanted, "versions": versions(python)}, indent=2) + "\n")
    return python


def versions(python: Path) -> dict[str, str]:
    """Ask ``python`` for the versions that matter, its own included."""
    program = (
        "import importlib.metadata as m, json, platform, sys;"
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    command = [str(python), "-c", program, *REPORTED]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(answer.stdout))


def _base_python() -> str:
    """Find a Python 3.11 to build on: the running one, or ``python3.11`` on the path."""
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        return sys.executable
    found = shutil.which(f"python{PYTHON}")
    if found is None:
        raise RecBoleEnvironmentError(
            f"RecBole needs Python {PYTHON}: expected python{PYTHON} on the path, found none"
        )
    return found


def _run(command: list[str]) -> None:
    """Run a step; its output is shown on stderr, where a caller's own output is not."""
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise RecBoleEnvironmentError(f"this step failed: {' '.join(command)}")


def main() -> int:
    """Make or find the environment and print what is in it."""
    parser = argparse.ArgumentParser(description="Make, or find complete, RecBole's own virtual environment.")
    parser.add_argument("folder", type=Path, help="where it lies, or shall lie")
    try:
        python = recbole_python(parser.parse_args().folder)
    except RecBoleEnvironmentError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"executable": str(python), "versions": versions(python)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
