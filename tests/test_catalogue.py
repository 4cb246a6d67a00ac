"""Finding items by what people call them."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_vae.catalogue import Catalogue

TITLES = [
    "Heat (1995)",
    "Heat, The (2013)",
    "White Heat (1949)",
    "Sphere (1998)",
    "Heat (1986)",
    "Casino (1995)",
]


@pytest.fixture
def catalogue() -> Catalogue:
    titles = np.asarray(TITLES, dtype=object)
    return Catalogue(np.arange(1, 7), titles, np.asarray([50, 40, 30, 20, 10, 5]))


@pytest.mark.parametrize("name", ["Heat (1995)", "heat (1995)", " Heat (1995) ", 1, "1"])
def test_an_item_is_found_by_title_or_id(catalogue, name) -> None:
    assert catalogue.find(name) == 0


def test_only_the_shortest_spelling_of_a_number_is_an_id(catalogue) -> None:
    assert catalogue.find("01") == -1
    assert catalogue.find(7) == -1


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("heat", ["Heat (1995)", "Heat (1986)", "Heat, The (2013)"]),
        ("Heet (1995)", ["Heat (1995)", "Heat (1986)"]),
        ("Spere (1998)", ["Sphere (1998)"]),
        ("white", ["White Heat (1949)"]),
        ("zzz", []),
    ],
)
def test_suggestions(catalogue, name, suggested) -> None:
    assert catalogue.suggest(name) == suggested


def test_without_titles_ids_are_suggested() -> None:
    catalogue = Catalogue(np.asarray(["alpha", "beta"], dtype=object), None, np.asarray([1, 1]))
    assert catalogue.suggest("alpa") == ["alpha"]


LARGE = [-(2**63), 2**53 + 1, 2**60 + 1, 2**60 + 2, 2**63 - 1]


@pytest.mark.parametrize("item", range(len(LARGE)))
def test_ids_of_the_whole_int64_range_are_found_from_their_text(item) -> None:
    catalogue = Catalogue(np.asarray(LARGE), None, np.ones(len(LARGE), dtype=np.int64))
    assert catalogue.find(LARGE[item]) == catalogue.find(str(LARGE[item])) == item
    texts = np.asarray([str(LARGE[item]), "007", str(2**60 + 3), "x", "1e3", str(2**64)], dtype=object)
    assert catalogue.indices_of_ids(texts).tolist() == [item, -1, -1, -1, -1, -1]
    unsigned = np.asarray([2**53 + 1, 2**63, 2**64 - 1], dtype=np.uint64)
    assert catalogue.indices_of_ids(unsigned).tolist() == [1, -1, -1]


def test_numbers_find_ids_that_are_text() -> None:
    catalogue = Catalogue(np.asarray(["7", "b", str(2**64 - 1)], dtype=object), None, np.ones(3, np.int64))
    assert catalogue.find(7) == 0
    assert catalogue.find(2**64 - 1) == 2
    assert catalogue.find(8) == -1
