"""Kill training at random moments, resume it, and require the weights of a run that was never killed, bit for bit.

python scripts/check_resume.py --kills 20
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = (
    *("trainer.max_epochs=20", "trainer.checkpoint_seconds=0", "trainer.batch_size=100", "threads=1"),
    *("model.hidden_dims=[64]", "model.latent_dim=16"),
)


def command(run: Path, *more: str) -> list[str]:
    """The training run, as a user starts it."""
    return [sys.executable, "-m", "recsys_vae", "train", *SETTINGS, f"run={run}", *more]


def weights(run: Path) -> str:
    """SHA-256 of the weights that a run left."""
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def main() -> int:
    """Print one line a kill; exit code 1 when any run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)  # noqa: S311  # moments, not secrets
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        began = time.perf_counter()
        subprocess.run(command(whole), check=True, capture_output=True)
        duration = time.perf_counter() - began
        expected, failures = weights(whole), 0
        print(f"uninterrupted: {duration:.1f} s, weights {expected[:12]}", flush=True)
        for number in range(arguments.kills):
            run = Path(folder) / f"killed-{number}"
            moment = generator.uniform(0.2, 0.95) * duration
            process = subprocess.Popen(command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            partial = run.with_name(run.name + ".partial")
            epochs = (
                (partial / "history.csv").read_text().count("\n") - 1
                if (partial / "history.csv").exists()
                else 0
            )
            state = "it had finished" if run.exists() else f"{max(epochs, 0)} epochs done"
            if not run.exists():
                more = ["resume=true"] if partial.exists() else []
                subprocess.run(command(run, *more), check=True, capture_output=True)
            same = weights(run) == expected
            failures += not same
            print(f"killed after {moment:.1f} s, {state}: {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{arguments.kills - failures} of {arguments.kills} equal")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
