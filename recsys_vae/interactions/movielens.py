"""The MovieLens datasets of GroupLens (Harper & Konstan 2015), in the formats that they are published in."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
from jaxtyping import Shaped

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError
from recsys_vae.interactions.archive import extract
from recsys_vae.interactions.disk import disk_errors
from recsys_vae.interactions.download import download, is_url, verify_checksum
from recsys_vae.interactions.file_lock import file_lock
from recsys_vae.interactions.ratings_table import RatingsTable
from recsys_vae.interactions.recipe import Counts, Recipe, default_cache_dir, load_recipe
from recsys_vae.interactions.table import read_table

# u.item of ml-100k ends with one 0 or 1 for each of these, in this order (its README).
_FLAGGED_GENRES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
_NO_GENRE = {"", "(no genres listed)", "unknown"}

# Item id, title, genres separated by "|".
_Item = tuple[str, str, str]


class MovieLens:
    """One MovieLens dataset: embedded, downloaded on first use, or taken from ``source``.

    ``name`` is one of the folders of ``data/``. ``source`` is a path or an http(s) address of the same
    archive, or a folder that holds its files; by default the files that travel with the package are read, or
    else the archive is fetched from GroupLens, once, verified, and unpacked below ``cache_dir``
    (``default_cache_dir()``), where ``NAME/`` stays. ``recipe`` describes a dataset that has no folder.
    """

    def __init__(
        self,
        name: str,
        source: str | None = None,
        cache_dir: str | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """Only note what to read; raise ``UserError`` for a name without a recipe."""
        self.recipe = load_recipe(name) if recipe is None else recipe
        self.source = source
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()

    def load(self) -> RatingsTable:
        """Return the ratings, in the order of the file, with titles and genres of the items that were rated.

        Raises ``UserError`` where the files cannot be had, are damaged, or do not hold the ratings that the
        recipe counts.
        """
        recipe = self.recipe
        folder = self.locate()
        table = _read_ratings(folder / recipe.ratings_file, recipe.format)
        came = Counts(
            users=int(np.count_nonzero(np.bincount(table.user_codes))),
            items=int(np.count_nonzero(np.bincount(table.item_codes))),
            ratings=table.n_rows,
        )
        if recipe.counts is not None and came != recipe.counts:
            raise UserError(
                f"{folder / recipe.ratings_file}: expected {recipe.counts} for dataset={recipe.name}, "
                f"came {came}; ratings of your own are read by dataset=table dataset.path=FILE"
            )
        titles, genres = _describe_items(folder / recipe.items_file, recipe, table.item_ids)
        return replace(table, titles=titles, genres=genres, source=recipe.name)

    def locate(self) -> Path:
        """Return the folder that holds the dataset's files, after fetching and unpacking what is missing."""
        recipe = self.recipe
        if self.source is None:
            return self._embedded() if recipe.embedded else self._cached(recipe.url)
        if is_url(self.source):
            return self._cached(self.source)
        path = Path(self.source).expanduser()
        if not path.exists():
            raise UserError(
                f"dataset.source={self.source}: expected a zip file, a folder or a URL, came nothing"
            )
        if not path.is_dir():
            return self._cached(path)
        for folder in (path, path / recipe.folder):
            if self._is_whole(folder):
                return folder
        wanted = f"{recipe.ratings_file} and {recipe.items_file}"
        raise UserError(f"dataset.source={self.source}: expected {wanted} in this folder")

    def _is_whole(self, folder: Path) -> bool:
        return all((folder / name).is_file() for name in (self.recipe.ratings_file, self.recipe.items_file))

    def _embedded(self) -> Path:
        folder = bundled_path("data", self.recipe.name)
        for name, digest in (self.recipe.embedded or {}).items():
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: expected a file of the package, came no such file")
            verify_checksum(folder / name, f"sha256:{digest}")
        return folder

    def _cached(self, origin: str | Path | None) -> Path:
        """Unpack the archive, from an address or a path, into the cache, unless that has been done."""
        recipe, target = self.recipe, self.cache_dir / self.recipe.name
        if origin is None:
            raise UserError(f"dataset={recipe.name}: expected dataset.source=PATH_OR_URL, it has no address")
        if isinstance(origin, Path):
            self._verify_local(origin)
        elif self._is_whole(target):
            return target
        with disk_errors(self.cache_dir):
            self.cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(self.cache_dir / f".{recipe.name}.lock"):
            if not self._is_whole(target):  # another process may have been at it while this one waited
                archive = origin if isinstance(origin, Path) else self._fetch(origin)
                required = (recipe.ratings_file, recipe.items_file)
                optional = (recipe.readme_file,) if recipe.readme_file else ()
                extract(archive, target, folder=recipe.folder, required=required, optional=optional)
                if archive is not origin:
                    archive.unlink()
        return target

    def _verify_local(self, archive: Path) -> None:
        if self.recipe.checksum is None:
            return
        try:
            verify_checksum(archive, self.recipe.checksum)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"dataset.source={archive}: expected a zip file, came: {reason}") from error
        except UserError as error:
            hint = "if it was only packed anew, unpack it and give the folder"
            raise UserError(f"dataset.source={error}; {hint}") from error

    def _fetch(self, url: str) -> Path:
        recipe, archive = self.recipe, self.cache_dir / f"{self.recipe.name}.zip"
        if (
            archive.is_file() and recipe.checksum is not None
        ):  # left by a process that was stopped unpacking it
            with contextlib.suppress(UserError):
                verify_checksum(archive, recipe.checksum)
                return archive
        size = f" ({recipe.size_bytes / 1e6:,.1f} MB)" if recipe.size_bytes else ""
        print(f"{recipe.title}: downloading {url}{size} to {self.cache_dir}", file=sys.stderr)
        print(recipe.licence, file=sys.stderr)
        return download(url, archive, checksum=recipe.checksum)


def _locked(path: Path) -> contextlib.AbstractContextManager[None]:
    with disk_errors(path.parent):
        path.touch()
    return file_lock(path)


def _read_ratings(path: Path, form: str) -> RatingsTable:
    if form == "csv":
        return read_table(
            path, user="userId", item="movieId", rating="rating", timestamp="timestamp", delimiter=","
        )
    delimiter = {"tab": "\t", "double_colon": "::"}[form]
    return read_table(path, delimiter=delimiter, names=["user_id", "item_id", "rating", "timestamp"])


def _describe_items(
    path: Path, recipe: Recipe, item_ids: Shaped[np.ndarray, " items"]
) -> tuple[Shaped[np.ndarray, " items"], Shaped[np.ndarray, " items"]]:
    """Return titles and genres of ``item_ids`` from the item file; ``None`` where it gives none."""
    parse = _PARSERS[recipe.format]
    try:
        with path.open(encoding=recipe.encoding, newline="" if recipe.format == "csv" else None) as file:
            items = {identity: (title, genres) for identity, title, genres in parse(file, path)}
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in {recipe.encoding}, came: {error}") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: expected an item file, came: {error}") from error
    found = [items.get(str(identity), ("", "")) for identity in item_ids]
    titles, genres = np.empty(len(found), dtype=object), np.empty(len(found), dtype=object)
    titles[:] = [title or None for title, _ in found]
    genres[:] = [None if genre in _NO_GENRE else genre for _, genre in found]
    return titles, genres


def _parse_pipes(file: TextIO, path: Path) -> Iterator[_Item]:
    """u.item: id | title | release date | video release date | IMDb URL | 19 flags."""
    names = _FLAGGED_GENRES.split("|")
    for number, line in enumerate(file, start=1):
        fields = line.rstrip("\n").split("|")
        if len(fields) != 5 + len(names):
            wanted = f"{5 + len(names)} fields between |"
            raise UserError(f"{path}, line {number}: expected {wanted}, came {len(fields)}")
        genres = [name for name, flag in zip(names, fields[5:], strict=True) if flag == "1"]
        yield fields[0], fields[1], "|".join(genres)


def _parse_double_colons(file: TextIO, path: Path) -> Iterator[_Item]:
    """movies.dat: id :: title :: genres, where a title may itself hold "::"."""
    for number, line in enumerate(file, start=1):
        identity, first, rest = line.rstrip("\n").partition("::")
        title, second, genres = rest.rpartition("::")
        if not (first and second):
            raise UserError(f"{path}, line {number}: expected id::title::genres, came {line.rstrip()[:60]!r}")
        yield identity, title, genres


def _parse_csv(file: TextIO, path: Path) -> Iterator[_Item]:
    """movies.csv: a header, then movieId,title,genres, quoted where a title holds a comma or a quote."""
    rows = csv.reader(file, strict=True)
    header = next(rows, [])
    if header != ["movieId", "title", "genres"]:
        raise UserError(f"{path}, line 1: expected movieId,title,genres, came {','.join(header)!r}")
    for row in rows:
        if len(row) != 3:
            raise UserError(f"{path}, line {rows.line_num}: expected 3 fields, came {len(row)}")
        yield row[0], row[1], row[2]


_PARSERS: dict[str, Callable[[TextIO, Path], Iterator[_Item]]] = {
    "tab": _parse_pipes,
    "double_colon": _parse_double_colons,
    "csv": _parse_csv,
}
