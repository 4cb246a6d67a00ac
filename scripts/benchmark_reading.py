"""Time the reader on a made-up table: ``benchmark_reading.py [--rows 25000000] [--delimiter ::]``.

Writes ratings of MovieLens-25M's shape (162,541 users, popularity of 59,047 items as a power law, times of
one decade) to a temporary folder, reads them in a process of its own, prints rows, seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from recsys_vae.interactions import read_table

N_USERS, N_ITEMS = 162_541, 59_047
COLUMNS = ["userId", "movieId", "rating", "timestamp"]
CHUNK_ROWS = 1_000_000


def write_ratings(path: Path, n_rows: int, delimiter: str, seed: int = 0) -> None:
    """Write ``n_rows`` ratings sorted by user, a chunk at a time."""
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(delimiter.join(COLUMNS).encode() + b"\n")
        for start in range(0, n_rows, CHUNK_ROWS):
            size = min(CHUNK_ROWS, n_rows - start)
            rows = pa.table(
                {
                    "userId": 1 + np.arange(start, start + size) * N_USERS // n_rows,
                    "movieId": 1 + (N_ITEMS * random.random(size) ** 3).astype(np.int64),
                    "rating": random.integers(1, 11, size) / 2,
                    "timestamp": random.integers(1_000_000_000, 1_300_000_000, size),
                }
            )
            sink = pa.BufferOutputStream()
            pa_csv.write_csv(rows, sink, pa_csv.WriteOptions(include_header=False))
            text = sink.getvalue().to_pybytes()
            file.write(text if delimiter == "," else text.replace(b",", delimiter.encode()))


def read_and_report(path: Path) -> None:
    """Read here and print one JSON line; peak memory is the whole process's, imports included."""
    start = time.perf_counter()
    table = read_table(path)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    report = {"rows": table.n_rows, "users": table.user_ids.size, "items": table.item_ids.size}
    print(json.dumps(report | {"seconds": round(seconds, 2), "peak_gib": round(peak / 2**30, 2)}))


def main() -> None:
    """Write, then read in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=25_000_000)
    parser.add_argument("--delimiter", default=",")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        read_and_report(options.read)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("ratings.csv" if options.delimiter == "," else "ratings.dat")
        write_ratings(path, options.rows, options.delimiter)
        print(f"{path.name}: {path.stat().st_size / 2**20:,.0f} MiB", flush=True)
        subprocess.run([sys.executable, __file__, "--read", str(path)], check=True)


if __name__ == "__main__":
    main()
