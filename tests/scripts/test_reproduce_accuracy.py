"""The table of several splits, on the made-up data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import reproduce_accuracy as reproduce


@pytest.mark.end_to_end
def test_ours_agrees_with_numpy_and_what_is_there_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "accuracy.json"
    command = ["reproduce_accuracy.py", "dataset=tiny", "--models", "ease", "--seeds", "1", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--threads", "1", "--output", str(path)])
    assert reproduce.main() == 0
    text, printed = path.read_text(), capsys.readouterr().out
    ours, numpy = (json.loads(text)["results"][name] for name in ("ease", "ease in NumPy"))
    for seed in ("1", "2"):
        assert ours[seed]["split_sha256"] == numpy[seed]["split_sha256"]
        for metric in reproduce.METRICS:
            assert ours[seed]["test"][metric]["mean"] == pytest.approx(
                numpy[seed]["test"][metric]["mean"], abs=1e-9
            )
    monkeypatch.setattr(reproduce, "run_ours", None)
    assert reproduce.main() == 0
    assert (path.read_text(), capsys.readouterr().out) == (text, printed)
