"""Finding items by what people call them: an id, or a title, perhaps misspelt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64, Shaped


class Catalogue:
    """The training vocabulary: item ids, titles where they are known, and how many training users liked each.

    Args:
        item_ids: int64, or objects of ``str``, ``(items,)``.
        titles: one an item, ``None`` where unknown; or no titles at all.
        item_counts: training users of each item, ``(items,)``.
    """

    def __init__(
        self,
        item_ids: Shaped[np.ndarray, " items"],
        titles: Shaped[np.ndarray, " items"] | None,
        item_counts: Int64[np.ndarray, " items"],
    ) -> None:
        self.item_ids = item_ids
        self.titles = titles
        self.item_counts = item_counts
        self._by_id = pd.Index(item_ids)
        self._by_title: dict[str, int] = {}
        if titles is not None:
            # Two films may share a title; the name then means the one that more people liked.
            for item in np.argsort(item_counts, kind="stable"):
                if titles[item]:
                    self._by_title[str(titles[item]).casefold()] = int(item)

    def __len__(self) -> int:
        return len(self.item_ids)

    def indices_of_ids(self, ids: Shaped[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Item index of each id, -1 where it is not in the vocabulary. Numbers and their spellings are one."""
        if self.item_ids.dtype.kind == ids.dtype.kind == "i":
            return np.asarray(self._by_id.get_indexer(pd.Index(ids)), dtype=np.int64)
        # Compared as text, which is exact for any number. "007" is not the id 7: only the shortest spelling is.
        texts = pd.Index([str(i) for i in ids.tolist()], dtype=object)
        return np.asarray(self._by_text.get_indexer(texts), dtype=np.int64)

    @cached_property
    def _by_text(self) -> pd.Index:
        return pd.Index([str(i) for i in self.item_ids.tolist()], dtype=object)

    def find(self, item: int | str) -> int:
        """Item index of an id or of a title (upper and lower case are one), -1 where there is none."""
        index = int(
            self.indices_of_ids(np.asarray([item], dtype=object if isinstance(item, str) else None))[0]
        )
        if index < 0 and isinstance(item, str):
            index = self._by_title.get(item.strip().casefold(), -1)
        return index

    def suggest(self, item: int | str, n: int = 3) -> list[str]:
        """Titles (or ids, where there are no titles) that look like ``item``, best first.

        First the titles that differ by their year alone, then those that are spelt alike, then those that begin
        with ``item``, then those that hold it; among equals, what more people liked.
        """
        wanted = str(item).strip().casefold()
        if not self._by_title:
            return difflib.get_close_matches(wanted, [str(i) for i in self.item_ids], n=n, cutoff=0.6)
        wanted = _without_year(wanted)
        by_name: dict[str, list[int]] = {}
        for title, index in reversed(self._by_title.items()):  # the most popular first
            by_name.setdefault(_without_year(title), []).append(index)
        names = [wanted] if wanted in by_name else []
        names += difflib.get_close_matches(wanted, by_name, n=n, cutoff=0.7)
        if wanted:
            names += [name for name in by_name if name.startswith(wanted)][:n]
            names += [name for name in by_name if wanted in name][:n]
        indices = [index for name in dict.fromkeys(names) for index in by_name[name]]
        assert self.titles is not None
        return [str(self.titles[index]) for index in indices[:n]]

    def label(self, item: int) -> Any:
        """Title of an item index, or its id where the title is unknown."""
        title = None if self.titles is None else self.titles[item]
        return title if title else self.item_ids[item]


def _without_year(title: str) -> str:
    """``heat (1995)`` is ``heat``: a shared year makes no two titles alike."""
    return re.sub(r"\s*\(\d{4}\)$", "", title)


def list_some(values: Sequence[Any], most: int = 5) -> str:
    """``'a', 'b' and 3 more``: for messages about many things."""
    shown = ", ".join(repr(value) for value in values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown
