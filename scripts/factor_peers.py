"""Run in an environment with implicit, hpfrec or myfm: fit its model once on the data of a folder; print JSON.

    python scripts/factor_peers.py implicit FOLDER --rank 64 --iterations 15

``FOLDER`` is what ``benchmark_ideas.py`` writes. Reading and preparing the data is not timed. Prints the seconds of an
iteration (the median, where the program tells them apart) and writes factors or predictions into the folder.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp


def fit_implicit(folder: Path, options: argparse.Namespace) -> float:
    """Alternating least squares by conjugate gradients."""
    import threadpoolctl
    from implicit.cpu.als import AlternatingLeastSquares

    threadpoolctl.threadpool_limits(1, "blas")  # as implicit advises: its own threads do the work
    matrix = sp.csr_matrix(sp.load_npz(folder / "train.npz"))
    model = AlternatingLeastSquares(
        factors=options.rank,
        regularization=options.regularization,
        alpha=options.alpha,
        iterations=options.iterations,
        num_threads=options.threads,
        random_state=options.seed,
    )
    seconds: list[float] = []
    model.fit(matrix, show_progress=False, callback=lambda _i, spent, _loss: seconds.append(spent))
    history = folder / "test_history.npz"
    if history.exists():
        rows = sp.csr_matrix(sp.load_npz(history))
        users = model.recalculate_user(np.arange(rows.shape[0]), rows)
        np.savez(folder / "implicit.npz", users=users, items=model.item_factors)
    return statistics.median(seconds)


def fit_hpfrec(folder: Path, options: argparse.Namespace) -> float:
    """Coordinate ascent. Iterations are not told apart: a fit of one is taken off, and with it what prepares."""
    import pandas as pd
    from hpfrec import HPF

    matrix = sp.coo_matrix(sp.load_npz(folder / "train.npz"))
    frame = pd.DataFrame({"UserId": matrix.row, "ItemId": matrix.col, "Count": matrix.data})
    spent = []
    for iterations in (1, options.iterations):
        model = HPF(
            k=options.rank,
            maxiter=iterations,
            ncores=options.threads,
            check_every=None,
            stop_crit="maxiter",
            reindex=False,
            verbose=False,
            random_seed=options.seed,
            produce_dicts=False,
        )
        began = time.perf_counter()
        model.fit(frame)
        spent.append(time.perf_counter() - began)
    seconds = (spent[1] - spent[0]) / (options.iterations - 1)
    np.savez(folder / "hpfrec.npz", shape=model.Lambda_shp, rate=model.Lambda_rte)
    return seconds


def fit_myfm(folder: Path, options: argparse.Namespace) -> float:
    """A factorisation machine over user and item by Gibbs sampling, on ratings.npz."""
    import myfm

    data = np.load(folder / "ratings.npz")
    n_users, n_items = int(data["users"].max()) + 1, int(data["items"].max()) + 1

    def design(mask: np.ndarray) -> sp.csr_matrix:
        columns = np.stack([data["users"][mask], n_users + data["items"][mask]], axis=1).ravel()
        rows = np.repeat(np.arange(int(mask.sum())), 2)
        return sp.csr_matrix(
            (np.ones(len(columns)), (rows, columns)), shape=(rows[-1] + 1, n_users + n_items)
        )

    held_out = data["held_out"]
    train, test = design(~held_out), design(held_out)
    model = myfm.MyFMRegressor(rank=options.rank, random_seed=options.seed)
    began = time.perf_counter()
    model.fit(
        train,
        data["ratings"][~held_out],
        n_iter=options.burn_in + options.iterations,
        n_kept_samples=options.iterations,
        grouping=[0] * n_users + [1] * n_items,
    )
    seconds = (time.perf_counter() - began) / (options.burn_in + options.iterations)
    np.savez(folder / "myfm.npz", mean=model.predict(test))
    return seconds


def main() -> int:
    """Fit and tell."""
    programs = {"implicit": fit_implicit, "hpfrec": fit_hpfrec, "myfm": fit_myfm}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("program", choices=programs)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--burn-in", type=int, default=20)
    parser.add_argument("--regularization", type=float, default=1.0)
    parser.add_argument("--alpha", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seconds = programs[options.program](options.folder, options)
    version = importlib.metadata.version(options.program)
    print(json.dumps({"seconds": seconds, "version": version}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
