"""Run a command; its own output goes to stderr, and the last line of stdout is JSON with its peak memory.

python scripts/peak_memory.py COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys


def main() -> int:
    """Return the command's exit code. The peak is the largest resident set of any process it started."""
    code = subprocess.run(sys.argv[1:], check=False, stdout=sys.stderr).returncode
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"peak_mib": peak / (2**20 if sys.platform == "darwin" else 2**10)}))
    return code


if __name__ == "__main__":
    sys.exit(main())
