"""The hybrid's sum against its formula, and the choice of its weights against an exhaustive search."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories
from made_up_models import grouped_histories, trained_vae
from scipy.sparse import csr_array

from recsys_vae import fusion
from recsys_vae.errors import UserError
from recsys_vae.full_ranking import evaluate_full_ranking
from recsys_vae.fusion import choose_fusion
from recsys_vae.inference import Inference
from recsys_vae.interactions import HeldOut
from recsys_vae.models import EASE, Hybrid, MultVAE
from recsys_vae.posterior import Encoder, Laplace, Mode, predict


def build(n_items: int, **options) -> Hybrid:
    variational = partial(MultVAE, latent_dim=5, hidden_dims=(10,), seed=3)
    return Hybrid(n_items, variational=variational, linear=partial(EASE, l2=5.0), **options).eval()


def trained(**options) -> tuple[Hybrid, csr_array]:
    """Both paths fitted to the same made-up users."""
    matrix = grouped_histories()
    model = build(50, **options)
    model.variational.load_state_dict(trained_vae().state_dict())
    model.linear.fit(matrix)
    return model, matrix


class TestHybrid(ModelContract):
    starts_at_random = True

    def fresh(self, n_items):
        return build(n_items)

    def fitted(self, matrix):
        model = build(matrix.shape[1], variational_weight=0.05, length_exponent=0.5)
        model.linear.fit(matrix)
        return model


def held_out(n_users: int = 60, seed: int = 9) -> HeldOut:
    """Other users of the same kind, a third of whose items are the target; one has no history."""
    matrix = grouped_histories(n_users=n_users, seed=seed)
    hidden = np.random.default_rng(1).random(matrix.nnz) < 0.33
    users = np.repeat(np.arange(n_users), np.diff(matrix.indptr))
    hidden |= users == 4
    parts = [
        csr_array((matrix.data[kept], (users[kept], matrix.indices[kept])), shape=matrix.shape)
        for kept in (~hidden, hidden)
    ]
    return HeldOut(np.arange(n_users), *parts)


def test_the_score_is_the_formula_s() -> None:
    model, matrix = trained(variational_weight=0.3, length_exponent=0.25)
    matrix.data[:] = np.random.default_rng(0).integers(1, 4, matrix.nnz)  # items are counted, not weights
    dense = matrix.toarray().astype(np.float64)
    logits = model.variational.score(matrix).double().numpy()
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    linear = dense @ model.linear.weight.double().numpy()
    expected = linear * (dense > 0).sum(axis=1, keepdims=True) ** -0.25 + 0.3 * log_probabilities
    np.testing.assert_allclose(model.score(matrix).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_without_a_weight_the_linear_path_ranks() -> None:
    model, matrix = trained(variational_weight=0.0)
    torch.testing.assert_close(model.score(matrix), model.linear.score(matrix))


def test_a_taste_inferred_otherwise_is_fused_too() -> None:
    model, matrix = trained(variational_weight=0.3, length_exponent=0.5)
    scores = Inference(model, Mode()).score(matrix[:7])
    inferred = Mode().infer(model.variational, matrix[:7])
    expected = model.fuse(predict(model.variational, inferred).scores, matrix[:7])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert (scores - model.score(matrix[:7])).abs().max() > 1e-3
    plain = Inference(model, Encoder()).score(matrix[:7])
    torch.testing.assert_close(plain, model.score(matrix[:7]), rtol=1e-4, atol=1e-5)


def test_deviations_are_those_of_the_part_that_is_uncertain() -> None:
    model, matrix = trained(variational_weight=0.3)
    both = Inference(model, Laplace(draws=16), seed=4).predict(matrix[:5], with_deviation=True)
    alone = Inference(model.variational, Laplace(draws=16), seed=4).predict(matrix[:5], with_deviation=True)
    torch.testing.assert_close(both.standard_deviation, 0.3 * alone.standard_deviation)


@pytest.mark.parametrize("batch_size", [7, 500])
def test_the_choice_is_the_surest_of_the_grid(batch_size) -> None:
    model, matrix = trained()
    users = held_out()
    counts = np.diff(matrix.tocsc().indptr)
    found = choose_fusion(model, users, "ndcg@10", counts, batch_size)
    chosen = float(model.variational_weight), float(model.length_exponent)
    values: dict[tuple[float, float], pd.Series] = {}
    for candidate in fusion._candidates(np.diff(users.history.indptr)):
        model.set_fusion(*candidate)
        result = evaluate_full_ranking(model.score, users, ["ndcg@10"], counts)
        values[candidate] = result.per_user["ndcg@10"].dropna()
    gains = {candidate: each - values[0.0, 0.0] for candidate, each in values.items()}
    surest = max(gains, key=lambda candidate: gains[candidate].mean() - gains[candidate].sem())
    assert found == pytest.approx(values[surest].mean(), abs=1e-9)
    assert chosen == pytest.approx(surest, rel=1e-6)
    assert surest[0] > 0.0, "a case in which both paths are worth something"
    assert surest != max(values, key=lambda each: values[each].mean()), "a case in which the error tells"


def test_a_gain_within_its_error_is_not_taken() -> None:
    linear = np.array([0.1, 0.9, 0.4, 0.6])  # users differ much more than paths do
    luck = linear + np.array([0.5, -0.1, -0.1, -0.1])  # gains 0.05, standard error 0.15; users are more alike
    little = linear + np.array([0.02, 0.01, 0.03, 0.02])  # gains 0.02, standard error 0.004
    # Gains 0.025, standard error 0.0218, or 0.0189 if it divided by n.
    uneven = linear + np.array([0.06, 0.01, 0.06, -0.03])
    assert fusion._surest(np.stack([linear, luck])) == 0
    assert fusion._surest(np.stack([linear, luck, little])) == 2
    assert fusion._surest(np.stack([linear, little, luck])) == 1
    assert fusion._surest(np.stack([linear, linear + 0.004, uneven])) == 1
    assert fusion._surest(np.stack([np.tile(each, 100) for each in (linear, luck, little)])) == 1


def test_one_user_with_a_target_leaves_the_linear_path() -> None:
    model, matrix = trained()
    users = held_out()
    counts = np.diff(matrix.tocsc().indptr)
    one = HeldOut(users.user_ids[3:5], users.history[3:5], users.target[3:5])  # of the second, all is history
    keep = np.repeat([1.0, 0.0], np.diff(one.target.indptr)).astype(np.float32)
    one.target.data[:] = keep
    one.target.eliminate_zeros()
    found = choose_fusion(model, one, "ndcg@10", counts)
    assert float(model.variational_weight) == 0.0
    linear = evaluate_full_ranking(model.linear.score, one, ["ndcg@10"], counts).means["ndcg@10"]
    assert found == pytest.approx(linear, abs=1e-9)


def test_the_grid_follows_the_length_of_the_histories() -> None:
    short, long = (list(fusion._candidates(np.full(3, n))) for n in (1, 100))
    assert short[0] == long[0] == (0.0, 0.0)
    assert {w for w, exponent in short} == {w for w, exponent in long if exponent == 0.0}
    ratios = {round(a[0] / b[0], 9) for a, b in zip(short, long, strict=True) if a[1] == 0.5}
    assert ratios == {10.0}
    assert list(fusion._candidates(np.array([], dtype=int))) == short


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variational_weight": -0.1}, r"model\.variational_weight"),
        ({"variational_weight": float("nan")}, r"model\.variational_weight"),
        ({"length_exponent": 1.5}, r"model\.length_exponent"),
    ],
)
def test_settings_out_of_range(options, message) -> None:
    with pytest.raises(UserError, match=message):
        build(5, **options)


def test_an_empty_history_has_finite_scores_that_are_the_variational_path_s() -> None:
    model, _ = trained(variational_weight=0.3, length_exponent=0.5)
    nobody = csr_array((1, 50), dtype=np.float32)
    expected = 0.3 * torch.log_softmax(model.variational.score(nobody), dim=-1)
    torch.testing.assert_close(model.score(nobody), expected)


def test_histories_of_other_items_are_refused() -> None:
    model, _ = trained()
    with pytest.raises(UserError, match="50 columns"):
        model.score(random_histories(n_items=49))
