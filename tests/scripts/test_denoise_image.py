"""The picture is cleaned, the cut is the optimum, and the file is whole or absent."""

from __future__ import annotations

import itertools

import denoise_image
import numpy as np
import pytest
import torch


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("coupling", "trust"), [(1.0, 1.1), (0.4, 0.9), (2.0, 1.3)])
def test_the_cut_is_the_best_of_all_pictures(seed, coupling, trust) -> None:
    noisy = np.random.default_rng(seed).random((3, 4)) < 0.5
    field = denoise_image.field_of(noisy, coupling, trust)
    pictures = torch.tensor(list(itertools.product([0, 1], repeat=12)))
    cut = torch.from_numpy(denoise_image.minimum_cut(noisy, coupling, trust).reshape(1, -1)).long()
    assert float(field.energy(cut)) == pytest.approx(float(field.energy(pictures).min()), abs=1e-4)


def test_the_field_is_the_chapter_s() -> None:
    noisy = np.random.default_rng(0).random((4, 5)) < 0.5
    pictures = np.random.default_rng(1).integers(0, 2, (10, 4, 5))
    spins, seen = 2 * pictures - 1, 2 * noisy.astype(int) - 1
    agreeing = (spins[:, :, 1:] * spins[:, :, :-1]).sum((1, 2)) + (spins[:, 1:] * spins[:, :-1]).sum((1, 2))
    expected = -(0.7 * agreeing + 1.3 * (spins * seen).sum((1, 2)))
    energy = denoise_image.field_of(noisy, 0.7, 1.3).energy(torch.from_numpy(pictures.reshape(10, -1)))
    shifts = energy.numpy() - expected
    np.testing.assert_allclose(shifts, shifts[0], rtol=0.0, atol=1e-10)


def test_each_method_cleans_the_picture() -> None:
    original = denoise_image.draw_picture()
    assert 0.1 < original.mean() < 0.5
    noisy = denoise_image.flip(original, 0.1, seed=3)
    # A share of 24,000 flips with a standard error of 0.2 %.
    assert np.mean(noisy != original) == pytest.approx(0.1, abs=4.5 * 0.00194)
    by_modes, by_max_sum, by_cut = denoise_image.clean(noisy, 1.0, 1.1)
    for result in (by_modes, by_max_sum, by_cut):
        assert np.mean(result.image != original) < 0.02
        assert result.energy >= by_cut.energy - 1e-3
    field = denoise_image.field_of(noisy, 1.0, 1.1)
    assert by_modes.energy < float(field.energy(torch.from_numpy(noisy.reshape(1, -1)).long()))
    assert by_max_sum.energy < by_modes.energy


def test_it_prints_and_saves(tmp_path, capsys) -> None:
    target = tmp_path / "new" / "picture.png"
    assert denoise_image.main(["--output", str(target), "--seed", "5"]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in target.parent.iterdir()] == ["picture.png"]
    printed = capsys.readouterr().out
    assert "minimum cut" in printed
    assert printed.count(" % ") == 4


@pytest.mark.parametrize(
    "settings",
    [["--flip", "0.5"], ["--coupling", "0"], ["--trust", "nan"], ["--output", "picture.jpg"]],
)
def test_settings_out_of_range(tmp_path, settings, capsys) -> None:
    with pytest.raises(SystemExit):
        denoise_image.main(["--output", str(tmp_path / "picture.png"), *settings])
    assert f"{settings[0]}: expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
