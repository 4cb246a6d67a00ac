"""Composes a verb's configuration from configs/ and the command line, and explains what cannot be composed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError, nearest

# Names of files, of columns or of people: taken as they stand, never parsed. A user called 007 is not 7.
_VERBATIM = {
    "run",
    "user",
    "items",
    "input",
    "output",
    *(
        f"dataset.{key}"
        for key in (
            *("path", "source", "cache_dir", "items", "user", "item", "rating", "timestamp", "delimiter"),
            "encoding",
        )
    ),
}


def compose_config(verb: str, arguments: Sequence[str]) -> DictConfig:
    """Compose ``configs/VERB.yaml`` with the overrides ``KEY=VALUE``.

    Raises :class:`UserError` for an argument that is not an override, an unknown key or group choice (with the
    nearest valid name), a value that does not parse, and a required key that was not given.
    """
    config_dir = bundled_path("configs")
    overrides = [_normalise(argument) for argument in arguments]
    seen: set[str] = set()
    for override in overrides:
        key = override.partition("=")[0]
        if key in seen:
            raise UserError(f"{key}: expected once, came twice")
        seen.add(key)
    _check_choices(config_dir, overrides)
    try:
        with initialize_config_dir(str(config_dir), version_base="1.3", job_name=verb):
            config = compose(verb, overrides)
            OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(verb, config_dir, overrides, error) from error
    for key in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{key}: expected a value ({key}=...), came none; see recsys-vae {verb} --help")
    return config


def config_defaults(verb: str) -> DictConfig:
    """The verb's options with their defaults, unresolved, for ``--help``."""
    with initialize_config_dir(str(bundled_path("configs")), version_base="1.3", job_name=verb):
        return compose(verb)


def _normalise(argument: str) -> str:
    key, equals, value = argument.partition("=")
    key = key.removeprefix("++").removeprefix("+")
    if not equals or not re.fullmatch(r"[\w.]+", key):
        raise UserError(f"{argument!r}: expected KEY=VALUE")
    if key in _VERBATIM and value not in ("", "null"):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"{key}='{escaped}'"
    return f"{key}={value}"


def _groups(config_dir: Path) -> dict[str, list[str]]:
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in config_dir.iterdir()
        if folder.is_dir()
    }


def _check_choices(config_dir: Path, overrides: Iterable[str]) -> None:
    for group, choices in _groups(config_dir).items():
        for override in overrides:
            key, _, value = override.partition("=")
            if key == group and value not in choices:
                raise UserError(
                    f"{group}: expected one of {', '.join(choices)}, came {value!r}; {nearest(value, choices)}"
                )


def _explain(verb: str, config_dir: Path, overrides: Sequence[str], error: Exception) -> UserError:
    """Find the override that is to blame and say what would have been valid."""
    with initialize_config_dir(str(config_dir), version_base="1.3", job_name=verb):
        choices = [o for o in overrides if o.partition("=")[0] in _groups(config_dir)]
        try:
            valid = set(_leaf_keys(compose(verb, choices)))
        except (HydraException, OmegaConfBaseException):
            valid = set()
    for override in overrides:
        key, _, value = override.partition("=")
        parents = {name.rpartition(".")[0] for name in valid}
        if valid and key not in valid and key not in parents and override not in choices:
            if any(key.startswith(f"{name}.") for name in valid):
                parent = next(name for name in valid if key.startswith(f"{name}."))
                return UserError(
                    f"{key}: {parent} has no such setting with {' '.join(choices) or 'these choices'}"
                )
            names = {*valid, *_groups(config_dir)}
            return UserError(f"{key}: unknown key of recsys-vae {verb}; {nearest(key, names)}")
        if isinstance(error, OverrideParseException) and override in str(error):
            return UserError(f"{key}: expected a value that Hydra can read, came {value!r}; quote it")
    return UserError(f"configuration: {_first_line(error)}")


def _leaf_keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        name = f"{prefix}{key}"
        value = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from _leaf_keys(value, f"{name}.")
        else:
            yield name


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
