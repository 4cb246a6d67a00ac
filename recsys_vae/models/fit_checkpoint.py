"""What an iterative fit needs to carry on after a kill, in one file of tensors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys_vae.atomic import atomic_path, explain_full_disk
from recsys_vae.errors import UserError

log = logging.getLogger(__name__)

_NOT_WHOLE = "is not a whole checkpoint (without it, the fit starts from the first iteration)"


class FitCheckpoint:
    """Counts the iterations of a fit, and keeps the tensors that they go by in a file.

    A fit that is killed loses the iterations since the last save and repeats them exactly.

    Args:
        path: of the file, ``.safetensors``; ``None`` keeps nothing.
        every_seconds: at least so long from one save to the next.
    """

    def __init__(self, path: Path | None, every_seconds: float) -> None:
        self.path = path
        self.every_seconds = every_seconds

    def iterations(
        self,
        n_iterations: int,
        tensors: Callable[[], Mapping[str, Tensor]],
        generator: torch.Generator | None = None,
    ) -> Iterator[int]:
        """The number of each iteration that is left to do, from 1 to ``n_iterations``.

        What is saved is restored before the first, in place, and saved between two of them.

        Args:
            n_iterations: of the whole fit.
            tensors: gives all that an iteration goes by, contiguous, each with its own memory, always of the same
                names, types and shapes.
            generator: of the iterations' random numbers, on the CPU.

        Raises :class:`UserError` naming the file when it is damaged, of another fit, or cannot be written.
        """
        first = self._restore(n_iterations, tensors(), generator) + 1
        saved = time.monotonic()
        for iteration in range(first, n_iterations + 1):
            # Before an iteration and not after it: a resumed fit always has one to do.
            if iteration > first and time.monotonic() - saved >= self.every_seconds:
                self._save(iteration - 1, tensors(), generator)
                saved = time.monotonic()
            yield iteration

    def _save(self, n_done: int, tensors: Mapping[str, Tensor], generator: torch.Generator | None) -> None:
        if self.path is None:
            return
        with explain_full_disk("run", self.path), atomic_path(self.path) as temporary:
            save_file(_with_count(n_done, tensors, generator), temporary)

    def _restore(
        self, n_iterations: int, tensors: Mapping[str, Tensor], generator: torch.Generator | None
    ) -> int:
        """Copy what is saved into ``tensors``, and return the number of iterations done.

        In place: what is loaded may be aligned otherwise than what PyTorch allocates, and last digits hang on that.
        """
        if self.path is None or not self.path.exists():
            return 0
        try:
            saved = load_file(self.path)
        except (SafetensorError, OSError, ValueError) as error:
            raise self._not_whole(str(error)) from error
        expected = _with_count(0, tensors, generator)
        for name in sorted(expected.keys() | saved.keys()):
            wanted, came = _described(expected.get(name)), _described(saved.get(name))
            if wanted != came:
                raise self._not_whole(f"{name}: expected {wanted}, came {came}")
        n_done = int(saved["n_done"])
        if not 0 < n_done < n_iterations:
            raise self._not_whole(f"n_done: expected 1 to {n_iterations - 1}, came {n_done}")
        if generator is not None:
            try:
                generator.set_state(saved["generator"])
            except RuntimeError as error:
                raise self._not_whole(f"generator: {error}") from error
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
        log.info("resume: iteration %d of %d is done", n_done, n_iterations)
        return n_done

    def _not_whole(self, reason: str) -> UserError:
        return UserError(f"resume: {self.path} {_NOT_WHOLE}: {reason}")


NO_CHECKPOINT = FitCheckpoint(None, 0.0)


def _with_count(
    n_done: int, tensors: Mapping[str, Tensor], generator: torch.Generator | None
) -> dict[str, Tensor]:
    """All that is in the file."""
    state = {} if generator is None else {"generator": generator.get_state()}
    return {"n_done": torch.tensor(n_done), **state, **tensors}


def _described(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
