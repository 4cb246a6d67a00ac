from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError
from recsys_vae.interactions import recipe as recipe_module
from recsys_vae.interactions.recipe import Counts, Recipe, default_cache_dir, load_recipe, recipe_names

NAMES = ["ml-100k", "ml-10m", "ml-1m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small", "tiny"]


def test_names() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_and_its_readme_agree(name: str) -> None:
    recipe = load_recipe(name)
    readme = bundled_path("data", name, "README.md").read_text(encoding="utf-8")
    assert recipe.name == name
    assert recipe.counts is not None
    for counts in filter(None, (recipe.counts, recipe.after_filters)):
        assert f"| {counts.users:,} | {counts.items:,} | {counts.ratings:,} |" in readme
    for name_, digest in (recipe.embedded or {}).items():
        assert digest in readme
        content = bundled_path("data", name, name_).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    if recipe.embedded is None:
        assert recipe.url == f"https://files.grouplens.org/datasets/movielens/{name}.zip"
        assert recipe.checksum is not None
        assert recipe.checksum.removeprefix("md5:") in readme
        assert f"{recipe.size_bytes:,}" in readme
        assert "2827872" in readme  # the citation


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"dataset\.name=ml-1mm: .*did you mean 'ml-1m'\?"):
        load_recipe("ml-1mm")
    for name in ("", "../data/tiny", "tiny/", "/"):
        with pytest.raises(UserError, match="no such dataset"):
            load_recipe(name)


def test_an_unknown_format() -> None:
    with pytest.raises(ValueError, match="expected format tab"):
        Recipe(name="x", title="x", format="xml", ratings_file="r", items_file="i", licence="")


def test_counts_in_words() -> None:
    assert (
        str(Counts(users=6040, items=3706, ratings=1000209))
        == "1,000,209 ratings by 6,040 users of 3,706 items"
    )


def test_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_VAE_DATA", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("RECSYS_VAE_DATA", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("RECSYS_VAE_DATA", "")
    repository = Path(recipe_module.__file__).parents[2]
    assert default_cache_dir() == repository / "data" / "cache"


def test_cache_dir_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECSYS_VAE_DATA", raising=False)
    monkeypatch.setattr(recipe_module, "bundled_path", tmp_path.joinpath("_bundled").joinpath)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "recsys-vae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "recsys-vae"


def test_recipes_are_read_from_where_the_package_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "ml-1m").mkdir(parents=True)
    shutil.copy(bundled_path("data", "ml-1m", "recipe.yaml"), tmp_path / "data" / "ml-1m")
    monkeypatch.setattr(recipe_module, "bundled_path", tmp_path.joinpath)
    assert recipe_names() == ["ml-1m"]
    assert load_recipe("ml-1m").folder == "ml-1m"
