"""``recsys-vae compare``: paired differences between runs on the same split."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from omegaconf import DictConfig
from rich.table import Table

from recsys_vae.cli.runtime import console
from recsys_vae.errors import UserError
from recsys_vae.evaluation import compare_runs
from recsys_vae.exports import Run, check_output, output_file, read_run
from recsys_vae.models.base import check_positive


def run(config: DictConfig) -> pd.DataFrame:
    """Print the table of paired differences, and return it."""
    output = None if config.output is None else check_output(config.output, (".csv", ".json"))
    if len(config.runs) < 2:
        raise UserError(f"runs: expected two or more run directories, came {len(config.runs)}")
    if not config.metrics:
        raise UserError("metrics: expected at least one name such as ndcg@100, came an empty list")
    twice = next((name for name in config.metrics if list(config.metrics).count(name) > 1), None)
    if twice is not None:  # the Holm correction would count it twice
        raise UserError(f"metrics: expected each name once, came {twice!r} twice")
    check_positive("n_permutations", config.n_permutations)
    if config.seed < 0:
        raise UserError(f"seed: expected a whole number of at least 0, came {config.seed!r}")
    opened = [read_run(str(path)) for path in config.runs]
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
    numbers = {name: str(number) for number, name in enumerate(names, start=1)}
    for name, number in numbers.items():
        console.print(f"{number}: {name}", markup=False)
    shown = Table(
        title=f"{int(table['n'].iloc[0])} users, split {opened[0].split['sha256'][:12]}", title_justify="left"
    )
    for heading in ("runs", "metric", "mean", "difference", "95 % interval", "p", "p (Holm)"):
        shown.add_column(
            heading, justify="left" if heading in ("runs", "metric") else "right", overflow="fold"
        )
    for row in table.to_dict("records"):
        shown.add_row(
            *(
                f"{numbers[row['run']]} - {numbers[row['baseline']]}",
                str(row["metric"]),
                f"{row['mean']:.4f}",
            ),
            f"{row['difference']:+.4f} ± {row['stderr']:.4f}",
            f"{row['low']:+.4f} to {row['high']:+.4f}",
            *(f"{row['p_value']:.4f}", f"{row['p_holm']:.4f}"),
        )
    console.print(shown, markup=False)
    if output is not None:
        with output_file(output) as temporary:
            if output.suffix.lower() == ".csv":
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
