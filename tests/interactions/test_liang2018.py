"""The split of Liang et al. (2018), against the steps of their notebook written over a pandas table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.stages import filter_ratings, load_ratings, split_interactions
from recsys_vae.errors import UserError
from recsys_vae.interactions import Liang2018

N_HELD_OUT = 25


def made_up_ratings(path: Path, seed: int = 3) -> Path:
    """A ratings.csv as in ml-20m: half stars, rare movies, users with few ratings, ordered by user, then movie."""
    generator = np.random.default_rng(seed)
    lines = []
    movies = np.sort(generator.choice(np.arange(1, 5000), 400, replace=False))
    popularity = 1.0 / np.arange(1, 401) ** 0.7
    for user in np.sort(generator.choice(np.arange(1, 2000), 200, replace=False)):
        n = int(generator.integers(2, 25))
        taken = np.sort(generator.choice(movies, n, replace=False, p=popularity / popularity.sum()))
        for movie in taken:
            rating = generator.choice([0.5, 1.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0])
            lines.append((user, movie, rating, 1_100_000_000 + len(lines)))
    table = pd.DataFrame(lines, columns=["userId", "movieId", "rating", "timestamp"])
    table.to_csv(path, index=False)
    return path


def paper_preparation(path: Path, seed: int, n_held_out: int) -> dict[str, set[tuple[int, int]]]:
    """The notebook's steps: one table for each part, as pairs."""
    raw = pd.read_csv(path)
    raw = raw[raw["rating"] > 3.5]
    sizes = raw.groupby("userId").size()
    raw = raw[raw["userId"].isin(sizes.index[sizes >= 5])]
    ids = np.array(sorted(raw["userId"].unique()))
    np.random.seed(seed)  # noqa: NPY002  # the global generator is what the notebook uses
    ids = ids[np.random.permutation(ids.size)]  # noqa: NPY002
    groups = {
        "train": ids[: ids.size - 2 * n_held_out],
        "validation": ids[ids.size - 2 * n_held_out : ids.size - n_held_out],
        "test": ids[ids.size - n_held_out :],
    }
    plays = raw[raw["userId"].isin(groups["train"])]
    movies = plays["movieId"].unique()
    parts = {"train": set(zip(plays["userId"], plays["movieId"], strict=True))}
    for name in ("validation", "test"):
        plays = raw[raw["userId"].isin(groups[name]) & raw["movieId"].isin(movies)]
        np.random.seed(seed)  # noqa: NPY002
        parts[f"{name}.history"], parts[f"{name}.target"] = set(), set()
        for user, group in plays.groupby("userId"):
            n = len(group)
            chosen = np.zeros(n, bool)
            if n >= 5:
                chosen[np.random.choice(n, size=int(0.2 * n), replace=False)] = True  # noqa: NPY002
            for kind, mask in (("history", ~chosen), ("target", chosen)):
                parts[f"{name}.{kind}"] |= {(user, movie) for movie in group["movieId"][mask]}
    return parts


def prepared(path: Path, *overrides: str):
    given = {"split.n_validation_users": str(N_HELD_OUT), "split.n_test_users": str(N_HELD_OUT)}
    given |= dict(override.split("=") for override in overrides)
    arguments = ["experiment=ml20m_liang2018", "dataset=table", f"dataset.path={path}"]
    config = compose_config("train", [*arguments, *(f"{key}={value}" for key, value in given.items())])
    return split_interactions(config, filter_ratings(config, load_ratings(config)).interactions)


def any_counts() -> list[str]:
    return [f"split.expected_{what}=0" for what in ("users", "items", "interactions")]


def pairs(matrix, user_ids, item_ids) -> set[tuple[int, int]]:
    entries = matrix.tocoo()
    return set(zip(user_ids[entries.row].tolist(), item_ids[entries.col].tolist(), strict=True))


def parts_of(split) -> dict[str, set[tuple[int, int]]]:
    items = split.train.item_ids
    found = {"train": pairs(split.train.matrix, split.train.user_ids, items)}
    for name in ("validation", "test"):
        part = getattr(split, name)
        for kind in ("history", "target"):
            found[f"{name}.{kind}"] = pairs(getattr(part, kind), part.user_ids, items)
    return found


@pytest.mark.parametrize("seed", [98765, 7])
def test_the_parts_are_those_of_the_notebook(tmp_path, seed) -> None:
    path = made_up_ratings(tmp_path / "ratings.csv")
    split = prepared(path, f"split.seed={seed}", *any_counts())
    assert parts_of(split) == paper_preparation(path, seed, N_HELD_OUT)
    assert split.validation.n_users == split.test.n_users == N_HELD_OUT
    # The files must have what makes the code's rules differ from simpler ones: rare movies, users without a target.
    assert split.manifest["dropped"]["items_without_training_users"] > 0
    assert (np.diff(split.test.target.indptr) == 0).any()


def test_the_seed_of_the_model_does_not_move_the_split(tmp_path) -> None:
    path = made_up_ratings(tmp_path / "ratings.csv")
    digests = {prepared(path, f"seed={seed}", *any_counts()).sha256 for seed in (1, 2)}
    assert len(digests) == 1


def test_the_published_counts_are_in_the_experiment() -> None:
    config = compose_config("train", ["experiment=ml20m_liang2018"])
    assert config.dataset.name == "ml-20m"
    expected = [config.split[f"expected_{what}"] for what in ("users", "items", "interactions")]
    assert expected == [136_677, 20_108, 9_990_682]
    assert (config.split.seed, config.split.n_validation_users, config.split.n_test_users) == (
        98765,
        10_000,
        10_000,
    )


def test_other_counts_are_refused(tmp_path) -> None:
    path = made_up_ratings(tmp_path / "ratings.csv")
    with pytest.raises(UserError, match=r"split.expected_users=136677: came \d+ users"):
        prepared(path)
    split = prepared(path, *any_counts())
    n_users = split.train.n_users + 2 * N_HELD_OUT
    frame = pd.read_csv(path)
    kept = frame[frame["rating"] > 3.5].groupby("userId").size()
    true = {"users": n_users, "items": split.train.n_items, "interactions": int(kept[kept >= 5].sum())}
    given = [f"split.expected_{what}={count}" for what, count in true.items()]
    assert prepared(path, *given).sha256 == split.sha256
    for what, count in true.items():
        wrong = [f"split.expected_{name}={number + (name == what)}" for name, number in true.items()]
        with pytest.raises(UserError, match=f"split.expected_{what}={count + 1}: came {count} {what}"):
            prepared(path, *wrong)


def test_counts_of_a_real_table(shared_data) -> None:
    path = shared_data / "ml-1m.parquet"
    ratings = pd.read_parquet(path)
    liked = ratings[ratings["rating"] > 3.5]
    sizes = liked.groupby("user_id").size()
    liked = liked[liked["user_id"].isin(sizes.index[sizes >= 5])]
    counts = [
        f"split.expected_users={liked['user_id'].nunique()}",
        f"split.expected_interactions={len(liked)}",
        "split.expected_items=0",
    ]
    split = prepared(path, "split.n_validation_users=600", "split.n_test_users=600", *counts)
    assert split.train.n_users == liked["user_id"].nunique() - 1200
    vocabulary = liked[liked["user_id"].isin(split.train.user_ids)]["item_id"]
    assert split.train.n_items == vocabulary.nunique()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"split.seed=-1: expected a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, r"split.seed=4294967296"),
        ({"n_test_users": 0}, r"split.n_test_users=0: expected a whole number from 1"),
        ({"target_fraction": 1.0}, r"split.target_fraction=1.0"),
        ({"expected_items": -5}, r"split.expected_items=-5: expected a whole number from 0"),
    ],
)
def test_bad_settings(arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        Liang2018(**arguments)


def test_too_few_users(tmp_path) -> None:
    path = made_up_ratings(tmp_path / "ratings.csv")
    with pytest.raises(UserError, match=r"split.n_validation_users=100 .* one of them to train on"):
        prepared(path, *any_counts(), "split.n_validation_users=100", "split.n_test_users=100")
