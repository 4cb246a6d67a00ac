"""Make, or find complete, a virtual environment with JAX, NumPyro and BlackJAX.

    python scripts/jax_environment.py FOLDER      # prints the path of its python and the versions in it

The project itself does not need JAX, and its benchmarks compare releases that are pinned here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

PINNED = {"jax": "0.10.2", "jaxlib": "0.10.2", "numpyro": "0.22.0", "blackjax": "1.7.1"}


class JaxEnvironmentError(RuntimeError):
    """The environment cannot be made; the message says what is missing."""


def jax_python(folder: Path) -> Path:
    """Return the python of an environment in ``folder`` with the pinned releases, after installing them if need be.

    It takes 0.7 GB. Raises ``JaxEnvironmentError`` when it cannot be made.
    """
    folder = folder.absolute()
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if python.exists() and PINNED.items() <= versions(python).items():
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise JaxEnvironmentError(
            f"{folder}: expected a new folder or a virtual environment, found other files"
        )
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(folder)])
    wanted = [f"{name}=={version}" for name, version in PINNED.items()]
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
    return python


def versions(python: Path) -> dict[str, str]:
    """Ask ``python`` for its own version and those of the pinned packages that it has."""
    program = (
        "import importlib.metadata as m, json, platform, sys;"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()};"
        "names = [n for n in [*sys.argv[1:], 'numpy'] if n in have];"
        "print(json.dumps({'python': platform.python_version()} | {n: have[n] for n in names}))"
    )
    answer = subprocess.run([str(python), "-c", program, *PINNED], check=True, capture_output=True, text=True)
    return dict(json.loads(answer.stdout))


def _run(command: list[str]) -> None:
    """Run a step; its output is shown on stderr, where a caller's own output is not."""
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise JaxEnvironmentError(f"this step failed: {' '.join(command)}")


def main() -> int:
    """Make or find the environment and print what is in it."""
    parser = argparse.ArgumentParser(description="Make, or find complete, a virtual environment with JAX.")
    parser.add_argument("folder", type=Path, help="where it lies, or shall lie")
    try:
        python = jax_python(parser.parse_args().folder)
    except JaxEnvironmentError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"executable": str(python), "versions": versions(python)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
