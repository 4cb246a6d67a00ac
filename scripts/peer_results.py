"""What ``benchmark_peers.py`` keeps: every trial in a JSON file, and beside it its metrics of every test user."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pandas as pd
from peer_trial import Record

from recsys_vae.errors import UserError
from recsys_vae.interactions.file_lock import acquire_lock, release_lock


class Results:
    """The trials that were run, in a JSON file, and beside it the metrics of every user, a file a trial.

    One process at a time: a context manager, which holds a lock.
    """

    def __init__(self, path: Path, overrides: list[str]) -> None:
        """Take up what is in ``path``; raises ``UserError`` if it is of another dataset or in use."""
        self.path = path
        self.folder = path.with_name(f"{path.name}.per_user")
        self._lock = threading.RLock()
        self._lock_file = path.with_name(f".{path.name}.lock")
        self.record: Record = {"overrides": overrides, "trials": {}}
        try:
            self._held = acquire_lock(self._lock_file)
        except OSError as error:
            raise UserError(f"--output: cannot write {path}: {error.strerror}") from None
        try:
            if path.exists():
                self.record = json.loads(path.read_text())
                if self.record["overrides"] != overrides:
                    raise UserError(f"--output: {path} is of {self.record['overrides']}; expected a new file")
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self._lock_file.unlink(missing_ok=True)
        release_lock(self._held)

    def trials(self, name: str, seed: int) -> list[Record]:
        """The trials of a system on a split."""
        with self._lock:
            found: list[Record] = self.record["trials"].setdefault(name, {}).setdefault(str(seed), [])
        return found

    def check_trial(self, name: str, trial: Record, digest: str) -> None:
        """Raise ``UserError`` if the trial ran with other defaults, or what it says of every user is gone."""
        said = f"{name} {json.dumps(trial['settings'])}"
        if trial["configuration_sha256"] != digest:
            raise UserError(f"--output: {self.path} has {said} with other defaults; expected a new file")
        if not (self.folder / trial["per_user"]).exists():
            raise UserError(
                f"--output: expected {self.folder / trial['per_user']}, of {said}, beside {self.path}"
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
