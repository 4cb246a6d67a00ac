import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.interactions import (
    Interactions,
    LeaveLastOut,
    StrongGeneralisation,
    Temporal,
    filter_ratings,
    read_table,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SPLITS = {
    "strong": lambda seed: StrongGeneralisation(seed=seed, n_validation_users=2, n_test_users=1),
    "last": lambda seed: LeaveLastOut(seed=seed),
    "temporal": lambda seed: Temporal(0.2, 0.3),
}


def interactions_of(entries, *, text_ids=False):
    """Interactions from a dictionary from (user, item) to time; item ids are 100 + item, titles say so."""
    pairs = sorted(entries)
    users, rows = np.unique([user for user, _ in pairs], return_inverse=True)
    items, columns = np.unique([item for _, item in pairs], return_inverse=True)
    matrix = csr_array((np.arange(1, len(pairs) + 1, dtype=np.float32), (rows, columns)))
    matrix.sort_indices()
    user_ids, item_ids = users.astype(np.int64), items.astype(np.int64) + 100
    return Interactions(
        matrix=matrix,
        user_ids=user_ids.astype(str).astype(object) if text_ids else user_ids,
        item_ids=item_ids,
        timestamps=np.array([entries[pair] for pair in pairs], np.float64),
        titles=np.array([f"title of {item}" for item in item_ids], object),
    )


def pairs_of(matrix, user_ids, item_ids):
    """The entries of a matrix as a set of (user id, item id)."""
    entries = matrix.tocoo()
    assert matrix.has_canonical_format
    assert matrix.shape == (len(user_ids), len(item_ids))
    return set(zip(user_ids[entries.row].tolist(), item_ids[entries.col].tolist(), strict=True))


def parts_of(split):
    items = split.train.item_ids
    parts = {"train": pairs_of(split.train.matrix, split.train.user_ids, items)}
    for name in ("validation", "test"):
        part = getattr(split, name)
        parts |= {
            f"{name}.{kind}": pairs_of(getattr(part, kind), part.user_ids, items)
            for kind in ("history", "target")
        }
    return parts


ENTRIES = st.dictionaries(
    st.tuples(st.integers(0, 8), st.integers(0, 11)), st.integers(0, 12).map(float), min_size=12, max_size=70
)


def split_or_none(make, interactions):
    """Random data may be too small for a split, which must say so in a UserError and in no other way."""
    try:
        return make(interactions)
    except UserError:
        return None


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=40, deadline=None)
@given(entries=ENTRIES, seed=st.integers(0, 2**63 - 1))
def test_laws_of_every_split(name, entries, seed):
    interactions = interactions_of(entries)
    split = split_or_none(SPLITS[name](seed), interactions)
    if split is None:
        return
    everything = {(user, item + 100) for user, item in entries}
    parts = parts_of(split)
    # The vocabulary is that of training, no more and no less.
    assert set(split.train.item_ids.tolist()) == {item for _, item in parts["train"]}
    assert np.all(np.diff(split.train.item_ids) > 0)
    for part in ("validation", "test"):
        assert not parts[f"{part}.history"] & parts[f"{part}.target"]
        assert not parts["train"] & parts[f"{part}.target"]
        assert np.all(np.diff(getattr(split, part).user_ids) > 0)
    assert not parts["validation.target"] & parts["test.target"]
    assert set().union(*parts.values()) <= everything
    # Weights, times and titles of the training part are those of the same pairs before.
    before = interactions.matrix.tocoo()
    known = {
        (interactions.user_ids[row], interactions.item_ids[column]): (weight, time)
        for row, column, weight, time in zip(
            before.row, before.col, before.data, interactions.timestamps, strict=True
        )
    }
    after = split.train.matrix.tocoo()
    for row, column, weight, time in zip(
        after.row, after.col, after.data, split.train.timestamps, strict=True
    ):
        assert known[split.train.user_ids[row], split.train.item_ids[column]] == (weight, time)
    assert split.train.titles.tolist() == [f"title of {item}" for item in split.train.item_ids]
    # The manifest tells what is there, in JSON.
    counts = json.loads(json.dumps(split.manifest))["counts"]
    assert counts["train"] == {
        "users": split.train.n_users,
        "items": split.train.n_items,
        "interactions": len(parts["train"]),
    }
    for part in ("validation", "test"):
        assert counts[part]["history"] == len(parts[f"{part}.history"])
        assert counts[part]["target"] == len(parts[f"{part}.target"])
        assert counts[part]["users_with_target"] == len({user for user, _ in parts[f"{part}.target"]})


@settings(max_examples=40, deadline=None)
@given(ENTRIES, st.integers(0, 2**32), st.floats(0.01, 0.99))
def test_strong_generalisation_loses_only_unknown_items(entries, seed, target_fraction):
    interactions = interactions_of(entries)
    make = StrongGeneralisation(seed, n_validation_users=2, n_test_users=1, target_fraction=target_fraction)
    split = split_or_none(make, interactions)
    if split is None:
        return
    everything = {(user, item + 100) for user, item in entries}
    parts, vocabulary = parts_of(split), set(split.train.item_ids.tolist())
    assert split.validation.n_users == 2
    assert split.test.n_users == 1
    users = [set(part.user_ids.tolist()) for part in (split.train, split.validation, split.test)]
    assert sum(map(len, users)) == len(set().union(*users)) == interactions.n_users
    lost = everything - set().union(*parts.values())
    held_out = {pair for pair in everything if pair[0] not in users[0]}
    assert lost == {pair for pair in held_out if pair[1] not in vocabulary}
    assert split.manifest["dropped"]["interactions_with_those_items"] == len(lost)
    for part in ("validation", "test"):
        sizes = (np.diff(getattr(getattr(split, part), kind).indptr) for kind in ("history", "target"))
        for n_history, n_target in zip(*sizes, strict=True):
            n_items = n_history + n_target
            expected = max(1, int(target_fraction * n_items + 1e-9)) if n_items >= 2 else 0
            assert n_target == expected


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=40, deadline=None)
@given(entries=ENTRIES, seed=st.integers(0, 10))
def test_the_same_seed_gives_the_same_split(name, entries, seed):
    interactions = interactions_of(entries)
    first, second = (split_or_none(SPLITS[name](seed), interactions) for _ in range(2))
    if first is not None:
        assert first.sha256 == second.sha256
        assert parts_of(first) == parts_of(second)


@pytest.mark.parametrize("name", ["strong", "last"])
def test_another_seed_gives_another_split(name):
    entries = {(user, item): float(item // 4) for user in range(9) for item in range(12)}
    digests = {SPLITS[name](seed)(interactions_of(entries)).sha256 for seed in range(20)}
    assert len(digests) == 20


def test_the_order_of_the_file_does_not_matter(tmp_path):
    random = np.random.default_rng(0)
    lines = [
        f"u{user},i{item},{random.integers(0, 50)}\n"
        for user in range(30)
        for item in random.permutation(40)[:12]
    ]
    digests = set()
    for _ in range(3):
        path = tmp_path / "a.csv"
        path.write_text("user,item,timestamp\n" + "".join(random.permutation(lines)))
        interactions = filter_ratings(read_table(path)).interactions
        digests.add(
            tuple(make(interactions).sha256 for make in (StrongGeneralisation(3), LeaveLastOut(), Temporal()))
        )
    assert len(digests) == 1


def test_users_are_held_out_equally_often():
    """Every user is as likely as another to be tested on, and every item to be a target."""
    entries = {(user, item): 0.0 for user in range(10) for item in range(10)}
    interactions = interactions_of(entries)
    tested, targets, repeats = np.zeros(10), np.zeros(10), 600
    for seed in range(repeats):
        split = StrongGeneralisation(seed, n_validation_users=1, n_test_users=1)(interactions)
        tested[split.test.user_ids] += 1
        targets[split.test.target.indices] += 1
    # Binomial with n = 600 and p = 0.1 (users), 0.2 (items): 4.5 standard deviations, 20 comparisons.
    assert np.abs(tested / repeats - 0.1).max() < 4.5 * np.sqrt(0.1 * 0.9 / repeats)
    assert np.abs(targets / repeats - 0.2).max() < 4.5 * np.sqrt(0.2 * 0.8 / repeats)


def test_leave_last_out_follows_the_times():
    entries = {
        (0, 0): 5,
        (0, 1): 1,
        (0, 2): 9,
        (0, 3): 2,
        (1, 2): 0,
        (1, 0): 1,
        (2, 3): 0,
        (2, 1): 2,
        (2, 0): 1,
    }
    split = LeaveLastOut()(interactions_of({pair: float(time) for pair, time in entries.items()}))
    # User 0: items 1, 3, then 0, then 2. User 2: items 3, then 0, then 1. User 1 has two items and trains only.
    assert parts_of(split) == {
        "train": {(0, 101), (0, 103), (1, 102), (1, 100), (2, 103)},
        "validation.history": {(0, 101), (0, 103), (2, 103)},
        "validation.target": {(0, 100), (2, 100)},
        "test.history": {(0, 101), (0, 103), (0, 100), (2, 103), (2, 100)},
        "test.target": {(0, 102), (2, 101)},
    }
    assert split.train.user_ids.tolist() == [0, 1, 2]
    assert split.test.user_ids.tolist() == [0, 2]


def test_temporal_cuts_everybody_at_the_same_times():
    times = {
        (0, 0): 0,
        (0, 1): 1,
        (1, 0): 2,
        (1, 2): 3,
        (0, 2): 6,
        (2, 1): 6,
        (1, 1): 7,
        (0, 3): 8,
        (3, 0): 4,
        (2, 2): 9,
    }
    split = Temporal(validation_fraction=0.3, test_fraction=0.2)(
        interactions_of({pair: float(time) for pair, time in times.items()})
    )
    assert split.manifest["parameters"]["validation_from"] == 6
    assert split.manifest["parameters"]["test_from"] == 8
    # Item 3 is unknown before time 6, so user 0 has no test target; user 2 has no history in validation.
    assert parts_of(split) == {
        "train": {(0, 100), (0, 101), (1, 100), (1, 102), (3, 100)},
        "validation.history": {(0, 100), (0, 101), (1, 100), (1, 102)},
        "validation.target": {(0, 102), (1, 101)},
        "test.history": {(2, 101)},
        "test.target": {(2, 102)},
    }
    assert split.train.user_ids.tolist() == [0, 1, 3]
    assert split.manifest["dropped"]["users"] == {
        "validation_without_history_or_target": 1,
        "test_without_history_or_target": 1,
    }


def plain_digest(split):
    """The digest, from its description and without arrays."""
    digest = hashlib.sha256(b"recsys-vae split 1")

    def integers(values):
        digest.update(struct.pack(f"<{len(values) + 1}q", len(values), *values))

    for part in (split.train.user_ids, split.train.item_ids, split.validation.user_ids, split.test.user_ids):
        ids = part.tolist()
        if all(isinstance(value, int) for value in ids):
            digest.update(b"integers")
            integers(ids)
        else:
            digest.update(b"strings")
            integers([len(value.encode()) for value in ids])
            digest.update("".join(ids).encode())
    held_out = (split.validation.history, split.validation.target, split.test.history, split.test.target)
    for matrix in (split.train.matrix, *held_out):
        integers(matrix.indptr.tolist())
        integers(matrix.indices.tolist())
    return digest.hexdigest()


GOLDEN = {
    "strong": "839b4485334cf8488975bcf4ec9ae637392a9924abf57b6ba068d4280e941ce3",
    "last": "bf38ed5a36f1be3b274d3d7e74ddab3c68b590b7c00b4f7fe50ccb51af307bbc",
    "temporal": "8bf47c9b85ddf0b237e3e2469f97f06abdeab052106ef05bb562cd0b7a739338",
    "strong, text ids": "7f37efeba496cd926f0ae01432a2440fdbc4925db63caf64037efe5f2e63225a",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_digests_never_change(name):
    """Should this fail, published splits could no longer be repeated: mend the code, not the digests."""
    entries = {
        (user, item): float((7 * user + 3 * item) % 11) for user in range(10) for item in range(user % 7 + 2)
    }
    interactions = interactions_of(entries, text_ids="text" in name)
    split = SPLITS[name.split(",")[0]](42)(interactions)
    assert split.sha256 == GOLDEN[name] == plain_digest(split)


def test_weights_have_a_digest_of_their_own():
    """Equal pairs are one split whatever they weigh, and a resumed run still notices other weights."""
    plain = interactions_of({(user, item): 0.0 for user in range(10) for item in range(6)})
    splits = []
    for weights in (np.ones(60), np.full(60, 2.0), np.full(60, 3.0)):
        matrix = plain.matrix.copy()
        matrix.data = weights.astype(np.float32)
        splits.append(SPLITS["strong"](1)(Interactions(matrix, plain.user_ids, plain.item_ids)))
    assert len({split.sha256 for split in splits}) == 1
    digests = [split.manifest.get("weights_sha256") for split in splits]
    assert digests[0] is None
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StrongGeneralisation(seed=-1), r"split\.seed=-1: expected a whole number from 0"),
        (lambda: StrongGeneralisation(n_test_users=0), r"split\.n_test_users=0: expected a fraction"),
        (lambda: StrongGeneralisation(n_test_users=1.0), r"split\.n_test_users=1\.0: expected a fraction"),
        (lambda: StrongGeneralisation(n_validation_users=-0.1), r"split\.n_validation_users=-0\.1: expected"),
        (lambda: StrongGeneralisation(target_fraction=float("nan")), r"split\.target_fraction=nan: expected"),
        (lambda: LeaveLastOut(seed=2**63), r"split\.seed=9223372036854775808: expected"),
        (lambda: Temporal(test_fraction=0.0), r"split\.test_fraction=0\.0: expected a fraction"),
        (lambda: Temporal(0.5, 0.5), r"split\.validation_fraction=0\.5 .*: expected a sum below 1"),
    ],
)
def test_bad_parameters_are_one_line(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_data_that_cannot_be_split():
    small = interactions_of({(user, item): 0.0 for user in range(4) for item in range(2)})
    for make, message in [
        (
            StrongGeneralisation(0, 2, 2),
            r"n_validation_users=2 with n_test_users=2 needs 5 users.*there are 4",
        ),
        (StrongGeneralisation(0, 0.1, 1), r"split\.n_validation_users=0\.1 of 4 users is none"),
        (LeaveLastOut(), r"needs users with at least 3 items; the most is 2"),
        (Temporal(), r"leaves nobody in validation"),
    ]:
        with pytest.raises(UserError, match=message):
            make(small)
    timeless = Interactions(small.matrix, small.user_ids, small.item_ids)
    for make, name in [(LeaveLastOut(), "leave_last_out"), (Temporal(), "temporal")]:
        with pytest.raises(UserError, match=f"split={name}: expected interactions with times"):
            make(timeless)


@pytest.mark.parametrize("name", ["strong_generalisation", "leave_last_out", "temporal"])
def test_the_configuration_builds_the_split(name):
    config = OmegaConf.create({"seed": 5, "split": OmegaConf.load(CONFIGS / "split" / f"{name}.yaml")})
    split = instantiate(config.split)
    assert (
        split
        == {
            "strong_generalisation": StrongGeneralisation(seed=5),
            "leave_last_out": LeaveLastOut(seed=5),
            "temporal": Temporal(),
        }[name]
    )
