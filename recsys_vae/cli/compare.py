"""``recsys-vae compare``: paired differences between runs on the same split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from rich.table import Table

from recsys_vae.atomic import atomic_path
from recsys_vae.cli.output import check_output
from recsys_vae.cli.runtime import console
from recsys_vae.errors import UserError
from recsys_vae.evaluation import compare_runs
from recsys_vae.exports import Run, read_run


def positional(arguments: Sequence[str]) -> list[str]:
    """Run directories stand without a key: ``compare RUN RUN``; turn them into ``runs=[...]``."""
    runs = [argument for argument in arguments if not _is_override(argument)]
    overrides = [argument for argument in arguments if _is_override(argument)]
    quoted = ["'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" for name in runs]
    return [*overrides, *([f"runs=[{','.join(quoted)}]"] if runs else [])]


def _is_override(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    return bool(equals) and key.replace("_", "").isalnum() and not Path(argument).exists()


def run(config: DictConfig) -> pd.DataFrame:
    """Print the table of paired differences, and return it."""
    output = check_output(config.output, (".csv", ".json"))
    if len(config.runs) < 2:
        raise UserError(f"runs: expected two or more run directories, came {len(config.runs)}")
    opened = [read_run(path) for path in config.runs]
    _check_same_split(opened)
    names = _names(opened)
    tables = {}
    for name, found in zip(names, opened, strict=True):
        if found.per_user is None:
            raise UserError(f"runs: {found.path} has no per_user.parquet")
        tables[name] = found.per_user
    table = compare_runs(
        tables,
        metrics=list(config.metrics),
        all_pairs=config.all_pairs,
        permutations=config.n_permutations,
        seed=config.seed,
    )
    shown = Table(
        title=f"{int(table['n'].iloc[0])} users, split {opened[0].split['sha256'][:12]}", title_justify="left"
    )
    for heading in ("run", "metric", "mean", "difference", "95 % interval", "p", "p (Holm)"):
        shown.add_column(
            heading, justify="left" if heading in ("run", "metric") else "right", overflow="fold"
        )
    for row in table.to_dict("records"):
        shown.add_row(
            *(f"{row['run']} - {row['baseline']}", str(row["metric"]), f"{row['mean']:.4f}"),
            f"{row['difference']:+.4f} ± {row['stderr']:.4f}",
            f"{row['low']:+.4f} to {row['high']:+.4f}",
            *(f"{row['p_value']:.4f}", f"{row['p_holm']:.4f}"),
        )
    console.print(shown, markup=False)
    if output is not None:
        with atomic_path(output) as temporary:
            if output.suffix == ".csv":
                table.to_csv(temporary, index=False)
            else:
                table.to_json(temporary, orient="records", indent=2)
    return table


def _check_same_split(runs: Sequence[Run]) -> None:
    first = runs[0]
    for other in runs[1:]:
        if other.split["sha256"] != first.split["sha256"]:
            raise UserError(
                f"runs: expected one split, came {first.split['sha256'][:12]} in {first.path} and "
                f"{other.split['sha256'][:12]} in {other.path}"
            )


def _names(runs: Sequence[Run]) -> list[str]:
    """Short names where they are distinct, whole paths where they are not."""
    short = [found.path.name for found in runs]
    names = short if len(set(short)) == len(runs) else [str(found.path) for found in runs]
    if len(set(names)) < len(runs):
        raise UserError(f"runs: expected different runs, came {', '.join(names)}")
    return names
