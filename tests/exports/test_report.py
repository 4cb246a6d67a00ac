from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys_vae.exports.charts import interval_chart, line_chart
from recsys_vae.exports.report import render_report

EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(1)> & $x^2$"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Strict(HTMLParser):
    """Checks that tags nest, and gathers tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def inputs(text: str = "plain") -> dict[str, Any]:
    entry = {"mean": 0.41234, "stderr": 0.0041, "interval": [0.4043, 0.4204]}
    return {
        "dataset": text,
        "model": "mult_vae",
        "seed": 7,
        "date": "2025-01-02",
        "split": {"name": "strong_generalisation", "sha256": "0123456789abcdef" * 4},
        "config": {"model": {"latent_dim": 200}, "note": text},
        "metrics": {
            "validation": {"ndcg@100": entry},
            "test": {"ndcg@100": entry, "recall@20": {"mean": 0.3, "stderr": None, "interval": None}},
            "n_test_users": 1234,
            "seconds": {"training": 12.34},
            "by_history_length": [
                {"history_length": "1-9", "users": 5, "ndcg@100": 0.5, "recall@20": {"mean": 0.25, "stderr": 0.01}},
                {"history_length": text, "users": 6, "ndcg@100": 0.4, "recall@20": {"mean": None, "stderr": None}},
            ],
            "by_item_popularity": [{"popularity": "head", "recall@50": {"mean": 0.7, "stderr": 0.02}}],
            "beyond_accuracy": {"coverage@100": np.float64(0.5), "gini@100": 0.875},
        },
        "history": pd.DataFrame(
            {
                "epoch": [0, 1, 2],
                "loss": [9.0, 8.0, 7.5],
                "kl": [0.0, 1.0, 2.0],
                "kl_weight": [0.0, 0.1, 0.2],
                "validation ndcg@100": [0.1, 0.3111, np.nan],
            }
        ),
        "samples": [
            {
                "user": text,
                "history": [text] * 20,
                "recommended": [{"title": text, "hit": True}, {"title": "Heat", "hit": False}],
            }
        ],
        "versions": {"torch": "2.x"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(**inputs())


def test_says_everything_that_it_was_given(html: str) -> None:
    page = Strict(html)
    for expected in [
        "mult_vae on plain", "0123456789ab", "2025-01-02", "12.3 s", "1,234 users", "0.4123 ± 0.0041",
        "[0.4043, 0.4204]", "NDCG@100", "best 0.3111 in epoch 1", "KL weight", "By length of history",
        "Recall@20, with one standard error", "By popularity of the item", "Gini index@100", "0.8750",
        "and 8 more", "plain ✓", "latent_dim: 200",
    ]:  # fmt: skip
        assert expected in page.text, expected
    assert page.tags.count("figure") == 4 + 2
    assert "Heat ✓" not in page.text


def test_hostile_text_stays_text() -> None:
    page = Strict(render_report(**inputs(EVIL)))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.count(EVIL) >= 12 + 4  # history, title, heading, user, recommendation


def test_asks_for_nothing_from_outside(html: str) -> None:
    page = Strict(html)
    assert "://" not in html
    assert not re.search(r"@import|url\((?!#)", html)
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "action", "data", "poster")
        if name.endswith("href"):
            assert value is not None
            assert value.startswith("#")
    assert "default-src 'none'" in html


def test_every_reference_inside_a_drawing_is_met_and_ids_are_unique(html: str) -> None:
    page = Strict(html)
    ids = [value for name, value in page.attributes if name == "id"]
    wanted = {value[1:] for name, value in page.attributes if name == "href" and value}
    wanted |= {m for _, value in page.attributes for m in re.findall(r"url\(#([^)]*)\)", value or "")}
    assert wanted <= set(ids)
    assert len(ids) == len(set(ids))


def test_same_input_same_bytes(html: str) -> None:
    assert render_report(**inputs()) == html


@pytest.mark.parametrize(
    "history",
    [
        None,
        pd.DataFrame(),
        pd.DataFrame({"epoch": [], "loss": []}),
        pd.DataFrame({"epoch": [0], "loss": [np.nan], "validation ndcg@100": [np.nan]}),
    ],
)
def test_a_model_without_curves_has_no_such_section(history: pd.DataFrame | None) -> None:
    page = Strict(render_report(**inputs() | {"history": history, "samples": []}))
    assert "Training loss" not in page.text
    assert "Sample recommendations" not in page.text


def test_empty_metrics_still_make_a_page() -> None:
    page = Strict(render_report(**inputs() | {"metrics": {}, "config": {}, "split": {}, "history": None}))
    assert "mult_vae on plain" in page.text


def test_one_epoch_and_one_group_can_be_drawn() -> None:
    assert "<svg viewBox" in line_chart(np.array([0.0]), np.array([1.0]), name="a", x_label="epoch", best=0)
    drawing = interval_chart(["$\\frac$"], np.array([0.5]), np.array([np.nan]), name="b", x_label="x")
    assert "$\\frac$" in drawing
    assert "var(--accent)" in drawing
    assert "#0" not in re.sub(r"url\(#[^)]*\)|href=\"#[^\"]*\"", "", drawing)
