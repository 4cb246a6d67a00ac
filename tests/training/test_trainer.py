"""Training with Lightning: it learns, it stops, it resumes to the bit, and its randomness is its seed's."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_histories import checkerboard

from recsys_vae.errors import UserError
from recsys_vae.interactions.datamodule import EpochBatches, HistoryDataModule
from recsys_vae.models import MultDAE, MultVAE
from recsys_vae.training import (
    LearningRateSchedule,
    LinearKLSchedule,
    MonteCarloELBO,
    PointLogLikelihood,
    VAETrainer,
)
from recsys_vae.training.lit_vae import LitVAE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*:DeprecationWarning"),
]
MATRIX = checkerboard()


class KilledError(Exception):
    """Stands for a process that ends without warning."""


def trainer(**changes) -> VAETrainer:
    settings = {
        "max_epochs": 6,
        "objective": MonteCarloELBO(),
        "kl_schedule": LinearKLSchedule(0.2, 3.0),
        "optimiser": partial(torch.optim.Adam, lr=1e-2, fused=True),
        "learning_rate_schedule": LearningRateSchedule(0.1, 0.1),
        "checkpoint_seconds": 0.0,
        "progress_bar": False,
        "tensorboard": False,
        "accelerator": "cpu",
    }
    return VAETrainer(**{**settings, **changes})


def model(seed: int = 1) -> MultVAE:
    return MultVAE(MATRIX.shape[1], latent_dim=3, hidden_dims=[6], seed=seed)


def agreement(candidate: MultVAE) -> dict[str, float]:
    """Share of the unseen items of their own colour that users are scored above the other colour's mean."""
    scores = candidate.score(MATRIX).numpy()
    users, items = np.indices(scores.shape)
    own, same = items == users % scores.shape[1], users % 2 == items % 2
    other = np.where(same, np.nan, scores)
    return {"ndcg@100": float((scores > np.nanmean(other, axis=1, keepdims=True))[own & same].mean())}


def fit(directory: Path | None = None, validate=agreement, seed: int = 1, batch_size: int = 16, **changes):
    network, rows = model(), []
    result = trainer(**changes).fit(
        network,
        HistoryDataModule(MATRIX, batch_size, seed),
        validate,
        seed=seed,
        directory=directory,
        on_epoch=rows.append,
    )
    return network, result, rows


def equal(first: MultVAE, second: MultVAE) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_learns_and_reports_every_epoch() -> None:
    network, result, rows = fit(max_epochs=40, patience=40)
    assert agreement(network)["ndcg@100"] == result.best_score == 1.0
    assert [row["epoch"] for row in rows] == list(range(40))
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    for row in rows:
        assert row["loss"] == pytest.approx(row["kl_weight"] * row["kl"] - row["log_likelihood"], rel=0.3)
        assert row["seconds"] > 0
    assert rows[0]["kl_weight"] < rows[1]["kl_weight"] < rows[5]["kl_weight"] == 0.2
    assert result.seconds == pytest.approx(sum(row["seconds"] for row in rows))


def test_same_seed_same_weights_and_another_seed_others() -> None:
    assert equal(fit()[0], fit()[0])
    assert not equal(fit()[0], fit(seed=2)[0])


def test_the_best_epoch_is_kept_and_patience_ends_the_run() -> None:
    scores = iter([0.1, 0.5, 0.3, 0.2, 0.4, 0.1])
    seen = []

    def validate(candidate):
        seen.append({name: tensor.clone() for name, tensor in candidate.state_dict().items()})
        return {"ndcg@100": next(scores)}

    network, result, rows = fit(validate=validate, patience=3)
    assert (result.best_epoch, result.best_score, result.n_epochs, len(rows)) == (1, 0.5, 5, 5)
    assert all(torch.equal(seen[1][name], tensor) for name, tensor in network.state_dict().items())


def test_of_equal_epochs_the_first_is_the_best() -> None:
    assert fit(validate=lambda _: {"ndcg@100": 0.5}, patience=6)[1].best_epoch == 0


def test_every_step_of_every_epoch_has_noise_of_its_own(monkeypatch) -> None:
    module = LitVAE(
        model(), MonteCarloELBO(), LinearKLSchedule(), torch.optim.Adam, LearningRateSchedule(), 1
    )
    draws = set()
    for epoch in range(3):
        monkeypatch.setattr(LitVAE, "current_epoch", epoch)
        draws |= {float(torch.rand((), generator=module.step_generator(step))) for step in range(4)}
    assert len(draws) == 12


@pytest.mark.parametrize("killed_at", [1, 3, 6])
def test_a_killed_run_resumes_to_the_bit(tmp_path, killed_at) -> None:
    expected, expected_result, expected_rows = fit(tmp_path / "whole")
    calls = []

    def die(candidate):
        calls.append(None)
        if len(calls) == killed_at:
            raise KilledError
        return agreement(candidate)

    with pytest.raises(KilledError):
        fit(tmp_path / "killed", validate=die)
    started = []
    network, rows = model(), []
    result = trainer().fit(
        network,
        HistoryDataModule(MATRIX, 16, 1),
        agreement,
        seed=1,
        directory=tmp_path / "killed",
        on_epoch=rows.append,
        on_start=started.append,
    )
    assert started == [killed_at - 1]
    assert equal(network, expected)
    assert (result.best_epoch, result.best_score, result.n_epochs) == (
        expected_result.best_epoch,
        expected_result.best_score,
        expected_result.n_epochs,
    )
    without_clock = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert without_clock == [
        {k: v for k, v in row.items() if k != "seconds"} for row in expected_rows[killed_at - 1 :]
    ]


def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_the_bit(tmp_path, monkeypatch) -> None:
    expected = fit(tmp_path / "whole")[0]
    calls = []

    def die(self, *arguments):
        calls.append(None)
        if len(calls) == 11:  # the third batch of the third epoch
            raise KilledError
        return original(self, *arguments)

    original = MonteCarloELBO.__call__
    with monkeypatch.context() as patch:
        patch.setattr(MonteCarloELBO, "__call__", die)
        with pytest.raises(KilledError):
            fit(tmp_path / "killed")
    assert equal(fit(tmp_path / "killed")[0], expected)


def test_a_run_that_had_stopped_early_does_not_train_on(tmp_path) -> None:
    falling = iter(range(100, 0, -1))

    def validate(candidate):
        return {"ndcg@100": float(next(falling))}

    first, result, _ = fit(tmp_path, validate=validate, patience=2)
    again, again_result, rows = fit(tmp_path, validate=validate, patience=2)
    assert (result.n_epochs, again_result.n_epochs, rows) == (3, 3, [])
    assert equal(first, again)


def test_a_checkpoint_with_foreign_objects_is_not_unpickled(tmp_path) -> None:
    (tmp_path / "checkpoint").mkdir()
    torch.save({"epoch": 0, "state_dict": {}, "callbacks": Path("x")}, tmp_path / "checkpoint" / "last.ckpt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        fit(tmp_path)


def test_mult_dae_trains_with_weight_decay_on_weights_only() -> None:
    network = MultDAE(MATRIX.shape[1], latent_dim=3, hidden_dims=[6], seed=1)
    biases = network.output.bias.detach().clone()
    settings = {
        "objective": PointLogLikelihood(),
        "optimiser": partial(torch.optim.AdamW, lr=1e-9, weight_decay=0.5 / 1e-9),
        "max_epochs": 1,
        "learning_rate_schedule": LearningRateSchedule(),
    }
    before = network.output.weight.detach().norm()
    trainer(**settings).fit(network, HistoryDataModule(MATRIX, 16, 1), agreement)
    assert network.output.weight.norm() < 0.1 * before  # four steps, each halves the weights
    torch.testing.assert_close(network.output.bias.detach(), biases, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"max_epochs": 0}, {"patience": -1}, {"checkpoint_seconds": -1.0}, {"precision": "bf16-true"}]
)
def test_settings_out_of_range(changes) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        trainer(**changes)


@pytest.mark.parametrize("changes", [{"accelerator": "abacus"}, {"precision": "7-bit"}])
def test_settings_that_lightning_refuses(changes) -> None:
    with pytest.raises(UserError, match="trainer"):
        fit(**changes)


def test_batch_order_follows_from_seed_and_epoch_and_covers_everyone() -> None:
    batches = EpochBatches(23, 5, seed=1)
    batches.set_epoch(3)
    first = list(batches)
    assert len(first) == len(batches) == 5
    assert sorted(np.concatenate(first)) == list(range(23))
    assert all(np.array_equal(a, b) for a, b in zip(first, batches, strict=True))
    batches.set_epoch(4)
    assert not np.array_equal(np.concatenate(first), np.concatenate(list(batches)))


def test_processes_share_the_users_without_overlap() -> None:
    shares = [list(EpochBatches(22, 5, seed=1, rank=rank, world_size=2)) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == 3
    assert sorted(np.concatenate([*shares[0], *shares[1]])) == list(range(22))


@pytest.mark.parametrize("batch_size", [0, -5, True])
def test_batch_size_out_of_range(batch_size) -> None:
    with pytest.raises(UserError, match="batch_size"):
        HistoryDataModule(MATRIX, batch_size)


def test_products_are_less_precise_while_gradients_are_computed_and_not_when_validating():
    seen: dict[str, set[str]] = {"training": set(), "validation": set()}

    class Spy(MonteCarloELBO):
        def __call__(self, *args, **kwargs):
            seen["training"].add(torch.get_float32_matmul_precision())
            return super().__call__(*args, **kwargs)

    def validate(candidate: MultVAE) -> dict[str, float]:
        seen["validation"].add(torch.get_float32_matmul_precision())
        return agreement(candidate)

    fit(validate=validate, objective=Spy(), float32_matmul_precision="medium")
    assert seen == {"training": {"medium"}, "validation": {"highest"}}
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_precision_of_products_is_restored_when_training_fails():
    def broken(candidate: MultVAE) -> dict[str, float]:
        raise KilledError

    with pytest.raises(KilledError):
        fit(validate=broken, float32_matmul_precision="high")
    assert torch.get_float32_matmul_precision() == "highest"


def test_an_unknown_precision_of_products_is_refused():
    with pytest.raises(UserError, match=r"^trainer\.float32_matmul_precision: expected one of highest, high"):
        trainer(float32_matmul_precision="bf16")
