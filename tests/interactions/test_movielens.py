from __future__ import annotations

import hashlib
import io
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from http_file_server import FileServer, serving
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError
from recsys_vae.interactions import movielens as movielens_module
from recsys_vae.interactions.movielens import MovieLens
from recsys_vae.interactions.ratings import to_interactions
from recsys_vae.interactions.ratings_table import RatingsTable
from recsys_vae.interactions.recipe import Counts, Recipe, load_recipe

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
DOWNLOADED = ["ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m"]

# user, item, rating, timestamp; in every format, with two users and three of the four items below.
RATINGS = [(7, 1, 5, 978300760), (7, 30, 3, 978302109), (2, 1, 4, 978301968), (2, 4, 1, 978300275)]
TITLES = {
    1: "Misérables, Les (1995)",
    4: 'Truth, "Lies" & Vidéo (1989)',
    9: "Never Rated (2000)",
    30: "Double::Colon::Film (1999)",
}
GENRES = {1: "Drama|Musical", 4: "Action", 9: "War", 30: None}


def item_file(recipe: Recipe) -> str:
    quoted = {item: '"' + title.replace('"', '""') + '"' for item, title in TITLES.items()}
    if recipe.format == "csv":
        rows = [f"{item},{quoted[item]},{GENRES[item] or '(no genres listed)'}" for item in TITLES]
        return "\r\n".join(["movieId,title,genres", *rows]) + "\r\n"
    if recipe.format == "double_colon":
        return "".join(f"{item}::{title}::{GENRES[item] or ''}\n" for item, title in TITLES.items())
    flags = {"Drama|Musical": (8, 12), "Action": (1,), "War": (17,), None: (0,)}
    return "".join(
        f"{item}|{title}|01-Jan-1995||http://us.imdb.com/M/title-exact?x|"
        + "|".join("1" if place in flags[GENRES[item]] else "0" for place in range(19))
        + "\n"
        for item, title in TITLES.items()
    )


def ratings_file(recipe: Recipe) -> str:
    mark = {"csv": ",", "double_colon": "::", "tab": "\t"}[recipe.format]
    half = recipe.name != "ml-100k" and recipe.name != "ml-1m"  # the older ones have whole stars only
    rows = [mark.join(str(v) for v in (u, i, r + 0.5 if half else r, t)) for u, i, r, t in RATINGS]
    return "".join(f"{row}\n" for row in (["userId,movieId,rating,timestamp"] if mark == "," else []) + rows)


def files(recipe: Recipe) -> dict[str, bytes]:
    assert recipe.readme_file
    return {
        recipe.ratings_file: ratings_file(recipe).encode(),
        recipe.items_file: item_file(recipe).encode(recipe.encoding),
        recipe.readme_file: b"terms",
    }


def zipped(recipe: Recipe, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{recipe.folder}/", b"")
        for name, content in {**files(recipe), "tags.csv": b"x" * 999, **more}.items():
            file.writestr(f"{recipe.folder}/{name}", content)
    return buffer.getvalue()


def small(name: str, **changes: object) -> tuple[Recipe, bytes]:
    """The recipe of a dataset as published, made to fit a small archive in the same format."""
    recipe = replace(load_recipe(name), counts=Counts(users=2, items=3, ratings=4), embedded=None)
    archive = zipped(recipe)
    recipe = replace(recipe, checksum="md5:" + hashlib.md5(archive).hexdigest())
    return replace(recipe, **changes), archive  # type: ignore[arg-type]


def check(table: RatingsTable, recipe: Recipe) -> None:
    assert table.source == recipe.name
    assert table.user_ids.tolist() == [2, 7]
    assert table.item_ids.tolist() == [1, 4, 30]
    assert table.ratings is not None
    assert table.timestamps is not None
    assert table.titles is not None
    assert table.genres is not None
    half = 0.0 if recipe.name in ("ml-100k", "ml-1m") else 0.5
    rows = zip(
        table.user_ids[table.user_codes].tolist(),
        table.item_ids[table.item_codes].tolist(),
        (table.ratings - half).tolist(),
        table.timestamps.tolist(),
        strict=True,
    )
    assert list(rows) == RATINGS
    assert table.titles.tolist() == [TITLES[1], TITLES[4], TITLES[30]]
    assert table.genres.tolist() == [GENRES[1], GENRES[4], None]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize("name", [*DOWNLOADED, "ml-latest-small"])
def test_first_use_downloads_and_the_second_does_not(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, archive = small(name)
    with serving(FileServer(archive)) as server:
        recipe = replace(recipe, url=server.url)
        check(MovieLens(name, cache_dir=str(tmp_path / "c"), recipe=recipe).load(), recipe)
        shown = capsys.readouterr().err
        assert recipe.licence in shown
        assert f"{(recipe.size_bytes or 0) / 1e6:,.1f} MB" in shown
        check(MovieLens(name, cache_dir=str(tmp_path / "c"), recipe=recipe).load(), recipe)
        assert len(server.requests) == 1
        assert capsys.readouterr().err == ""  # once
    left = sorted(path.relative_to(tmp_path / "c").as_posix() for path in (tmp_path / "c").rglob("*"))
    kept = sorted(f"{name}/{file}" for file in files(recipe))
    assert left == [f".{name}.lock", name, *kept]


@pytest.mark.parametrize("name", DOWNLOADED)
def test_the_same_archive_from_elsewhere(name: str, tmp_path: Path) -> None:
    recipe, archive = small(name, url="http://127.0.0.1:1/unreachable")
    (tmp_path / "copy.bin").write_bytes(archive)
    with zipfile.ZipFile(tmp_path / "copy.bin") as file:
        file.extractall(tmp_path / "unpacked")
    with serving(FileServer(archive)) as server:
        sources = [
            (server.url, "a"),
            (str(tmp_path / "copy.bin"), "b"),
            (str(tmp_path / "unpacked"), "c"),
            (str(tmp_path / "unpacked" / recipe.folder), "c"),
        ]
        for source, cache in sources:
            check(MovieLens(name, source, str(tmp_path / cache), recipe).load(), recipe)
    assert (tmp_path / "copy.bin").read_bytes() == archive
    assert not (tmp_path / "c").exists()  # a folder is read where it lies


def test_two_at_once_download_once(tmp_path: Path) -> None:
    recipe, archive = small("ml-1m")
    tables: list[RatingsTable] = []
    with serving(FileServer(archive)) as server:
        recipe = replace(recipe, url=server.url)
        load = lambda: tables.append(MovieLens("ml-1m", None, str(tmp_path), recipe).load())  # noqa: E731
        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 1
    assert len(tables) == 3
    for table in tables:
        check(table, recipe)


def test_a_download_that_breaks_off_is_completed_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, archive = small("ml-1m")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving(FileServer(archive, script=[("cut", 100), *[("cut", 0)] * 9])) as server:
        recipe = replace(recipe, url=server.url)
        with pytest.raises(UserError, match=r"dataset\.source="):
            MovieLens("ml-1m", cache_dir=str(tmp_path), recipe=recipe).load()
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == [".ml-1m.lock", "ml-1m.zip.part", "ml-1m.zip.part.json"]
        server.script.clear()
        check(MovieLens("ml-1m", cache_dir=str(tmp_path), recipe=recipe).load(), recipe)
        assert server.ranges()[-1] == "bytes=100-"


def test_an_archive_left_by_an_interrupted_unpacking_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, archive = small("ml-1m")

    def stopped(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with serving(FileServer(archive)) as server:
        dataset = MovieLens("ml-1m", cache_dir=str(tmp_path), recipe=replace(recipe, url=server.url))
        with monkeypatch.context() as patch:
            patch.setattr(movielens_module, "extract", stopped)
            with pytest.raises(KeyboardInterrupt):
                dataset.load()
        assert (tmp_path / "ml-1m.zip").read_bytes() == archive
        check(dataset.load(), recipe)
        assert len(server.requests) == 1
        shutil.rmtree(tmp_path / "ml-1m")
        (tmp_path / "ml-1m.zip").write_bytes(archive[:-1])  # this one is not
        check(dataset.load(), recipe)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda recipe, place: replace(recipe, checksum="md5:" + "0" * 32),
            "expected md5 0+, came [0-9a-f]{32}",
        ),
        (
            lambda recipe, place: replace(recipe, counts=Counts(2, 3, 5)),
            "expected 5 ratings by 2 users of 3 items",
        ),
        (lambda recipe, place: replace(recipe, folder="ml-2m"), r"expected a file ml-2m/ratings\.dat"),
    ],
)
def test_another_archive_than_the_recipe_says(
    tmp_path: Path, change: Callable[[Recipe, Path], Recipe], message: str
) -> None:
    recipe, archive = small("ml-1m")
    (tmp_path / "copy.zip").write_bytes(archive)
    with pytest.raises(UserError, match=message):
        MovieLens("ml-1m", str(tmp_path / "copy.zip"), str(tmp_path / "c"), change(recipe, tmp_path)).load()
    assert (tmp_path / "copy.zip").read_bytes() == archive  # the user's own file is never deleted


def test_sources_that_are_nothing(tmp_path: Path) -> None:
    recipe, _ = small("ml-1m")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip", encoding="utf-8")
    for source, message in [
        ("absent.zip", r"dataset\.source=\S*absent\.zip: expected a zip file, a folder or a URL"),
        ("empty", r"dataset\.source=\S*empty: expected ratings\.dat and movies\.dat"),
        ("text.zip", r"dataset\.source=\S*text\.zip: expected md5"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            MovieLens("ml-1m", str(tmp_path / source), str(tmp_path / "c"), recipe).load()
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="expected a whole zip"):
        MovieLens("x", str(tmp_path / "text.zip"), str(tmp_path / "c"), replace(recipe, checksum=None)).load()
    with pytest.raises(UserError, match="it has no address"):
        MovieLens("x", None, str(tmp_path / "c"), replace(recipe, url=None)).load()
    with pytest.raises(UserError, match="did you mean 'ml-1m'"):
        MovieLens("ml-1")


def test_a_cache_that_cannot_be_written_to(tmp_path: Path) -> None:
    recipe, archive = small("ml-1m")
    (tmp_path / "copy.zip").write_bytes(archive)
    (tmp_path / "c").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="c: expected a folder that can be written to"):
        MovieLens("ml-1m", str(tmp_path / "copy.zip"), str(tmp_path / "c"), recipe).load()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ml-100k", b"1|Heat|||\n", r"u\.item, line 1: expected 24 fields between \|, came 5"),
        (
            "ml-1m",
            b"1::Heat::Action\n2:Heat\n",
            r"movies\.dat, line 2: expected id::title::genres, came '2:Heat'",
        ),
        ("ml-10m", "1::É::Action\n".encode("latin-1"), r"movies\.dat: expected text in utf-8"),
        ("ml-25m", b"movieId,title\n", r"movies\.csv, line 1: expected movieId,title,genres"),
        ("ml-25m", b"", r"movies\.csv, line 1: expected movieId,title,genres, came ''"),
        ("ml-25m", b"movieId,title,genres\n1,Heat\n", r"movies\.csv, line 2: expected 3 fields, came 2"),
        ("ml-25m", b'movieId,title,genres\n1,"Heat,a\n', r"movies\.csv: expected an item file"),
    ],
)
def test_a_damaged_item_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    recipe, _ = small(name)
    for file, whole in {**files(recipe), recipe.items_file: content}.items():
        (tmp_path / file).write_bytes(whole)
    with pytest.raises(UserError, match=message):
        MovieLens(name, str(tmp_path), recipe=recipe).load()


def filtered(table: RatingsTable) -> Counts:
    """Rating >= 4, then users with >= 5 items, counted with sets of pairs and nothing of the package."""
    assert table.ratings is not None
    liked = table.ratings >= 4
    pairs = set(zip(table.user_codes[liked].tolist(), table.item_codes[liked].tolist(), strict=True))
    per_user = np.bincount([user for user, _ in pairs])
    kept = [(user, item) for user, item in pairs if per_user[user] >= 5]
    return Counts(len({user for user, _ in kept}), len({item for _, item in kept}), len(kept))


@pytest.mark.parametrize("name", ["ml-latest-small", "tiny"])
def test_embedded_datasets_need_no_network_and_hold_what_is_recorded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movielens_module, "download", None)
    dataset = MovieLens(name)
    table = dataset.load()
    assert filtered(table) == dataset.recipe.after_filters
    interactions = to_interactions(table)
    came = Counts(interactions.n_users, interactions.n_items, interactions.matrix.nnz)
    assert came == dataset.recipe.after_filters
    assert table.titles is not None
    assert all(isinstance(title, str) and title for title in table.titles)


def test_embedded_titles() -> None:
    table = MovieLens("ml-latest-small").load()
    assert table.titles is not None
    assert table.genres is not None
    at = {identity: place for place, identity in enumerate(table.item_ids.tolist())}
    assert table.titles[at[11]] == "American President, The (1995)"
    assert table.titles[at[73]] == "Misérables, Les (1995)"
    assert table.genres[at[1]] == "Adventure|Animation|Children|Comedy|Fantasy"
    assert table.genres[at[114335]] is None  # (no genres listed)


def test_a_changed_embedded_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(bundled_path("data", "tiny"), tmp_path / "data" / "tiny")
    monkeypatch.setattr(movielens_module, "bundled_path", tmp_path.joinpath)
    MovieLens("tiny").load()
    content = bytearray((folder / "ratings.csv").read_bytes())
    content[-2] ^= 1
    (folder / "ratings.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"ratings\.csv: expected sha256 f25f"):
        MovieLens("tiny").load()
    (folder / "ratings.csv").unlink()
    with pytest.raises(UserError, match=r"ratings\.csv: expected a file of the package"):
        MovieLens("tiny").load()


@pytest.mark.parametrize("name", [*DOWNLOADED, "ml-latest-small", "tiny"])
def test_configs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECSYS_VAE_DATA", str(tmp_path))
    path = bundled_path("configs", "dataset", f"{name}.yaml")
    assert path.read_text(encoding="utf-8").startswith(f"# recsys-vae train dataset={name}\n")
    dataset = instantiate(OmegaConf.load(path))
    assert isinstance(dataset, MovieLens)
    assert dataset.recipe.name == name
    assert dataset.source is None
    assert dataset.cache_dir == tmp_path


def published(name: str, folder: Path) -> None:
    """Write the copy of a dataset that lies beside the repository in the format that GroupLens publishes."""
    if not (SHARED / f"{name}.parquet").is_file():
        pytest.skip(f"no {name}.parquet in ../shared/data")
    recipe = load_recipe(name)
    mark = {"tab": "\t", "double_colon": "::"}[recipe.format]
    table = pq.read_table(SHARED / f"{name}.parquet")
    times = "timestamp" if "timestamp" in table.column_names else "time_rank"
    columns = [table[c].to_pylist() for c in ("user_id", "item_id", "rating", times)]
    with (folder / recipe.ratings_file).open("w", encoding="ascii") as file:
        file.writelines(f"{u}{mark}{i}{mark}{r:.0f}{mark}{t}\n" for u, i, r, t in zip(*columns, strict=True))
    items = pq.read_table(SHARED / f"{name}.items.parquet")
    with (folder / recipe.items_file).open("w", encoding="utf-8") as file:
        for item, title in zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True):
            file.write(
                f"{item}|{title}" + "|" * 3 + "|0" * 19 + "\n" if mark == "\t" else f"{item}::{title}::\n"
            )


@pytest.mark.parametrize("name", ["ml-100k", pytest.param("ml-1m", marks=pytest.mark.slow)])
def test_recorded_counts_come_out_of_the_real_ratings(name: str, tmp_path: Path) -> None:
    published(name, tmp_path)
    recipe = replace(load_recipe(name), encoding="utf-8")
    table = MovieLens(name, str(tmp_path), recipe=recipe).load()
    assert filtered(table) == recipe.after_filters
    assert table.titles is not None
    assert sum(title is None for title in table.titles) == 0
