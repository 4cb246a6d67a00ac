"""What every recommender must do, written once; each model's test class inherits it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_histories import checkerboard, random_histories, varied_histories
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array, vstack

from recsys_vae.errors import UserError
from recsys_vae.models import RecommenderModel
from recsys_vae.models.base import ItemToItemModel, RetrievalModel


class ModelContract:
    """Inherit and provide ``fitted`` and ``fresh``."""

    learns_tastes = True
    # Of initial weights, gradient steps or draws: what is learned then hangs on where a user and an item stand.
    starts_at_random = False

    def fresh(self, n_items: int) -> RecommenderModel:
        """A model as its constructor leaves it."""
        raise NotImplementedError

    def fitted(self, matrix: csr_array) -> RecommenderModel:
        """A model that has learned from ``matrix``."""
        raise NotImplementedError

    def test_scores_are_finite_also_without_history(self) -> None:
        matrix = random_histories()
        scores = self.fitted(matrix).score(matrix)
        assert scores.shape == matrix.shape
        assert torch.isfinite(scores).all()

    def test_a_batch_scores_like_its_users_one_by_one(self) -> None:
        matrix = random_histories()
        model = self.fitted(matrix)
        one_by_one = torch.cat([model.score(matrix[[row]]) for row in range(matrix.shape[0])])
        torch.testing.assert_close(model.score(matrix), one_by_one, rtol=1e-5, atol=1e-6)

    def test_scoring_twice_gives_the_same_and_leaves_the_histories_alone(self) -> None:
        matrix = random_histories()
        model = self.fitted(matrix)
        before = matrix.copy()
        assert torch.equal(model.score(matrix), model.score(matrix))
        assert (before != matrix).nnz == 0

    def test_the_state_dict_is_all_there_is(self, tmp_path) -> None:
        matrix = random_histories()
        model = self.fitted(matrix)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
        again = self.fresh(matrix.shape[1])
        again.load_state_dict(load_file(tmp_path / "model.safetensors"))
        again.eval()
        assert torch.equal(model.score(matrix), again.score(matrix))

    def test_two_fits_are_the_same_to_the_bit(self) -> None:
        matrix = random_histories()
        state, again = (self.fitted(matrix).state_dict() for _ in range(2))
        assert state.keys() == again.keys()
        for name, tensor in state.items():
            assert torch.equal(tensor, again[name]), name

    def test_the_order_of_the_users_does_not_matter(self) -> None:
        if self.starts_at_random:
            pytest.skip("it does, where users come by chance")
        matrix = varied_histories()
        order = np.random.default_rng(1).permutation(matrix.shape[0])
        self._assert_same_scores(self.fitted(matrix[order]).score(matrix), self.fitted(matrix).score(matrix))

    def test_the_order_of_the_items_does_not_matter(self) -> None:
        if self.starts_at_random:
            pytest.skip("it does, where each item starts at random weights of its own")
        matrix = varied_histories()
        order = np.random.default_rng(1).permutation(matrix.shape[1])
        permuted = csr_array(matrix[:, order])
        permuted.sort_indices()
        found = self.fitted(permuted).score(permuted)
        self._assert_same_scores(found, self.fitted(matrix).score(matrix)[:, order])

    @staticmethod
    def _assert_same_scores(found: torch.Tensor, expected: torch.Tensor) -> None:
        # In another order sums come out otherwise in their last digits.
        largest = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5 * largest)

    def test_a_history_over_other_items_is_refused(self) -> None:
        matrix = random_histories(n_items=30)
        with pytest.raises(UserError, match="30 columns"):
            self.fitted(matrix).score(random_histories(n_items=29))

    def test_scores_may_be_masked_in_place(self) -> None:
        matrix = random_histories()
        scores = self.fitted(matrix).score(matrix)
        scores[0, 0] = -torch.inf
        assert scores[1, 0] != -torch.inf

    def test_it_finds_the_held_out_squares_of_a_checkerboard(self) -> None:
        if not self.learns_tastes:
            pytest.skip("the same list for everyone cannot tell the colours apart")
        matrix = checkerboard()
        scores = self.fitted(matrix).score(matrix).numpy()
        users, items = np.indices(scores.shape)
        own = items == users % scores.shape[1]
        wrong_colour = users % 2 != items % 2
        # The one item that a user misses must beat every item of the other colour.
        best_wrong = np.where(wrong_colour, scores, -np.inf).max(axis=1)
        assert (scores[own] > best_wrong).all()

    def test_what_is_exported_gives_the_scores(self) -> None:
        matrix = random_histories()
        model = self.fitted(matrix)
        scores = model.score(matrix)
        if isinstance(model, RetrievalModel):
            products = model.user_vectors(matrix) @ model.item_vectors().mT
            # Multinomial models drop what is the same for all items of a user, and scores may be float64.
            torch.testing.assert_close(products.to(scores), scores, rtol=1e-4, atol=1e-5)
        if isinstance(model, ItemToItemModel):
            middle = matrix.shape[1] // 2
            halves = [model.item_weights(rows) for rows in (slice(0, middle), slice(middle, None))]
            sums = torch.from_numpy((matrix @ vstack(halves)).toarray())
            torch.testing.assert_close(sums.to(scores), scores, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("n_items", [0, -3, True])
    def test_a_size_that_is_none_is_refused(self, n_items) -> None:
        with pytest.raises(UserError, match="n_items"):
            self.fresh(n_items)
