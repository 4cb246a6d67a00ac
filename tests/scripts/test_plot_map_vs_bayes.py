"""On made-up ratings whose law is known: who errs, whose intervals cover, whose winners disappoint."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plot_map_vs_bayes as plot
import pytest

from recsys_vae.errors import UserError


def made_up_items(n_items, least, most, seed):
    """Means of spread 0.5 about 3.5 under noise of variance about 1: a rating is worth a fifth of the whole truth."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(least, most, n_items)
    variances = 3.0 / rng.gamma(4.0, size=n_items)
    return [rng.normal(rng.normal(3.5, 0.5), np.sqrt(v), n) for n, v in zip(counts, variances, strict=True)]


@pytest.fixture(scope="module")
def curves():
    return {c.n: c for c in plot.learning_curves(made_up_items(300, 400, 500, seed=0), 20, 2, seed=1)}


def test_shrinkage_errs_as_theory_says(curves) -> None:
    # ML errs by sqrt(E variance / n); E variance = 3 / (4 - 1) = 1, and the truth is itself a mean of 450 ratings.
    for n in (1, 5, 20):
        assert curves[n].rmse["ML"][0] == pytest.approx(np.sqrt(1.0 / n), rel=0.15)
    # One rating of noise 1 about a truth of spread 0.5: the best estimate errs by sqrt(0.25 / 1.25) = 0.45.
    assert curves[1].rmse["MAP"][0] == pytest.approx(0.447, rel=0.1)
    assert curves[20].rmse["MAP"][0] == pytest.approx(curves[20].rmse["ML"][0], rel=0.15)


def test_intervals_cover(curves) -> None:
    # 600 items a size, whose shares have a standard deviation of 0.1 at the most from item to item.
    for n in (1, 5, 20):
        assert curves[n].predictive["Bayes"] == pytest.approx(0.9, abs=0.02)
        assert curves[n].of_mean["Bayes"] == pytest.approx(0.9, abs=4.5 * 0.3 / np.sqrt(300))
        assert curves[n].predictive["ML"] < curves[n].predictive["Bayes"]
    assert curves[1].predictive["ML"] < 0.05
    assert curves[2].of_mean["ML"] < 0.75
    # With 20 ratings the plug-in interval of the mean is nearly the t interval.
    assert curves[20].of_mean["ML"] == pytest.approx(0.88, abs=4.5 * 0.32 / np.sqrt(300))
    assert curves[1].log_density["ML"] == -np.inf
    for n in (2, 5, 20):
        assert (
            curves[n].log_density["ML"] < curves[n].log_density["MAP"] < curves[n].log_density["Bayes"] + 1e-3
        )


def test_the_prior_does_not_know_the_items_that_it_is_asked_about(monkeypatch) -> None:
    items = made_up_items(60, 20, 30, seed=6)
    told, asked = [], []
    prior, compare = plot._prior, plot._compare
    monkeypatch.setattr(plot, "_prior", lambda part: (told.append({r.sum() for r in part}), prior(part))[1])
    monkeypatch.setattr(
        plot,
        "_compare",
        lambda part, n, law: (asked.append([r.sum() for r in part]), compare(part, n, law))[1],
    )
    plot.learning_curves(items, 1, 1, seed=7)
    assert len(told) == len(asked) == 2
    for known, wanted in zip(told, asked, strict=True):
        assert len(known) == len(wanted) == 30
        assert not any(abs(total - other) < 1e-9 for total in wanted for other in known)


def test_winners_disappoint_whom_the_prior_did_not_warn() -> None:
    rng = np.random.default_rng(2)
    items = made_up_items(1500, 2, 30, seed=3)
    rows = {row.name: row for row in plot.winners([rng.permutation(i) for i in items], 4, seed=4)}
    ml, by_map = rows["maximum likelihood"], rows["MAP"]
    assert ml.optimism > 1.0
    assert abs(by_map.optimism) < 0.2
    assert abs(rows["Tweedie"].optimism) < 0.2
    # Nor is it modesty alone: what they choose is better.
    for name in ("MAP", "Bayes, by the lower end", "Tweedie"):
        assert rows[name].kept > ml.kept


def test_it_prints_and_saves(tmp_path, capsys) -> None:
    items = made_up_items(60, 25, 40, seed=5)
    table = pd.DataFrame(
        {
            "user_id": np.concatenate([np.arange(len(i)) for i in items]),
            "item_id": np.repeat(np.arange(60), [len(i) for i in items]),
            "rating": np.concatenate(items).clip(0.5, 5.0),
        }
    )
    table.to_parquet(tmp_path / "ratings.parquet")
    target = tmp_path / "new" / "picture.png"
    arguments = [str(tmp_path / "ratings.parquet"), "--output", str(target), "--repeats", "1"]
    assert plot.main(arguments) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "coverage of 90 %" in printed
    assert "Tweedie" in printed
    first = target.read_bytes()
    assert plot.main(arguments) == 0
    assert target.read_bytes() == first  # nothing but the arguments decides


def test_too_few_ratings_are_refused(tmp_path, capsys) -> None:
    table = pd.DataFrame({"user_id": [1, 2], "item_id": [1, 1], "rating": [3.0, 4.0]})
    table.to_csv(tmp_path / "few.csv", index=False)
    arguments = [str(tmp_path / "few.csv"), "--output", str(tmp_path / "p.png")]
    assert plot.main(arguments) == 1
    assert "expected at least 40 items" in capsys.readouterr().err
    table.drop(columns="rating").to_csv(tmp_path / "few.csv", index=False)
    assert plot.main(arguments) == 1
    assert "column of ratings" in capsys.readouterr().err
    assert not (tmp_path / "p.png").exists()
    with pytest.raises(SystemExit):
        plot.main(["--output", "p.jpg"])
    with pytest.raises(UserError):
        plot.longest_draw(np.array([3, 4]))
