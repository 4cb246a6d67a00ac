"""Trees learned from binary data (Chow & Liu 1968, "Approximating discrete probability distributions with
dependence trees", IEEE Transactions on Information Theory 14(3)).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.graphical.binary_cases import binary_cases
from recsys_vae.graphical.pairwise_tree import BinaryTree

_CASES_AT_A_TIME = 2**15


def chow_liu_tree(data: Any, *, smoothing: float = 0.5, independence: float = 0.0) -> BinaryTree:
    """The tree whose edges have the largest sum of mutual information: of all trees, the most likely one.

    >>> import scipy.sparse
    >>> data = scipy.sparse.csr_array([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    >>> chow_liu_tree(data).parent.tolist()
    [-1, 0, 0]

    Grown by Prim's algorithm, which needs the mutual information of one variable with all others at a time: memory is
    that of the data, time ``O(variables^2)`` and the sum of the squares of the cases' sizes. Starts at the variable
    that is most often 1; where variables tie, up to rounding, the lowest is next, and it joins the first that it could.
    No edge is refused for being weak: independent variables are joined by tables that say so.

    Args:
        data: ``(cases, variables)``, sparse or dense: 1 where it is not 0.
        smoothing: cases added to each of the four cells of each pair's table.
        independence: of each pair's table, the share that is replaced by the product of its marginals. Evidence
            then travels less far. The choice of edges is without it.

    Raises :class:`UserError` for an empty matrix, for negative numbers or NaN in it, and for settings out of range.
    """
    for name, value, bound in (("smoothing", smoothing, math.inf), ("independence", independence, 1.0)):
        if isinstance(value, bool) or not 0.0 <= value < bound:
            raise UserError(f"{name}: expected a number in [0, {bound}), came {value!r}")
    by_case = binary_cases(data)
    parent, common = _grow(by_case, float(smoothing))
    counts = np.bincount(by_case.indices, minlength=by_case.shape[1])
    tables = _conditionals(parent, common, counts, by_case.shape[0], float(smoothing), float(independence))
    return BinaryTree(torch.from_numpy(parent), torch.from_numpy(tables).log())


def _grow(by_case: csr_array, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """The parent of each variable, and in how many cases both are 1."""
    n_cases, n_variables = by_case.shape
    by_variable = by_case.T.tocsr()
    counts = np.diff(by_variable.indptr).astype(np.int64)
    # Cases times mutual information is a sum of x log x over cells and margins, whose x are whole numbers.
    cell = _x_log_x(n_cases, smoothing)
    margin = _x_log_x(n_cases, 2.0 * smoothing)
    own = -(margin[counts] + margin[n_cases - counts])

    parent = np.full(n_variables, -1, dtype=np.int64)
    common = np.zeros(n_variables, dtype=np.int64)
    new = int(np.argmax(counts))
    # Of what is not in the tree yet: the variable, its best weight, the neighbour that gives it, and their common 1s.
    outside = np.delete(np.arange(n_variables), new)
    best = np.full(n_variables - 1, -np.inf)
    nearest = np.zeros(n_variables - 1, dtype=np.int64)
    shared = np.zeros(n_variables - 1, dtype=np.int64)
    for n_outside in range(n_variables - 1, 0, -1):
        both = _common_cases(by_case, by_variable, new)[outside]
        only_other = counts[outside] - both
        weight = cell[both] + cell[counts[new] - both] + cell[only_other]
        weight += cell[n_cases - counts[new] - only_other] + own[outside]
        weight += own[new]
        better = weight > best  # never of one that is in the tree, whose best is infinite
        best[better] = weight[better]
        nearest[better] = new
        shared[better] = both[better]
        place = int(np.argmax(np.where(best < np.inf, best, -np.inf)))
        new = int(outside[place])
        parent[new], common[new] = nearest[place], shared[place]
        best[place] = np.inf
        if n_outside < 0.8 * len(outside):
            left = best < np.inf
            outside, best, nearest, shared = outside[left], best[left], nearest[left], shared[left]
    return parent, common


def _x_log_x(largest: int, added: float) -> np.ndarray:
    x = np.arange(largest + 1) + added
    return x * np.log(np.where(x > 0.0, x, 1.0))


def _common_cases(by_case: csr_array, by_variable: csr_array, variable: int) -> np.ndarray:
    """In how many cases each variable is 1 together with this one."""
    cases = by_variable.indices[by_variable.indptr[variable] : by_variable.indptr[variable + 1]]
    total = np.zeros(by_case.shape[1], dtype=np.int64)
    for start in range(0, len(cases), _CASES_AT_A_TIME):
        some = by_case[cases[start : start + _CASES_AT_A_TIME]]
        total += np.bincount(some.indices, minlength=len(total))
    return total


def _conditionals(
    parent: np.ndarray,
    common: np.ndarray,
    counts: np.ndarray,
    n_cases: int,
    smoothing: float,
    independence: float,
) -> np.ndarray:
    """``[variable, state of the parent, own state]``; a state that no case has tells nothing of the other variable."""
    above = np.where(parent >= 0, parent, 0)
    own, others = counts, counts[above]
    cells = np.stack([n_cases - own - others + common, own - common, others - common, common], axis=-1)
    joint = (cells.reshape(-1, 2, 2) + smoothing) / (n_cases + 4.0 * smoothing)
    share = (counts + 2.0 * smoothing) / (n_cases + 4.0 * smoothing)
    marginal = np.stack([1.0 - share, share], axis=-1)
    joint = (1.0 - independence) * joint + independence * marginal[above, :, None] * marginal[:, None, :]
    total = joint.sum(axis=-1, keepdims=True)
    known = (total > 0.0) & (parent >= 0)[:, None, None]
    return np.where(known, joint / np.where(total > 0.0, total, 1.0), marginal[:, None, :])
