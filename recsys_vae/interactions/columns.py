"""Which column of a table plays which role: found by its usual names, or named by the user."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recsys_vae.errors import UserError, nearest

_log = logging.getLogger(__name__)

ColumnName = str | Literal[False] | None
"""A column's name, ``None`` to find it, ``False`` to do without it."""

ColumnPicker = Callable[[Sequence[str]], Mapping[str, int]]
"""From the names of a table's columns to the position of the column for each role."""

# Written without case, spaces and punctuation; the first that a table has is taken.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        *("userid", "user", "uid", "username", "customerid", "customer", "reviewerid", "reviewer"),
        *("memberid", "visitorid", "accountid", "profileid", "authorid"),
    ),
    "item": (
        *("itemid", "item", "iid", "movieid", "movie", "filmid", "bookid", "productid", "product", "asin"),
        *("parentasin", "isbn", "trackid", "songid", "artistid", "albumid", "businessid", "articleid"),
        *("newsid", "gameid", "animeid", "recipeid", "videoid"),
    ),
    "rating": ("rating", "ratings", "score", "stars", "overall", "bookrating", "preference"),
    "timestamp": (
        *("timestamp", "time", "ts", "unixreviewtime", "unixtimestamp", "unixtime", "datetime", "date"),
        *("createdat", "ratedat", "timerank"),
    ),
    "title": ("title", "movietitle", "itemtitle", "booktitle", "producttitle", "itemname", "productname"),
    "genres": ("genres", "genre", "categories"),
}


@dataclass(frozen=True)
class Block:
    """Some rows of a table: one Arrow array a role, and where to say that a row (0-based) of them lies."""

    columns: dict[str, Any]
    place: Callable[[int], str]


def pick_columns(
    names: Sequence[str],
    *,
    source: str,
    given: Mapping[str, ColumnName],
    required: Sequence[str],
    optional: Sequence[str],
    usual: Mapping[str, Sequence[str]] = USUAL_NAMES,
) -> dict[str, int]:
    """Position of the column for every role that the table has.

    RecBole's ``name:type`` headers are read without the type. A name that the user gave must be there; case
    matters only where two columns differ in nothing else.

    Raises:
        UserError: a column is missing (the message lists those that are there), stands twice, or serves two
            roles.
    """
    plain = [re.sub(r":(token|float|token_seq|float_seq)$", "", name.strip()) for name in names]
    named = [name for name in plain if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{source} has two columns named {twice!r}")
    keys = [re.sub(r"[\W_]", "", name.lower()) for name in plain]
    found: dict[str, int] = {}
    for role in (*required, *optional):
        name = given.get(role)
        if name is False and role not in required:
            continue
        if name is not None and name is not False:
            found[role] = _named(str(name), plain, role, source)
            continue
        position = next((keys.index(key) for key in usual[role] if key in keys), None)
        if position is not None:
            found[role] = position
        elif role in required and "title" in required:  # an item table, which has no keys for its columns
            expected = ", ".join(usual[role][:4])
            raise UserError(
                f"{source} has no column for the {role} (its columns: {_listed(named)}): expected one named "
                f"{expected} or the like"
            )
        elif role in required:
            raise UserError(
                f"{source} has no column for the {role} (its columns: {_listed(named)}): name it with "
                f"dataset.{role}=COLUMN, or give dataset.names=[...] if the file has no header"
            )
    if "timestamp" in found and keys[found["timestamp"]] == "timerank":
        _log.warning("%s: time_rank orders the rows of a user; it is no date to cut all users at", source)
    for role in found:
        twin = next((other for other in found if other != role and found[other] == found[role]), None)
        if twin is not None:
            column = plain[found[role]]
            raise UserError(f"dataset.{role} and dataset.{twin} are both column {column!r} of {source}")
    return found


def _named(name: str, plain: Sequence[str], role: str, source: str) -> int:
    if name in plain:
        return plain.index(name)
    folded = [column.lower() for column in plain]
    if name.lower() in folded:
        return folded.index(name.lower())
    named = [column for column in plain if column]
    hint = nearest(name, named)
    listed = "" if hint.startswith("expected one of") else f" (its columns: {_listed(named)})"
    raise UserError(f"dataset.{role}={name!r} is not a column of {source}{listed}; {hint}")


def _listed(names: Sequence[str]) -> str:
    shown = [name if len(name) <= 40 else name[:37] + "..." for name in names[:20]]
    return ", ".join(shown) + (", ..." if len(names) > 20 else "")
