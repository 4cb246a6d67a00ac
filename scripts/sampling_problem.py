"""A sampling problem as a file: the decoder, some histories, and where chains may start. Needs NumPy alone.

The density of user u is ``log N(z; 0, I) + likelihood_power * log p(x_u | z)``, x_u multinomial under a softmax over a
decoder of tanh layers. In z it is the same for every program; what differs is what each of them makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SamplingProblem:
    """All float32, but the index arrays.

    ``layer_weights`` ``(outputs, inputs)`` and ``layer_biases`` are the hidden layers', tanh after each; ``weight``
    ``(items, features)`` and ``bias`` the output layer's. ``offsets``, ``items`` and ``values`` are the histories as
    CSR. ``initial`` ``(chains, users, latent)`` are draws of the encoder and ``scale`` ``(users, latent)`` its
    standard deviations. ``centre`` ``(users, latent)`` and ``scale_tril`` ``(users, latent, latent)`` are the Gaussian
    at the mode, ``whitened`` the standard normal numbers that begin chains in its coordinates.
    """

    layer_weights: tuple[Floats, ...]
    layer_biases: tuple[Floats, ...]
    weight: Floats
    bias: Floats
    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    values: Floats
    initial: Floats
    scale: Floats
    centre: Floats
    scale_tril: Floats
    whitened: Floats
    likelihood_power: float

    def write(self, path: Path) -> Path:
        """Write an uncompressed .npz and return its path."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                arrays |= {f"{field.name}.{index}": array for index, array in enumerate(value)}
            else:
                arrays[field.name] = np.asarray(value)
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return path

    @classmethod
    def read(cls, path: Path) -> SamplingProblem:
        """Read what :meth:`write` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        layers = range(sum(name.startswith("layer_weights.") for name in arrays))
        stacked = {
            name: tuple(arrays.pop(f"{name}.{index}") for index in layers)
            for name in ("layer_weights", "layer_biases")
        }
        power = float(arrays.pop("likelihood_power"))
        return cls(**stacked, **arrays, likelihood_power=power)  # type: ignore[arg-type]

    def summed_features(self) -> tuple[Floats, Floats, Floats]:
        """``W'x`` ``(users, features)``, ``b'x`` and the sum of x, of each user.

        With them the likelihood needs no matrix of users by items but the logits:
        ``log p(x|z) = h'(W'x) + b'x - sum(x) logsumexp(W h + b)``, h the last hidden layer.
        """
        n_users = len(self.offsets) - 1
        features = np.zeros((n_users, self.weight.shape[1]), np.float32)
        bias, length = np.zeros(n_users, np.float32), np.zeros(n_users, np.float32)
        for user in range(n_users):
            entries = slice(self.offsets[user], self.offsets[user + 1])
            items, values = self.items[entries], self.values[entries]
            features[user] = values @ self.weight[items]
            bias[user] = values @ self.bias[items]
            length[user] = values.sum()
        return features, bias, length
