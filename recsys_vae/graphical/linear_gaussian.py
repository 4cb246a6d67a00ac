"""Linear-Gaussian networks: each variable is Gaussian about a linear function of its parents (Bishop 2006, 8.1.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.directed import topological_order


@dataclass(frozen=True)
class LinearGaussian:
    """``N(bias + sum of weight * parent, variance)``.

    Args:
        parents: of the variable.
        weights: one for each parent.
        bias: the mean where all parents are 0.
        variance: positive.
    """

    parents: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    variance: float = 1.0


@dataclass(frozen=True)
class GaussianMarginals:
    """The unobserved variables given the evidence: ``mean`` and ``covariance`` in the order of ``names``.

    ``mean`` is ``(variables,)``, or ``(cases, variables)`` where the evidence came as a batch; the covariance does not
    depend on what was observed. ``log_evidence`` is the log-density of the evidence, nats.
    """

    names: tuple[str, ...]
    mean: Float[Tensor, "*cases variables"]
    covariance: Float[Tensor, "variables variables"]
    log_evidence: Float[Tensor, "*cases"]

    def marginal(self, name: str) -> tuple[Float[Tensor, "*cases"], Float[Tensor, ""]]:
        """Mean and variance of a variable. Raises :class:`UserError` for one that is not there."""
        if name not in self.names:
            raise UserError(f"name: expected one of the unobserved variables, came {name!r}")
        place = self.names.index(name)
        return self.mean[..., place], self.covariance[place, place]


class LinearGaussianNetwork:
    """Variables that are together one Gaussian, written as a directed graph.

    >>> network = LinearGaussianNetwork(
    ...     {"a": LinearGaussian(bias=1.0), "b": LinearGaussian(("a",), (2.0,), variance=0.5)}
    ... )
    >>> network.mean.tolist(), network.covariance.tolist()
    ([1.0, 2.0], [[1.0, 2.0], [2.0, 4.5]])
    >>> network.condition({"b": 4.0}).marginal("a")
    (tensor(1.8889, dtype=torch.float64), tensor(0.1111, dtype=torch.float64))

    Args:
        conditionals: of each variable; in this order are all vectors and matrices.

    Raises :class:`UserError` for parents that are unknown or come twice, a cycle, weights that do not fit, and
    variances that are no such.
    """

    def __init__(self, conditionals: Mapping[str, LinearGaussian]) -> None:
        for name, law in conditionals.items():
            if len(law.weights) != len(law.parents):
                raise UserError(
                    f"conditionals: expected {len(law.parents)} weights for {name!r}, came {len(law.weights)}"
                )
            if len(set(law.parents)) != len(law.parents):
                raise UserError(
                    f"conditionals: expected each parent of {name!r} once, came {list(law.parents)}"
                )
            if not all(math.isfinite(number) for number in (*law.weights, law.bias)):
                raise UserError(f"conditionals: expected finite numbers for {name!r}, came {law}")
            if not 0.0 < law.variance < math.inf:
                raise UserError(
                    f"conditionals: expected a positive variance for {name!r}, came {law.variance!r}"
                )
        self.conditionals = dict(conditionals)
        self.names = tuple(conditionals)
        self.parents: Mapping[str, Sequence[str]] = {name: law.parents for name, law in conditionals.items()}
        self.order = topological_order(self.parents)
        self._index = {name: number for number, name in enumerate(self.names)}
        self.mean, self.covariance = self._moments()

    def _moments(self) -> tuple[Float[Tensor, " variables"], Float[Tensor, "variables variables"]]:
        """Bishop's eq. 8.15 and 8.16, along the order."""
        n = len(self.names)
        mean = torch.zeros(n, dtype=torch.float64)
        covariance = torch.zeros(n, n, dtype=torch.float64)
        for name in self.order:
            law, place = self.conditionals[name], self._index[name]
            above = [self._index[parent] for parent in law.parents]
            weights = torch.tensor(law.weights, dtype=torch.float64)
            mean[place] = law.bias + weights @ mean[above]
            row = weights @ covariance[above]
            covariance[place] = row
            covariance[:, place] = row
            covariance[place, place] = law.variance + row[above] @ weights
        return mean, covariance

    @property
    def precision(self) -> Float[Tensor, "variables variables"]:
        """The covariance's inverse, formed without one: ``(I - W)' diag(1 / variance) (I - W)``.

        It is 0 between variables that are no neighbours in the moral graph.
        """
        whitening, _ = self._whitening()
        return whitening.T @ whitening

    def _whitening(self) -> tuple[Float[Tensor, "variables variables"], Float[Tensor, " variables"]]:
        """``A`` and ``c`` for which ``A x - c`` is white noise: each law's residual in standard deviations."""
        residual = torch.eye(len(self.names), dtype=torch.float64)
        for name, law in self.conditionals.items():
            for parent, weight in zip(law.parents, law.weights, strict=True):
                residual[self._index[name], self._index[parent]] -= weight
        laws = self.conditionals.values()
        deviation = torch.tensor([law.variance for law in laws], dtype=torch.float64).sqrt()
        bias = torch.tensor([law.bias for law in laws], dtype=torch.float64)
        return residual / deviation.unsqueeze(-1), bias / deviation

    def condition(
        self, evidence: Mapping[str, float | Sequence[float] | Tensor] | None = None
    ) -> GaussianMarginals:
        """The law of the rest given some of the variables (Bishop 2006, eq. 2.73 and 2.75).

        By least squares on the residuals of all laws: with a QR decomposition of the columns that are not observed, no
        covariance is subtracted from another, and none is squared.

        Args:
            evidence: a number for each observed variable; or numbers or a tensor ``(cases,)``, for many cases at once.

        Raises :class:`UserError` for unknown variables, numbers that are not finite, lists of different lengths, and
        observed variables that follow from each other so closely that float64 cannot tell.
        """
        columns = {name: self._observation(name, given) for name, given in (evidence or {}).items()}
        lengths = {len(column) for column in columns.values() if column.ndim}
        if len(lengths) > 1:
            raise UserError(
                f"evidence: expected as many cases for each variable, came {sorted(lengths)} of them"
            )
        seen = [self._index[name] for name in columns]
        rest = [number for number in range(len(self.names)) if number not in set(seen)]
        n_cases = lengths.pop() if lengths else 1
        batched = any(column.ndim for column in columns.values())
        values = torch.zeros(len(seen), n_cases, dtype=torch.float64)
        for row, column in zip(values, columns.values(), strict=True):
            row[:] = column
        if not seen:
            return GaussianMarginals(
                self.names, self.mean, self.covariance, torch.zeros((), dtype=torch.float64)
            )
        whitening, bias = self._whitening()
        # Large rows first: so Householder's reflections keep the digits of the small (Higham 2002, section 20.3).
        by_size = whitening.abs().amax(dim=1).argsort(descending=True, stable=True)
        whitening, bias = whitening[by_size], bias[by_size].unsqueeze(-1)
        rotation, triangle = torch.linalg.qr(whitening[:, rest], mode="complete")
        triangle = triangle[: len(rest)]
        rotated = rotation.T @ (bias - whitening[:, seen] @ values)
        # What no choice of the rest explains is the evidence's own noise, in standard deviations.
        mean = torch.linalg.solve_triangular(triangle, rotated[: len(rest)], upper=True).T
        noise = rotated[len(rest) :]
        rounding = rotation.T[len(rest) :].abs() @ (bias.abs() + whitening[:, seen].abs() @ values.abs())
        if bool((torch.finfo(torch.float64).eps * rounding > 0.1 * (1.0 + noise.abs())).any()):
            raise UserError(
                f"evidence: expected variables none of which follows from others, came {list(columns)}"
            )
        inverse = torch.linalg.solve_triangular(
            triangle, torch.eye(len(rest), dtype=torch.float64), upper=True
        )
        covariance = inverse @ inverse.T
        log_evidence = -0.5 * (noise.square().sum(dim=0) + len(seen) * math.log(2.0 * math.pi))
        log_variance = sum(math.log(law.variance) for law in self.conditionals.values())
        log_evidence = log_evidence - 0.5 * log_variance - triangle.diagonal().abs().log().sum()
        names = tuple(self.names[number] for number in rest)
        if batched:
            return GaussianMarginals(names, mean, covariance, log_evidence)
        return GaussianMarginals(names, mean[0], covariance, log_evidence[0])

    def _observation(self, name: str, given: float | Sequence[float] | Tensor) -> Tensor:
        """``()`` or ``(cases,)``."""
        if name not in self._index:
            raise UserError(f"evidence: expected variables of the network, came {name!r}")
        value = torch.as_tensor(given, dtype=torch.float64)
        if value.ndim > 1 or not bool(value.isfinite().all()):
            raise UserError(
                f"evidence: expected a finite number or (cases,) of them for {name!r}, came {given!r}"
            )
        return value

    def sample(self, n_draws: int, *, seed: int = 0) -> Float[Tensor, "draws variables"]:
        """Independent draws, each variable after its parents."""
        if isinstance(n_draws, bool) or n_draws < 1:
            raise UserError(f"n_draws: expected a whole number of at least 1, came {n_draws!r}")
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randn(n_draws, len(self.names), generator=generator, dtype=torch.float64)
        for name in self.order:
            law, place = self.conditionals[name], self._index[name]
            above = [self._index[parent] for parent in law.parents]
            mean = law.bias + draws[:, above] @ torch.tensor(law.weights, dtype=torch.float64)
            draws[:, place] = mean + math.sqrt(law.variance) * draws[:, place]
        return draws

    def log_density(self, values: Float[Tensor, "*cases variables"]) -> Float[Tensor, "*cases"]:
        """Of all variables together, in the order of ``names``, nats: the sum of their laws.

        Raises :class:`UserError` for another number of variables.
        """
        if values.shape[-1] != len(self.names):
            raise UserError(f"values: expected (..., {len(self.names)}), came {tuple(values.shape)}")
        values = values.double()
        total = torch.zeros(values.shape[:-1], dtype=torch.float64)
        for name, law in self.conditionals.items():
            above = [self._index[parent] for parent in law.parents]
            mean = law.bias + values[..., above] @ torch.tensor(law.weights, dtype=torch.float64)
            shift = values[..., self._index[name]] - mean
            total = total - 0.5 * (shift.square() / law.variance + math.log(2.0 * math.pi * law.variance))
        return total
