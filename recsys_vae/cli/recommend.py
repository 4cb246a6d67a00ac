"""``recsys-vae recommend``: to a user of the run, to a list of items, or to a file of users; or what is rated best."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from recsys_vae.cli.posteriors import build_method, use_posterior
from recsys_vae.cli.runtime import console, pick_device, set_threads
from recsys_vae.cli.stages import refuse_null
from recsys_vae.errors import UserError
from recsys_vae.exports import (
    RankedItems,
    check_output,
    output_file,
    read_histories,
    write_recommendations,
)
from recsys_vae.models.base import check_positive
from recsys_vae.recommender import Recommender, load


def run(config: DictConfig) -> None:
    """Print a table of recommendations, or stream them to ``output``."""
    refuse_null("recommend", config)
    set_threads(config.threads)
    given = [key for key in ("user", "items", "input") if config[key] is not None]
    if not isinstance(config.top_rated, bool):
        raise UserError(f"top_rated: expected true or false, came {config.top_rated!r}")
    given += ["top_rated"] * config.top_rated
    if len(given) != 1:
        came = " and ".join(given) or "none"
        raise UserError(
            f"user: expected exactly one of user=, items=, input= and top_rated=true, came {came}"
        )
    if config.input is not None and config.output is None:
        raise UserError("output: expected a file for the recommendations to input's users, came none")
    output = None if config.output is None else check_output(config.output, (".parquet", ".csv"))
    check_positive("k", config.k)
    check_positive("batch_size", config.batch_size)
    items = None if config["items"] is None else parse_items(str(config["items"]))
    method = build_method(config)
    recommender = load(config.run, pick_device(config.accelerator))
    recommender.check_k(config.k)
    use_posterior(recommender, method, config)
    catalogue = recommender.catalogue
    if items is not None and catalogue.find(str(config["items"])) >= 0:
        items = [str(config["items"])]  # one title, with a comma of its own
    if config.input is not None:
        assert output is not None
        ranked = _rank_file(recommender, config)
        write_recommendations(output, ranked, item_ids=catalogue.item_ids, titles=catalogue.titles)
        return
    if config.top_rated:
        history, table = None, recommender.top_rated(config.k)
    else:
        of_user = items is None
        history = recommender.history_of_user(config.user) if of_user else recommender.history_of(items or [])
        table = recommender.table(*recommender.rank_with_deviation(history, config.k))
    if output is not None:
        with output_file(output) as temporary:
            writer = table.to_csv if output.suffix.lower() == ".csv" else table.to_parquet
            writer(temporary, index=False)
        return
    if history is not None and history.nnz:
        known = [str(catalogue.label(int(item))) for item in history.indices[:8]]
        more = f" and {history.nnz - 8} more" if history.nnz > 8 else ""
        console.print(f"liked: {', '.join(known)}{more}", markup=False)
    shown = Table()
    for name in table.columns:
        shown.add_column(name, justify="left" if name == "title" else "right")
    for row in table.itertuples(index=False):
        shown.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value or "") for value in row))
    console.print(shown, markup=False)


def parse_items(text: str) -> list[Any]:
    """A list as JSON or Python writes it, or a plain list with commas (where titles cannot hold one)."""
    text = text.strip()
    if not text:
        raise UserError("items: expected a list of ids or titles, came nothing")
    inside = text[1:].lstrip()
    # A title may begin with a bracket: [REC] (2007) is no list.
    if not text.startswith("[") or not (text.endswith("]") or "]" not in text or inside[:1] in ("'", '"')):
        items = _split(text)
    else:
        literal = _literal(text)
        if literal is None and (not text.endswith("]") or any(part[0] in "'\"" for part in _split(inside))):
            raise UserError(f"items: expected a list such as [\"A, B\", 'C', 7], came {text!r}")
        items = _split(text[1:-1]) if literal is None else literal
    if any(isinstance(item, bool) or not isinstance(item, int | str) for item in items):
        raise UserError(f"items: expected ids or titles, came {text}")
    if not items:
        raise UserError(f"items: expected at least one id or title, came {text}")
    return list(items)


def _split(text: str) -> list[Any]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _literal(text: str) -> list[Any] | None:
    """A list in JSON, or in Python where quotes make that certain; ``None`` if it is neither."""
    readers: list[Callable[[str], Any]] = (
        [json.loads, ast.literal_eval] if "'" in text or '"' in text else [json.loads]
    )
    for read in readers:
        try:
            with warnings.catch_warnings(action="ignore"):  # about backslashes that escape nothing
                items = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(items, list):
            return items
    return None


def _rank_file(recommender: Recommender, config: DictConfig) -> Iterator[RankedItems]:
    for histories in read_histories(config.input, batch_size=config.batch_size):
        ranked, deviations = recommender.rank_with_deviation(recommender.matrix_of(histories), config.k)
        yield RankedItems(
            histories.user_ids,
            ranked.items.cpu().numpy(),
            ranked.scores.float().cpu().numpy(),
            None if deviations is None else deviations.float().cpu().numpy(),
        )
