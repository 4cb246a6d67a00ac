"""Maximum likelihood, MAP and full Bayes on item mean ratings, as the number of ratings grows.

    python scripts/plot_map_vs_bayes.py --output docs/images/map_vs_bayes.png
    python scripts/plot_map_vs_bayes.py ml-1m.parquet --output docs/images/map_vs_bayes.png

Of items with many ratings, a few are drawn and the item's mean is estimated from them: by maximum likelihood, by the
joint mode under a Normal-inverse-gamma prior (MAP), and by averaging over the posterior (Bayes). The truth is the mean
over all ratings of the item. The prior is that of most evidence over half of the items, the estimates are of the other
half, and then the other way round. No item has fewer than twice the ratings of the longest draw.

Then the winner's curse: items are ranked on half of all ratings, and the 20 that come out on top are looked up in the
other half. What their estimates promise too much is their optimism.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console
from rich.table import Table
from scipy import stats

from recsys_vae.atomic import atomic_path
from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError
from recsys_vae.estimation import (
    GaussianStatistics,
    NormalInverseGamma,
    StudentT,
    fit_normal_inverse_gamma,
    tweedie_group_means,
)
from recsys_vae.interactions import RatingsTable, read_table

SIZES = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500)
LEVEL = 0.9
TOP = 20
_FEWEST_ITEMS = 40  # an average over fewer items says little
# Okabe and Ito's colours, which the colour-blind can tell apart.
_ML, _MAP, _BAYES, _TWEEDIE = "#D55E00", "#009E73", "#0072B2", "#CC79A7"
_INK, _MUTED, _GRID = "#1f2937", "#64748b", "#e2e8f0"


@dataclass(frozen=True)
class Curve:
    """What the estimates from ``n`` ratings are worth, by the names of the estimators.

    ``rmse`` is against the item's mean over all ratings, in stars, with its standard error over items.
    ``predictive`` is the share of other ratings of the item inside the intervals for one, ``of_mean`` the share of
    means inside the intervals for the mean. ``log_density`` is that of other ratings, nats a rating.
    """

    n: int
    rmse: dict[str, tuple[float, float]]
    predictive: dict[str, float]
    of_mean: dict[str, float]
    log_density: dict[str, float]


@dataclass(frozen=True)
class Example:
    """One item's estimates with the intervals of its mean, along ``sizes``."""

    title: str
    truth: float
    sizes: np.ndarray
    ml: np.ndarray
    ml_interval: np.ndarray
    bayes: np.ndarray
    bayes_interval: np.ndarray


@dataclass(frozen=True)
class Winners:
    """The top items of a ranking: what their estimates promised above what the other half says, and what it says."""

    name: str
    optimism: float
    optimism_error: float
    kept: float
    n_ratings: float


def ratings_by_item(table: RatingsTable) -> list[np.ndarray]:
    """The ratings of every item. Raises :class:`UserError` for a table without ratings."""
    if table.ratings is None:
        raise UserError(f"ratings: expected a table with a column of ratings, {table.source} has none")
    order = np.argsort(table.item_codes, kind="stable")
    ends = np.cumsum(np.bincount(table.item_codes, minlength=len(table.item_ids)))[:-1]
    return np.split(table.ratings[order].astype(np.float64), ends)


def longest_draw(counts: np.ndarray) -> int:
    """The largest of ``SIZES`` that enough items have at least twice.

    Raises :class:`UserError` where that is none.
    """
    fitting = [n for n in SIZES if (counts >= 2 * n).sum() >= _FEWEST_ITEMS]
    if len(fitting) < 3:
        raise UserError(
            f"ratings: expected at least {_FEWEST_ITEMS} items with {2 * SIZES[2]} ratings or more, "
            f"came {int((counts >= 2 * SIZES[2]).sum())}"
        )
    return fitting[-1]


def learning_curves(items: Sequence[np.ndarray], most: int, n_repeats: int, seed: int) -> list[Curve]:
    """Draw, estimate, compare; averages over items and repeats."""
    rng = np.random.default_rng(seed)
    sizes = [n for n in SIZES if n <= most]
    sums: dict[int, list[dict[str, dict[str, np.ndarray]]]] = {n: [] for n in sizes}
    for _ in range(n_repeats):
        shuffled = [rng.permutation(ratings) for ratings in items]
        half = rng.permutation(len(items)) < len(items) // 2
        for own in (half, ~half):
            # The prior is of the other items: it knows nothing of those that it is asked about.
            prior = _prior([ratings for ratings, mine in zip(items, own, strict=True) if not mine])
            chosen = [ratings for ratings, mine in zip(shuffled, own, strict=True) if mine]
            for n in sizes:
                sums[n].append(_compare(chosen, n, prior))
    return [_curve(n, sums[n]) for n in sizes]


def _prior(items: Sequence[np.ndarray]) -> NormalInverseGamma:
    labels = np.repeat(np.arange(len(items)), [len(ratings) for ratings in items])
    return fit_normal_inverse_gamma(
        GaussianStatistics.of_groups(np.concatenate(items), labels, len(items))
    ).prior


def _compare(
    items: Sequence[np.ndarray], n: int, prior: NormalInverseGamma
) -> dict[str, dict[str, np.ndarray]]:
    """For every item: squared errors, coverages and log-densities."""
    seen = torch.from_numpy(np.stack([ratings[:n] for ratings in items]))
    truth = np.array([ratings.mean() for ratings in items])
    posterior = prior.posterior(seen)
    (ml_mean, ml_variance), (map_mean, map_variance) = (
        [value.numpy() for value in pair] for pair in (prior.maximum_likelihood(seen), posterior.mode)
    )
    predictive = posterior.predictive()
    low, high = (end.numpy() for end in predictive.interval(LEVEL))
    wide = stats.norm.ppf(0.5 + LEVEL / 2.0)
    bands = {
        "ML": (ml_mean - wide * np.sqrt(ml_variance), ml_mean + wide * np.sqrt(ml_variance)),
        "MAP": (map_mean - wide * np.sqrt(map_variance), map_mean + wide * np.sqrt(map_variance)),
        "Bayes": (low, high),
    }
    result: dict[str, dict[str, np.ndarray]] = {
        "square": {"ML": (ml_mean - truth) ** 2, "MAP": (map_mean - truth) ** 2},
        "predictive": {},
        "of_mean": {},
        "log_density": {},
    }
    rest = np.concatenate([ratings[n:] for ratings in items])
    owner = np.repeat(np.arange(len(items)), [len(ratings) - n for ratings in items])

    def by_item(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, weights=values) / np.bincount(owner)

    for name, (lower, upper) in bands.items():
        result["predictive"][name] = by_item((rest >= lower[owner]) & (rest <= upper[owner]))
    of_mean = [end.numpy() for end in posterior.mean_law.interval(LEVEL)]
    result["of_mean"]["Bayes"] = (truth >= of_mean[0]) & (truth <= of_mean[1])
    result["of_mean"]["ML"] = np.abs(ml_mean - truth) <= wide * np.sqrt(ml_variance / n)
    for name, mean, variance in (("ML", ml_mean, ml_variance), ("MAP", map_mean, map_variance)):
        spread = np.maximum(variance, 1e-300)[owner]
        density = stats.norm.logpdf(rest, mean[owner], np.sqrt(spread))
        result["log_density"][name] = np.where(variance > 0, by_item(density), -np.inf)
    law = StudentT(predictive.degrees[owner], predictive.location[owner], predictive.scale[owner])
    result["log_density"]["Bayes"] = by_item(law.log_prob(rest).numpy())
    return result


def _curve(n: int, parts: Sequence[dict[str, dict[str, np.ndarray]]]) -> Curve:
    def joined(kind: str) -> dict[str, np.ndarray]:
        return {name: np.concatenate([part[kind][name] for part in parts]) for name in parts[0][kind]}

    rmse = {}
    for name, squares in joined("square").items():
        root = float(np.sqrt(squares.mean()))
        # Half of the parts are one whole round over the items, whose errors repeat from round to round.
        n_items = len(squares) / (len(parts) / 2.0)
        rmse[name] = (root, float(squares.std() / np.sqrt(n_items) / (2.0 * root)) if root > 0 else 0.0)
    means = [
        {name: float(values.mean()) for name, values in joined(kind).items()}
        for kind in ("predictive", "of_mean", "log_density")
    ]
    return Curve(n, rmse, *means)


def example_of(items: Sequence[np.ndarray], titles: Sequence[str], most: int, seed: int) -> Example:
    """The item whose mean is at the upper quartile: what shrinkage has to learn against."""
    means = np.array([ratings.mean() for ratings in items])
    chosen = int(np.argsort(means, kind="stable")[(3 * len(means)) // 4])
    prior = _prior([ratings for place, ratings in enumerate(items) if place != chosen])
    drawn = np.random.default_rng(seed).permutation(items[chosen])
    sizes = np.unique(np.geomspace(1, most, 60).astype(int))
    wide = stats.norm.ppf(0.5 + LEVEL / 2.0)
    ml, ml_interval, bayes, bayes_interval = [], [], [], []
    for n in sizes:
        mean, variance = (float(v) for v in prior.maximum_likelihood(drawn[:n]))
        posterior = prior.posterior(drawn[:n])
        ml.append(mean)
        ml_interval.append([mean + sign * wide * np.sqrt(variance / n) for sign in (-1, 1)])
        bayes.append(float(posterior.delta))
        bayes_interval.append([float(end) for end in posterior.mean_law.interval(LEVEL)])
    return Example(
        titles[chosen], float(means[chosen]), sizes,
        *(np.array(values) for values in (ml, ml_interval, bayes, bayes_interval)),
    )  # fmt: skip


def winners(items: Sequence[np.ndarray], n_repeats: int, seed: int, top: int = TOP) -> list[Winners]:
    """Rank on one half of the ratings, look the top up in the other, by each estimator; averages over splits."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(items)), [len(ratings) for ratings in items])
    ratings = np.concatenate(items)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(n_repeats):
        first = rng.random(len(ratings)) < 0.5
        here, there = (
            GaussianStatistics.of_groups(ratings[mask], labels[mask], len(items)) for mask in (first, ~first)
        )
        both = ((here.count > 0) & (there.count > 0)).numpy()
        for name, (estimate, rank_by) in _estimates(here).items():
            best = np.argsort(np.where(both, -rank_by, np.inf), kind="stable")[:top]
            kept = there.mean.numpy()[best].mean()
            optimism = estimate[best].mean() - kept
            found.setdefault(name, []).append((optimism, kept, float(np.median(here.count.numpy()[best]))))
    result = []
    for name, rows in found.items():
        table = np.array(rows)
        error = table[:, 0].std(ddof=1) / np.sqrt(n_repeats) if n_repeats > 1 else 0.0
        result.append(Winners(name, table[:, 0].mean(), float(error), table[:, 1].mean(), table[:, 2].mean()))
    return result


def _estimates(seen: GaussianStatistics) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each estimator's means, and what it ranks by."""
    prior = fit_normal_inverse_gamma(seen).prior
    posterior = prior.posterior(seen)
    mean = posterior.delta.numpy()
    low = posterior.mean_law.interval(LEVEL)[0].numpy()
    ml = seen.mean.numpy()
    tweedie = tweedie_group_means(seen)[0].numpy()
    return {
        "maximum likelihood": (ml, ml),
        "MAP": (mean, mean),
        "Bayes, by the lower end": (mean, low),
        "Tweedie": (tweedie, tweedie),
    }


def curve_table(curves: Sequence[Curve], n_items: int) -> Table:
    """What was measured."""
    table = Table(title=f"{n_items} items; coverage of {100 * LEVEL:.0f} % intervals")
    heads = ["ratings", "RMSE ML", "RMSE MAP = Bayes", "next rating: ML", "MAP", "Bayes", "mean: ML", "Bayes"]
    for head in [*heads, "nats a rating: ML", "MAP", "Bayes"]:
        table.add_column(head, justify="right")
    for curve in curves:
        table.add_row(
            str(curve.n),
            *(f"{curve.rmse[name][0]:.3f} ± {curve.rmse[name][1]:.3f}" for name in ("ML", "MAP")),
            *(f"{100 * curve.predictive[name]:.1f} %" for name in ("ML", "MAP", "Bayes")),
            *(f"{100 * curve.of_mean[name]:.1f} %" for name in ("ML", "Bayes")),
            *(f"{curve.log_density[name]:.3f}" for name in ("ML", "MAP", "Bayes")),
        )
    return table


def winners_table(rows: Sequence[Winners], n_items: int) -> Table:
    """What was measured."""
    table = Table(title=f"top {TOP} of {n_items} items by half of the ratings, looked up in the other half")
    for head in ("ranked by", "optimism, stars", "mean rating in the other half", "ratings of each, median"):
        table.add_column(head, justify="left" if head == "ranked by" else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.optimism:+.3f} ± {row.optimism_error:.3f}",
            f"{row.kept:.3f}",
            f"{row.n_ratings:.0f}",
        )
    return table


def draw_figure(
    curves: Sequence[Curve], example: Example, rows: Sequence[Winners], n_items: int, target: Path
) -> None:
    """Four panels: one item, the error, the coverage, the winner's curse."""
    figure = Figure(figsize=(11.0, 7.6), dpi=160, facecolor="white")
    axes = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.065, right=0.975, top=0.93, bottom=0.075, wspace=0.17, hspace=0.34)
    for place in axes.flat:
        place.spines[["top", "right"]].set_visible(False)
        place.spines[["left", "bottom"]].set_color(_MUTED)
        place.tick_params(colors=_MUTED, labelsize=9)
        place.grid(color=_GRID, linewidth=0.8)
        place.set_axisbelow(True)
    _draw_example(axes[0, 0], example)
    _draw_error(axes[0, 1], curves, n_items)
    _draw_coverage(axes[1, 0], curves)
    _draw_winners(axes[1, 1], rows)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_example(axes: Axes, example: Example) -> None:
    for values, interval, colour, name in (
        (example.ml, example.ml_interval, _ML, "maximum likelihood"),
        (example.bayes, example.bayes_interval, _BAYES, "Bayes"),
    ):
        axes.fill_between(
            example.sizes, interval[:, 0], interval[:, 1], color=colour, alpha=0.17, linewidth=0
        )
        axes.plot(example.sizes, values, color=colour, linewidth=1.8, label=name)
    axes.axhline(
        example.truth, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)), label="mean over all ratings"
    )
    _title(axes, "One item, as its ratings come in", example.title)
    _counts_axis(axes, int(example.sizes[-1]))
    axes.set_ylabel(f"stars, with {100 * LEVEL:.0f} % intervals", color=_INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK, loc="best")


def _draw_error(axes: Axes, curves: Sequence[Curve], n_items: int) -> None:
    n = [curve.n for curve in curves]
    for name, colour, marker, label in (
        ("ML", _ML, "o", "maximum likelihood"),
        ("MAP", _BAYES, "s", "MAP = posterior mean"),
    ):
        root = np.array([curve.rmse[name] for curve in curves])
        axes.fill_between(
            n, root[:, 0] - root[:, 1], root[:, 0] + root[:, 1], color=colour, alpha=0.2, linewidth=0
        )
        axes.plot(n, root[:, 0], color=colour, marker=marker, markersize=4.5, linewidth=1.8, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([v for v in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if v >= 0.8 * axes.get_ylim()[0]])
    _title(axes, "Error of the item's mean", f"{n_items} items")
    _counts_axis(axes, n[-1])
    axes.set_ylabel("root mean squared error, stars", color=_INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK)


def _draw_coverage(axes: Axes, curves: Sequence[Curve]) -> None:
    n = [curve.n for curve in curves]
    lines = (
        ("predictive", "ML", _ML, "o", "-", "next rating: maximum likelihood"),
        ("predictive", "MAP", _MAP, "^", "-", "next rating: MAP"),
        ("predictive", "Bayes", _BAYES, "s", "-", "next rating: Bayes"),
        ("of_mean", "ML", _ML, "o", ":", "the mean: maximum likelihood"),
        ("of_mean", "Bayes", _BAYES, "s", ":", "the mean: Bayes"),
    )
    for kind, name, colour, marker, style, label in lines:
        values = [100.0 * getattr(curve, kind)[name] for curve in curves]
        filled = colour if style == "-" else "white"
        axes.plot(
            n, values, color=colour, linestyle=style, linewidth=1.8, label=label,
            marker=marker, markersize=4.5, markerfacecolor=filled,
        )  # fmt: skip
    axes.axhline(100 * LEVEL, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)), label="nominal")
    axes.set_ylim(-2.0, 104.0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    _title(axes, f"Coverage of {100 * LEVEL:.0f} % intervals", "")
    _counts_axis(axes, n[-1])
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK, loc="lower right")


def _draw_winners(axes: Axes, rows: Sequence[Winners]) -> None:
    colours = (_ML, _MAP, _BAYES, _TWEEDIE)
    places = np.arange(len(rows))[::-1]
    shown = [row.optimism for row in rows]
    axes.barh(
        places, shown, height=0.36, color=colours[: len(rows)],
        xerr=[1.96 * row.optimism_error for row in rows], error_kw={"ecolor": _INK, "elinewidth": 1.0},
    )  # fmt: skip
    ends = [max(row.optimism + 1.96 * row.optimism_error, 0.0) for row in rows]
    least = min(0.0, *(row.optimism - 1.96 * row.optimism_error for row in rows))
    span = max(ends) - least
    for place, row, end in zip(places, rows, ends, strict=True):
        axes.text(0.01 * span, place + 0.24, row.name, fontsize=9.5, color=_INK, va="bottom", ha="left")
        words = f"promised {row.kept + row.optimism:.2f}, kept {row.kept:.2f}"
        axes.text(end + 0.02 * span, place, words, fontsize=9, color=_MUTED, va="center")
    axes.axvline(0.0, color=_INK, linewidth=1.0)
    axes.set(yticks=[], ylim=(-0.5, len(rows) - 0.3), xlim=(least - 0.02 * span, max(ends) + 0.64 * span))
    axes.grid(visible=False, axis="y")
    _title(axes, f"Winner's curse of the top {TOP}", "ranked on half of the ratings")
    axes.set_xlabel("what their estimates promise too much, stars", color=_INK)


def _title(axes: Axes, left: str, right: str) -> None:
    axes.set_title(left, loc="left", fontsize=11.5, color=_INK, pad=7, fontweight="bold")
    axes.set_title(right, loc="right", fontsize=9.5, color=_MUTED, pad=7)


def _counts_axis(axes: Axes, most: int) -> None:
    axes.set_xscale("log")
    ticks = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if n <= most]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel("ratings of the item", color=_INK)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "ratings", nargs="?", type=Path, help="table of ratings; default: embedded ml-latest-small"
    )
    parser.add_argument("--items", type=Path, help="table of titles")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--repeats", type=int, default=20, help="random draws to average over")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, came {options.repeats}")
    if options.output.suffix != ".png":
        parser.error(f"--output: expected a name that ends in .png, came {options.output}")
    if options.ratings is None:
        embedded = bundled_path("data", "ml-latest-small")
        options.ratings, options.items = embedded / "ratings.csv", embedded / "movies.csv"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, estimate, print and draw."""
    options = _options(arguments)
    try:
        table = read_table(options.ratings, items=options.items)
        everything = ratings_by_item(table)
        counts = np.array([len(ratings) for ratings in everything])
        most = longest_draw(counts)
        usable = np.flatnonzero(counts >= 2 * most)
        items = [everything[place] for place in usable]
        titles = [str(table.item_ids[place]) for place in usable]
        if table.titles is not None:
            titles = [str(table.titles[place] or table.item_ids[place]) for place in usable]
        curves = learning_curves(items, most, options.repeats, options.seed)
        rated = [ratings for ratings in everything if len(ratings)]
        rows = winners(rated, options.repeats, options.seed)
        example = example_of(items, titles, most, options.seed)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw_figure(curves, example, rows, len(items), options.output)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    console = Console()
    console.print(curve_table(curves, len(items)))
    console.print(winners_table(rows, len(rated)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
