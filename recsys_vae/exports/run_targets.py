"""Which classes a run's configuration may name: a run directory from someone else must not run their code."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

from recsys_vae.errors import UserError

_PREFIX = "recsys_vae.models."
# Exactly module and class: a longer path could walk from a module to what it imports, such as numpy.load.
_SHAPE = re.compile(r"recsys_vae\.models\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+", re.ASCII)


def check_target(target: str) -> None:
    """Raise :class:`UserError` unless ``target`` is the path of a class defined in ``recsys_vae.models``.

    A name that such a module merely imported (``recsys_vae.models.item_knn.Path``) is refused too.
    """
    refusal = f"run: config.yaml: expected a model class below {_PREFIX[:-1]}, came _target_ {target!r}"
    if not isinstance(target, str) or not _SHAPE.fullmatch(target):
        raise UserError(refusal)
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{refusal}, which this version does not have") from error
    if not isinstance(found, type) or found.__module__ != module_name:
        raise UserError(refusal)


def check_targets(config: Any) -> None:
    """Check every ``_target_`` at any depth of ``config``, and that no interpolation is left.

    Call it on the part of a run's configuration that is about to be instantiated.
    """
    for key, value in _walk(config):
        if key == "_target_":
            check_target(value)
        elif isinstance(value, str) and "${" in value:
            raise UserError(f"run: config.yaml: expected resolved values, came {key}={value!r}")


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield str(key), value
        yield from _walk(value)
