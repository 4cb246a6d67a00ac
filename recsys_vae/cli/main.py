"""The command ``recsys-vae VERB [KEY=VALUE ...]``: finds the verb, composes its configuration, reports mistakes."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from recsys_vae.errors import UserError, nearest

# Verbs are imported when they are called: --help and mistakes answer at once, without loading PyTorch. What takes
# time is imported inside main, where Ctrl-C is answered.
VERBS = {
    "prepare": "fetch, read, filter and split a dataset; print what each stage leaves",
    "train": "train a model, evaluate it and leave a run directory",
    "evaluate": "evaluate a finished run on its held-out users",
    "recommend": "recommend to a known user, to a list of items, or to a file of users",
    "export": "write a vector for every user or item",
    "sample": "draw from the posterior of users' tastes by Markov chains, with diagnostics",
    "compare": "paired comparison of two or more runs on the same split",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for a mistake of the user's, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb, *overrides = arguments or ["--help"]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        return _run(verb, overrides)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # every process of several meets the same mistake
            print(f"recsys-vae: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        from recsys_vae.atomic import full_disk_reason

        # A file that cannot be reached is the machine's trouble; an error without one is a fault of the program.
        reason = full_disk_reason(error) or (error.strerror if error.filename else None)
        if reason is None:
            raise
        print(f"recsys-vae: {error.filename or 'output'}: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("recsys-vae: interrupted", file=sys.stderr)
        return 130


def _run(verb: str, overrides: list[str]) -> int:
    if verb in ("--help", "-h", "help"):
        print(_usage())
        return 0
    if verb == "--version":
        from importlib.metadata import version

        print(version("recsys-vae"))
        return 0
    if verb not in VERBS:
        raise UserError(f"{verb!r}: unknown verb; {nearest(verb, VERBS)}")
    if any(argument in ("--help", "-h") for argument in overrides):
        print(_verb_help(verb, [argument for argument in overrides if argument not in ("--help", "-h")]))
        return 0
    from recsys_vae.cli.config import compose_config, name_runs, name_sampler, say_sampler

    if verb == "compare":
        overrides = name_runs(overrides)
    elif verb == "sample":
        overrides = name_sampler(overrides)
    try:
        config = compose_config(verb, overrides)
        importlib.import_module(f"recsys_vae.cli.{verb}").run(config)
    except UserError as error:
        raise (say_sampler(error) if verb == "sample" else error) from error.__cause__
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


def _verb_help(verb: str, overrides: Sequence[str]) -> str:
    """The verb's files of configs/ as they stand, since their comments explain the options."""
    from recsys_vae.bundled import bundled_path
    from recsys_vae.cli.config import chosen_files

    example, text, *own = bundled_path("configs", f"{verb}.yaml").read_text(encoding="utf-8").splitlines()
    # The list of defaults names the groups, which follow; it ends at the first line that is not indented.
    if own[:1] == ["defaults:"]:
        own = own[next(at for at, line in enumerate(own[1:], start=1) if not line.startswith(" ")) :]
    lines = [text.lstrip("# "), "", "example:", f"  {example.lstrip('# ')}", "", "options:"]
    lines += [line for line in own if line]
    for group, choice, choices, path in chosen_files(verb, overrides):
        among = f", one of {', '.join(choices)}" if len(choices) > 1 else ""
        lines += ["", f"# {group}={choice}{among}"]
        settings = path.read_text(encoding="utf-8").splitlines()
        if settings[0] == "# @package _global_":
            lines += settings[1:]
        else:
            lines += [f"{group}:", *(f"  {line}" if line else "" for line in settings)]
    return "\n".join(line for line in lines if not line.lstrip().startswith(("_target_:", "_partial_:")))


def entry_point() -> None:
    """What the installed ``recsys-vae`` calls."""
    sys.exit(main())
