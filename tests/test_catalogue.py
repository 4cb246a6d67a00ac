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
