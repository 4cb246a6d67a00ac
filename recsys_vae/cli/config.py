"""Composes a verb's configuration from configs/ and the command line, and explains what cannot be composed."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf, ValueNode
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

# Verbatim too, but for the word false: the table is read without that column.
_OR_FALSE = {"dataset.rating", "dataset.timestamp"}

# Hydra's own settings, which nothing here reads and which take long to compose.
_WITHOUT = tuple(
    f"~hydra/{group}"
    for group in (
        "env",
        "help",
        "hydra_help",
        "hydra_logging",
        "job_logging",
        "launcher",
        "output",
        "sweeper",
    )
)

# Lightning takes a number, a list of numbers, or auto.
_OF_MANY_KINDS = {"trainer.devices"}


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
        config = _compose(verb, overrides)
        _resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(verb, config_dir, overrides, error) from error
    for key in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{key}: expected a value ({key}=...), came none; see recsys-vae {verb} --help")
    _check_types(verb, config_dir, overrides, config)
    return config


def name_runs(arguments: Sequence[str]) -> list[str]:
    """Run directories of ``compare`` stand without a key, ``compare RUN RUN``: make ``runs=[...]`` of them."""
    runs = [argument for argument in arguments if not _is_override(argument)]
    overrides = [argument for argument in arguments if _is_override(argument)]
    quoted = [_quoted(name) for name in runs]
    return [*overrides, *([f"runs=[{','.join(quoted)}]"] if runs else [])]


def name_sampler(arguments: Sequence[str]) -> list[str]:
    """``sample`` calls the posterior that it draws from its sampler: make ``posterior=`` of ``sampler=``."""
    return [re.sub(r"^sampler(?=[.=])", "posterior", argument) for argument in arguments]


def say_sampler(error: UserError) -> UserError:
    """The same mistake in the names of :func:`name_sampler`'s user."""
    return UserError(re.sub(r"^posterior(?=[.:])", "sampler", str(error)))


@functools.cache
def config_defaults(verb: str, choices: tuple[str, ...] = ()) -> DictConfig:
    """The verb's options with their defaults, unresolved; ``choices`` such as ``model=ease`` change them."""
    return _compose(verb, choices)


def _compose(verb: str, overrides: Iterable[str]) -> DictConfig:
    with initialize_config_dir(str(bundled_path("configs")), version_base="1.3", job_name=verb):
        return compose(verb, [*overrides, *_WITHOUT])


def chosen_files(verb: str, arguments: Sequence[str]) -> list[tuple[str, str, list[str], Path]]:
    """Group, choice, all choices and file of every group of the verb, as the arguments or else the defaults say.

    Raises :class:`UserError` like :func:`compose_config` for a choice that there is not.
    """
    config_dir = bundled_path("configs")
    overrides = [_normalise(argument) for argument in arguments if _is_override(argument)]
    _check_choices(config_dir, overrides)
    groups = _groups(config_dir)
    given = [override for override in overrides if override.partition("=")[0] in _verb_groups(verb)]
    with initialize_config_dir(str(config_dir), version_base="1.3", job_name=verb):
        settings = compose(verb, given, return_hydra_config=True)
    # An experiment chooses among the other groups. A model in closed form sets trainer to null.
    chosen = {
        group: settings.hydra.runtime.choices[group]
        for group in _verb_groups(verb)
        if group not in settings or settings[group] is not None
    }
    return [
        (group, choice, groups[group], config_dir / group / f"{choice}.yaml")
        for group, choice in chosen.items()
        if choice is not None
    ]


@functools.cache
def _verb_groups(verb: str) -> tuple[str, ...]:
    """The groups that the verb's file lists, in its order."""
    verb_file: Any = OmegaConf.load(bundled_path("configs", f"{verb}.yaml"))
    return tuple(str(key) for entry in verb_file.get("defaults") or [] if entry != "_self_" for key in entry)


def _normalise(argument: str) -> str:
    key, equals, value = argument.partition("=")
    key = key.removeprefix("++").removeprefix("+")
    if not equals or not re.fullmatch(r"[\w.]+", key):
        raise UserError(f"{argument!r}: expected KEY=VALUE")
    if key.partition(".")[0] == "hydra":
        raise UserError(f"{key}: unknown key; Hydra's own settings are not used")
    if key in _OR_FALSE and value.lower() == "false":
        return f"{key}=false"
    if key in _VERBATIM and value not in ("", "null"):
        if "${" in value and key.startswith("dataset."):
            # Hydra resolves a dataset's settings once more as it builds the dataset, escaped or not.
            raise UserError(f"{key}: expected a text without '${{', came {value!r}")
        return f"{key}={_quoted(value)}"
    return f"{key}={value}"


def _quoted(value: str) -> str:
    """The text as Hydra's grammar spells it: a backslash counts before a quote, the end or ``${`` alone."""
    interpolation = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    escaped = re.sub(r"(\\*)('|\Z)", lambda at: at[1] * 2 + at[2].replace("'", "\\'"), interpolation)
    return f"'{escaped}'"


def _resolve(config: DictConfig) -> None:
    """Replace interpolations by their values, and keep what was typed verbatim escaped: it would go next."""
    nodes: list[Any] = [config._get_node(key) for key in _VERBATIM if key in config]
    if "runs" in config:
        nodes += [config.runs._get_node(index) for index in range(len(config.runs))]
    typed = [(node, node._value()) for node in nodes if isinstance(node, ValueNode)]
    typed = [(node, text) for node, text in typed if isinstance(text, str) and "\\${" in text]
    for node, _ in typed:
        node._set_value(None)
    OmegaConf.resolve(config)
    for node, text in typed:
        node._set_value(text)


def _is_override(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    return bool(equals) and key.replace("_", "").isalnum() and not Path(argument).exists()


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
                hint = nearest(value, choices)
                listed = (
                    "" if hint.startswith("expected one of") else f"expected one of {', '.join(choices)}; "
                )
                raise UserError(f"{group}: came {value!r}, {listed}{hint}")


def _check_types(verb: str, config_dir: Path, overrides: Sequence[str], config: DictConfig) -> None:
    """Refuse a value of another kind than the default's: Hydra would pass it on, and ``maybe`` counts as true.

    The range of a number is checked where it is used, and what has no default, there too.
    """
    groups = _groups(config_dir)
    given = [override.partition("=")[0] for override in overrides]
    keys = [key for key in given if key not in groups and key not in _VERBATIM and key not in _OF_MANY_KINDS]
    if not keys:
        return
    defaults = config_defaults(
        verb, tuple(o for o, key in zip(overrides, given, strict=True) if key in groups)
    )
    for key in keys:
        default, came = OmegaConf.select(defaults, key), OmegaConf.select(config, key)
        expected = None
        if isinstance(default, ListConfig):
            expected = None if isinstance(came, ListConfig) else f"a list ({key}=[...])"
        elif isinstance(default, bool):
            expected = None if isinstance(came, bool) else "true or false"
        elif isinstance(default, int):
            expected = None if isinstance(came, int) and not isinstance(came, bool) else "a whole number"
        elif isinstance(default, float) and (
            isinstance(came, bool) or not isinstance(came, int | float | None)
        ):
            expected = "a number"
        if expected is not None:
            raise UserError(f"{key}: expected {expected}, came {came!r}")


def _explain(verb: str, config_dir: Path, overrides: Sequence[str], error: Exception) -> UserError:
    """Find the override that is to blame and say what would have been valid."""
    groups = set(_verb_groups(verb))
    choices = [o for o in overrides if o.partition("=")[0] in groups]
    try:
        valid = set(_leaf_keys(config_defaults(verb, tuple(choices))))
    except (HydraException, OmegaConfBaseException):
        valid = set()
    parents = {name.rpartition(".")[0] for name in valid}
    for override in overrides:
        key, _, value = override.partition("=")
        if valid and key not in valid and key not in parents and override not in choices:
            if any(key.startswith(f"{name}.") for name in valid):
                parent = next(name for name in valid if key.startswith(f"{name}."))
                return UserError(
                    f"{key}: {' '.join(choices) or 'the configuration'} has no {parent} settings"
                )
            if choice := _choice_with(config_dir, key, groups):
                return UserError(f"{key}: a setting of {choice}, which was not chosen; add {choice}")
            return UserError(f"{key}: unknown key of recsys-vae {verb}; {nearest(key, valid | groups)}")
        if isinstance(error, OverrideParseException) and override == error.override:
            return UserError(f"{key}: expected a value that Hydra can read, came {value!r}; quote it")
    return UserError(f"configuration: {_first_line(error)}")


def _choice_with(config_dir: Path, key: str, groups: Iterable[str]) -> str | None:
    """The choices of a group, such as ``dataset=table``, that have the key; none if there are none, or many."""
    group, _, name = key.partition(".")
    if group not in groups or not name:
        return None
    found = []
    for choice in _groups(config_dir)[group]:
        settings: Any = OmegaConf.load(config_dir / group / f"{choice}.yaml")
        # The files of models begin at the root, the others at their group.
        if name in settings or name in (settings.get(group) or {}):
            found.append(f"{group}={choice}")
    return " or ".join(found) if 1 <= len(found) <= 3 else None


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
