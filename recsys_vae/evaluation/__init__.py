"""Judging ranked lists: metrics, intervals, strata, paired comparisons. Knows no model."""

from recsys_vae.evaluation.evaluation import Evaluation
from recsys_vae.evaluation.metric_name import Metric, parse_metric
from recsys_vae.evaluation.metrics import METRICS
from recsys_vae.evaluation.paired import compare_runs
from recsys_vae.evaluation.result import EvaluationResult

__all__ = ["METRICS", "Evaluation", "EvaluationResult", "Metric", "compare_runs", "parse_metric"]
