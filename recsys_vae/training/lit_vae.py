"""The Lightning module: one training step of a recommender, and nothing that belongs to the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from recsys_vae.models import GradientModel, SparseRows
from recsys_vae.training.kl_schedule import LinearKLSchedule
from recsys_vae.training.learning_rate import LearningRateSchedule
from recsys_vae.training.objective import Objective

OptimiserFactory = Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer]


class LitVAE(pl.LightningModule):
    """Minimises ``-(log_likelihood - kl_weight * kl)``, averaged over the users of a batch.

    An epoch is ``objective.n_passes`` passes over the users. The weight may be for each item of a history
    (``kl_schedule.per_item``).

    All randomness of a step (input dropout, posterior draws) comes from a generator seeded by
    ``(seed, epoch, batch, rank)``: a resumed run needs no stored random state to repeat it.

    Args:
        model: the network.
        objective: computes the two terms of the objective.
        kl_schedule: the weight of the KL term at each step.
        optimiser: makes the optimiser from parameter groups (weights, and biases without decay).
        learning_rate_schedule: factor of the learning rate over the run.
        seed: of the noise.
    """

    def __init__(
        self,
        model: GradientModel,
        objective: Objective,
        kl_schedule: LinearKLSchedule,
        optimiser: OptimiserFactory,
        learning_rate_schedule: LearningRateSchedule,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.kl_schedule = kl_schedule
        self.make_optimiser = optimiser
        self.learning_rate_schedule = learning_rate_schedule
        self.seed = seed
        self.sums: dict[str, Tensor] = {}
        self._generator: torch.Generator | None = None

    def configure_optimizers(self) -> Any:
        """Weights decay where the configuration says so; biases never do, as in the paper's code."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2]
        biases = [p for p in trained if p.ndim != 2]
        optimiser = self.make_optimiser([{"params": matrices}, {"params": biases, "weight_decay": 0.0}])
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: self.learning_rate_schedule.factor(step, total_steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def steps_per_epoch(self) -> int:
        """Gradient steps an epoch."""
        return int(self.trainer.num_training_batches)

    def step_generator(self, batch_index: int) -> torch.Generator:
        """The random stream of one step."""
        words = np.random.SeedSequence(
            [self.seed, self.current_epoch, batch_index, self.global_rank]
        ).generate_state(2)
        if self._generator is None:
            self._generator = torch.Generator(self.device)
        return self._generator.manual_seed((int(words[0]) << 31) ^ int(words[1]))

    @property
    def n_passes(self) -> int:
        """Passes over the users in an epoch; the data module makes the batches for so many."""
        return self.objective.n_passes

    def on_train_epoch_start(self) -> None:
        """Forget the sums of the epoch before."""
        self.sums = {}

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """Loss of one batch, in nats per user: the users' rows in the training data, and their histories."""
        users, histories = batch
        number, step = divmod(batch_idx, self.steps_per_epoch // self.n_passes)
        if step == 0:
            self.objective.begin_pass(self.model, number, self.trainer.datamodule.matrix)  # type: ignore[attr-defined]
        rows = SparseRows.from_csr(histories, self.device)
        terms = self.objective(self.model, rows, self.step_generator(batch_idx), users)
        kl_weight = self.kl_schedule.kl_weight(self.global_step, self.steps_per_epoch)
        log_likelihood, kl = terms.log_likelihood.mean(), terms.kl.mean()
        weighted = (terms.kl * rows.row_sums(rows.values)).mean() if self.kl_schedule.per_item else kl
        loss = kl_weight * weighted - log_likelihood
        self._add(rows.n_users, loss=loss, log_likelihood=log_likelihood, kl=kl)
        return loss

    def _add(self, n_users: int, **means: Tensor) -> None:
        """Keep running sums on the device, so that no step waits for the host."""
        for name, mean in {**means, "users": torch.ones((), device=self.device)}.items():
            total = mean.detach() * n_users
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def epoch_means(self) -> dict[str, float]:
        """Means over the users seen in this epoch so far: loss, log_likelihood and kl in nats, and kl_weight.

        With several processes each must call this, for the users are those of all processes.
        """
        sums = {
            name: float(self.trainer.strategy.reduce(total.clone(), reduce_op="sum"))
            for name, total in self.sums.items()
        }
        means = {name: total / sums["users"] for name, total in sums.items() if name != "users"}
        means["kl_weight"] = self.kl_schedule.kl_weight(self.global_step, self.steps_per_epoch)
        return means
