"""Kill training at random moments, resume it, and require the run that was never killed, bit for bit.

python scripts/check_resume.py --kills 20

The moments are spread evenly over the time from the first file to the last one, one at random in each share, so that
they fall while the data is read, in the middle of epochs and while the run directory is completed.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

N_EPOCHS = 24
# Training takes about as long as starting the process; a checkpoint an epoch.
SETTINGS = (
    *(f"trainer.max_epochs={N_EPOCHS}", f"trainer.patience={N_EPOCHS}", "trainer.checkpoint_seconds=0.0"),
    *("trainer.batch_size=100", "trainer.accelerator=cpu", "threads=1"),
    *("model.hidden_dims=[64]", "model.latent_dim=16"),
)
START_UP, TRAINING, COMPLETING, FINISHED = "start-up", "training", "completing the directory", "had finished"


def command(run: Path, *more: str) -> list[str]:
    """The training run, as a user starts it."""
    return [sys.executable, "-m", "recsys_vae", "train", *SETTINGS, f"run={run}", *more]


def partial_of(run: Path) -> Path:
    """Where an unfinished run lies."""
    return run.with_name(run.name + ".partial")


def stage(run: Path) -> int:
    """-1 before the first file, then the number of epochs in the history, and one more when the run is whole."""
    if run.exists():
        return N_EPOCHS + 1
    if not partial_of(run).exists():
        return -1
    try:
        return max((partial_of(run) / "history.csv").read_text(encoding="utf-8").count("\n") - 1, 0)
    except FileNotFoundError:  # no epoch yet, or the directory was given its final name meanwhile
        return N_EPOCHS + 1 if run.exists() else 0


def result(run: Path) -> dict[str, object]:
    """What must not depend on kills: the weights, each epoch's figures but its duration, and the metrics."""
    rows = [line.split(",") for line in (run / "history.csv").read_text(encoding="utf-8").splitlines()]
    clock = rows[0].index("seconds")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {
        "weights": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        "history": [row[:clock] + row[clock + 1 :] for row in rows],
        "metrics": {name: value for name, value in metrics.items() if name != "seconds"},
    }


def watch(run: Path) -> list[float]:
    """Train without a kill; seconds from the first file to each stage."""
    seen: list[float] = []
    process = subprocess.Popen(command(run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        seen += [time.perf_counter()] * (stage(run) + 1 - len(seen))
        time.sleep(0.002)
    seen += [time.perf_counter()] * (stage(run) + 1 - len(seen))
    if process.returncode:
        assert process.stderr is not None
        sys.exit(process.stderr.read())
    return [moment - seen[0] for moment in seen]


def kill_and_resume(
    times: list[float], expected: dict[str, object], job: tuple[Path, float]
) -> tuple[str, bool]:
    """Kill at a moment of the uninterrupted run's time, resume, compare; prints a line."""
    run, moment = job
    reached = bisect.bisect_right(times, moment) - 1
    process = subprocess.Popen(command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and stage(run) < reached:
        time.sleep(0.002)
    time.sleep(moment - times[reached])
    process.kill()
    killed = process.wait() == -signal.SIGKILL
    n_epochs = min(stage(run), N_EPOCHS)
    if not killed:
        where = FINISHED
    elif n_epochs == N_EPOCHS:
        where = COMPLETING
    else:
        where = TRAINING if n_epochs else START_UP
    resumed = ""
    if not run.exists():
        more = ["resume=true"] if partial_of(run).exists() else []
        again = subprocess.run(command(run, *more), capture_output=True, text=True, check=False)
        resumed = again.stderr[-2000:] if again.returncode else ""
    same = run.exists() and result(run) == expected
    print(
        f"{run.name}: {moment:.2f} s, {where}, {n_epochs} epochs done: {'equal' if same else 'DIFFERENT'}",
        flush=True,
    )
    if resumed:
        print(resumed, file=sys.stderr, flush=True)
    return where, same


def main() -> int:
    """Print one line a kill; exit code 1 when any run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)  # noqa: S311  # moments, not secrets
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        times = watch(whole)
        expected = result(whole)
        print(
            f"uninterrupted: first epoch after {times[1]:.2f} s, last after {times[N_EPOCHS]:.2f} s, "
            f"whole after {times[-1]:.2f} s; weights {str(expected['weights'])[:12]}",
            flush=True,
        )
        moments = [
            (number + generator.random()) / arguments.kills * times[-1] for number in range(arguments.kills)
        ]
        jobs = [(Path(folder) / f"killed-{number:02}", moment) for number, moment in enumerate(moments)]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            outcomes = list(pool.map(partial(kill_and_resume, times, expected), jobs))
    places = Counter(where for where, _ in outcomes)
    print("; ".join(f"{places[where]} {where}" for where in (START_UP, TRAINING, COMPLETING, FINISHED)))
    n_equal = sum(same for _, same in outcomes)
    print(f"{n_equal} of {len(outcomes)} equal, {time.perf_counter() - began:.0f} s")
    return int(n_equal < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
