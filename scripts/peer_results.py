"""What ``benchmark_peers.py`` keeps: every trial in a JSON file, and beside it its metrics of every test user."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from peer_trial import Record

from recsys_vae.errors import UserError


class Results:
    """The trials that were run, in a JSON file, and beside it the metrics of every user, a file a trial."""

    def __init__(self, path: Path, overrides: list[str]) -> None:
        """Take up what is in ``path``; raises ``UserError`` if it is of another dataset."""
        self.path = path
        self.folder = path.with_name(f"{path.name}.per_user")
        self._lock = threading.RLock()
        self.record: Record = {"overrides": overrides, "trials": {}}
        if path.exists():
            self.record = json.loads(path.read_text())
            if self.record["overrides"] != overrides:
                raise UserError(f"--output: {path} is of {self.record['overrides']}; expected a new file")

    def trials(self, name: str, seed: int) -> list[Record]:
        """The trials of a system on a split."""
        with self._lock:
            found: list[Record] = self.record["trials"].setdefault(name, {}).setdefault(str(seed), [])
        return found

    def check_configuration(self, name: str, trials: Sequence[Record], settings: Any, digest: str) -> None:
        """Raise ``UserError`` if the trial with these settings ran with other defaults."""
        trial = next(trial for trial in trials if trial["settings"] == settings)
        if trial["configuration_sha256"] != digest:
            raise UserError(
                f"--output: {self.path} has {name} {json.dumps(settings)} with other defaults; expected a new file"
            )

    def add(self, name: str, seed: int, trial: Record, per_user: pd.DataFrame) -> None:
        """Keep a trial; the files are whole whenever the program is stopped. Threads may call this."""
        with self._lock:
            trials = self.trials(name, seed)
            self.folder.mkdir(parents=True, exist_ok=True)
            trial["per_user"] = f"{name}-seed{seed}-trial{len(trials)}.parquet"
            per_user.to_parquet(self.folder / trial["per_user"], index=False)
            trials.append(trial)
            self.save()

    def save(self) -> None:
        """Write the JSON file."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps(self.record, indent=2) + "\n")
        partial.replace(self.path)
