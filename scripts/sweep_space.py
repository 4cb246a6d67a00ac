"""What ``sweep.py`` searches, from ``configs/sweep/MODEL.yaml``: a range or a list for keys of ``recsys-vae train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from recsys_vae.cli.config import compose_config
from recsys_vae.errors import UserError, nearest

Value = bool | int | float | str


@dataclass(frozen=True)
class Dimension:
    """One key: ``choices``, or from ``low`` to ``high``, in whole numbers where both are; ``log`` evens out factors."""

    key: str
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    def suggest(self, trial: Any) -> Value:
        """Let Optuna's trial choose."""
        if self.choices:
            value: Value = trial.suggest_categorical(self.key, list(self.choices))
        elif isinstance(self.low, int):
            value = trial.suggest_int(self.key, self.low, self.high, log=self.log)
        else:
            value = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return value

    def contains(self, value: Value) -> bool:
        """Whether it could be chosen."""
        return value in self.choices if self.choices else self.low <= value <= self.high  # type: ignore[operator]


def spaces(folder: Path) -> list[str]:
    """The models that have a space."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_space(path: Path) -> list[Dimension]:
    """Read a space. Raises ``UserError`` for a file that is none, and for a range that is empty or unclear."""
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(written, dict) or not written:
        raise UserError(f"{path}: expected KEY: {{low: NUMBER, high: NUMBER}} or KEY: {{choices: [...]}}")
    return [_dimension(path, str(key), entry) for key, entry in written.items()]


def overrides_of(values: Mapping[str, Value]) -> list[str]:
    """The values as arguments of ``recsys-vae train``."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def defaults_of(model: str, space: list[Dimension], overrides: list[str]) -> dict[str, Value]:
    """The values that the model has without a sweep.

    Raises:
        UserError: a key that the model does not have, a value of another kind, a default outside the space.
    """
    for end in ("low", "high"):
        values = {
            d.key: d.choices[0 if end == "low" else -1] if d.choices else getattr(d, end) for d in space
        }
        compose_config("train", [*overrides, f"model={model}", *overrides_of(values)])
    config = compose_config("train", [*overrides, f"model={model}"])
    defaults: dict[str, Value] = {}
    for dimension in space:
        value = OmegaConf.select(config, dimension.key)
        if OmegaConf.is_config(value):
            value = _text(OmegaConf.to_container(value))
        if not dimension.contains(value):
            raise UserError(f"sweep/{model}.yaml: {dimension.key}: expected the default {value} in the space")
        defaults[dimension.key] = value
    return defaults


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | bool) else str(value)


def _dimension(path: Path, key: str, entry: Any) -> Dimension:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: {key}: expected {{low: .., high: ..}} or {{choices: [..]}}, came {entry!r}")
    for name in entry:
        if name not in (valid := ("low", "high", "log", "choices")):
            raise UserError(f"{path}: {key}: unknown {name!r}; {nearest(str(name), valid)}")
    choices, low, high, log = (entry.get(name) for name in ("choices", "low", "high", "log"))
    if choices is not None:
        is_list = isinstance(choices, list) and len(choices) > 1
        if len(entry) > 1 or not is_list or not all(isinstance(choice, Value) for choice in choices):
            raise UserError(
                f"{path}: {key}: expected two or more numbers or texts alone as choices, came {entry}"
            )
        return Dimension(key, choices=tuple(choices))
    numbers = [isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)]
    if not all(numbers) or not low < high or isinstance(low, int) != isinstance(high, int):
        raise UserError(
            f"{path}: {key}: expected low below high, both whole numbers or both with a point, "
            f"came low={low!r}, high={high!r}"
        )
    if log not in (None, True, False) or (log and low <= 0):
        raise UserError(
            f"{path}: {key}: expected log: true with a low above 0, came log={log!r}, low={low!r}"
        )
    return Dimension(key, low, high, bool(log))
