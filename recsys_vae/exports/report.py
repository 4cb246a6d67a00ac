"""The run's report: one HTML file that needs nothing else, can be mailed, and reads well in the dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recsys_vae.exports.charts import interval_chart, line_chart

Metrics = Mapping[str, Any]

_HISTORY_SHOWN = 12
_NAMES = {
    "loss": "Training loss, nats per user",
    "kl": "KL divergence, nats per user",
    "kl_weight": "KL weight",
    "ndcg": "NDCG",
    "gini": "Gini index",
}


def render_report(
    *,
    dataset: str,
    model: str,
    seed: int,
    date: str,
    split: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Metrics,
    history: pd.DataFrame | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
    versions: Mapping[str, str] | None = None,
) -> str:
    """Return the report as HTML, without a reference to anything outside itself.

    Every text is escaped, for titles and ids come from outside. What is missing is left out.

    Args:
        dataset, model, seed, date: for the heading.
        split: what ``split.json`` holds; ``sha256`` and ``name`` are shown.
        config: the resolved configuration, JSON types.
        metrics: what ``metrics.json`` holds. ``validation`` and ``test`` map a metric to ``{"mean", "stderr",
            "interval": [low, high]}``; ``by_history_length`` and ``by_item_popularity`` are lists of rows,
            the first key of a row being the group's label and every other a count, a number or such a dict;
            ``beyond_accuracy`` maps a name to a number; ``seconds`` maps a stage to its duration;
            ``n_test_users`` and ``n_validation_users`` are counts.
        history: one row an epoch; validation metrics are the columns whose names begin with ``validation``.
        samples: ``{"user", "history": [title], "recommended": [{"title", "hit": bool}]}``.
        versions: package -> version.
    """
    parts = (
        _header(dataset, model, seed, date, split, metrics, versions or {}),
        _headline(metrics),
        _metric_table(metrics),
        _curves(history),
        _groups(
            metrics, "by_history_length", "By length of history", "items in the history", "On the test users."
        ),
        _groups(
            metrics,
            "by_item_popularity",
            "By popularity of the item",
            "share of the interactions, most popular items first",
            "On the test users. 0-20% are the few most popular items, which have a fifth of the training "
            "interactions; 80-100% are the long tail.",
        ),
        _beyond(metrics),
        _samples(samples),
        _configuration(config),
    )
    body = "\n".join(part for part in parts if part)
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    # The policy lets the page load nothing at all, whatever a title manages to smuggle in.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(f"{model} on {dataset}")}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _header(
    dataset: str,
    model: str,
    seed: int,
    date: str,
    split: Mapping[str, Any],
    metrics: Metrics,
    versions: Mapping[str, str],
) -> str:
    digest = str(split.get("sha256", ""))
    facts = {"Seed": str(seed), "Date": date, "Split": f"{split.get('name', '')} {digest[:12]}".strip()}
    facts |= {_label(stage): _duration(value) for stage, value in metrics.get("seconds", {}).items()}
    facts |= versions
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
        if value
    )
    heading = f"<h1>{escape(model)} <span>on</span> {escape(dataset)}</h1>"
    return f'<header>\n{heading}\n<dl class="facts">{rows}</dl>\n</header>'


def _headline(metrics: Metrics) -> str:
    test = metrics.get("test", {})
    wanted = [name for name in ("ndcg@100", "recall@20", "recall@50") if name in test] or list(test)[:3]
    tiles = "".join(_tile(_number(_mean(test[name])), f"{_label(name)}, test") for name in wanted)
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _metric_table(metrics: Metrics) -> str:
    parts = {part: metrics[part] for part in ("validation", "test") if metrics.get(part)}
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    if not names:
        return ""
    heads = "".join(
        f"<th>{escape(part.capitalize())}{_count(metrics.get(f'n_{part}_users'))}</th>" for part in parts
    )
    body = ""
    for name in names:
        cells = "".join(f"<td>{_with_interval(part.get(name))}</td>" for part in parts.values())
        body += f"<tr><th>{escape(_label(name))}</th>{cells}</tr>\n"
    return (
        _section("Metrics", "Mean over users ± its standard error, and the bootstrap interval of the mean.")
        + f'<div class="table"><table><thead><tr><th>Metric</th>{heads}</tr></thead>\n'
        + f"<tbody>\n{body}</tbody></table></div>"
    )


def _curves(history: pd.DataFrame | None) -> str:
    if history is None or history.empty or "epoch" not in history:
        return ""
    validation = [name for name in map(str, history.columns) if name.startswith("validation")]
    preferred = [name for name in validation if "ndcg@100" in name] or validation
    epochs = history["epoch"].to_numpy(dtype=float)
    best, figures = None, ""
    if preferred and history[preferred[0]].notna().any():
        best = int(np.nanargmax(history[preferred[0]].to_numpy(dtype=float)))
    for name in [*preferred[:1], *(name for name in ("loss", "kl", "kl_weight") if name in history)]:
        values = history[name].to_numpy(dtype=float)
        if not np.isfinite(values).any():
            continue
        mark, note = None, ""
        if name in validation and best is not None:
            mark = best
            note = f" <small>best {_number(values[best])} in epoch {epochs[best]:.0f}</small>"
        figures += _figure(
            f"{escape(_label(name))}{note}", line_chart(epochs, values, name=name, x_label="epoch", best=mark)
        )
    if not figures:
        return ""
    return _section("Training", "One point an epoch.") + f'<div class="charts">{figures}</div>'


def _groups(metrics: Metrics, key: str, title: str, x_label: str, note: str) -> str:
    rows: Sequence[Mapping[str, Any]] = metrics.get(key) or ()
    if not rows:
        return ""
    names = list(rows[0])
    charted = next((name for name in names[1:] if _is_metric(name, rows) and "recall" in name), None)
    charted = charted or next((name for name in names[1:] if _is_metric(name, rows)), None)
    chart = ""
    if charted is not None:
        drawing = interval_chart(
            [str(row[names[0]]) for row in rows],
            np.array([_mean(row.get(charted)) for row in rows]),
            np.array([_stderr(row.get(charted)) for row in rows]),
            name=key,
            x_label=x_label,
        )
        chart = _figure(f"{escape(_label(charted))}, with one standard error", drawing)
    heads = "".join(f"<th>{escape(_label(name))}</th>" for name in names)
    body = "".join(
        f"<tr><th>{escape(str(row[names[0]]))}</th>"
        + "".join(f"<td>{_with_error(row.get(name))}</td>" for name in names[1:])
        + "</tr>\n"
        for row in rows
    )
    table = (
        f'<div class="table"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'
    )
    return _section(title, note) + f'<div class="side">{chart}{table}</div>'


def _beyond(metrics: Metrics) -> str:
    values: Mapping[str, Any] = metrics.get("beyond_accuracy") or {}
    tiles = "".join(_tile(_number(_mean(value)), _label(name)) for name, value in values.items())
    if not tiles:
        return ""
    return _section("Beyond accuracy", "Of the lists recommended to the test users.") + (
        f'<div class="tiles">{tiles}</div>'
    )


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    cards = ""
    for sample in samples:
        seen = [str(title) for title in sample["history"]]
        history = "".join(f"<li>{escape(title)}</li>" for title in seen[:_HISTORY_SHOWN])
        if len(seen) > _HISTORY_SHOWN:
            history += f'<li class="more">and {len(seen) - _HISTORY_SHOWN:,} more</li>'
        recommended = "".join(
            f'<li><span class="hit">{escape(str(entry["title"]))} ✓</span></li>'
            if entry.get("hit")
            else f"<li>{escape(str(entry['title']))}</li>"
            for entry in sample["recommended"]
        )
        cards += (
            f'<article class="card"><h3>User {escape(str(sample["user"]))}</h3>'
            f"<div><h4>History</h4><ul>{history}</ul></div>"
            f"<div><h4>Recommended</h4><ol>{recommended}</ol></div></article>\n"
        )
    if not cards:
        return ""
    return _section("Sample recommendations", "A ✓ marks an item that was held out and found again.") + cards


def _configuration(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>"


def _section(title: str, note: str) -> str:
    return f"<h2>{escape(title)}</h2>\n<p>{escape(note)}</p>\n"


def _tile(value: str, label: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def _figure(caption_html: str, drawing: str) -> str:
    return f"<figure><figcaption>{caption_html}</figcaption>{drawing}</figure>\n"


def _count(users: Any) -> str:
    return f" <small>{users:,} users</small>" if isinstance(users, int) else ""


def _label(name: str) -> str:
    """``validation_ndcg@100`` -> ``Validation NDCG@100``."""
    if name in _NAMES:
        return _NAMES[name]
    words = name.replace("_", " ").split(" ")
    words = [
        f"{_NAMES[base]}{at}{k}" if base in _NAMES else word
        for word in words
        for base, at, k in [word.partition("@")]
    ]
    return " ".join(words)[:1].upper() + " ".join(words)[1:]


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating)


def _number(value: Any) -> str:
    if not _is_real(value) or not math.isfinite(value):
        return "—"
    if float(value).is_integer() and abs(value) >= 2:
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _duration(seconds: Any) -> str:
    return f"{seconds:,.1f} s" if _is_real(seconds) else ""


def _mean(entry: Any) -> float:
    return _float(entry.get("mean") if isinstance(entry, Mapping) else entry)


def _stderr(entry: Any) -> float:
    return _float(entry.get("stderr") if isinstance(entry, Mapping) else None)


def _float(value: Any) -> float:
    return float(value) if _is_real(value) else math.nan


def _with_error(entry: Any) -> str:
    if isinstance(entry, Mapping):
        error = _stderr(entry)
        return _number(_mean(entry)) + (f" ± {error:.4f}" if math.isfinite(error) else "")
    return escape(entry) if isinstance(entry, str) else _number(entry)


def _with_interval(entry: Any) -> str:
    interval = entry.get("interval") if isinstance(entry, Mapping) else None
    if not interval or None in interval:
        return _with_error(entry)
    return f"{_with_error(entry)}<small>[{interval[0]:.4f}, {interval[1]:.4f}]</small>"


def _is_metric(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return "@" in name or any(isinstance(row.get(name), Mapping) for row in rows)
