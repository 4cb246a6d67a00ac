"""Posterior draws of many users, batch by batch: what an interrupted run has finished is kept, and taken up again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recsys_vae.atomic import atomic_path, explain_full_disk
from recsys_vae.errors import UserError
from recsys_vae.exports.output_path import output_file
from recsys_vae.interactions.file_lock import acquire_lock, release_lock

# Name of an array of one batch -> the group of the file that it goes to, and its axes. ``user`` is among them.
LAYOUT: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "z": ("posterior", ("chain", "draw", "user", "latent")),
    "energy": ("sample_stats", ("chain", "draw", "user")),
    "diverging": ("sample_stats", ("chain", "draw", "user")),
    "acceptance_rate": ("sample_stats", ("chain", "user")),
    "divergences": ("sample_stats", ("chain", "user")),
    "invalid": ("sample_stats", ("chain", "user")),
    "bfmi": ("sample_stats", ("chain", "user")),
    "mean": ("sample_stats", ("user", "latent")),
    "std": ("sample_stats", ("user", "latent")),
    "r_hat": ("sample_stats", ("user", "latent")),
    "ess_bulk": ("sample_stats", ("user", "latent")),
    "ess_tail": ("sample_stats", ("user", "latent")),
    "mcse_mean": ("sample_stats", ("user", "latent")),
}

Batch = Mapping[str, np.ndarray]


class DrawsStore:
    """The finished batches of a sampling run, in ``OUTPUT.partial``, until they become one NetCDF file.

    A context manager: until it is left, no other process can write there.

    Args:
        output: the file to be.
        settings: all that the draws depend on, in JSON types; a run that differs cannot be taken up.
        resume: whether to take up what an interrupted run left.

    Raises :class:`UserError` naming ``output`` or ``resume``.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".partial")
        try:
            with explain_full_disk("output", self.folder):
                self.folder.mkdir(exist_ok=True)
                self._lock = acquire_lock(self.folder / ".lock")
        except BlockingIOError as error:
            raise UserError(f"output: {self.folder} is {error.strerror}") from error
        except OSError as error:
            raise UserError(f"output: {self.folder} cannot be written: {error.strerror}") from error
        try:
            self._begin(settings, resume)
        except BaseException:
            self.close()
            raise

    def _begin(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Hold what the folder has against the settings; a run that finished no batch binds nobody."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        record = self.folder / "settings.json"
        if not self._batches():
            if resume and not record.exists():
                raise UserError(f"resume: nothing to resume, {self.folder} holds no interrupted run")
            with explain_full_disk("output", self.folder), atomic_path(record) as temporary:
                temporary.write_text(json.dumps({"sha256": digest, "settings": settings}, indent=1))
            return
        if not resume:
            raise UserError(
                f"output: {self.folder} holds an interrupted run; carry it on with resume=true, or remove it"
            )
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
            same = found["sha256"] == digest
            before = found["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"resume: {record} cannot be read: {error}") from error
        if not same:
            names = sorted({*settings, *before})
            differing = [name for name in names if before.get(name) != settings.get(name)]
            verb = "differs" if len(differing) == 1 else "differ"
            raise UserError(
                f"resume: expected the settings of the interrupted run, {', '.join(differing)} {verb}"
            )

    def _batches(self) -> list[Path]:
        return sorted(self.folder.glob("batch-*.safetensors"))

    def __enter__(self) -> DrawsStore:
        """Hold the folder against other processes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go, and remove it when it keeps no batch."""
        self.close()

    def close(self) -> None:
        """Let the folder go, and remove it when it keeps no batch; a second call does nothing."""
        if self.folder.is_dir() and not self._batches():
            shutil.rmtree(self.folder)
        release_lock(self._lock)

    def batch(self, number: int, make: Callable[[], Batch]) -> Batch:
        """The arrays of a batch: read when they were finished before, else made and kept.

        A batch's file is whole or absent; one that cannot be read is made anew.
        """
        path = self.folder / f"batch-{number:06d}.safetensors"
        if path.exists():
            try:
                return load_file(path)
            except (SafetensorError, OSError, ValueError):
                path.unlink()
        arrays = {name: np.ascontiguousarray(values) for name, values in make().items()}
        with explain_full_disk("output", self.folder), atomic_path(path) as temporary:
            save_file(arrays, temporary)
        return arrays

    def finalize(
        self,
        n_batches: int,
        user_ids: Shaped[np.ndarray, " users"],
        attributes: Mapping[str, str | float],
    ) -> None:
        """Join all batches in one NetCDF file that ArviZ reads, and remove the partial run."""
        batches = (load_file(self.folder / f"batch-{number:06d}.safetensors") for number in range(n_batches))
        with output_file(self.output) as temporary:
            write_netcdf(temporary, batches, user_ids, attributes)
        shutil.rmtree(self.folder)
        self.close()


def write_netcdf(
    path: Path,
    batches: Iterator[Batch],
    user_ids: Shaped[np.ndarray, " users"],
    attributes: Mapping[str, str | float],
) -> None:
    """Write batches of users one after the other; memory is one batch. Groups and axes are ``LAYOUT``'s."""
    start = 0
    with h5netcdf.File(path, "w") as file:
        file.attrs.update(attributes)
        for batch in batches:
            sizes = _sizes(batch)
            if start == 0:
                _prepare(file, batch, {**sizes, "user": len(user_ids)}, user_ids)
            stop = start + sizes["user"]
            for name, values in batch.items():
                group, axes = LAYOUT[name]
                where = tuple(slice(start, stop) if axis == "user" else slice(None) for axis in axes)
                file[group].variables[name][where] = values
            start = stop
    if start != len(user_ids):
        raise ValueError(f"expected draws of {len(user_ids)} users, came {start}")


def _sizes(batch: Batch) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, values in batch.items():
        for axis, size in zip(LAYOUT[name][1], values.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name}: expected {sizes[axis]} along {axis}, came {size}")
    return sizes


def _prepare(file: Any, batch: Batch, sizes: Mapping[str, int], user_ids: np.ndarray) -> None:
    for group in {LAYOUT[name][0] for name in batch}:
        node = file.create_group(group)
        axes = {axis for name in batch if LAYOUT[name][0] == group for axis in LAYOUT[name][1]}
        for axis in sorted(axes):
            node.dimensions[axis] = sizes[axis]
            if axis == "user":
                kind = np.int64 if user_ids.dtype.kind in "iu" else h5netcdf.core.h5py.string_dtype()
                labels = user_ids if user_ids.dtype.kind in "iu" else user_ids.astype(object)
                node.create_variable(axis, (axis,), kind, data=labels)
            else:
                node.create_variable(axis, (axis,), np.int64, data=np.arange(sizes[axis]))
    for name, values in batch.items():
        group, axes_of = LAYOUT[name]
        # One user's numbers lie together: they are what is read.
        chunks = tuple(1 if axis == "user" else sizes[axis] for axis in axes_of) if name == "z" else None
        file[group].create_variable(name, axes_of, values.dtype, chunks=chunks)
