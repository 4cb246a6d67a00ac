"""RecVAE's objective against the loss of the paper's code, written out densely; whose turn it is; and resuming."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from made_up_histories import checkerboard, random_histories
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.nn.functional import layer_norm, linear, log_softmax, silu

from recsys_vae.errors import UserError
from recsys_vae.interactions.datamodule import EpochBatches, HistoryDataModule
from recsys_vae.models import MultVAE, RecVAE, SparseRows
from recsys_vae.training import (
    AlternatingELBO,
    LearningRateSchedule,
    LinearKLSchedule,
    MonteCarloELBO,
    VAETrainer,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]
MATRIX = checkerboard()
ENCODER, DECODER = 0, 3  # the numbers of a pass of each kind


class KilledError(Exception):
    """Stands for a process that ends without warning."""


def network(n_items: int, seed: int = 1, input_dropout: float = 0.5) -> RecVAE:
    return RecVAE(
        n_items, latent_dim=3, hidden_dims=[6, 6, 6], input_dropout=input_dropout, seed=seed
    ).train()


def moved(model: RecVAE) -> RecVAE:
    """The encoder, away from the previous one."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in [*model.encoder.parameters(), *model.output.parameters()]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def encode_densely(model: RecVAE, encoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's encoder, layer by layer."""
    x = torch.nn.functional.normalize(x)
    hidden = [x @ encoder.input.weight + encoder.input.bias]
    outputs = []
    for number, norm in enumerate(encoder.norms):
        if number:
            layer = encoder.layers[number - 1]
            hidden.append(linear(outputs[-1], layer.weight, layer.bias) + sum(outputs))
        outputs.append(layer_norm(silu(hidden[-1]), norm.normalized_shape, norm.weight, norm.bias, 0.1))
    return linear(outputs[-1], encoder.head.weight, encoder.head.bias).chunk(2, dim=-1)


def papers_loss(model: RecVAE, x: torch.Tensor, noise: torch.Tensor, gamma: float) -> torch.Tensor:
    """The negative ELBO as the paper's code forms it, by PyTorch's own distributions."""
    mean, log_variance = encode_densely(model, model.encoder, x)
    with torch.no_grad():
        old_mean, old_log_variance = encode_densely(model, model.prior.previous_encoder, x)
    latent = mean + (0.5 * log_variance).exp() * noise
    zero = torch.zeros_like(mean)
    prior = MixtureSameFamily(
        Categorical(torch.tensor([3 / 20, 3 / 4, 1 / 10])),
        Normal(
            torch.stack([zero, old_mean, zero], dim=-1),
            torch.stack([zero, old_log_variance, zero + 10.0], dim=-1).mul(0.5).exp(),
        ),
    )
    logits = linear(latent, model.output.weight, model.output.bias)
    log_likelihood = (log_softmax(logits, dim=-1) * x).sum(dim=-1)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    kl = (posterior.log_prob(latent) - prior.log_prob(latent)).sum(dim=-1)
    return -(log_likelihood - gamma * x.sum(dim=-1) * kl).mean()


@pytest.mark.parametrize("number", [ENCODER, DECODER])
def test_loss_and_gradient_equal_those_of_the_papers_code(number) -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model, rows = moved(network(20, input_dropout=0.0)), SparseRows.from_csr(matrix)
    objective = AlternatingELBO()
    objective.begin_training(model)
    objective.begin_pass(model, number, matrix)
    terms = objective(model, rows, torch.Generator().manual_seed(5), torch.arange(8))
    loss = (0.05 * rows.row_sums(rows.values) * terms.kl - terms.log_likelihood).mean()
    loss.backward()

    noise = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(5))[0]
    trained = model.encoder if number == ENCODER else model.output
    expected = papers_loss(model, rows.dense(), noise, 0.05)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(expected, list(trained.parameters()))
    for (name, parameter), gradient in zip(trained.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    others = [p for p in model.parameters() if all(p is not q for q in trained.parameters())]
    assert all(p.grad is None for p in others)


def test_the_encoder_sees_a_part_of_the_history_and_the_previous_one_the_whole() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model, rows = moved(network(20)), SparseRows.from_csr(matrix)
    seen = []
    original = model.encoder.forward
    model.encoder.forward = lambda visible: seen.append(visible) or original(visible)  # type: ignore[method-assign]
    objective = AlternatingELBO()
    objective.begin_training(model)
    objective.begin_pass(model, ENCODER, matrix)
    objective(model, rows, torch.Generator().manual_seed(5), torch.arange(8))
    assert 0.2 * matrix.nnz < len(seen[0].items) < 0.8 * matrix.nnz
    objective.begin_pass(model, DECODER, matrix)
    terms = objective(model, rows, torch.Generator().manual_seed(5), torch.arange(8))
    assert len(seen) == 1  # the decoder learns from remembered posteriors
    noise = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(5))[0]
    mean, log_variance = model.eval().encode(rows)
    expected = model.log_likelihood(mean + (0.5 * log_variance).exp() * noise, rows)
    torch.testing.assert_close(terms.log_likelihood, expected)


def test_users_are_found_again_in_any_order() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model = moved(network(20, input_dropout=0.0))
    objective = AlternatingELBO()
    objective.begin_training(model)
    objective.begin_pass(model, ENCODER, matrix)
    order = torch.tensor([5, 2, 7])
    terms = objective(
        model, SparseRows.from_csr(matrix[order.numpy()]), torch.Generator().manual_seed(5), order
    )
    noise = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(5))[0]
    x = torch.from_numpy(matrix[order.numpy()].toarray())
    loss = (0.05 * x.sum(dim=-1) * terms.kl - terms.log_likelihood).mean()
    torch.testing.assert_close(loss, papers_loss(model, x, noise, 0.05), rtol=1e-5, atol=1e-5)


def test_a_sampled_softmax_is_that_of_the_decoder_alone_in_its_turn() -> None:
    matrix = random_histories(n_users=8, n_items=20)
    model, rows = moved(network(20)), SparseRows.from_csr(matrix)
    objective = AlternatingELBO(item_share=0.5)
    objective.begin_training(model)
    for number, trained in ((ENCODER, model.encoder), (DECODER, model.output)):
        model.zero_grad(set_to_none=True)
        objective.begin_pass(model, number, matrix)
        terms = objective(model, rows, torch.Generator().manual_seed(5), torch.arange(8))
        (terms.kl - terms.log_likelihood).mean().backward()
        have = {id(p) for p in model.parameters() if p.grad is not None}
        assert have == {id(p) for p in trained.parameters()}


def agreement(candidate: RecVAE) -> dict[str, float]:
    """The share of the users whose best item has their colour, and a little of the loss, so that no two tie."""
    scores = candidate.score(MATRIX)
    best = scores.argmax(dim=1)
    colour = torch.arange(len(scores)) % 2
    return {"ndcg@100": float((best % 2 == colour).float().mean()) - 1e-3 * float(scores.std())}


def fit(directory: Path | None = None, validate=agreement, n_epochs: int = 5, **changes):
    model, rows = network(MATRIX.shape[1]), []
    settings = {
        "max_epochs": n_epochs,
        "patience": n_epochs,
        "objective": AlternatingELBO(),
        "kl_schedule": LinearKLSchedule(0.01, 0.0, per_item=True),
        "optimiser": partial(torch.optim.Adam, lr=1e-2, fused=True),
        "learning_rate_schedule": LearningRateSchedule(),
        "checkpoint_seconds": 0.0,
        "progress_bar": False,
        "tensorboard": False,
        "accelerator": "cpu",
    }
    trainer = VAETrainer(**{**settings, **changes})
    data = HistoryDataModule(MATRIX, 16, 1)
    result = trainer.fit(model, data, validate, seed=1, directory=directory, on_epoch=rows.append)
    return model, result, rows


def equal(first: RecVAE, second: RecVAE) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_it_learns() -> None:
    model, _, rows = fit(n_epochs=20)
    scores = model.score(MATRIX)
    assert (scores.argmax(dim=1) % 2 == torch.arange(len(scores)) % 2).all()
    assert rows[-1]["log_likelihood"] > rows[0]["log_likelihood"] + 3.0


def test_an_epoch_is_every_pass_and_each_trains_its_part() -> None:
    order: list[tuple[int, int]] = []

    class Watched(AlternatingELBO):
        def begin_pass(self, model, number, histories):
            super().begin_pass(model, number, histories)
            order.append((number, 0))
            self.before = {name: p.detach().clone() for name, p in model.named_parameters()}
            self.model = model

        def __call__(self, model, histories, generator, users=None):
            order[-1] = (order[-1][0], order[-1][1] + len(users))
            return super().__call__(model, histories, generator, users)

    objective = Watched(n_encoder_passes=2, n_decoder_passes=1)
    fit(n_epochs=2, objective=objective)
    assert order == [(number, MATRIX.shape[0]) for _ in range(2) for number in range(3)]
    # What the last pass, a decoder's, has changed.
    changed = {
        name.partition(".")[0]
        for name, p in objective.model.named_parameters()
        if not torch.equal(p, objective.before[name])
    }
    assert changed == {"output"}


def test_the_weight_of_the_kl_term_is_each_items(monkeypatch) -> None:
    rows = fit(n_epochs=1, kl_schedule=LinearKLSchedule(0.0, 0.0, per_item=True))[2]
    assert rows[0]["loss"] == pytest.approx(-rows[0]["log_likelihood"])
    lengths = MATRIX.sum(axis=1)
    assert lengths.min() == lengths.max()  # so that the mean of the products is the product of the means
    rows = fit(n_epochs=1)[2]
    expected = 0.01 * float(lengths[0]) * rows[0]["kl"] - rows[0]["log_likelihood"]
    assert rows[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("killed_at", [1, 2, 4])
def test_a_killed_run_resumes_to_the_bit(tmp_path, killed_at) -> None:
    whole, _, rows = fit(tmp_path / "whole")
    calls: list[None] = []

    def die(candidate):
        calls.append(None)
        if len(calls) == killed_at:
            raise KilledError
        return agreement(candidate)

    with pytest.raises(KilledError):
        fit(tmp_path / "killed", validate=die)
    again, _, rest = fit(tmp_path / "killed")
    assert equal(again, whole)
    without_clock = [{k: v for k, v in row.items() if k != "seconds"} for row in rows[killed_at - 1 :]]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rest] == without_clock


def test_passes_of_an_epoch_have_orders_of_their_own() -> None:
    batches = EpochBatches(23, 5, seed=1, n_passes=3)
    assert len(batches) == 15
    numbers = list(batches)
    passes = [torch.tensor([row for batch in numbers[k : k + 5] for row in batch]) for k in (0, 5, 10)]
    assert all(sorted(one.tolist()) == list(range(23)) for one in passes)
    assert not torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[1], passes[2])


def test_another_model_is_refused() -> None:
    with pytest.raises(UserError, match="trains a RecVAE"):
        AlternatingELBO().begin_training(MultVAE(20, latent_dim=2, hidden_dims=[4]))


@pytest.mark.parametrize("arguments", [{"n_encoder_passes": 0}, {"n_decoder_passes": 0}, {"item_share": 0.0}])
def test_settings_out_of_range(arguments) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        AlternatingELBO(**arguments)


def test_mult_vae_can_be_trained_with_a_weight_for_each_item() -> None:
    model = MultVAE(MATRIX.shape[1], latent_dim=3, hidden_dims=[6], seed=1)
    rows: list = []
    VAETrainer(
        max_epochs=1,
        objective=MonteCarloELBO(),
        kl_schedule=LinearKLSchedule(0.01, 0.0, per_item=True),
        optimiser=partial(torch.optim.Adam, lr=1e-2),
        learning_rate_schedule=LearningRateSchedule(),
        progress_bar=False,
        tensorboard=False,
        accelerator="cpu",
    ).fit(model, HistoryDataModule(MATRIX, 16, 1), lambda _: {"ndcg@100": 0.0}, seed=1, on_epoch=rows.append)
    expected = 0.01 * float(MATRIX.sum(axis=1)[0]) * rows[0]["kl"] - rows[0]["log_likelihood"]
    assert rows[0]["loss"] == pytest.approx(expected, rel=1e-5)
