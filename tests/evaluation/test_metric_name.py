from __future__ import annotations

import numpy as np
import pytest

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError
from recsys_vae.evaluation import METRICS, parse_metric
from recsys_vae.evaluation.metric_name import parse_metrics


@pytest.mark.parametrize("kind", sorted(METRICS))
def test_reads_every_metric(kind: str) -> None:
    metric = parse_metric(f" {kind}@20 ")
    assert (metric.name, metric.k) == (f"{kind}@20", 20)
    assert metric.function is METRICS[kind]
    assert metric.function(np.array([[True]]), np.array([1]), 1).tolist() == [1.0]


@pytest.mark.parametrize(
    "name", ["ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@1.5", "ndcg@ten", "ndcg@1@2", "ndcg@²"]
)
def test_refuses_a_k_that_is_not_a_positive_whole_number(name: str) -> None:
    with pytest.raises(UserError, match=f"metrics: expected a whole number k from 1 up .* got '{name}'"):
        parse_metric(name)


def test_an_unknown_metric_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match="got 'ndgc@10'; did you mean 'ndcg'"):
        parse_metric("ndgc@10")
    with pytest.raises(
        UserError, match="expected one of average_precision, hit_rate, ndcg, precision, recall"
    ):
        parse_metric("@10")


def test_reads_lists() -> None:
    assert [metric.name for metric in parse_metrics(["recall@5", "ndcg@5"])] == ["recall@5", "ndcg@5"]
    assert [metric.name for metric in parse_metrics("recall@5, ndcg@5")] == ["recall@5", "ndcg@5"]
    with pytest.raises(UserError, match="'recall@5' twice"):
        parse_metrics(["recall@5", "recall@5 "])
    with pytest.raises(UserError, match="at least one"):
        parse_metrics([])


def test_the_default_list_is_valid_and_starts_with_the_papers_metrics() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    names = omegaconf.OmegaConf.load(bundled_path("configs", "evaluation", "default.yaml")).metrics
    assert [metric.name for metric in parse_metrics(names)][:3] == ["ndcg@100", "recall@20", "recall@50"]
