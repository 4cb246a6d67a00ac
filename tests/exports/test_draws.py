"""The file of draws as ArviZ reads it, and a sampling run that is interrupted."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys_vae.errors import UserError
from recsys_vae.exports import draws
from recsys_vae.exports.draws import LAYOUT, DrawsStore, write_netcdf

SIZES = {"chain": 2, "draw": 8, "latent": 3}
N_USERS = 7
BATCH = 3
SETTINGS: dict[str, Any] = {"seed": 1, "sampler.draws": 10, "sampler.kernel": {"n_leapfrog": 6.0}}
ATTRIBUTES: dict[str, str | float] = {"kernel": "HMC", "likelihood_power": 5.0}
IDS = np.array([7, 2**53 + 1, -3, 4, 5, 6, 0])
NAMES = np.array(["a", "ü", "", "d 4", "5", "f,6", "g"], dtype=object)


def arrays_of(number: int, *, keep_draws: bool = True) -> dict[str, np.ndarray]:
    """What a batch would hold; the last batch has one user."""
    rng = np.random.default_rng(number)
    n_users = min(BATCH, N_USERS - BATCH * number)
    found = {}
    for name, (_, axes) in LAYOUT.items():
        values = rng.normal(size=[n_users if axis == "user" else SIZES[axis] for axis in axes])
        kind = {"diverging": np.uint8, "divergences": np.int64, "invalid": np.int64}.get(name, np.float32)
        found[name] = (values > 0).astype(kind) if kind != np.float32 else values.astype(kind)
    if not keep_draws:
        del found["z"]
    return found


def whole(name: str) -> np.ndarray:
    axis = LAYOUT[name][1].index("user")
    return np.concatenate([arrays_of(number)[name] for number in range(3)], axis=axis)


def read(path: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):
        import arviz

        return arviz.from_netcdf(path).load()


def store_of(output: Path, *, resume: bool = False, **changed: Any) -> DrawsStore:
    return DrawsStore(output, {**SETTINGS, **changed}, resume=resume)


def make(number: int, made: list[int]) -> Callable[[], dict[str, np.ndarray]]:
    def made_up() -> dict[str, np.ndarray]:
        made.append(number)
        return arrays_of(number)

    return made_up


def run(output: Path, *, resume: bool = False, ids: np.ndarray = IDS) -> list[int]:
    """Make every batch, and the file; returns the batches that were made."""
    made: list[int] = []
    with store_of(output, resume=resume) as store:
        for number in range(3):
            store.batch(number, make(number, made))
        store.finalize(3, ids, ATTRIBUTES)
    return made


def interrupt(output: Path, at: int, error: BaseException) -> None:
    def fail() -> dict[str, np.ndarray]:
        raise error

    with store_of(output) as store:
        for number in range(at):
            store.batch(number, make(number, []))
        with pytest.raises(type(error)):
            store.batch(at, fail)


@pytest.mark.parametrize("ids", [IDS, NAMES, IDS.astype(np.int32)], ids=["int64", "text", "int32"])
def test_arviz_reads_what_was_written(tmp_path, ids) -> None:
    path = tmp_path / "draws.nc"
    assert run(path, ids=ids) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]
    data = read(path)
    assert set(data.groups()) == {"posterior", "sample_stats"}
    for name, (group, axes) in LAYOUT.items():
        found = getattr(data, group)[name]
        assert found.dims == axes
        np.testing.assert_array_equal(found.to_numpy(), whole(name))
        assert found.dtype == whole(name).dtype
    assert data.posterior["user"].to_numpy().tolist() == ids.tolist()
    assert data.sample_stats["user"].to_numpy().tolist() == ids.tolist()
    np.testing.assert_array_equal(data.posterior["z"].sel(user=ids[4]), whole("z")[:, :, 4])
    assert data.attrs["kernel"] == "HMC"
    assert data.attrs["likelihood_power"] == 5.0


def test_arviz_finds_the_same_diagnostics(tmp_path) -> None:
    """It takes z for draws of chains, along the same axes."""
    import torch

    from recsys_vae.samplers.diagnostics import ess_bulk

    path = tmp_path / "draws.nc"
    run(path)
    with warnings.catch_warnings(action="ignore"):
        import arviz

        found = arviz.ess(read(path).posterior, method="bulk")["z"].to_numpy()
    expected = ess_bulk(torch.from_numpy(whole("z")).transpose(0, 1).double()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_draws_there_are_only_statistics(tmp_path) -> None:
    path = tmp_path / "draws.nc"
    write_netcdf(path, iter([arrays_of(number, keep_draws=False) for number in range(3)]), IDS, ATTRIBUTES)
    data = read(path)
    assert data.groups() == ["sample_stats"]
    np.testing.assert_array_equal(data.sample_stats["mean"].to_numpy(), whole("mean"))
    assert data.sample_stats["user"].to_numpy().tolist() == IDS.tolist()


@pytest.mark.parametrize("n_users", [6, 8])
def test_another_number_of_users_is_an_error_and_leaves_the_old_file(tmp_path, n_users) -> None:
    path = tmp_path / "draws.nc"
    path.write_bytes(b"old")
    with store_of(path) as store:
        for number in range(3):
            store.batch(number, make(number, []))
        with pytest.raises((ValueError, TypeError, IndexError)):
            store.finalize(3, np.arange(n_users), ATTRIBUTES)
    assert path.read_bytes() == b"old"
    assert store.folder.is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("power cut")])
def test_an_interrupted_run_keeps_what_is_finished_and_ends_the_same(tmp_path, error) -> None:
    interrupt(tmp_path / "a.nc", 2, error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc.partial"]
    assert run(tmp_path / "a.nc", resume=True) == [2]
    run(tmp_path / "b.nc")
    first, second = read(tmp_path / "a.nc"), read(tmp_path / "b.nc")
    for name, (group, _) in LAYOUT.items():
        assert first[group][name].equals(second[group][name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "b.nc"]


def test_a_batch_reads_as_it_was_made(tmp_path) -> None:
    with store_of(tmp_path / "a.nc") as store:
        first = store.batch(0, lambda: {name: np.asfortranarray(v) for name, v in arrays_of(0).items()})
    with store_of(tmp_path / "a.nc", resume=True) as store:
        again = store.batch(0, lambda: pytest.fail("made again"))
    for name, values in arrays_of(0).items():
        np.testing.assert_array_equal(first[name], values)
        np.testing.assert_array_equal(again[name], values)
        assert first[name].dtype == again[name].dtype == values.dtype


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise"])
def test_a_damaged_batch_is_made_anew(tmp_path, damage) -> None:
    interrupt(tmp_path / "a.nc", 2, KeyboardInterrupt())
    path = tmp_path / "a.nc.partial" / "batch-000001.safetensors"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-5], "empty": b"", "noise": b"\xff" * len(content)}[damage])
    assert run(tmp_path / "a.nc", resume=True) == [1, 2]
    np.testing.assert_array_equal(read(tmp_path / "a.nc").posterior["z"].to_numpy(), whole("z"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 2}, "seed differs"),
        ({"sampler.kernel": {"n_leapfrog": 7.0}}, r"sampler\.kernel differs"),
        ({"seed": 2, "sampler.draws": 20}, r"sampler\.draws, seed differ"),
        ({"new": 1}, "new differs"),
    ],
)
def test_other_settings_do_not_go_on(tmp_path, changed, said) -> None:
    interrupt(tmp_path / "a.nc", 1, KeyboardInterrupt())
    with pytest.raises(UserError, match=f"^resume: expected the settings of the interrupted run, .*{said}"):
        store_of(tmp_path / "a.nc", resume=True, **changed)
    assert run(tmp_path / "a.nc", resume=True) == [1, 2]


def test_a_setting_that_is_gone_is_named(tmp_path) -> None:
    interrupt(tmp_path / "a.nc", 1, KeyboardInterrupt())
    fewer = {name: value for name, value in SETTINGS.items() if name != "seed"}
    with pytest.raises(UserError, match=r"^resume: .*seed differs"):
        DrawsStore(tmp_path / "a.nc", fewer, resume=True)


def test_nothing_to_resume_and_something_in_the_way(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^resume: nothing to resume, .*a\.nc\.partial holds no interrupted"):
        store_of(tmp_path / "a.nc", resume=True)
    assert list(tmp_path.iterdir()) == []
    interrupt(tmp_path / "a.nc", 1, KeyboardInterrupt())
    with pytest.raises(UserError, match=r"^output: .*a\.nc\.partial holds an interrupted run; .*resume=true"):
        store_of(tmp_path / "a.nc")
    assert (tmp_path / "a.nc.partial" / "batch-000000.safetensors").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"sha256": 1}', b"\xff\xfe"])
def test_an_unreadable_record_of_the_settings(tmp_path, content) -> None:
    interrupt(tmp_path / "a.nc", 1, KeyboardInterrupt())
    (tmp_path / "a.nc.partial" / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^resume: .*settings\.json"):
        store_of(tmp_path / "a.nc", resume=True)


def test_the_settings_can_be_read_by_people(tmp_path) -> None:
    with store_of(tmp_path / "a.nc"):
        record = json.loads((tmp_path / "a.nc.partial" / "settings.json").read_text())
    assert record["settings"] == SETTINGS


def test_a_run_that_drew_nothing_binds_nobody(tmp_path) -> None:
    """Such as one whose settings no batch can be drawn with: the command is corrected and given again."""
    interrupt(tmp_path / "a.nc", 0, RuntimeError("no such posterior"))
    assert list(tmp_path.iterdir()) == []
    # Killed, it could not clean up: neither another setting nor resume=true is refused.
    for resume in (False, True):
        (tmp_path / "a.nc.partial").mkdir()
        (tmp_path / "a.nc.partial" / "settings.json").write_text("{}")
        with store_of(tmp_path / "a.nc", seed=7, resume=resume):
            pass
        assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_one_file(tmp_path) -> None:
    with store_of(tmp_path / "a.nc") as store:
        store.batch(0, make(0, []))
        for resume in (False, True):
            with pytest.raises(UserError, match=r"^output: .*a\.nc\.partial is held by another process"):
                store_of(tmp_path / "a.nc", resume=resume)
    (tmp_path / "b.nc.partial").write_text("in the way")
    with pytest.raises(UserError, match=r"^output: .*b\.nc\.partial cannot be written"):
        store_of(tmp_path / "b.nc")


def test_an_old_file_is_replaced_when_the_new_one_is_whole(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.nc"
    path.write_bytes(b"old")

    def full_disk(*arguments: object) -> Iterator[None]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with store_of(path) as store:
        for number in range(3):
            store.batch(number, make(number, []))
        assert path.read_bytes() == b"old"
        monkeypatch.setattr(draws, "write_netcdf", full_disk)
        with pytest.raises(UserError, match=r"^output: no space left on the device while writing .*a\.nc$"):
            store.finalize(3, IDS, ATTRIBUTES)
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    assert run(path, resume=True) == []
    assert read(path).posterior["z"].shape == (2, 8, 7, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_while_a_batch_is_kept(tmp_path, monkeypatch) -> None:
    def full_disk(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with store_of(tmp_path / "a.nc") as store:
        store.batch(0, make(0, []))
        monkeypatch.setattr(draws, "save_file", full_disk)
        with pytest.raises(UserError, match=r"^output: no space left on the device"):
            store.batch(1, make(1, []))
    monkeypatch.undo()
    assert {path.name for path in store.folder.iterdir()} == {
        ".lock",
        "settings.json",
        "batch-000000.safetensors",
    }
    assert run(tmp_path / "a.nc", resume=True) == [1, 2]
