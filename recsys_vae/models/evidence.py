"""Histories as evidence on items that are had or not: what the models that are graphs ask with."""

from __future__ import annotations

import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from torch import Tensor


def evidence_of(histories: csr_array, outside: int = -1) -> Int[Tensor, "users items"]:
    """1 for the items of a history; for all others ``outside``: 0, not had, or -1, unknown. int8, dense."""
    evidence = torch.full(histories.shape, outside, dtype=torch.int8)
    rows = torch.repeat_interleave(
        torch.arange(histories.shape[0]), torch.from_numpy(histories.indptr).diff().long()
    )
    had = torch.from_numpy(histories.data != 0)
    evidence[rows[had], torch.from_numpy(histories.indices).long()[had]] = 1
    return evidence
