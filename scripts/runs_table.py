"""One Markdown table of run directories on the same split: their test figures and the seconds of their fits.

python scripts/runs_table.py runs/ml-20m-ease-seed1 runs/ml-20m-mult_vae-seed1
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recsys_vae.errors import UserError

METRICS = ("ndcg@100", "recall@20", "recall@50")


def runs_table(runs: Sequence[Path], metrics: Sequence[str] = METRICS) -> str:
    """A row for each run. Raises ``UserError`` for a folder that is no run, and for runs on different splits."""
    rows = [["run", *metrics, "fit, s"], ["---"] * (len(metrics) + 2)]
    digests = {}
    for run in runs:
        try:
            record = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            digests[json.loads((run / "split.json").read_text(encoding="utf-8"))["sha256"]] = run
            figures = [record["test"][metric] for metric in metrics]
            cells = [f"{figure['mean']:.4f} ± {figure['stderr']:.4f}" for figure in figures]
            rows.append([run.name, *cells, f"{record['seconds']['fit']:.0f}"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{run}: expected a whole run directory with {', '.join(metrics)}: {error}"
            ) from error
    if len(digests) > 1:
        raise UserError(
            f"expected runs on one split, came {' and '.join(map(str, digests.values()))} on others"
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 2 where the runs do not make one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", type=Path)
    try:
        print(runs_table(parser.parse_args(arguments).runs))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
