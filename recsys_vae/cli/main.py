"""The command ``recsys-vae VERB [KEY=VALUE ...]``: finds the verb, composes its configuration, reports mistakes."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from omegaconf import OmegaConf

from recsys_vae.atomic import full_disk_reason
from recsys_vae.cli.config import compose_config, config_defaults, name_runs
from recsys_vae.errors import UserError, nearest

# Verbs are imported when they are called: --help and mistakes answer at once, without loading PyTorch.
VERBS = {
    "prepare": "fetch, read, filter and split a dataset; print what each stage leaves",
    "train": "train a model, evaluate it and leave a run directory",
    "evaluate": "evaluate a finished run on its held-out users",
    "recommend": "recommend to a known user, to a list of items, or to a file of users",
    "export": "write a vector for every user or item",
    "compare": "paired comparison of two or more runs on the same split",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a mistake of the user's, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb, *overrides = arguments or ["--help"]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        if verb in ("--help", "-h", "help"):
            print(_usage())
            return 0
        if verb == "--version":
            print(version("recsys-vae"))
            return 0
        if verb not in VERBS:
            raise UserError(f"{verb!r}: unknown verb; {nearest(verb, VERBS)}")
        if any(argument in ("--help", "-h") for argument in overrides):
            print(_verb_help(verb))
            return 0
        config = compose_config(verb, name_runs(overrides) if verb == "compare" else overrides)
        importlib.import_module(f"recsys_vae.cli.{verb}").run(config)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # every process of several meets the same mistake
            print(f"recsys-vae: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # A file that cannot be reached is the machine's trouble; an error without one is a fault of the program.
        reason = full_disk_reason(error) or (error.strerror if error.filename else None)
        if reason is None:
            raise
        print(f"recsys-vae: {error.filename or 'output'}: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("recsys-vae: interrupted", file=sys.stderr)
        return 130
    return 0


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "recsys-vae VERB [KEY=VALUE ...]",
            "",
            *lines,
            "",
            "recsys-vae VERB --help shows the verb's options, their defaults and an example.",
        ]
    )


def _verb_help(verb: str) -> str:
    from recsys_vae.bundled import bundled_path

    example, text, *_ = bundled_path("configs", f"{verb}.yaml").read_text(encoding="utf-8").splitlines()
    options = OmegaConf.to_yaml(config_defaults(verb), resolve=False).rstrip()
    return "\n".join(
        [text.lstrip("# "), "", "example:", f"  {example.lstrip('# ')}", "", "options:", options]
    )


def entry_point() -> None:
    """What the installed ``recsys-vae`` calls."""
    sys.exit(main())
